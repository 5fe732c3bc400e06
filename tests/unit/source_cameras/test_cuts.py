# SPDX-License-Identifier: GPL-3.0-or-later
"""Cuts are found where another shot begins, and nowhere else."""

from __future__ import annotations

from collections.abc import Iterator

import cv2
import numpy as np
import pytest

from ex4d_engine.source_cameras.cuts import find_cuts, shot_ranges

SIZE = (160, 90)


def ground(seed: int, tint: tuple[int, int, int] = (128, 128, 128)) -> np.ndarray:
    """(300, 1200, 3) uint8: a wide textured picture that a camera can pan over."""
    random = np.random.default_rng(seed)
    total = np.zeros((300, 1200, 3), np.float32)
    for cells in (12, 40):
        coarse = random.uniform(-1, 1, (cells, 4 * cells, 3)).astype(np.float32)
        total += cv2.resize(coarse, (1200, 300), interpolation=cv2.INTER_CUBIC)
    return np.clip(np.array(tint) + 40 * total, 0, 255).astype(np.uint8)


WARM, COLD, DARK = ground(1, (170, 120, 80)), ground(2, (70, 110, 170)), ground(3, (50, 60, 45))


def pan(picture: np.ndarray, count: int, step: float = 2.0, start: float = 20.0) -> list[np.ndarray]:
    return [
        picture[60:150, int(start + step * index) % 1000 : int(start + step * index) % 1000 + 160].copy()
        for index in range(count)
    ]


def numbered(frames: list[np.ndarray], first: int = 1) -> Iterator[tuple[int, np.ndarray]]:
    yield from enumerate(frames, first)


def test_every_cut_and_its_frame() -> None:
    frames = pan(WARM, 12) + pan(COLD, 9) + pan(DARK, 15) + pan(WARM, 8)
    cuts = find_cuts(numbered(frames, 1001))
    assert cuts == [1013, 1022, 1037]
    assert shot_ranges(range(1001, 1045), cuts) == [(1001, 1012), (1013, 1021), (1022, 1036), (1037, 1044)]


def test_a_cut_in_the_last_frames_is_found() -> None:
    assert find_cuts(numbered(pan(WARM, 10) + pan(COLD, 2))) == [11]


def test_two_views_of_one_place_are_two_shots() -> None:
    frames = pan(WARM, 10) + [frame[:, ::-1].copy() for frame in pan(WARM, 10, start=500)]
    assert find_cuts(numbered(frames)) == [11]


def test_a_pan_that_is_whipped_away_is_no_cut() -> None:
    whipped = pan(WARM, 8) + pan(WARM, 6, 90, 100) + pan(WARM, 8, 2, 640)
    assert find_cuts(numbered(whipped)) == []


def test_a_cut_into_a_fast_pan_is_found() -> None:
    assert find_cuts(numbered(pan(WARM, 10) + pan(COLD, 10, 60))) == [11]


def test_pans_of_any_speed_and_a_still_picture_have_no_cut() -> None:
    for step in (0, 1, 6, 25, 60):
        assert find_cuts(numbered(pan(WARM, 16, step))) == [], step


@pytest.mark.parametrize("length", [1, 2, 3])
def test_a_flash_is_no_cut(length: int) -> None:
    frames = pan(WARM, 20)
    for index in range(8, 8 + length):
        frames[index] = np.clip(frames[index].astype(int) * 2 + 110, 0, 255).astype(np.uint8)
    assert find_cuts(numbered(frames)) == []


def test_a_flash_at_a_cut_does_not_hide_it() -> None:
    frames = pan(WARM, 10) + pan(COLD, 12)
    frames[10] = np.clip(frames[10].astype(int) * 2 + 110, 0, 255).astype(np.uint8)
    assert find_cuts(numbered(frames)) == [11]


def test_black_frames_say_nothing() -> None:
    black = [np.zeros((90, 160, 3), np.uint8)]
    frames = pan(WARM, 22)
    assert find_cuts(numbered(black * 5 + frames[:8] + black * 3 + frames[11:] + black * 2)) == []
    assert find_cuts(numbered(pan(WARM, 8) + black * 6 + pan(COLD, 8))) == [15]
    assert find_cuts(numbered(black * 12)) == []
    assert find_cuts(numbered([])) == []


def test_a_fade_and_a_light_that_goes_on_are_no_cut() -> None:
    frames = pan(WARM, 24)
    fading = [(frame * (index / 24)).astype(np.uint8) for index, frame in enumerate(frames)]
    assert find_cuts(numbered(fading)) == []
    lit = [
        frame if index < 12 else np.clip(frame * 1.35, 0, 255).astype(np.uint8) for index, frame in enumerate(frames)
    ]
    assert find_cuts(numbered(lit)) == []


def test_something_large_that_walks_through_is_no_cut() -> None:
    frames = pan(WARM, 24, 0)
    for index, frame in enumerate(frames):
        left = -120 + 12 * index
        frame[:, max(0, left) : max(0, left + 110)] = (30, 40, 200)
    assert find_cuts(numbered(frames)) == []


def test_noise_that_is_new_in_every_frame_is_one_shot() -> None:
    random = np.random.default_rng(4)
    frames = [random.integers(0, 256, (90, 160, 3), dtype=np.uint8) for _ in range(12)]
    assert find_cuts(numbered(frames)) == []


def test_ranges_with_a_step_and_without_a_cut() -> None:
    assert shot_ranges(range(1, 11), []) == [(1, 10)]
    assert shot_ranges(range(1, 20, 2), [7]) == [(1, 5), (7, 19)]
