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

    Written by hand, as the occlusion flag is a face attribute, which trimesh's exporter leaves out.

    Args:
        grid: a closed grid; depth: (H,W) float32; albedo: (H,W,4) uint8;
        seen: the frame's `seen` image; faces behind the grid are occluded.
    """
    vertices = np.empty(len(grid.rays), dtype=_VERTEX)
    vertices["position"] = grid.vertices(depth)
    vertices["colour"] = albedo[grid.pixels[:, 0], grid.pixels[:, 1]]
    faces = np.empty(len(grid.topology.faces), dtype=_FACE)
    faces["count"] = 3
    faces["corners"] = grid.topology.faces
    faces["occluded"] = 1
    faces["occluded"][: grid.topology.grid_faces] = seen.reshape(-1) == 0
    with atomic_path(path) as temporary, temporary.open("wb") as file:
        file.write(_HEADER.format(vertices=len(vertices), faces=len(faces)).encode("ascii"))
        file.write(vertices.tobytes())
        file.write(faces.tobytes())
