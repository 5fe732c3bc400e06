# SPDX-License-Identifier: GPL-3.0-or-later
"""Depth values that are no usable number: counted, and filled so that the mesh stays closed.

NaN, zero and negative depths are unknown: they take the depth of the nearest known pixel. Infinite depth
is the sky: it gets one finite depth for the whole shot, beyond everything else.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from ..errors import Ex4dError

SKY_SHARE = 4.0  # the sky's depth as a multiple of the farthest finite depth of the shot
HORIZON_RATIO = 1e4  # a depth this many times a frame's median is taken for infinite: no lens resolves it
FAR_SHARE = 1.25  # the far surface as a multiple of the deepest vertex


@dataclass(frozen=True)
class Repaired:
    """depth: (H,W) float32, positive, +inf only in the sky; counts of pixels that were unknown and infinite."""

    depth: NDArray[np.float32]
    unknown: int
    infinite: int


def repair(depth: NDArray[np.float32], frame: int) -> Repaired:
    """Fills the unknown values of one frame.

    Raises:
        Ex4dError: `depth_invalid` naming `frame` when it holds no usable value at all.
    """
    depth = np.asarray(depth, dtype=np.float32)
    with np.errstate(invalid="ignore"):
        known = (depth > 0) & ~np.isnan(depth)
    if not known.any():
        raise Ex4dError(
            "depth_invalid",
            f"The depth of frame {frame} holds no usable value.",
            "Check the depth files, or choose another depth source.",
        )
    finite = known & np.isfinite(depth)
    if finite.any():
        limit = HORIZON_RATIO * float(np.median(depth[finite]))
        infinite = known & (depth > limit)
    else:
        infinite = known
    unknown = int(known.size - np.count_nonzero(known))
    if unknown:
        depth = _nearest_known(depth, known)
        with np.errstate(invalid="ignore"):
            sky = np.isposinf(depth) | (depth > limit if finite.any() else True)
    else:
        sky = infinite
    if sky.any():
        depth = np.where(sky, np.float32(np.inf), depth)
    return Repaired(depth, unknown, int(np.count_nonzero(infinite)))


def sky_depth(farthest_finite: float) -> float:
    """The finite z that stands for the sky in a shot whose farthest finite depth is given (0: none, only sky)."""
    return SKY_SHARE * farthest_finite if farthest_finite > 0 else 1.0


def far_surface(deepest: float) -> float:
    """The z of the surface that closes the mesh, behind its deepest vertex."""
    return FAR_SHARE * deepest


def _nearest_known(depth: NDArray[np.float32], known: NDArray[np.bool_]) -> NDArray[np.float32]:
    # labels number the known pixels, one each; every other pixel gets its nearest one's label
    _, labels = cv2.distanceTransformWithLabels(
        (~known).astype(np.uint8), cv2.DIST_L2, 5, labelType=cv2.DIST_LABEL_PIXEL
    )
    by_label = np.zeros(int(labels.max()) + 1, dtype=np.float32)
    by_label[labels[known]] = depth[known]
    return by_label[labels]
