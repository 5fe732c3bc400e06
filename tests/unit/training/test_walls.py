# SPDX-License-Identifier: GPL-3.0-or-later
"""Walls of limited depth are parts of the faces that they stand for, and the grid's numbering is kept."""

from __future__ import annotations

import numpy as np
import pytest

from ex4d_engine.cameras import intrinsics_from_fov
from ex4d_engine.dwmesh.occlusion import seen_faces
from ex4d_engine.dwmesh.ray_grid import ray_grid
from ex4d_engine.training.walls import walled_grid

WIDTH, HEIGHT, SHARE = 20, 16, 0.25
GRID = ray_grid(WIDTH, HEIGHT, intrinsics_from_fov(WIDTH, HEIGHT), 25.0)


@pytest.fixture
def depth() -> np.ndarray:
    depth = np.full((HEIGHT, WIDTH), 20, np.float32)
    depth[5:11, 6:13] = 4
    depth[12:, :8] = 4.7  # a jump smaller than the wall's depth: the whole face stays
    return depth


def test_the_grid_s_own_faces_keep_their_numbers_and_the_seen_ones_their_corners(depth: np.ndarray) -> None:
    seen = seen_faces(depth)
    walled = walled_grid(GRID, depth, seen, SHARE)
    flags = seen.reshape(-1) > 0
    own = slice(0, GRID.topology.grid_faces)
    assert walled.topology.seen_shape == GRID.topology.seen_shape
    np.testing.assert_array_equal(walled.topology.faces[own][flags], GRID.topology.faces[own][flags])
    assert (np.ptp(walled.topology.faces[own][~flags], axis=1) == 0).all()
    assert len(walled.topology.faces) == len(GRID.topology.faces) + (~flags).sum()


def test_a_wall_lies_in_its_face_and_ends_at_its_depth(depth: np.ndarray) -> None:
    seen = seen_faces(depth)
    occluded = np.flatnonzero(seen.reshape(-1) == 0)
    walled = walled_grid(GRID, depth, seen, SHARE)
    whole = GRID.vertices(depth)[GRID.topology.faces[occluded]].astype(np.float64)
    walls = walled.vertices(depth)[walled.topology.faces[-len(occluded) :]].astype(np.float64)
    near = whole[..., 2].min(axis=1)
    assert (walls[..., 2] <= (1 + SHARE) * near[:, None] * (1 + 1e-6)).all()
    assert (walls[..., 2].max(axis=1) > near * 1.04).mean() > 0.9
    normal = np.cross(whole[:, 1] - whole[:, 0], whole[:, 2] - whole[:, 0])
    length = np.linalg.norm(normal, axis=1)
    solid = length > 1e-6  # the far ring's corners have faces without an area
    off = np.abs(np.einsum("nij,nj->ni", walls - whole[:, :1], normal))[solid] / length[solid, None]
    assert off.max() < 1e-3


def test_shallow_faces_stay_whole(depth: np.ndarray) -> None:
    seen = seen_faces(depth)
    occluded = np.flatnonzero(seen.reshape(-1) == 0)
    walls = walled_grid(GRID, depth, seen, SHARE)
    whole = GRID.vertices(depth)[GRID.topology.faces[occluded]]
    shallow = whole[..., 2].max(axis=1) < 1.2 * whole[..., 2].min(axis=1)
    kept = walls.vertices(depth)[walls.topology.faces[-len(occluded) :]]
    assert shallow.any()
    np.testing.assert_allclose(kept[shallow], whole[shallow], rtol=1e-5)
