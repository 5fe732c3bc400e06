# SPDX-License-Identifier: GPL-3.0-or-later
"""Figures of masks whose values are plain to see, and true masks of a scene that can be worked out by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest

from ex4d_engine.cameras import intrinsics_from_fov, pixel_rays
from ex4d_engine.training.mask_statistics import (
    boundary_lengths,
    coherence,
    hole_shares,
    mean_by_angle,
    true_masks,
)

WIDTH, HEIGHT = 96, 64
K = intrinsics_from_fov(WIDTH, HEIGHT)
FOCAL = float(K[0, 0])
NEAR, FAR = 4.0, 10.0


def card_before_wall(camera_x: float) -> np.ndarray:
    """(1,H,W) the exact depth of a card, |x| < 0.8 at z = 4, before a wall at z = 10, from a camera at x."""
    rays = pixel_rays(K, np.arange(WIDTH) + 0.5, np.float64(HEIGHT / 2))
    on_card = np.abs(camera_x + rays[:, 0] * NEAR) < 0.8
    return np.broadcast_to(np.where(on_card, NEAR, FAR).astype(np.float32), (1, HEIGHT, WIDTH))


def test_the_true_hole_beside_a_card_is_as_wide_as_predicted() -> None:
    """From b to the right, b·f·(1/near − 1/far) columns of wall right of the card were hidden from the source."""
    shift = 0.6
    to_source = np.eye(4)
    to_source[0, 3] = shift
    keep = true_masks(card_before_wall(shift), card_before_wall(0), K, to_source[None])[0]
    assert (keep == keep[0]).all()
    lost = np.flatnonzero(keep[0] == 0)
    beside, outside = lost[lost < 75], lost[lost >= 75]
    card_ends = FOCAL * (0.8 - shift) / NEAR + WIDTH / 2
    assert beside[0] == pytest.approx(card_ends, abs=1.5)
    assert len(beside) == pytest.approx(FOCAL * shift * (1 / NEAR - 1 / FAR), abs=2)
    assert len(outside) == pytest.approx(FOCAL * shift / FAR, abs=1)


def test_sky_is_seen_from_everywhere_that_looks_at_it() -> None:
    sky = np.full((1, HEIGHT, WIDTH), np.inf, np.float32)
    to_source = np.eye(4)
    to_source[:3, 3] = [5, 2, -3]
    assert (true_masks(sky, sky, K, to_source[None]) == 255).all()
    assert (true_masks(sky, np.full_like(sky, 7), K, to_source[None]) == 0).all()


def block(left: int, frames: int = 2, move: int = 0) -> np.ndarray:
    keep = np.full((frames, 20, 30), 255, np.uint8)
    for index in range(frames):
        keep[index, 5:15, left + index * move : left + index * move + 10] = 0
    return keep


def test_share_and_outline() -> None:
    np.testing.assert_allclose(hole_shares(block(4)), 100 / 600)
    np.testing.assert_allclose(boundary_lengths(block(4)), 40 / 100)
    np.testing.assert_allclose(boundary_lengths(np.zeros((1, 20, 30), np.uint8)), 0)


def test_coherence_in_place_and_along_the_flow() -> None:
    np.testing.assert_allclose(coherence(block(4)), 1)
    moving = block(4, frames=3, move=5)
    np.testing.assert_allclose(coherence(moving), 50 / 150)
    back = np.zeros((2, 20, 30, 2), np.float32)
    back[..., 0] = -5
    np.testing.assert_allclose(coherence(moving, back), 1)
    assert np.isnan(coherence(np.full((2, 4, 4), 255, np.uint8))).all()


def test_means_by_angle() -> None:
    counts, means = mean_by_angle(
        np.array([1.0, 5.0, 15.0, 16.0, 99.0]),
        np.array([0.1, 0.3, 0.5, math.nan, 1.0]),
        np.array([0.0, 10.0, 20.0, 30.0]),
    )
    assert counts.tolist() == [2, 1, 0]
    np.testing.assert_allclose(means, [0.2, 0.5, math.nan])
