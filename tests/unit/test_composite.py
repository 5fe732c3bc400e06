# SPDX-License-Identifier: GPL-3.0-or-later
"""Matte, colour match and composite: the plate comes back exactly where the matte is full."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from ex4d_engine.composite import MATTE_FEATHER_PX, composite, match_colour, soft_matte


def noise(shape: tuple[int, ...], seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


@settings(max_examples=40, deadline=None)
@given(arrays.arrays(np.uint8, st.tuples(st.integers(1, 20), st.integers(1, 20)), elements=st.sampled_from([0, 255])))
def test_a_matte_is_full_inside_and_empty_outside(mask: np.ndarray) -> None:
    matte = soft_matte(mask)
    assert matte.dtype == np.uint8 and matte.shape == mask.shape
    assert (matte[mask == 0] == 0).all()
    assert (matte[mask > 0] > 0).all()


def test_the_ramp_is_as_wide_as_told_and_the_frame_s_border_is_no_edge() -> None:
    mask = np.full((9, 40), 255, np.uint8)
    mask[:, 20:] = 0
    row = soft_matte(mask)[4]
    assert (np.diff(row[:20].astype(int)) <= 0).all()
    assert (row[: 20 - int(MATTE_FEATHER_PX)] == 255).all() and 0 < row[19] < 255
    assert (soft_matte(mask, 0) == mask).all()
    assert (soft_matte(np.full((5, 7), 255, np.uint8)) == 255).all()
    assert (soft_matte(np.zeros((5, 7), np.uint8)) == 0).all()


@pytest.mark.parametrize("level", [0, 255])
def test_exactly_one_of_the_two_at_the_matte_s_ends(level: int) -> None:
    generated, plate = noise((13, 17, 3), 1), noise((13, 17, 3), 2)
    result = composite(generated, plate, np.full((13, 17), level, np.uint8))
    assert (result == (plate if level else generated)).all()


def test_between_them_it_is_a_mixture() -> None:
    result = composite(np.zeros((1, 1, 3), np.uint8), np.full((1, 1, 3), 200, np.uint8), np.full((1, 1), 51, np.uint8))
    assert (result == 40).all()


def test_a_colour_drift_is_undone() -> None:
    plate = noise((64, 64, 3), 3) // 2 + 40
    drifted = np.rint(plate * np.array([0.9, 1.1, 1.0]) + np.array([10, -8, 4])).astype(np.uint8)
    mask = np.full((64, 64), 255, np.uint8)
    mask[:, 40:] = 0
    matched = match_colour(drifted, plate, mask)
    assert np.abs(matched.astype(int) - plate).max() <= 2  # outside the mask too


def test_moved_edges_do_not_count() -> None:
    plate = np.full((64, 64, 3), 60, np.uint8)
    plate[::2] = 120
    generated = plate.copy()
    generated[:, :8] = 255  # another picture in an eighth of it
    matched = match_colour(generated, plate, np.full((64, 64), 255, np.uint8))
    assert np.abs(matched[:, 8:].astype(int) - plate[:, 8:]).max() <= 1


def test_what_agrees_already_is_not_touched() -> None:
    plate = noise((32, 32, 3), 4)
    assert (match_colour(plate, plate, np.full((32, 32), 255, np.uint8)) == plate).all()


def test_little_or_flat_evidence_changes_nothing_wild() -> None:
    generated, plate = noise((32, 32, 3), 5), noise((32, 32, 3), 6)
    mask = np.zeros((32, 32), np.uint8)
    mask[:8, :8] = 255
    assert match_colour(generated, plate, mask) is generated
    flat = np.full((32, 32, 3), 100, np.uint8)
    matched = match_colour(flat, np.full((32, 32, 3), 110, np.uint8), np.full((32, 32), 255, np.uint8))
    assert (matched == 110).all()
    # two different pictures have no line between them: the gain stays within reason
    assert match_colour(generated, plate, np.full((32, 32), 255, np.uint8)).std() > generated.std() / 3
