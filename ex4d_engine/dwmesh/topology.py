# SPDX-License-Identifier: GPL-3.0-or-later
"""The faces of the DW-Mesh: a grid of vertices, closed behind. The same for every frame of a shot.

Face order is the contract between this module, the raster, the `seen` images and Blender: the two
triangles of grid cell (i, j) are faces 2 * (i * (columns - 1) + j) and the next one; the closing faces
follow the grid's. So a flag image of shape (rows - 1, 2 * (columns - 1)), read row by row, is a list of
the grid's faces.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ..errors import Ex4dError


@dataclass(frozen=True)
class Topology:
    """rows, columns: of the vertex grid; faces: (N,3) int32, outward winding; grid_faces: how many are the grid's."""

    rows: int
    columns: int
    faces: NDArray[np.int32]

    @property
    def grid_faces(self) -> int:
        return 2 * (self.rows - 1) * (self.columns - 1)

    @property
    def seen_shape(self) -> tuple[int, int]:
        """Shape of the image that holds a texel a grid face."""
        return self.rows - 1, 2 * (self.columns - 1)


def closed_grid(rows: int, columns: int) -> Topology:
    """A grid closed by a fan from its border to one more vertex, number rows * columns.

    Every edge has two faces, winding is consistent, and the Euler number is 2 (a sphere).
    """
    loop = border_loop(rows, columns)
    apex = np.full_like(loop, rows * columns)
    fan = np.stack([loop, np.roll(loop, -1), apex], axis=1)
    return Topology(rows, columns, _faces(rows, columns, fan))


def reference_grid(rows: int, columns: int) -> Topology:
    """The reference's mesh: the grid and two cap triangles between its corners. Not closed."""
    top_left, top_right = 0, columns - 1
    bottom_left, bottom_right = (rows - 1) * columns, rows * columns - 1
    cap = np.array([[top_left, top_right, bottom_left], [top_right, bottom_right, bottom_left]])
    return Topology(rows, columns, _faces(rows, columns, cap))


def corner_classes(topology: Topology) -> NDArray[np.int32]:
    """(V,) a number 0, 1 or 2 for each vertex, so that the three corners of every grid face differ.

    Interpolated one-hot, they are a fragment's barycentric coordinates. A seen pixel's centre lies exactly
    on a vertex where seen and occluded faces meet, and which of them a rasteriser hits there is chance;
    with these a shader can tell that it is at the vertex, which the plate saw.
    """
    row, column = np.divmod(np.arange(topology.rows * topology.columns, dtype=np.int32), topology.columns)
    extra = int(topology.faces.max()) + 1 - row.size
    return np.append((row + 2 * column) % 3, np.zeros(extra, dtype=np.int32)).astype(np.int32)


def border_loop(rows: int, columns: int) -> NDArray[np.int32]:
    """Vertex numbers of the grid's border, once round: top, right, bottom, left."""
    if rows < 2 or columns < 2:
        raise Ex4dError("depth_invalid", f"A mesh of {columns} x {rows} vertices has no faces.", "Use a larger plate.")
    index = np.arange(rows * columns, dtype=np.int32).reshape(rows, columns)
    return np.concatenate([index[0, :-1], index[:-1, -1], index[-1, :0:-1], index[:0:-1, 0]])


def _faces(rows: int, columns: int, closing: NDArray[np.integer]) -> NDArray[np.int32]:
    """The grid's faces and the closing ones behind them, in one array that is filled in place: 8K has 66 million."""
    index = np.arange(rows * columns, dtype=np.int32).reshape(rows, columns)
    top_left, top_right = index[:-1, :-1], index[:-1, 1:]
    bottom_left, bottom_right = index[1:, :-1], index[1:, 1:]
    count = 2 * top_left.size
    faces = np.empty((count + len(closing), 3), np.int32)
    cells = faces[:count].reshape(rows - 1, columns - 1, 2, 3)
    for number, corners in enumerate(((top_left, bottom_left, top_right), (bottom_left, bottom_right, top_right))):
        for place, corner in enumerate(corners):
            cells[:, :, number, place] = corner
    faces[count:] = closing
    return faces
