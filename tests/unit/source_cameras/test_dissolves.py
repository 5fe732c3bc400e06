# SPDX-License-Identifier: GPL-3.0-or-later
"""Dissolves are found with the frames that are of no shot; moves, flashes, zooms and dimmed lights are none."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from ex4d_engine.source_cameras.cuts import CutFinder, shot_ranges
from ex4d_engine.source_cameras.dissolves import DissolveFinder
from tests.unit.source_cameras.test_cuts import COLD, DARK, WARM, pan

RATE = 24.0
LEAD = 20  # frames before and after a dissolve


def dissolves_in(frames: list[np.ndarray], first: int = 1) -> tuple[list[tuple[int, int]], list[int]]:
    finder = CutFinder(RATE)
    for number, frame in enumerate(frames, first):
        finder.add(number, frame)
    return [(found.first, found.last) for found in finder.dissolves()], finder.cuts()


def cross_faded(one: list[np.ndarray], two: list[np.ndarray], length: int) -> list[np.ndarray]:
    mixed = [
        ((1 - share) * before + share * after).round().astype(np.uint8)
        for share, before, after in zip(
            np.linspace(0, 1, length + 2)[1:-1], one[LEAD : LEAD + length], two[:length], strict=True
        )
    ]
    return one[:LEAD] + mixed + two[length : length + LEAD]


def dimmed(frames: list[np.ndarray], start: float, end: float, to: int = 0) -> list[np.ndarray]:
    shares = np.linspace(start, end, len(frames))
    return [(frame * share + to * (1 - share)).astype(np.uint8) for frame, share in zip(frames, shares, strict=True)]


@pytest.mark.parametrize("length", [8, 16, 24, 36])
@pytest.mark.parametrize("ends", [(WARM, COLD), (COLD, DARK), (DARK, WARM)])
def test_a_cross_fade_is_found_whole(length: int, ends: tuple[np.ndarray, np.ndarray]) -> None:
    one, two = (pan(ground, LEAD + length, 0.4) for ground in ends)
    ((first, last),), cuts = dissolves_in(cross_faded(one, two, length), 101)
    begin, end = 101 + LEAD, 100 + LEAD + length
    assert begin - 14 <= first <= begin + 3 and end - 3 <= last <= end + 14
    assert cuts == [last + 1]
    assert shot_ranges(range(101, end + LEAD + 1), cuts, [(first, last)]) == [
        (101, first - 1),
        (last + 1, end + LEAD),
    ]


@pytest.mark.parametrize("colour", [0, 255])
@pytest.mark.parametrize("held", [0, 30])
def test_a_fade_through_one_colour_is_found(colour: int, held: int) -> None:
    still = [np.full((90, 160, 3), colour, np.uint8)] * held
    out, into = dimmed(pan(WARM, 12, 0.4), 1, 0.05, colour), dimmed(pan(COLD, 12, 0.4), 0.05, 1, colour)
    frames = pan(WARM, LEAD, 0.4) + out + still + into + pan(COLD, LEAD, 0.4)
    ((first, last),), cuts = dissolves_in(frames)
    assert LEAD - 12 <= first <= LEAD + 6 and LEAD + 18 + held <= last <= LEAD + 36 + held
    assert cuts == [last + 1], "not one more for the change in the middle"


def test_what_moves_is_no_dissolve() -> None:
    for step in (1, 2, 6, 12, 25, 60):
        assert dissolves_in(pan(WARM, 60, step)) == ([], []), step
    whipped = pan(WARM, 20, 1) + pan(WARM, 6, 90, 100) + pan(WARM, 20, 1, 640)
    assert dissolves_in(whipped) == ([], [])


@pytest.mark.parametrize("factor", [1.5, 2.0])
def test_a_zoom_is_no_dissolve(factor: float) -> None:
    frames = []
    for share in np.linspace(0, 1, 36):
        height = round(280 / factor**share)
        top, left = 150 - height // 2, 500 - height * 8 // 9
        frames.append(cv2.resize(DARK[top : top + height, left : left + height * 16 // 9], (160, 90)))
    assert dissolves_in(frames)[0] == []


@pytest.mark.parametrize("length", [1, 3])
def test_a_flash_is_no_dissolve(length: int) -> None:
    frames = pan(COLD, 50, 1)
    for index in range(25, 25 + length):
        frames[index] = np.clip(frames[index].astype(int) * 2 + 110, 0, 255).astype(np.uint8)
    assert dissolves_in(frames) == ([], [])


def test_a_light_that_goes_out_and_on_again_is_no_dissolve() -> None:
    frames = pan(WARM, 64, 1)
    dark = frames[:16] + dimmed(frames[16:32], 1, 0.05) + dimmed(frames[32:48], 0.05, 1) + frames[48:]
    assert dissolves_in(dark) == ([], [])
    assert dissolves_in(dimmed(frames[:30], 0, 1) + frames[30:])[0] == [], "a clip that begins in the dark"


def test_a_hard_cut_is_no_dissolve() -> None:
    assert dissolves_in(pan(WARM, 40, 1) + pan(COLD, 40, 1)) == ([], [41])


def test_two_dissolves_are_two() -> None:
    one = cross_faded(pan(WARM, LEAD + 12, 0.4), pan(COLD, LEAD + 12, 0.4), 12)
    two = cross_faded(pan(COLD, LEAD + 12, 0.4, 25), pan(DARK, LEAD + 12, 0.4), 12)
    found, cuts = dissolves_in(one + two)
    assert len(found) == 2 and len(cuts) == 2
    assert found[0][1] < LEAD + 12 + LEAD and found[1][0] > LEAD + 12


def test_what_is_kept_of_a_clip_is_small_at_any_rate() -> None:
    """Some containers call a thousand frames a second what is shown at thirty."""
    finder = DissolveFinder(24_000.0)
    for number, frame in enumerate(pan(WARM, 4, 0.4) * 100):
        finder.add(number, frame)
    assert len(finder._looks) < 400
