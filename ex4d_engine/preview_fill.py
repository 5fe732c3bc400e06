# SPDX-License-Identifier: GPL-3.0-or-later
"""Filling holes without any model: from other frames' pixels of the same surface, then from around.

This is preset `preview`: seconds, to judge a camera move. It is no diffusion and is labelled so.
"""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

from .raster import Rendering

RING_PX = 12  # how far around a hole two frames are compared
AGREEMENT = 20.0  # of 255: median difference on that ring up to which another frame is believed
BEHIND = 0.98  # a fill may not stand in front of the surface that bridges the hole
SURROUND_POWER = 4.0  # how strongly the background outweighs the foreground around a hole


def fill_from_other_frame(
    color: NDArray[np.uint8], mask: NDArray[np.uint8], depth: NDArray[np.float32], other: Rendering
) -> tuple[NDArray[np.uint8], NDArray[np.uint8], NDArray[np.float32]]:
    """Fills what is unseen with what another frame of the shot saw from the same camera.

    Another frame is believed only where it agrees around the hole (a moving source camera whose poses are
    unknown does not), and only with surfaces that lie behind what bridges the hole.

    Args:
        color (H,W,3), mask (H,W), depth (H,W): as far as they are filled; not changed.
        other: the other frame drawn from the same camera.

    Returns:
        color, mask and depth with the fill.
    """
    hole = mask == 0
    ring = (cv2.dilate(hole.astype(np.uint8), np.ones((3, 3), np.uint8), iterations=RING_PX) > 0) & ~hole
    shared = ring & (other.mask > 0)
    if np.count_nonzero(shared) < 32:
        return color, mask, depth
    difference = np.abs(color[shared].astype(np.int16) - other.color[shared]).mean(axis=1)
    if float(np.median(difference)) > AGREEMENT:
        return color, mask, depth
    usable = hole & (other.mask > 0) & ((depth == 0) | (other.depth >= BEHIND * depth))
    # one seen pixel in a hole is a speck of a moving edge more often than a find
    usable = cv2.morphologyEx(usable.astype(np.uint8), cv2.MORPH_OPEN, np.ones((3, 3), np.uint8)) > 0
    filled, known, z = color.copy(), mask.copy(), depth.copy()
    filled[usable], known[usable], z[usable] = other.color[usable], 255, other.depth[usable]
    return filled, known, z


def fill_from_around(
    color: NDArray[np.uint8], mask: NDArray[np.uint8], depth: NDArray[np.float32]
) -> NDArray[np.uint8]:
    """Fills every remaining hole from its surroundings, the farther ones first.

    Push–pull over an image pyramid (Gortler et al., The Lumigraph, 1996, §3.4.3) with weights that grow with
    depth: what a foreground hid is background, so the background's colours close the hole.

    Args:
        color (H,W,3) uint8; mask (H,W) uint8; depth (H,W) float32, z.

    Returns:
        (H,W,3) uint8; equal to `color` where mask is 255.
    """
    known = mask > 0
    if known.all() or not known.any():
        return color
    z = np.where(known, depth, 0)
    farthest = float(np.percentile(z[known], 95))
    weight = np.where(known, np.clip(z / max(farthest, 1e-20), 0.05, 1.0) ** SURROUND_POWER, 0).astype(np.float32)
    # colours at a hole's very edge are mixed with the other side's by the lens: they do not start the fill
    trusted = cv2.erode(known.astype(np.uint8), np.ones((3, 3), np.uint8), borderValue=1)
    weight *= np.where(trusted > 0, 1.0, 1e-3).astype(np.float32)
    smooth = _push_pull(color.astype(np.float32), weight)
    filled = np.where(known[..., None], color, np.clip(np.rint(smooth), 0, 255).astype(np.uint8))
    return filled


def _push_pull(image: NDArray[np.float32], weight: NDArray[np.float32]) -> NDArray[np.float32]:
    levels: list[tuple[NDArray[np.float32], NDArray[np.float32]]] = [(image * weight[..., None], weight)]
    while max(levels[-1][1].shape) > 1:
        total, share = levels[-1]
        size = ((share.shape[1] + 1) // 2, (share.shape[0] + 1) // 2)
        levels.append((_halved(total, size), _halved(share, size)))
    total, share = levels[-1]
    result = total / np.maximum(share, 1e-20)[..., None]
    for total, share in reversed(levels[:-1]):
        result = cv2.resize(np.atleast_3d(result), share.shape[::-1], interpolation=cv2.INTER_LINEAR)
        result = result.reshape(*share.shape, 3)
        # a level is believed as far as it was covered at all, and no further than fully
        belief = np.minimum(1.0, share / (0.25 * max(float(share.max()), 1e-20)))[..., None]
        own = total / np.maximum(share, 1e-20)[..., None]
        result = belief * own + (1 - belief) * result
    return result


def _halved(image: NDArray[np.float32], size: tuple[int, int]) -> NDArray[np.float32]:
    soft = cv2.GaussianBlur(image, (5, 5), 1.0, borderType=cv2.BORDER_REPLICATE)
    return cv2.resize(soft, size, interpolation=cv2.INTER_AREA).reshape(size[1], size[0], *image.shape[2:])
