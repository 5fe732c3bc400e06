# SPDX-License-Identifier: GPL-3.0-or-later
"""Which points of a picture are followed, and that they go as far as what they lie on."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import cv2
import numpy as np

from ex4d_engine.source_cameras.tracks import Track, feature_tracks

SIZE = (192, 120)
NEAR, FAR = 2.0, 8.0


def speckle(strength: int, seed: int) -> np.ndarray:
    """(H,W) grey of smooth random spots."""
    noise = np.random.default_rng(seed).normal(0, 1, SIZE[::-1]).astype(np.float32)
    smooth = cv2.GaussianBlur(noise, (0, 0), 1.2)
    return 128 + strength * smooth / smooth.std()


def a_leaf(frames: int = 4) -> Iterator[tuple[np.ndarray, np.ndarray, None]]:
    """A dark shape with many corners before a faint pattern; both stand still."""
    row, column = np.mgrid[: SIZE[1], : SIZE[0]]
    leaf = (np.abs(row - 60) < 40) & ((row // 8 + column // 8) % 2 == 0) & (np.abs(column - 60) < 40)
    grey = np.where(leaf, 10, speckle(4, 1)).clip(0, 255).astype(np.uint8)
    depth = np.where(leaf, NEAR, FAR).astype(np.float32)
    for _ in range(frames):
        yield np.repeat(grey[..., None], 3, axis=2), depth, None


def away_from_the_border(tracks: Iterable[Track], size: tuple[int, int]) -> list[Track]:
    """Those that begin where depth can be read between pixels."""
    return [track for track in tracks if ((track.positions[0] > 3) & (track.positions[0] < np.array(size) - 3)).all()]


def test_points_lie_on_surfaces_however_strong_the_corners_at_edges_are() -> None:
    tracks = away_from_the_border(feature_tracks(a_leaf()), SIZE)
    assert len(tracks) > 50
    assert all(np.isfinite(track.inverse_depth).all() for track in tracks)


def test_nothing_is_followed_where_depth_is_unknown_or_sky() -> None:
    frames = []
    for image, depth, _ in a_leaf():
        left = depth.copy()
        left[:, 90:130], left[:, 130:] = np.nan, np.inf
        frames.append((image, left, None))
    tracks = list(feature_tracks(frames))
    assert tracks and max(track.positions[:, 0].max() for track in tracks) < 90


def test_frames_are_followed_at_another_size_than_the_depth_has() -> None:
    """A plate that is wider than what is followed: the mask of surfaces is of the smaller frame."""
    frames = [
        (
            cv2.resize(image, None, fx=8, fy=8),
            cv2.resize(depth, None, fx=8, fy=8, interpolation=cv2.INTER_NEAREST),
            None,
        )
        for image, depth, _ in a_leaf(3)
    ]
    tracks = away_from_the_border(feature_tracks(frames), (8 * SIZE[0], 8 * SIZE[1]))
    assert len(tracks) > 50 and all(np.isfinite(track.inverse_depth).all() for track in tracks)


def test_a_point_goes_as_far_as_its_own_ground_and_not_as_what_is_nearer() -> None:
    """Rows move by what they are near, and nearer ones have more contrast, as a ground has towards the horizon."""
    row = np.arange(SIZE[1], dtype=np.float32)[:, None]
    column = np.arange(SIZE[0], dtype=np.float32)[None]
    speed = (0.004 * (row + 20)).astype(np.float32)  # pixels a frame, as 1/z
    contrast = (row / SIZE[1]) ** 4
    pattern = 128 + contrast * (speckle(60, 2) - 128)
    depth = np.broadcast_to(1 / speed, SIZE[::-1]).astype(np.float32)
    frames = []
    for index in range(24):
        moved = cv2.remap(
            pattern.astype(np.float32), column - speed * index, row + 0 * column, cv2.INTER_CUBIC,
            borderMode=cv2.BORDER_REFLECT,
        )  # fmt: skip
        frames.append((np.repeat(moved.clip(0, 255).round().astype(np.uint8)[..., None], 3, axis=2), depth, None))
    ratios = []
    for track in feature_tracks(frames):
        went = track.positions[-1, 0] - track.positions[0, 0]
        if len(track.positions) > 16 and 20 < track.positions[0, 0] < 160:
            own = np.mean(0.004 * (track.positions[:, 1] - 0.5 + 20))
            ratios.append(went / (len(track.positions) - 1) / own)
    assert len(ratios) > 30
    assert abs(float(np.median(ratios)) - 1) < 0.006


def a_plain(frames: int = 3) -> list[tuple[np.ndarray, np.ndarray, None]]:
    """A ground from low above, up to a horizon at row 20: over seven rows its depth changes by a fifth and more."""
    picture = np.repeat(speckle(30, 4).clip(0, 255).astype(np.uint8)[..., None], 3, axis=2)
    row = np.arange(SIZE[1])[:, None] + 0.5 * np.ones(SIZE[0])
    depth = np.where(row > 20, 40 / np.maximum(row - 20, 1e-3), np.inf).astype(np.float32)
    return [(picture, depth, None)] * frames


def test_points_are_found_all_over_a_ground_at_a_grazing_angle() -> None:
    """Its depth changes as much within a window as it does at an edge, but as a plane's does."""
    tracks = list(feature_tracks(a_plain()))
    rows = np.array([track.positions[0, 1] for track in tracks])
    assert (rows > 80).sum() > 30 and (rows < 60).sum() > 30 and rows.min() > 20
    known = [np.isfinite(track.inverse_depth).all() for track in tracks if track.positions[0, 1] > 26]
    assert np.mean(known) > 0.8


def test_a_track_has_the_confidence_of_where_it_is() -> None:
    confidence = np.ones(SIZE[::-1], np.float32)
    confidence[:, 100:] = 0.25
    for track in feature_tracks((image, depth, confidence) for image, depth, _ in a_plain()):
        assert (track.confidence == (0.25 if track.positions[0, 0] >= 100 else 1.0)).all()
    assert all((track.confidence == 1).all() for track in feature_tracks(a_plain()))
