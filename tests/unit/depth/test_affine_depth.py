# SPDX-License-Identifier: GPL-3.0-or-later
"""Inverse depth up to scale and shift: aligned robustly, read by one convention."""

from __future__ import annotations

import numpy as np
import pytest

from ex4d_engine.depth.affine_depth import fit_scale_shift, read_clip
from ex4d_engine.depth.pictorial.cues import NEAR, SKY

RANDOM = np.random.default_rng(0)
VALUES = RANDOM.uniform(0, 3, (40, 50)).astype(np.float32)


def test_scale_and_shift_are_found_although_a_third_of_the_picture_changed() -> None:
    target = 2.5 * VALUES + 0.75
    target[:13] += RANDOM.uniform(1, 5, (13, 50)).astype(np.float32)
    target[20, 20], target[21, 21] = np.nan, np.inf
    scale, shift = fit_scale_shift(VALUES, target)
    assert scale == pytest.approx(2.5, rel=2e-3)
    assert shift == pytest.approx(0.75, abs=5e-3)


def test_without_a_slope_only_the_shift_is_fitted() -> None:
    assert fit_scale_shift(np.full((4, 4), 2.0), np.full((4, 4), 5.0)) == (1.0, 3.0)
    # turned around: near would become far
    scale, _ = fit_scale_shift(VALUES, -VALUES)
    assert scale == 1.0
    assert fit_scale_shift(np.full((4, 4), np.nan), VALUES[:4, :4]) == (1.0, 0.0)


def test_the_nearest_lies_at_two_units_and_zero_at_the_sky() -> None:
    maps = [np.linspace(0, top, 10_000, dtype=np.float32).reshape(100, 100) for top in (4.0, 5.0, 50.0)]
    reading = read_clip(maps, zero_is_far=True)
    # the middle frame's 98 % quantile is 4.9, whatever a single frame does
    np.testing.assert_allclose(reading.inverse_z(np.array([[4.9, 0.0]], np.float32)), [[NEAR, SKY]], rtol=1e-4)
    assert reading.scale == pytest.approx((NEAR - SKY) / 4.9, rel=1e-4)


def test_a_network_without_a_zero_puts_the_clip_s_farthest_at_the_sky() -> None:
    maps = [np.linspace(low, 9, 10_000, dtype=np.float32).reshape(100, 100) for low in (3.0, 2.0)]
    reading = read_clip(maps, zero_is_far=False)
    assert 1 / float(reading.inverse_z(np.float32(2 + 0.02 * 7))) == pytest.approx(1 / SKY, rel=1e-3)
    assert float(reading.inverse_z(np.float32(-100))) == pytest.approx(SKY)  # nothing lies beyond


def test_frames_keep_their_differences() -> None:
    closer = VALUES + 0.5
    reading = read_clip([VALUES, closer], zero_is_far=True)
    # each frame on its own would have been moved onto the other
    moved = reading.inverse_z(closer) - reading.inverse_z(VALUES)
    np.testing.assert_allclose(moved, 0.5 * reading.scale, rtol=1e-3)


def test_a_wall_and_a_clip_of_nothing_have_one_depth() -> None:
    for maps in ([np.full((8, 8), 3.0, np.float32)], [np.full((8, 8), np.nan, np.float32)]):
        reading = read_clip(maps, zero_is_far=False)
        np.testing.assert_allclose(reading.inverse_z(np.full((2, 2), 3.0, np.float32)), NEAR)


def test_unknown_stays_unknown() -> None:
    reading = read_clip([VALUES], zero_is_far=True)
    assert np.isnan(reading.inverse_z(np.array([[np.nan]], np.float32))).all()
