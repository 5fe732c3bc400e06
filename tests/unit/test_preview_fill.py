# SPDX-License-Identifier: GPL-3.0-or-later
"""Filling without a model: known pixels stay, backgrounds close holes, other frames lend what they saw."""

from __future__ import annotations

import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ex4d_engine.preview_fill import fill_from_around, fill_from_other_frame, without_fringe
from ex4d_engine.raster import Rendering

RED, GREEN, BLUE = (200, 20, 20), (20, 180, 20), (30, 40, 220)


def flat(color: tuple[int, int, int], size: tuple[int, int] = (96, 96)) -> np.ndarray:
    return np.full((*size, 3), color, np.uint8)


def full(size: tuple[int, int] = (96, 96)) -> np.ndarray:
    return np.full(size, 255, np.uint8)


def holed(color: np.ndarray, hole: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    return np.where(hole[..., None], 0, color).astype(np.uint8), np.where(hole, 0, 255).astype(np.uint8)


@settings(max_examples=50, deadline=None)
@given(st.integers(1, 40), st.integers(1, 40), st.floats(0, 1), st.integers(0, 2**32 - 1))
def test_known_pixels_stay_and_the_rest_lies_between_them(width: int, height: int, share: float, seed: int) -> None:
    rng = np.random.default_rng(seed)
    color = rng.integers(50, 201, (height, width, 3), dtype=np.uint8)
    depth = rng.uniform(1, 100, (height, width)).astype(np.float32)
    color, mask = holed(color, rng.random((height, width)) < share)
    before = color.copy()
    filled = fill_from_around(color, mask, depth)
    assert filled.dtype == np.uint8 and filled.shape == color.shape
    assert (filled[mask > 0] == color[mask > 0]).all() and (color == before).all()
    if mask.any():
        assert filled.min() >= 50 and filled.max() <= 200  # nothing stays black, nothing overshoots


def test_all_known_or_nothing_known_is_given_back() -> None:
    color, depth = flat(RED), np.ones((96, 96), np.float32)
    assert fill_from_around(color, full(), depth) is color
    assert fill_from_around(color, 0 * full(), depth) is color


def test_a_hole_behind_a_foreground_gets_the_background_s_colour() -> None:
    color, depth = flat(GREEN), np.full((96, 96), 10, np.float32)
    color[:, :40], depth[:, :40] = RED, 2
    hole = np.zeros((96, 96), bool)
    hole[:, 40:60] = True
    depth[hole] = 6
    filled = fill_from_around(*holed(color, hole), depth)
    assert np.abs(filled[hole].astype(int) - GREEN).max() <= 3


@pytest.mark.parametrize("tall", [30, 60])
def test_beside_a_foreground_cut_by_the_frame_the_background_goes_on(tall: int) -> None:
    """A wide foreground at the plate's edge leaves no background near: it is not smeared over all that was not seen."""
    size = (256, 256)
    color, depth = flat(GREEN, size), np.full(size, 10, np.float32)
    color[128 - tall : 128 + tall, :200], depth[128 - tall : 128 + tall, :200] = RED, 3
    hole = np.zeros(size, bool)
    hole[:, :90] = True  # beyond the plate
    filled = fill_from_around(*holed(color, hole), depth)
    assert np.abs(filled[hole].astype(int) - GREEN).max() <= 12


def test_a_crack_inside_a_surface_takes_its_colour() -> None:
    color, depth = flat(GREEN), np.full((96, 96), 10, np.float32)
    color[20:76, 20:76], depth[20:76, 20:76] = RED, 3
    hole = np.zeros((96, 96), bool)
    hole[20:76, 50:52] = True
    filled = fill_from_around(*holed(color, hole), depth)
    assert np.abs(filled[30:66, 50:52].astype(int) - RED).max() <= 6


def test_the_sky_does_not_leak_into_a_hole_in_the_ground() -> None:
    size = (256, 256)
    color, depth = flat(GREEN, size), np.full(size, 20, np.float32)
    color[:64], depth[:64] = BLUE, 500
    hole = np.zeros(size, bool)
    hole[170:200, 100:140] = True
    filled = fill_from_around(*holed(color, hole), depth)
    assert np.abs(filled[hole].astype(int) - GREEN).max() <= 3


def test_a_small_change_of_depth_makes_a_small_change_of_colour() -> None:
    """Depth estimates tremble: a surface near the limit between foreground and background must not flicker."""
    color, depth = flat(GREEN), np.full((96, 96), 10, np.float32)
    color[:, :40] = RED
    hole = np.zeros((96, 96), bool)
    hole[:, 40:60] = True
    fills = []
    for near in np.linspace(5, 7, 81):
        depth[:, :40] = near
        fills.append(fill_from_around(*holed(color, hole), depth)[48, 50].astype(int))
    assert np.abs(np.diff(fills, axis=0)).max() <= 25
    assert np.abs(fills[0] - fills[-1]).max() > 60  # over the whole range it does change


# ------------------------------------------------------------------------------------------- other frames


def lent(other: np.ndarray, depth: float, **changes: np.ndarray) -> Rendering:
    size = other.shape[:2]
    return Rendering(other, changes.get("mask", full(size)), np.full(size, depth, np.float32))


@pytest.fixture
def hole() -> np.ndarray:
    where = np.zeros((96, 96), bool)
    where[30:60, 30:60] = True
    return where


def test_another_frame_lends_what_it_saw_behind(hole: np.ndarray) -> None:
    color, mask = holed(flat(GREEN), hole)
    depth = np.full((96, 96), 8, np.float32)
    other = flat(GREEN)
    other[hole] = BLUE
    filled, known, z = fill_from_other_frame(color, mask, depth, lent(other, 9))
    assert (filled[hole] == BLUE).all() and (known == 255).all() and (z[hole] == 9).all()
    assert (mask[hole] == 0).all() and (color[hole] == 0).all()  # what is given is not changed


def test_it_is_not_believed_where_it_disagrees_around_the_hole(hole: np.ndarray) -> None:
    color, mask = holed(flat(GREEN), hole)
    depth = np.full((96, 96), 8, np.float32)
    filled, known, _ = fill_from_other_frame(color, mask, depth, lent(flat(BLUE), 9))
    assert (filled == color).all() and (known == mask).all()


def test_it_does_not_put_its_foreground_into_the_hole(hole: np.ndarray) -> None:
    color, mask = holed(flat(GREEN), hole)
    depth = np.full((96, 96), 8, np.float32)
    other = flat(GREEN)
    other[hole] = RED
    _, known, _ = fill_from_other_frame(color, mask, depth, lent(other, 4))
    assert (known[hole] == 0).all()


def test_too_little_in_common_is_no_evidence(hole: np.ndarray) -> None:
    color, mask = holed(flat(GREEN), hole)
    depth = np.full((96, 96), 8, np.float32)
    only_inside = np.where(hole, 255, 0).astype(np.uint8)
    _, known, _ = fill_from_other_frame(color, mask, depth, lent(flat(GREEN), 9, mask=only_inside))
    assert (known == mask).all()


# ------------------------------------------------------------------------------------------------ fringe


def test_mixed_colours_on_the_far_side_of_a_hole_go() -> None:
    mask, depth = full(), np.full((96, 96), 10, np.float32)
    depth[:, :40] = 2
    mask[:, 40:60] = 0
    depth[:, 40:60] = np.linspace(2, 10, 20, dtype=np.float32)  # the face that bridges the jump
    kept = without_fringe(mask, depth)
    assert (kept[:, 60] == 0).all()  # beside the background
    assert (kept[:, :40] == 255).all()  # the foreground keeps its edge
    assert (kept[:, 70:] == 255).all()
    assert (kept[mask == 0] == 0).all()


def test_cracks_and_the_edge_of_the_plate_have_no_fringe() -> None:
    mask, depth = full(), np.full((96, 96), 10, np.float32)
    mask[:, 30:32] = 0
    assert (without_fringe(mask, depth) == mask).all()
    mask = full()
    mask[:, 70:] = 0
    depth[:, 70:] = np.linspace(10, 100, 26, dtype=np.float32)  # the wall goes away into the distance
    assert (without_fringe(mask, depth) == mask).all()


def test_a_frame_is_filled_within_a_second() -> None:
    size = (512, 512)
    rng = np.random.default_rng(0)
    color = rng.integers(0, 256, (*size, 3), dtype=np.uint8)
    depth = rng.uniform(2, 30, size).astype(np.float32)
    hole = rng.random(size) < 0.02
    hole[100:300, 200:400] = True
    arguments = (*holed(color, hole), depth)
    best = min(_seconds(arguments) for _ in range(3))
    assert best < 1.0


def _seconds(arguments: tuple[np.ndarray, np.ndarray, np.ndarray]) -> float:
    started = time.thread_time()
    fill_from_around(*arguments)
    return time.thread_time() - started
