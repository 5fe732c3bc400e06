# SPDX-License-Identifier: GPL-3.0-or-later
"""The rough baseline: better than a constant, never one, sharp, steady, and small in memory."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
import pytest

from ex4d_engine.depth import depth_source
from ex4d_engine.errors import Cancelled
from ex4d_engine.progress import Silent
from ex4d_engine.video import read_frames
from tests.unit.depth import drawn_scene as scene

FRAMES = 14


def estimate(frames: list[np.ndarray]) -> np.ndarray:
    size = (frames[0].shape[1], frames[0].shape[0])
    clip = depth_source("rough-pictorial").estimate(lambda: iter(frames), len(frames), size, Silent())
    return np.stack([frame.depth for frame in clip.frames])


@pytest.fixture(scope="module")
def tracking_shot() -> tuple[list[np.ndarray], np.ndarray, np.ndarray]:
    """Frames, true z and estimated z."""
    drawn = [scene.draw(i) for i in range(FRAMES)]
    frames = [image for image, _ in drawn]
    return frames, np.stack([z for _, z in drawn]), estimate(frames)


def aligned_errors(inverse: np.ndarray, truth: np.ndarray) -> tuple[float, float]:
    """AbsRel and delta1 after the best scale and shift in inverse depth; sky left out."""
    seen = np.isfinite(truth)
    basis = np.stack([inverse[seen], np.ones(int(seen.sum()))], axis=1)
    fitted = basis @ np.linalg.lstsq(basis, 1 / truth[seen], rcond=None)[0]
    ratio = 1 / np.maximum(fitted, 0.01) / truth[seen]
    return float(np.abs(ratio - 1).mean()), float((np.maximum(ratio, 1 / ratio) < 1.25).mean())


def test_it_is_far_better_than_a_constant(tracking_shot: tuple[list[np.ndarray], np.ndarray, np.ndarray]) -> None:
    _, truth, z = tracking_shot
    abs_rel, delta1 = aligned_errors(1 / z, truth)
    constant_rel, constant_delta1 = aligned_errors(np.ones_like(z), truth)
    assert abs_rel < 0.5 * constant_rel
    assert delta1 > constant_delta1 + 0.3


def test_the_sky_is_the_farthest_and_finite(tracking_shot: tuple[list[np.ndarray], np.ndarray, np.ndarray]) -> None:
    _, truth, z = tracking_shot
    assert np.isfinite(z).all() and (z > 0).all()
    assert np.median(z[np.isinf(truth)]) > 1.5 * np.percentile(z[np.isfinite(truth)], 95)


def test_ground_comes_nearer_downwards(tracking_shot: tuple[list[np.ndarray], np.ndarray, np.ndarray]) -> None:
    z = tracking_shot[2]
    column = np.median(z[:, -40:, 110:160], axis=(0, 2))
    assert (np.diff(column) <= 0.01 * column[1:]).all() and column[0] > 1.3 * column[-1]


def test_steps_are_sharp_and_surfaces_smooth(tracking_shot: tuple[list[np.ndarray], np.ndarray, np.ndarray]) -> None:
    _, truth, z = tracking_shot
    jump = np.abs(np.diff(np.log(z[-1]), axis=1))
    edge = cv2.dilate(
        (np.abs(np.diff(np.log(np.minimum(truth[-1], 60)), axis=1)) > 0.2).astype(np.uint8), np.ones((7, 7))
    )
    assert np.percentile(jump[edge == 0], 97) < 0.01
    # The crate before the far wall: most of the step lies in two neighbouring pixels.
    row, true_row = np.log(z[-1, 88]), np.log(truth[-1, 88])
    at = 20 + int(np.argmax(np.abs(np.diff(true_row[20:-20]))))
    step = np.abs(np.diff(row[at - 6 : at + 7]))
    assert step.max() > 0.3
    assert np.sort(step)[-2:].sum() > 0.65 * step.sum()


def test_it_does_not_flicker(tracking_shot: tuple[list[np.ndarray], np.ndarray, np.ndarray]) -> None:
    z = tracking_shot[2]
    change = np.abs(np.diff(np.log(z), axis=0))
    assert np.median(change) < 0.02
    assert (change > 0.15).mean() < 0.08  # silhouettes move on by a pixel; a flickering region would be far more


def test_what_is_in_focus_is_in_front() -> None:
    rng = np.random.default_rng(1)
    background = cv2.GaussianBlur(rng.integers(0, 255, (160, 160, 3)).astype(np.uint8), (0, 0), 9).astype(np.float32)
    background = np.clip((background - background.mean()) * 6 + 70, 0, 255)
    for centre in ((35, 35), (120, 40), (125, 125)):
        blob = np.zeros((160, 160), np.float32)
        cv2.circle(blob, centre, 22, 1.0, -1)
        blob = cv2.GaussianBlur(blob, (0, 0), 5)[..., None]
        background = background * (1 - blob) + blob * np.array([200, 160, 60], np.float32)
    frame = background.astype(np.uint8)
    subject = np.zeros((160, 160), np.uint8)
    cv2.circle(subject, (70, 90), 30, 255, -1)
    crisp = np.clip(np.array([60, 120, 220]) + rng.normal(0, 14, (160, 160, 1)), 0, 255).astype(np.uint8)
    frame[subject > 0] = np.broadcast_to(crisp, frame.shape)[subject > 0]
    z = estimate([frame] * 3)[-1]
    core = cv2.erode(subject, np.ones((9, 9))) > 0
    around = cv2.dilate(subject, np.ones((9, 9))) == 0
    assert np.median(z[core]) < 0.5 * np.median(z[around])


@pytest.mark.parametrize("level", [0, 128, 255])
@pytest.mark.parametrize("size", [(64, 48), (5, 3), (48, 200)])
def test_an_empty_picture_is_no_constant(level: int, size: tuple[int, int]) -> None:
    z = estimate([np.full((size[1], size[0], 3), level, np.uint8)] * 2)
    assert z.shape == (2, size[1], size[0]) and z.dtype == np.float32
    assert np.isfinite(z).all() and z.max() > 1.5 * z.min()


def test_one_frame_is_enough() -> None:
    z = estimate([scene.draw(0)[0]])
    assert z.shape == (1, scene.HEIGHT, scene.WIDTH) and z.max() > 3 * z.min()


def test_it_is_the_same_twice() -> None:
    frames = [scene.draw(i)[0] for i in range(4)]
    np.testing.assert_array_equal(estimate(frames), estimate(frames))


def test_it_says_that_it_is_rough_and_claims_no_camera() -> None:
    frames = [scene.draw(0)[0]]
    clip = depth_source("rough-pictorial").estimate(lambda: iter(frames), 1, (scene.WIDTH, scene.HEIGHT), Silent())
    assert "rough" in clip.note and clip.scale == "relative"
    assert clip.intrinsics is None and clip.camera_to_world is None


def test_frames_are_not_collected() -> None:
    alive: list[int] = []

    def plate() -> Iterator[np.ndarray]:
        import weakref

        count = {"now": 0, "most": 0}
        for index in range(30):
            image = scene.draw(index % 4)[0]
            count["now"] += 1
            count["most"] = max(count["most"], count["now"])
            weakref.finalize(image, lambda: count.__setitem__("now", count["now"] - 1))
            yield image
            del image
        alive.append(count["most"])

    clip = depth_source("rough-pictorial").estimate(plate, 30, (scene.WIDTH, scene.HEIGHT), Silent())
    assert sum(1 for _ in clip.frames) == 30
    assert alive and max(alive) <= 3


def test_cancel_stops_it() -> None:
    frames = [scene.draw(i)[0] for i in range(3)]
    reporter = Silent()
    clip = depth_source("rough-pictorial").estimate(lambda: iter(frames), 3, (scene.WIDTH, scene.HEIGHT), reporter)
    next(clip.frames)
    reporter.cancelled.set()
    with pytest.raises(Cancelled):
        next(clip.frames)


def test_the_flower_stands_out_from_its_background() -> None:
    path = Path(__file__).parents[5] / "shared" / "data" / "flower" / "input.mp4"
    if not path.exists():
        pytest.skip("the flower clip is not beside this checkout")
    frames = [frame.image for frame in read_frames(path, last=6)]
    z = estimate(frames)[-1]
    petals, background = z[200:330, 30:200], z[300:500, 320:500]
    assert np.median(background) > 2.5 * np.median(petals)
