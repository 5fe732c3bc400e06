# SPDX-License-Identifier: GPL-3.0-or-later
"""What another camera sees, where it can be said by hand."""

from __future__ import annotations

import numpy as np
import pytest

from ex4d_engine.cameras import intrinsics_from_fov, scaled_intrinsics
from ex4d_engine.training.visibility import JUMP_SHARE, visible_pixels

WIDTH, HEIGHT = 24, 16
K = intrinsics_from_fov(WIDTH, HEIGHT)
WALL = np.full((HEIGHT, WIDTH), 10, np.float32)


def test_the_tolerance_is_the_jump_that_the_mesh_takes_for_one_surface() -> None:
    assert pytest.approx(0.0458, abs=1e-4) == JUMP_SHARE


@pytest.mark.parametrize(("before", "expected"), [(0.97, True), (0.94, False), (1.5, True)])
def test_a_surface_hides_what_lies_further_behind_it_than_that(before: float, expected: bool) -> None:
    visible = visible_pixels(WALL, K, np.eye(4), K, (before * WALL).astype(np.float32))
    assert (visible == expected).all()


def test_nothing_hides_where_the_other_camera_sees_nothing() -> None:
    assert visible_pixels(WALL, K, np.eye(4), K, np.zeros_like(WALL)).all()


def test_what_is_behind_the_other_camera_is_not_seen() -> None:
    past = np.eye(4)
    past[2, 3] = -11.0
    assert not visible_pixels(WALL, K, past, K, np.zeros_like(WALL)).any()


def test_the_other_picture_may_have_another_size_and_frame() -> None:
    """Twice the size and shifted by half a picture: the right half of the points falls into it."""
    other = scaled_intrinsics(K, 2, 2)
    other[0, 2] -= WIDTH
    visible = visible_pixels(WALL, K, np.eye(4), other, np.full((2 * HEIGHT, 2 * WIDTH), 10, np.float32))
    assert visible[:, WIDTH // 2 :].all()
    assert not visible[:, : WIDTH // 2].any()


def test_at_an_outline_the_farthest_of_the_four_pixels_around_counts() -> None:
    other = WALL.copy()
    other[:, :12] = 3
    shifted = np.eye(4)
    shifted[0, 3] = 0.3 * 10 / K[0, 0]  # points fall 0.3 pixels right of the centres
    visible = visible_pixels(WALL, K, shifted, K, other)
    assert np.flatnonzero(visible[5, :-1]).tolist() == list(range(11, WIDTH - 1))
