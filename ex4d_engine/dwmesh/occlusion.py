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

BAND_ROWS = 32  # rows worked on at a time, so that what is in between stays in the processor's cache

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
    seen = np.zeros((height + 2 * RINGS - 1, width + 2 * RINGS - 1, 2), dtype=np.uint8)
    inner = seen[1:-1, 1:-1]
    for top in range(0, height + 1, BAND_ROWS):
        band = slice(top, min(top + BAND_ROWS, height + 1))
        inner[band] = _seen_band(ringed[band.start : band.stop + 1])
    if cover is not None:
        solid = np.pad(cover, 1, mode="edge") >= 128
        shared = solid[1:, :-1] & solid[:-1, 1:]  # both triangles of a cell have these two corners
        inner[~np.stack([shared & solid[:-1, :-1], shared & solid[1:, 1:]], axis=-1)] = 0
    return seen.reshape(seen.shape[0], -1)


def _seen_band(depth: NDArray[np.float32]) -> NDArray[np.uint8]:
    """(R-1, C-1, 2) uint8, 255 where the two faces of a cell have no angle under the limit. depth: (R,C).

    `_wide` written out for corners (±h z, ±h z, z), h half a pixel of the canonical camera: neighbours share
    their edges, and the cross product of a face's edges comes down to the terms in `area`.
    """
    z = depth / depth.max()  # products of four depths must stay within float32 at any scene scale
    h2 = np.float32((0.5 / CANONICAL_FOCAL_PX) ** 2)
    square = z * z
    across = 2 * h2 * (square[:, :-1] + square[:, 1:]) + (z[:, 1:] - z[:, :-1]) ** 2
    down = 2 * h2 * (square[:-1] + square[1:]) + (z[1:] - z[:-1]) ** 2
    b, c = z[1:, :-1], z[:-1, 1:]
    b2, c2 = square[1:, :-1], square[:-1, 1:]
    both = h2 * (b + c) ** 2
    diagonal = 2 * both + (b - c) ** 2
    limit = np.float32(_SIN_SQUARED) / (4 * h2)

    def wide(
        tip: NDArray[np.float32], tip2: NDArray[np.float32], flat: NDArray[np.float32], steep: NDArray[np.float32]
    ) -> NDArray[np.bool_]:
        area = b2 * (c - tip) ** 2 + c2 * (b - tip) ** 2 + tip2 * both
        # the product of the two longest edges is the largest product of two
        longest = np.maximum(np.maximum(flat, steep) * diagonal, flat * steep)
        return area >= limit * longest

    first = wide(z[:-1, :-1], square[:-1, :-1], across[:-1], down[:, :-1])
    second = wide(z[1:, 1:], square[1:, 1:], across[1:], down[:, 1:])
    return np.stack([first, second], axis=-1).astype(np.uint8) * np.uint8(255)


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
