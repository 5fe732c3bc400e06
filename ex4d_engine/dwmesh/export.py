# SPDX-License-Identifier: GPL-3.0-or-later
"""A frame of the DW-Mesh as a PLY file: closed, with vertex colours and the occlusion flag a face."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ..files import atomic_path
from .ray_grid import RayGrid

_HEADER = """ply
format binary_little_endian 1.0
comment EX-4D depth-based watertight mesh; OpenCV axes: x right, y down, z forward
element vertex {vertices}
property float x
property float y
property float z
property uchar red
property uchar green
property uchar blue
property uchar alpha
element face {faces}
property list uchar int vertex_indices
property uchar occluded
end_header
"""
_VERTEX = np.dtype([("position", "<f4", 3), ("colour", "u1", 4)])
_FACE = np.dtype([("count", "u1"), ("corners", "<i4", 3), ("occluded", "u1")])


def write_ply(
    path: Path,
    grid: RayGrid,
    depth: NDArray[np.float32],
    albedo: NDArray[np.uint8],
    seen: NDArray[np.uint8],
) -> None:
    """Writes one frame.

    The far ring's corners lie on one ray and so in one place. A reader that merges vertices, as trimesh does, would
    find the flat faces between them: here they are one vertex, and the faces are left out.

    Args:
        grid: a closed grid; depth: (H,W) float32; albedo: (H,W,4) uint8;
        seen: the frame's `seen` image; faces behind the grid are occluded.
    """
    positions = grid.vertices(depth)
    corners, kept_faces, kept_vertices = _welded(grid, positions)
    vertices = np.empty(len(kept_vertices), dtype=_VERTEX)
    vertices["position"] = positions[kept_vertices]
    colours = albedo[grid.pixels[kept_vertices, 0], grid.pixels[kept_vertices, 1]]
    # a pixel beside an unseen face is as solid as any
    vertices["colour"] = np.concatenate([colours[:, :3], np.where(colours[:, 3:] > 0, 255, 0)], axis=1)
    occluded = np.ones(len(grid.topology.faces), dtype=np.uint8)
    occluded[: grid.topology.grid_faces] = seen.reshape(-1) == 0
    faces = np.empty(len(corners), dtype=_FACE)
    faces["count"] = 3
    faces["corners"] = corners
    faces["occluded"] = occluded[kept_faces]
    with atomic_path(path) as temporary, temporary.open("wb") as file:
        file.write(_HEADER.format(vertices=len(vertices), faces=len(faces)).encode("ascii"))
        file.write(vertices.tobytes())
        file.write(faces.tobytes())


def _welded(
    grid: RayGrid, positions: NDArray[np.float32]
) -> tuple[NDArray[np.int32], NDArray[np.int64], NDArray[np.int64]]:
    """Corners (N,3) of the faces that are left, their numbers and the vertices' numbers in the grid.

    Only pinned vertices are compared: the others have a ray each.
    """
    pinned = np.flatnonzero(grid.pinned > 0)
    _, first, same = np.unique(positions[pinned], axis=0, return_index=True, return_inverse=True)
    target = np.arange(len(positions))
    target[pinned] = pinned[first[same.ravel()]]
    corners = target[grid.topology.faces]
    a, b, c = corners.T
    kept_faces = np.flatnonzero((a != b) & (b != c) & (c != a))
    kept_vertices, numbered = np.unique(corners[kept_faces], return_inverse=True)
    return numbered.reshape(-1, 3).astype(np.int32), kept_faces, kept_vertices
