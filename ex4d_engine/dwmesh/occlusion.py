# SPDX-License-Identifier: GPL-3.0-or-later
"""Which faces of the DW-Mesh the plate saw, and which only bridge a jump in depth.

The reference calls a face occluded when its smallest interior angle is under 2.5°. At its focal length of
500 px that cuts where the depths of neighbouring pixels differ by more than about 4.6 %; at another focal
length, size or place in the image the same angle cuts elsewhere. Here each face is measured in a camera of
500 px whose axis goes through the face, so that the angle means the same jump everywhere.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from .ray_grid import RINGS, RayGrid
from .topology import Topology

OCCLUSION_ANGLE_DEG = 2.5
CANONICAL_FOCAL_PX = 500.0

_SIN_SQUARED = math.sin(math.radians(OCCLUSION_ANGLE_DEG)) ** 2


def seen_faces(depth: NDArray[np.float32], cover: NDArray[np.uint8] | None = None) -> NDArray[np.uint8]:
    """The `seen` image of a frame: 255 where a face of the corrected mesh was seen in the plate, else 0.

    Args:
        depth: (H,W) float32, z, positive and finite.
        cover: (H,W) uint8, the plate's alpha if it has one: a face with a corner under half of it was not seen.

    Returns:
        (H+3, 2*(W+3)) uint8 in the face order of topology.py; the skirt is never seen.
    """
    height, width = depth.shape
    # the edge ring repeats the border's depth; beyond it comes the skirt, which is occluded by definition
    ringed = np.pad(depth, 1, mode="edge").astype(np.float32)
    top_left, top_right = ringed[:-1, :-1], ringed[:-1, 1:]
    bottom_left, bottom_right = ringed[1:, :-1], ringed[1:, 1:]
    half = 0.5 / CANONICAL_FOCAL_PX

    def corner(z: NDArray[np.float32], x: float, y: float) -> tuple[NDArray[np.float32], ...]:
        return z * np.float32(x), z * np.float32(y), z

    a, b = corner(top_left, -half, -half), corner(bottom_left, -half, half)
    c, d = corner(top_right, half, -half), corner(bottom_right, half, half)
    inner = np.stack([_wide(a, b, c), _wide(b, d, c)], axis=-1)
    if cover is not None:
        solid = np.pad(cover, 1, mode="edge") >= 128
        shared = solid[1:, :-1] & solid[:-1, 1:]  # both triangles of a cell have these two corners
        inner &= np.stack([shared & solid[:-1, :-1], shared & solid[1:, 1:]], axis=-1)
    seen = np.zeros((height + 2 * RINGS - 1, width + 2 * RINGS - 1, 2), dtype=np.uint8)
    seen[1:-1, 1:-1] = np.where(inner, 255, 0)
    return seen.reshape(seen.shape[0], -1)


def seen_pixels(seen: NDArray[np.uint8], width: int, height: int) -> NDArray[np.uint8]:
    """(H,W) uint8, 255 where a pixel's vertex belongs to at least one seen face."""
    cells = seen.reshape(height + 2 * RINGS - 1, width + 2 * RINGS - 1, 2)
    first, second = cells[..., 0], cells[..., 1]
    touched = np.zeros((height + 2 * RINGS, width + 2 * RINGS), dtype=np.uint8)
    # the first triangle of a cell has three of its corners, the second the other three (see topology.py)
    for part, rows, columns in (
        (first, slice(0, -1), slice(0, -1)),
        (first | second, slice(1, None), slice(0, -1)),
        (first | second, slice(0, -1), slice(1, None)),
        (second, slice(1, None), slice(1, None)),
    ):
        touched[rows, columns] |= part
    return touched[RINGS:-RINGS, RINGS:-RINGS]


def reference_seen(grid: RayGrid, depth: NDArray[np.float32]) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """The reference's rule on its own mesh: the interior angles as they are, and vertex flags.

    Returns:
        seen: (H-1, 2*(W-1)) uint8, 255 = the angle test passed.
        alpha: (H,W) uint8, 0 on every vertex of a face that failed.
    """
    vertices = grid.vertices(depth)
    faces = grid.topology.faces[: grid.topology.grid_faces]
    passed = _wide(*(tuple(vertices[faces[:, corner]].T) for corner in range(3)))
    alpha = np.full(depth.size, 255, dtype=np.uint8)
    alpha[faces[~passed].ravel()] = 0
    return _flag_image(passed, grid.topology), alpha.reshape(depth.shape)


def _flag_image(flags: NDArray[np.bool_], topology: Topology) -> NDArray[np.uint8]:
    return np.where(flags, 255, 0).astype(np.uint8).reshape(topology.seen_shape)


def _wide(
    a: tuple[NDArray[np.float32], ...], b: tuple[NDArray[np.float32], ...], c: tuple[NDArray[np.float32], ...]
) -> NDArray[np.bool_]:
    """True where triangle abc has no interior angle under the limit.

    The smallest angle lies between the two longest sides; its squared sine is (2 area)² over the product
    of their squared lengths, so no root or arc function is needed.
    """
    ab = [q - p for p, q in zip(a, b, strict=True)]
    ac = [q - p for p, q in zip(a, c, strict=True)]
    bc = [q - p for p, q in zip(b, c, strict=True)]
    area = (
        (ab[1] * ac[2] - ab[2] * ac[1]) ** 2
        + (ab[2] * ac[0] - ab[0] * ac[2]) ** 2
        + (ab[0] * ac[1] - ab[1] * ac[0]) ** 2
    )
    lengths = [sum(part * part for part in side) for side in (ab, ac, bc)]
    shortest = np.minimum(np.minimum(lengths[0], lengths[1]), lengths[2])
    product = lengths[0] * lengths[1] * lengths[2] / np.maximum(shortest, np.finfo(np.float32).tiny)
    result: NDArray[np.bool_] = area >= np.float32(_SIN_SQUARED) * product
    return result
