# SPDX-License-Identifier: GPL-3.0-or-later
"""Every frame's mesh is a closed surface, whatever its size and its depth."""

from __future__ import annotations

import numpy as np
import pytest
import trimesh
from hypothesis import given, settings
from hypothesis import strategies as st

from ex4d_engine.cameras import intrinsics_from_fov
from ex4d_engine.dwmesh.ray_grid import (
    RayGrid,
    closed_reference,
    load_ray_grid,
    ray_grid,
    reference_ray_grid,
    save_ray_grid,
)
from ex4d_engine.dwmesh.repair import far_surface, repair, sky_depth
from ex4d_engine.errors import Ex4dError
from ex4d_engine.reference_paths import reference_intrinsics


def assert_closed(grid: RayGrid, depth: np.ndarray) -> trimesh.Trimesh:
    mesh = trimesh.Trimesh(grid.vertices(depth), grid.topology.faces, process=False)
    assert np.isfinite(mesh.vertices).all()
    assert mesh.is_watertight
    assert mesh.is_winding_consistent
    assert mesh.euler_number == 2
    assert mesh.volume > 0  # outward winding
    return mesh


def mended(depth: np.ndarray) -> np.ndarray:
    result = repair(depth, 1).depth
    finite = result[np.isfinite(result)]
    sky = sky_depth(float(finite.max()) if finite.size else 0.0)
    return np.where(np.isfinite(result), result, np.float32(sky))


@pytest.mark.parametrize("size", [(1, 1), (2, 2), (2, 3), (3, 2), (5, 5), (17, 9), (64, 48), (101, 33)])
def test_corrected_mesh_is_closed_at_every_size(size: tuple[int, int]) -> None:
    width, height = size
    depth = np.random.default_rng(1).uniform(1, 50, (height, width)).astype(np.float32)
    assert_closed(ray_grid(width, height, intrinsics_from_fov(width, height), far_surface(50)), depth)


@pytest.mark.parametrize("size", [(2, 2), (2, 3), (3, 3), (33, 17)])
def test_reference_mesh_closed_by_the_fan(size: tuple[int, int]) -> None:
    width, height = size
    depth = np.random.default_rng(2).uniform(2, 90, (height, width)).astype(np.float32)
    assert_closed(closed_reference(reference_ray_grid(width, height, reference_intrinsics(width, height))), depth)


def test_reference_mesh_itself_is_not_closed() -> None:
    grid = reference_ray_grid(8, 6, reference_intrinsics(8, 6))
    mesh = trimesh.Trimesh(grid.vertices(np.full((6, 8), 5, np.float32)), grid.topology.faces, process=False)
    assert not mesh.is_watertight


@settings(max_examples=40, deadline=None)
@given(st.integers(2, 24), st.integers(2, 24), st.integers(0, 2**32 - 1), st.floats(0.0, 0.9), st.floats(1e-3, 1e5))
def test_bad_depth_still_gives_a_closed_mesh(width: int, height: int, seed: int, bad: float, scale: float) -> None:
    rng = np.random.default_rng(seed)
    depth = (rng.uniform(0.1, 30, (height, width)) * scale).astype(np.float32)
    wrong = rng.choice([np.nan, 0.0, -1.0, np.inf, -np.inf], (height, width))
    depth = np.where(rng.random((height, width)) < bad, wrong, depth).astype(np.float32)
    depth[0, 0] = scale  # at least one usable value
    usable = mended(depth)
    grid = ray_grid(width, height, intrinsics_from_fov(width, height), far_surface(float(usable.max())))
    assert_closed(grid, usable)


def test_far_surface_is_behind_the_sky() -> None:
    depth = np.full((6, 8), 7, np.float32)
    depth[:3] = np.inf
    usable = mended(depth)
    grid = ray_grid(8, 6, intrinsics_from_fov(8, 6), far_surface(float(usable.max())))
    assert usable[:3].min() > 7
    assert grid.pinned[grid.pinned > 0].min() > usable.max()


def test_repair_counts_what_it_mends() -> None:
    depth = np.full((4, 5), 2, np.float32)
    depth[0, 0], depth[0, 1], depth[1, 0], depth[3, 4] = np.nan, 0, -3, np.inf
    result = repair(depth, 1)
    assert (result.unknown, result.infinite) == (3, 1)
    assert np.isinf(result.depth[3, 4])
    assert (result.depth[:2] == 2).all()


def test_repair_takes_the_nearest_known_value() -> None:
    depth = np.full((1, 7), np.nan, np.float32)
    depth[0, 0], depth[0, 6] = 1, 9
    assert repair(depth, 1).depth[0, [1, 2, 4, 5]].tolist() == [1, 1, 9, 9]


def test_a_frame_without_any_depth_is_refused_by_number() -> None:
    with pytest.raises(Ex4dError, match="frame 1007") as caught:
        repair(np.full((3, 3), np.nan, np.float32), 1007)
    assert caught.value.code == "depth_invalid"


def test_only_sky_is_a_mesh_too() -> None:
    usable = mended(np.full((4, 4), np.inf, np.float32))
    assert_closed(ray_grid(4, 4, intrinsics_from_fov(4, 4), far_surface(float(usable.max()))), usable)


def test_topology_is_the_same_for_every_frame_and_round_trips(tmp_path) -> None:
    grid = ray_grid(9, 7, intrinsics_from_fov(9, 7), 40.0)
    path = tmp_path / "Ünï 作業 shot" / "rays.npz"
    path.parent.mkdir()
    save_ray_grid(grid, path)
    loaded = load_ray_grid(path)
    assert (loaded.topology.faces == grid.topology.faces).all()
    assert (loaded.rays == grid.rays).all()
    assert loaded.plate_size == (9, 7)
    path.write_bytes(b"rubbish")
    with pytest.raises(Ex4dError, match="damaged"):
        load_ray_grid(path)


def test_vertices_are_pixel_centres_times_depth() -> None:
    K = intrinsics_from_fov(6, 4)
    grid = ray_grid(6, 4, K, 100.0)
    depth = np.arange(1, 25, dtype=np.float32).reshape(4, 6)
    inner = grid.vertices(depth)[:-1].reshape(8, 10, 3)[2:-2, 2:-2]
    rows, columns = np.mgrid[:4, :6]
    expected = (
        np.stack([(columns + 0.5 - 3) / K[0, 0], (rows + 0.5 - 2) / K[1, 1], np.ones((4, 6))], -1) * depth[..., None]
    )
    np.testing.assert_allclose(inner, expected, rtol=1e-6)
