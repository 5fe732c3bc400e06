# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

import math

import numpy as np
import pytest
from ex4d_extension.ex4d_blender.coverage import Edges, coarse_size, coverage

from ex4d_engine.cameras import intrinsics_from_fov, pixel_rays
from ex4d_engine.dwmesh import edges
from ex4d_engine.dwmesh.occlusion import seen_faces
from ex4d_engine.dwmesh.ray_grid import ray_grid
from ex4d_engine.raster import make_raster
from ex4d_engine.trajectories import dolly, orbit

WIDTH, HEIGHT = 192, 128


def box_before_a_wall(across: int = 50) -> np.ndarray:
    """(H,W) float32 depth. across: pixels."""
    depth = np.full((HEIGHT, WIDTH), 8.0, np.float32)
    depth[40:90, 70 : 70 + across] = 3.0
    return depth


def fence_before_a_wall() -> np.ndarray:
    """(H,W) float32 depth: posts a pixel wide."""
    depth = np.full((HEIGHT, WIDTH), 8.0, np.float32)
    depth[:, 5:-5:16] = 4.0
    return depth


def edges_of(depth: np.ndarray, seen: np.ndarray) -> Edges:
    intrinsics = intrinsics_from_fov(WIDTH, HEIGHT)
    alpha = edges.edge_alpha(seen, WIDTH, HEIGHT, None)
    widths = edges.wall_widths(depth, seen, intrinsics[0, 0])
    return Edges(alpha, widths, (intrinsics[0, 0], intrinsics[1, 1]), np.eye(3))


def exact(
    depth: np.ndarray, seen: np.ndarray, pose: np.ndarray, wall_share: float, surfaces: Edges | None = None
) -> float:
    """The share that the engine's own raster sees, at full size."""
    grid = ray_grid(WIDTH, HEIGHT, intrinsics_from_fov(WIDTH, HEIGHT), 30.0)
    albedo = np.full((HEIGHT, WIDTH, 4), 255, np.uint8)
    if surfaces is not None:
        albedo[..., 3] = surfaces.alpha
    with make_raster("opengl", grid, nearest=float(depth.min()), wall_share=wall_share) as raster:
        raster.set_frame(depth, albedo, seen, surfaces and surfaces.widths)
        drawn = raster.draw(intrinsics_from_fov(WIDTH, HEIGHT), np.linalg.inv(pose), (WIDTH, HEIGHT))
    return float((drawn.mask > 0).mean())


def estimated(
    depth: np.ndarray,
    seen: np.ndarray,
    pose: np.ndarray,
    wall_share: float = math.inf,
    surfaces: Edges | None = None,
) -> float:
    grid = ray_grid(WIDTH, HEIGHT, intrinsics_from_fov(WIDTH, HEIGHT), 30.0)
    rows, columns = grid.topology.rows, grid.topology.columns
    points = grid.vertices(depth)[: rows * columns].reshape(rows, columns, 3)
    size = coarse_size(WIDTH, HEIGHT)
    return coverage(points, points[..., 2], seen > 127, intrinsics_from_fov(*size), pose, size, wall_share, surfaces)


POSES = {
    "source": np.eye(4),
    "15°": orbit(2, 15, 4.0)[1],
    "-40°": orbit(2, -40, 4.0)[1],
    "85°": orbit(2, 85, 4.0)[1],
    "risen": orbit(2, 20, 4.0, pitch_deg=30)[1],
    "close to the box": dolly(2, 2.9)[1],
    "past the box": dolly(2, 5.0)[1],
    "back": dolly(2, -3.0)[1],
}


@pytest.mark.parametrize("wall_share", [math.inf, 0.25])
@pytest.mark.parametrize("pose", POSES.values(), ids=POSES)
def test_the_estimate_is_within_three_points_of_the_engine_s_mask(pose: np.ndarray, wall_share: float) -> None:
    depth = box_before_a_wall()
    seen = seen_faces(depth)
    assert estimated(depth, seen, pose, wall_share) == pytest.approx(exact(depth, seen, pose, wall_share), abs=0.03)


@pytest.mark.parametrize("across", [1, 8, 50])
@pytest.mark.parametrize("pose", POSES.values(), ids=POSES)
def test_cards_and_the_widths_of_walls_are_counted(pose: np.ndarray, across: int) -> None:
    depth = box_before_a_wall(across)
    seen = seen_faces(depth)
    surfaces = edges_of(depth, seen)
    found = estimated(depth, seen, pose, 0.25, surfaces)
    assert found == pytest.approx(exact(depth, seen, pose, 0.25, surfaces), abs=0.03)


def test_cards_and_widths_show_more_of_a_fence() -> None:
    """The coarse picture is too coarse for how much: as near things fill its pixels, holes come out too small."""
    depth = fence_before_a_wall()
    seen = seen_faces(depth)
    surfaces = edges_of(depth, seen)
    whole, bare = (estimated(depth, seen, np.eye(4), 0.25, with_edges) for with_edges in (surfaces, None))
    assert whole == 1.0 and bare < 0.95
    side = POSES["15°"]
    assert estimated(depth, seen, side, 0.25, surfaces) > estimated(depth, seen, side, 0.25) + 0.1
    # closed walls have neither
    assert estimated(depth, seen, side, math.inf, surfaces) == estimated(depth, seen, side, math.inf)


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
