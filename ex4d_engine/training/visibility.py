# SPDX-License-Identifier: GPL-3.0-or-later
"""Which pixels of one camera another camera sees: points carried over and compared with what it sees there.

Both kinds of masks rest on it: a simulated one compares with the DW-Mesh drawn from the other camera, a true one
with the scene itself seen from there.
"""

from __future__ import annotations

import math
from typing import Final

import cv2
import numpy as np
from numpy.typing import NDArray

from ..cameras import pixel_rays
from ..dwmesh.occlusion import CANONICAL_FOCAL_PX, OCCLUSION_ANGLE_DEG

JUMP_SHARE: Final = 1 / (CANONICAL_FOCAL_PX * math.tan(math.radians(OCCLUSION_ANGLE_DEG)))
"""The largest jump in depth from pixel to pixel, as a share of it, that the DW-Mesh still takes for one surface.

A right triangle with a side of z / 500 across and a side of j·z along the line of sight has the angle
atan(1 / (500 j)) at its tip; at 2.5° that is j = 0.0458. What lies this much behind the surface in front is
therefore that surface.
"""

_CORNERS = np.ones((2, 2), np.uint8)


def visible_pixels(
    depth: NDArray[np.float32],
    intrinsics: NDArray[np.float64],
    to_other: NDArray[np.float64],
    other_intrinsics: NDArray[np.float64],
    other_depth: NDArray[np.float32],
) -> NDArray[np.bool_]:
    """The pixels whose points lie within the other camera's picture, with no surface before them there.

    A point rarely falls on a pixel of the other picture: it is held against the farthest of the four around it, so
    that a surface seen at a grazing angle does not hide itself. At an outline this gives a pixel the benefit of the
    doubt for at most one pixel.

    Args:
        depth: (H,W) float32 z, positive and finite.
        intrinsics: (3,3) of its camera.
        to_other: (4,4) from that camera's space to the other's.
        other_intrinsics, other_depth: (3,3), and (H',W') float32 z of what the other camera sees; 0 is nothing.

    Returns:
        (H,W) bool.
    """
    height, width = depth.shape
    across, down, ahead = _carried(depth, intrinsics, to_other)
    other_height, other_width = other_depth.shape
    in_front = ahead > 0
    over = np.where(in_front, 1 / np.where(in_front, ahead, 1), 0)
    columns = (other_intrinsics[0, 0] * across + other_intrinsics[0, 1] * down) * over + other_intrinsics[0, 2]
    rows = other_intrinsics[1, 1] * down * over + other_intrinsics[1, 2]
    inside = in_front & (columns >= 0) & (columns <= other_width) & (rows >= 0) & (rows <= other_height)

    # the cell between the centres of pixels c and c + 1 is number c + 1 of the padded image's
    surface = np.pad(np.where(other_depth > 0, other_depth, np.inf).astype(np.float32), 1, mode="edge")
    farthest = cv2.dilate(surface, _CORNERS, anchor=(0, 0))
    column = np.clip(np.floor(np.where(inside, columns, 0) + 0.5), 0, other_width).astype(np.int32)
    row = np.clip(np.floor(np.where(inside, rows, 0) + 0.5), 0, other_height).astype(np.int32)
    cell = row * (other_width + 2) + column
    visible: NDArray[np.bool_] = inside & (ahead <= (1 + JUMP_SHARE) * farthest.ravel()[cell])
    return visible.reshape(height, width)


def _carried(
    depth: NDArray[np.float32], intrinsics: NDArray[np.float64], to_other: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """x, y, z (H·W,) of the pixels' points in the other camera."""
    height, width = depth.shape
    rays = pixel_rays(intrinsics, np.arange(width)[None, :] + 0.5, np.arange(height)[:, None] + 0.5).reshape(-1, 3)
    points = rays * depth.reshape(-1, 1)
    x, y, z = to_other[:3, :3] @ points.T + to_other[:3, 3:4]
    return x, y, z
