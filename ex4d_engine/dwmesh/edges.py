# SPDX-License-Identifier: GPL-3.0-or-later
"""Where surfaces end in the plate: how wide they are there, and the cards that the last pixels are drawn on.

A pixel has a size, and the grid's faces go from the centre of one to the centre of the next: of a leaf two pixels
wide they show half, and of one that is a pixel wide nothing. So where short walls are drawn (walls.py), every pixel
beside a face that the plate did not see has a *card*: a small square at its depth, in its colour, towards the source
camera. And a wall is no deeper than the thing in front of it is wide: a leaf hides little behind it, a person more.
docs/walls.md has what both are worth.
"""

from __future__ import annotations

from typing import Any, Final

import cv2
import numpy as np
from numpy.typing import NDArray

from .occlusion import seen_pixels
from .walls import EDGE, UNSEEN, WHOLE, WIDE

LIMITING_SHARE: Final = 0.25
"""Of the focal length: what is narrower than that limits its walls."""

_ROUGH: Final = 0.7
"""Pixels by which discs are rough, as they are of whole pixels: what they fill of a round thing they reach within that.
An outline's own pixels lie between, so that no disc gets into the surface beyond."""

_NEIGHBOURS: Final = np.array([[0, 1, 1], [1, 1, 1], [1, 1, 0]], np.uint8)
"""The pixels that share faces with the one in the middle: a cell's diagonal goes from its top right one down."""

_FINEST_RADII: Final = (1, 2, 3, 4, 6)
_LARGEST_KERNEL: Final = 14  # pixels; beyond, a distance transform is faster than a dilation


def edge_alpha(seen: NDArray[np.uint8], width: int, height: int, cover: NDArray[np.uint8] | None) -> NDArray[np.uint8]:
    """(H,W) uint8, the albedo's alpha: `WHOLE`, `EDGE` or `UNSEEN`.

    Args:
        seen: as `occlusion.seen_faces` gives it.
        cover: (H,W) uint8, the plate's own alpha if it has one.
    """
    alpha = np.where(_beside_unseen(seen, width, height), EDGE, WHOLE).astype(np.uint8)
    if cover is not None:
        alpha[cover < 128] = UNSEEN
    return alpha


def card_pixels(alpha: NDArray[np.uint8]) -> NDArray[np.bool_]:
    """(H,W) bool, which pixels have cards, from the albedo's alpha."""
    return (alpha > UNSEEN) & (alpha < WHOLE)


def wall_widths(depth: NDArray[np.float32], seen: NDArray[np.uint8], focal_px: float) -> NDArray[np.uint16]:
    """How wide the thing is, in pixels, from which each cell's walls begin: the nearest of the cell's four pixels.

    Args:
        depth: (H,W) float32 z.
        seen: as `occlusion.seen_faces` gives it.
        focal_px: of the plate. What is as wide as `LIMITING_SHARE` of it, or wider, is 65535.

    Returns:
        (H+1,W+1) uint16: cells between the centres of pixels, and half ones at the border.
    """
    height, width = depth.shape
    depths, widths = _corners(depth), _corners(_surface_widths(seen, width, height, LIMITING_SHARE * focal_px))
    nearest, result = depths[0].copy(), widths[0].copy()
    for other, its_width in zip(depths[1:], widths[1:], strict=True):
        nearer = other < nearest
        np.copyto(result, its_width, where=nearer)
        np.copyto(nearest, other, where=nearer)
    return result


def wall_begins(depth: NDArray[np.float32]) -> NDArray[np.float32]:
    """(H+1,W+1) float32, the depth at which each cell's walls begin: of the nearest of its four pixels."""
    corners = _corners(depth)
    return np.minimum(np.minimum(corners[0], corners[1]), np.minimum(corners[2], corners[3]))


def wall_ends(
    depth: NDArray[np.float32], widths: NDArray[np.uint16], wall_share: float, focal_px: float
) -> NDArray[np.float32]:
    """(H+1,W+1) float32, the depth at which each cell's walls end.

    Args:
        depth: (H,W) float32 z.
        widths: of `wall_widths`.
        wall_share: the most that a wall goes on, as a share of the depth where it begins.
        focal_px: of the plate.
    """
    limits = np.where(widths == WIDE, np.float32(wall_share), widths.astype(np.float32) / np.float32(focal_px))
    return wall_begins(depth) * (1 + np.minimum(limits, np.float32(wall_share)))


def _corners(values: NDArray[Any]) -> list[NDArray[Any]]:
    """Four of (H+1,W+1): of each cell the pixels at its top left, top right, bottom left and bottom right.

    The border repeats.
    """
    ringed = np.pad(values, 1, mode="edge")
    return [ringed[:-1, :-1], ringed[:-1, 1:], ringed[1:, :-1], ringed[1:, 1:]]


def _surface_widths(seen: NDArray[np.uint8], width: int, height: int, most: float) -> NDArray[np.uint16]:
    """(H,W) the diameter of the largest disc in the surface at each pixel, in a few steps; `WIDE` from `most` on."""
    inside = (~_beside_unseen(seen, width, height)).astype(np.uint8)
    if inside.all():
        return np.full((height, width), WIDE, np.uint16)
    to_edge = cv2.distanceTransform(inside, cv2.DIST_L2, cv2.DIST_MASK_PRECISE)
    result = np.ones((height, width), np.uint16)
    for radius in _radii(most):
        centres = to_edge >= radius
        if not centres.any():
            break
        result[_reached(centres, radius + _ROUGH)] = 2 * radius + 1 if 2 * radius + 1 < most else WIDE
    # a disc may miss pixels of an outline that leans and reach some beyond it: those on outlines take what their
    # neighbours inside have, which all are of the same surface
    result[inside == 0] = 1
    return np.where(inside, result, cv2.dilate(result, _NEIGHBOURS))


def _reached(centres: NDArray[np.bool_], distance: float) -> NDArray[np.bool_]:
    """(H,W) bool, what lies within a distance of a centre, in pixels."""
    if distance > _LARGEST_KERNEL:
        others = (~centres).astype(np.uint8)
        return cv2.distanceTransform(others, cv2.DIST_L2, cv2.DIST_MASK_PRECISE) <= distance
    offset = np.arange(-int(distance), int(distance) + 1) ** 2
    disc = (offset[:, None] + offset <= distance**2).astype(np.uint8)
    return cv2.dilate(centres.view(np.uint8), disc) > 0


def _beside_unseen(seen: NDArray[np.uint8], width: int, height: int) -> NDArray[np.bool_]:
    return seen_pixels(np.bitwise_not(seen), width, height) > 0


def _radii(most: float) -> list[int]:
    """Of the discs that are tried, each half as large again, up to the first that is `most` wide."""
    result: list[int] = []
    while not result or 2 * result[-1] + 1 < most:
        result.append(_FINEST_RADII[len(result)] if len(result) < len(_FINEST_RADII) else result[-1] * 3 // 2)
    return result
