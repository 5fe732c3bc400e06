# SPDX-License-Identifier: GPL-3.0-or-later
"""Filling holes without any model: from other frames' pixels of the same surface, then from around.

This is preset `preview`: seconds, to judge a camera move. It is no diffusion and is labelled so.
"""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

from .raster import Rendering

FILL_VERSION = 2  # grows when the same conditioning is filled otherwise, so that no take is filled half and half
RING_PX = 12  # how far around a hole two frames are compared
AGREEMENT = 20.0  # of 255: median difference on that ring up to which another frame is believed
BEHIND = 0.98  # a fill may not stand in front of the surface that bridges the hole
FAR_SIDE = 1.02  # how much deeper than the hole's bridge its far side is
FRINGE_SHARE = 1 / 64  # of the frame's longer side: how wide a silhouette's mixed colours lie around a hole
CRACK_PX = 5  # a hole no wider than this is a crack in one surface, without silhouettes around it
BAND_SHARE = 1 / 48  # of the longer side: how much around a hole it is filled from
SURROUND_SHARE = 1 / 4  # of the longer side: how far around a place its background is looked for
FAR_BORDER_SHARE = 0.25  # of the borders around a place that may lie behind what counts as its background
DEPTH_BINS = 24
GRID_CELLS = 32
FOREGROUND_SHARE = 0.6  # of the background's depth: what is nearer hides something and does not fill


def without_fringe(mask: NDArray[np.uint8], depth: NDArray[np.float32]) -> NDArray[np.uint8]:
    """The mask with its holes widened over the mixed colours that every lens leaves along a silhouette.

    At a depth edge the plate's background pixels hold some of the foreground's colour; seen from elsewhere they
    stay behind as a fringe on the far side of the hole. The far side is where depth falls on the way into the
    hole: what bridges it there comes forward. Towards a wall of the mesh depth rises, so the edge of what the
    plate saw is left as it is, and so are cracks.

    Args:
        mask: (H,W) uint8, 255 = seen; depth: (H,W) float32, of seen and bridging faces alike.
    """
    hole = (mask == 0).astype(np.uint8)
    wide = cv2.morphologyEx(hole, cv2.MORPH_OPEN, np.ones((CRACK_PX, CRACK_PX), np.uint8))
    radius = max(1, round(FRINGE_SHARE * max(mask.shape)))
    window = (2 * radius + 1, 2 * radius + 1)
    near_hole = cv2.dilate(wide, cv2.getStructuringElement(cv2.MORPH_ELLIPSE, window)) > 0
    share = cv2.boxFilter(hole.astype(np.float32), -1, window)
    bridging = cv2.boxFilter(depth * hole, -1, window) / np.maximum(share, 1e-6)
    fringe = (mask > 0) & near_hole & (depth > FAR_SIDE * bridging)
    return np.where(fringe, 0, mask).astype(np.uint8)


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
    usable = hole & (without_fringe(other.mask, other.depth) > 0) & ((depth == 0) | (other.depth >= BEHIND * depth))
    # one seen pixel in a hole is a speck of a moving edge more often than a find
    usable = cv2.morphologyEx(usable.astype(np.uint8), cv2.MORPH_OPEN, np.ones((3, 3), np.uint8)) > 0
    filled, known, z = color.copy(), mask.copy(), depth.copy()
    filled[usable], known[usable], z[usable] = other.color[usable], 255, other.depth[usable]
    return filled, known, z


