# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

import math

import numpy as np
import pytest
from ex4d_extension.ex4d_blender.coverage import coarse_size, coverage

from ex4d_engine.cameras import intrinsics_from_fov, pixel_rays
from ex4d_engine.dwmesh.occlusion import seen_faces
from ex4d_engine.dwmesh.ray_grid import ray_grid
from ex4d_engine.raster import make_raster
from ex4d_engine.trajectories import dolly, orbit

WIDTH, HEIGHT = 192, 128


def box_before_a_wall() -> np.ndarray:
    """(H,W) float32 depth."""
    depth = np.full((HEIGHT, WIDTH), 8.0, np.float32)
    depth[40:90, 70:120] = 3.0
    return depth


def exact(depth: np.ndarray, seen: np.ndarray, pose: np.ndarray, wall_share: float) -> float:
    """The share that the engine's own raster sees, at full size."""
    grid = ray_grid(WIDTH, HEIGHT, intrinsics_from_fov(WIDTH, HEIGHT), 30.0)
    albedo = np.full((HEIGHT, WIDTH, 4), 255, np.uint8)
    with make_raster("opengl", grid, nearest=float(depth.min()), wall_share=wall_share) as raster:
        raster.set_frame(depth, albedo, seen)
        drawn = raster.draw(intrinsics_from_fov(WIDTH, HEIGHT), np.linalg.inv(pose), (WIDTH, HEIGHT))
    return float((drawn.mask > 0).mean())


def estimated(depth: np.ndarray, seen: np.ndarray, pose: np.ndarray, wall_share: float = math.inf) -> float:
    grid = ray_grid(WIDTH, HEIGHT, intrinsics_from_fov(WIDTH, HEIGHT), 30.0)
    rows, columns = grid.topology.rows, grid.topology.columns
    points = grid.vertices(depth)[: rows * columns].reshape(rows, columns, 3)
    size = coarse_size(WIDTH, HEIGHT)
    return coverage(points, points[..., 2], seen > 127, intrinsics_from_fov(*size), pose, size, wall_share)


@pytest.mark.parametrize("wall_share", [math.inf, 0.25])
@pytest.mark.parametrize(
    "pose",
    [
        np.eye(4),
        orbit(2, 15, 4.0)[1],
        orbit(2, -40, 4.0)[1],
        orbit(2, 85, 4.0)[1],
        orbit(2, 20, 4.0, pitch_deg=30)[1],
        dolly(2, 2.9)[1],
        dolly(2, 5.0)[1],
        dolly(2, -3.0)[1],
    ],
    ids=["source", "15°", "-40°", "85°", "risen", "close to the box", "past the box", "back"],
)
def test_the_estimate_is_within_three_points_of_the_engine_s_mask(pose: np.ndarray, wall_share: float) -> None:
    depth = box_before_a_wall()
    seen = seen_faces(depth)
    assert estimated(depth, seen, pose, wall_share) == pytest.approx(exact(depth, seen, pose, wall_share), abs=0.03)


def test_all_is_covered_at_the_source_and_nothing_with_the_back_to_it() -> None:
    depth = np.full((HEIGHT, WIDTH), 5.0, np.float32)
    seen = seen_faces(depth)
    assert estimated(depth, seen, np.eye(4)) > 0.97  # the picture's rim is the edge ring's
    assert estimated(depth, seen, np.diag([-1.0, 1.0, -1.0, 1.0])) == 0.0


def test_an_unseen_face_hides_what_is_behind_it() -> None:
    intrinsics = intrinsics_from_fov(*coarse_size(WIDTH, HEIGHT))
    size = coarse_size(WIDTH, HEIGHT)
    rays = pixel_rays(intrinsics, np.array([0.0, size[0]])[None, :], np.array([0.0, size[1]])[:, None])
    near, far = rays * 2.0, rays * 4.0
    points = np.concatenate([far, near]).astype(np.float32)  # two sheets, and a slope between them
    seen = np.array([[1, 1], [0, 0], [0, 0]], dtype=bool)
    assert coverage(points, points[..., 2], seen, intrinsics, np.eye(4), size, math.inf) == 0.0
    seen[2] = True
    assert coverage(points, points[..., 2], seen, intrinsics, np.eye(4), size, math.inf) == 1.0
