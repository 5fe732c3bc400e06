# SPDX-License-Identifier: GPL-3.0-or-later
"""DW-Mesh.ply as another program reads it: closed, coloured, with the occlusion flag on its faces."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import trimesh

from ex4d_engine.cameras import intrinsics_from_fov
from ex4d_engine.dwmesh.export import write_ply
from ex4d_engine.dwmesh.occlusion import reference_seen, seen_faces, seen_pixels
from ex4d_engine.dwmesh.ray_grid import RayGrid, closed_reference, ray_grid, reference_ray_grid
from ex4d_engine.reference_paths import reference_intrinsics
from tests.tiny_shot import depth_map, picture

WIDTH, HEIGHT = 32, 24


def corrected(width: int, height: int) -> tuple[RayGrid, np.ndarray, np.ndarray, np.ndarray]:
    depth = depth_map(0, width, height)
    seen = seen_faces(depth)
    albedo = np.dstack([picture(0, width, height), seen_pixels(seen, width, height)])
    return ray_grid(width, height, intrinsics_from_fov(width, height), 20.0), depth, albedo, seen


def reference(width: int, height: int) -> tuple[RayGrid, np.ndarray, np.ndarray, np.ndarray]:
    depth = depth_map(0, width, height)
    grid = reference_ray_grid(width, height, reference_intrinsics(width, height))
    seen, alpha = reference_seen(grid, depth)
    return closed_reference(grid), depth, np.dstack([picture(0, width, height), alpha]), seen


@pytest.mark.parametrize("make", [corrected, reference])
@pytest.mark.parametrize("size", [(WIDTH, HEIGHT), (3, 2)])
def test_trimesh_reads_a_closed_mesh_with_colours_and_flags(tmp_path: Path, make, size: tuple[int, int]) -> None:  # type: ignore[no-untyped-def]
    grid, depth, albedo, seen = make(*size)
    path = tmp_path / "DW-Mesh Ünï.ply"
    write_ply(path, grid, depth, albedo, seen)
    for process in (True, False):  # as it is loaded by default, with vertices in one place merged, and as it is
        mesh = trimesh.load_mesh(path, process=process)
        assert mesh.is_watertight and mesh.is_winding_consistent
        assert mesh.euler_number == 2
        assert mesh.volume > 0
    # every face is the grid's own, with its colours and its flag; those that are left out have no area
    position, color = grid.vertices(depth), albedo[grid.pixels[:, 0], grid.pixels[:, 1]]
    occluded = np.ones(len(grid.topology.faces), bool)
    occluded[: grid.topology.grid_faces] = seen.ravel() == 0
    p, q, r = (position[grid.topology.faces[:, corner]] for corner in range(3))
    whole = (p != q).any(axis=1) & (q != r).any(axis=1) & (r != p).any(axis=1)
    np.testing.assert_array_equal(mesh.triangles.astype(np.float32), position[grid.topology.faces[whole]])
    np.testing.assert_array_equal(flags(mesh), occluded[whole])
    assert isinstance(mesh.visual, trimesh.visual.ColorVisuals)
    written = mesh.visual.vertex_colors[mesh.faces]
    np.testing.assert_array_equal(written[~flags(mesh)], color[grid.topology.faces[whole]][~flags(mesh)])


def flags(mesh: trimesh.Trimesh) -> np.ndarray:
    return np.ravel(mesh.metadata["_ply_raw"]["face"]["data"]["occluded"]).astype(bool)


def test_the_flag_means_a_face_that_bridges_a_jump(tmp_path: Path) -> None:
    grid, depth, albedo, seen = corrected(WIDTH, HEIGHT)
    write_ply(tmp_path / "mesh.ply", grid, depth, albedo, seen)
    mesh = trimesh.load_mesh(tmp_path / "mesh.ply", process=False)
    occluded = flags(mesh)
    z = mesh.vertices[mesh.faces][..., 2]
    reach = z.max(axis=1) / z.min(axis=1)
    assert (reach[~occluded] < 1.01).all()
    assert (reach[occluded] > 1.01).sum() > 0.9 * occluded.sum()


def test_nothing_is_left_where_the_file_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "mesh.ply").mkdir()
    with pytest.raises(Exception, match=r"mesh\.ply"):
        write_ply(tmp_path / "mesh.ply", *corrected(WIDTH, HEIGHT))
    assert [path.name for path in tmp_path.iterdir()] == ["mesh.ply"]