def fill_from_around(
    color: NDArray[np.uint8], mask: NDArray[np.uint8], depth: NDArray[np.float32]
) -> NDArray[np.uint8]:
    """Fills every remaining hole from its surroundings: cracks from both sides, wider holes from the farther ones.

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
    wide = cv2.morphologyEx((~known).astype(np.uint8), cv2.MORPH_OPEN, np.ones((CRACK_PX, CRACK_PX), np.uint8))
    cracks = ~known & (cv2.dilate(wide, _square(CRACK_PX / 2)) == 0)
    filled = color
    if cracks.any():
        # a crack opens inside a surface as often as beside one: what lies on both its sides is the better guess
        near_crack = known & (cv2.dilate(cracks.astype(np.uint8), _square(CRACK_PX)) > 0)
        filled = _pasted(filled, _push_pull(filled.astype(np.float32), near_crack.astype(np.float32)), cracks)
        known = known | cracks
    if known.all():
        return filled
    smooth = _push_pull(filled.astype(np.float32), _background_weight(known, cracks, depth))
    return _pasted(filled, smooth, ~known)


def _background_weight(
    known: NDArray[np.bool_], cracks: NDArray[np.bool_], depth: NDArray[np.float32]
) -> NDArray[np.float32]:
    """(H,W) how much a pixel says about the holes beside it: 1, or next to nothing for a foreground.

    Only what borders on a hole counts: a foreground's own inside must not leak out, nor the sky into a hole in
    the ground. The background of a place is the depth behind which a quarter of the borders around it lies: were it
    less of them, a strip of sky would be the background of all that is below it.
    """
    longer = max(known.shape)
    hole = (~known).astype(np.uint8)
    band = known & ~cracks & (cv2.dilate(hole, _square(BAND_SHARE * longer)) > 0)
    z = np.where(band, depth, 0).astype(np.float32)
    background = _depth_around(z)
    # a steep slope and no step, as a surface near the limit would flicker from frame to frame
    nearness = np.minimum(z / np.maximum(FOREGROUND_SHARE * background, 1e-20), 1.0)
    weight = np.maximum(nearness.astype(np.float64) ** 48, 1e-9)
    # colours at a hole's very edge are mixed with the other side's by the lens: they do not start the fill
    trusted = cv2.erode(known.astype(np.uint8), np.ones((3, 3), np.uint8), borderValue=1)
    return np.where(band, weight * np.where(trusted > 0, 1.0, 1e-4), 0).astype(np.float32)


def _depth_around(z: NDArray[np.float32]) -> NDArray[np.float32]:
    """(H,W) the depth behind which a quarter of the borders around a pixel lies. z: 0 off the borders.

    From a histogram of depths in every cell of a coarse grid, blurred over the neighbourhood: it changes as gently
    from frame to frame as the borders do, where the extremes of a window would jump.
    """
    height, width = z.shape
    if not z.any():
        return z
    levels = np.log(z[z > 0])
    edges = np.linspace(levels.min(), levels.max() + 1e-3, DEPTH_BINS + 1)
    cell = max(1, round(max(z.shape) / GRID_CELLS))
    rows, columns = np.nonzero(z)
    place = (rows // cell, columns // cell, np.clip(np.digitize(levels, edges) - 1, 0, DEPTH_BINS - 1))
    counts = np.zeros((-(-height // cell), -(-width // cell), DEPTH_BINS), np.float32)
    np.add.at(counts, place, 1)
    around = cv2.GaussianBlur(counts, (0, 0), SURROUND_SHARE * max(z.shape) / cell, borderType=cv2.BORDER_CONSTANT)
    # where nothing is near, all of the picture counts
    around = around.reshape(counts.shape) + 1e-6 * counts.mean(axis=(0, 1)) + 1e-12
    share = np.cumsum(around, axis=2) / around.sum(axis=2, keepdims=True)
    above = np.argmax(share >= 1 - FAR_BORDER_SHARE, axis=2)[..., None]
    top = np.take_along_axis(share, above, 2)
    bottom = np.where(above > 0, np.take_along_axis(share, np.maximum(above - 1, 0), 2), 0)
    level = edges[above] + (1 - FAR_BORDER_SHARE - bottom) / (top - bottom) * (edges[1] - edges[0])
    smooth = cv2.resize(np.exp(level[..., 0]).astype(np.float32), (width, height), interpolation=cv2.INTER_LINEAR)
    return np.asarray(smooth, np.float32).reshape(height, width)


def _pasted(color: NDArray[np.uint8], fill: NDArray[np.float32], where: NDArray[np.bool_]) -> NDArray[np.uint8]:
    return np.where(where[..., None], np.clip(np.rint(fill), 0, 255).astype(np.uint8), color)


def _push_pull(image: NDArray[np.float32], weight: NDArray[np.float32]) -> NDArray[np.float32]:
    """image (H,W,3) where weight (H,W) is 1; elsewhere what the finest level that knows anything says."""
    levels = [(image * weight[..., None], weight)]
    while max(levels[-1][1].shape) > 1:
        total, share = levels[-1]
        size = ((share.shape[1] + 1) // 2, (share.shape[0] + 1) // 2)
        total, share = 4 * _halved(total, size), 4 * _halved(share, size)
        # four pixels make one: a share over 1 is knowledge enough, and only the colour counts from there
        excess = np.maximum(share, 1.0)
        levels.append(((total / excess[..., None]).astype(np.float32), (share / excess).astype(np.float32)))
    total, share = levels[-1]
    result = (total / np.maximum(share, 1e-20)[..., None]).astype(np.float32)
    for total, share in reversed(levels[:-1]):
        coarse = cv2.resize(np.atleast_3d(result), share.shape[::-1], interpolation=cv2.INTER_LINEAR)
        result = (total + (1 - share)[..., None] * coarse.reshape(*share.shape, 3)).astype(np.float32)
    return result


def _square(radius: float) -> NDArray[np.uint8]:
    side = 2 * max(1, round(radius)) + 1
    return np.ones((side, side), np.uint8)


def _halved(image: NDArray[np.float32], size: tuple[int, int]) -> NDArray[np.float32]:
    soft = cv2.GaussianBlur(image, (5, 5), 1.0, borderType=cv2.BORDER_REPLICATE)
    return cv2.resize(soft, size, interpolation=cv2.INTER_AREA).reshape(size[1], size[0], *image.shape[2:])
