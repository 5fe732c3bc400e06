# SPDX-License-Identifier: GPL-3.0-or-later
"""Tracking masks on a blob that is known to move over a background that holds still."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
import pytest

from ex4d_engine.errors import Ex4dError
from ex4d_engine.training.mask_statistics import coherence
from ex4d_engine.training.tracking_masks import BlobSettings, FlowTracker, followed_region, tracking_masks

WIDTH, HEIGHT, FRAMES = 160, 120, 9


@dataclass(frozen=True)
class Clip:
    """frames (F,H,W,3) of a textured disc that moves by `step` pixels a frame; disc (F,H,W) bool, where it is."""

    frames: np.ndarray
    disc: np.ndarray
    step: tuple[float, float]


def pattern(seed: int) -> np.ndarray:
    noise = np.random.default_rng(seed).integers(0, 256, (HEIGHT, WIDTH, 3), dtype=np.uint8)
    return cv2.normalize(cv2.GaussianBlur(noise, (0, 0), 2), None, 0, 255, cv2.NORM_MINMAX)


@pytest.fixture(scope="module")
def clip() -> Clip:
    step, background, surface = (4.0, 1.5), pattern(1), pattern(2)
    rows, columns = np.mgrid[:HEIGHT, :WIDTH] + 0.5
    frames, discs = [], []
    for index in range(FRAMES):
        across, down = step[0] * index, step[1] * index
        disc = np.hypot(columns - 50 - across, rows - 50 - down) < 22
        moved = cv2.warpAffine(
            surface, np.array([[1, 0, across], [0, 1, down]]), (WIDTH, HEIGHT), borderMode=cv2.BORDER_REFLECT
        )
        frames.append(np.where(disc[..., None], moved, background))
        discs.append(disc)
    return Clip(np.stack(frames), np.stack(discs), step)


def overlap(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    return (one & other).sum(axis=(1, 2)) / (one | other).sum(axis=(1, 2))


@pytest.mark.parametrize("key", [0, FRAMES // 2, FRAMES - 1])
def test_a_moving_blob_is_followed_forwards_and_backwards(clip: Clip, key: int) -> None:
    found = followed_region(clip.frames, clip.disc[key], key, FlowTracker(clip.frames))
    assert overlap(found, clip.disc).min() > 0.9


def test_a_region_of_the_background_stays_where_it_is(clip: Clip) -> None:
    region = np.zeros((HEIGHT, WIDTH), bool)
    region[90:112, 10:40] = True
    found = followed_region(clip.frames, region, 3, FlowTracker(clip.frames))
    assert overlap(found, np.broadcast_to(region, found.shape)).min() > 0.85


def test_dilation_grows_the_hole_by_so_many_pixels(clip: Clip) -> None:
    plain, grown = (
        followed_region(clip.frames, clip.disc[0], 0, FlowTracker(clip.frames), dilation_px=reach)[0]
        for reach in (0.0, 4.0)
    )
    assert (grown | plain == grown).all()
    radius = [np.sqrt(region.sum() / np.pi) for region in (plain, grown)]
    assert radius[1] - radius[0] == pytest.approx(4, abs=1)


def test_the_outline_is_smooth(clip: Clip) -> None:
    """No longer than a circle's, which has 8 r pixel sides, by more than a little: no beads on a string."""
    found = followed_region(clip.frames, clip.disc[0], 0, FlowTracker(clip.frames))[FRAMES // 2]
    sides = (found[1:] != found[:-1]).sum() + (found[:, 1:] != found[:, :-1]).sum()
    assert sides < 1.1 * 8 * np.sqrt(found.sum() / np.pi)


def test_a_blob_that_is_covered_ends(clip: Clip) -> None:
    frames = clip.frames.copy()
    frames[5:] = pattern(7)
    found = followed_region(frames, clip.disc[0], 0, FlowTracker(frames))
    assert found[:5].any(axis=(1, 2)).all()
    assert not found[5:].any()


def test_a_tracker_of_one_s_own_is_asked_and_what_it_loses_is_carried_on(clip: Clip) -> None:
    """This one knows the motion but loses half of the points in frame 3 for good, and says nonsense of them."""
    asked = []

    def tracker(frames: np.ndarray, key: int, points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        asked.append((key, len(points)))
        offsets = (np.arange(len(frames)) - key)[:, None] * np.array(clip.step, np.float32)
        places = (points[None] + offsets[:, None]).astype(np.float32)
        seen = np.ones(places.shape[:2], bool)
        seen[3:, ::2] = False
        places[3:, ::2] = -1000
        return places, seen

    found = followed_region(clip.frames, clip.disc[1], 1, tracker)
    assert asked[0][0] == 1
    assert asked[0][1] > 100
    assert overlap(found, clip.disc).min() > 0.9


def test_random_blobs_repeat_by_seed_and_leave_the_first_frame_whole(clip: Clip) -> None:
    settings = BlobSettings(area=(0.05, 0.2))
    first, again, other = (tracking_masks(np.random.default_rng(seed), clip.frames, settings) for seed in (3, 3, 4))
    np.testing.assert_array_equal(first, again)
    assert (first != other).any()
    assert (first[0] == 255).all()
    assert set(np.unique(first)) == {0, 255}
    assert (first[1:] == 0).any(axis=(1, 2)).all()


def test_holes_are_steady_in_time(clip: Clip) -> None:
    keep = tracking_masks(np.random.default_rng(3), clip.frames, BlobSettings(count=(2, 2), area=(0.1, 0.2)))
    assert np.nanmin(coherence(keep[1:])) > 0.75  # drawn anew in each frame, they would share some 0.1


@pytest.mark.parametrize(
    "wrong", [{"count": (0, 3)}, {"count": (3, 2)}, {"area": (0, 0.1)}, {"raggedness": 2}, {"dilation": -1}]
)
def test_settings_that_cannot_be_are_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(Ex4dError, match=next(iter(wrong))) as error:
        BlobSettings(**wrong)  # type: ignore[arg-type]
    assert error.value.code == "bad_request"
