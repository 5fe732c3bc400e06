# SPDX-License-Identifier: GPL-3.0-or-later
"""A small soft disparity map enlarged to a frame, its steps one pixel wide and on the image's own edges.

A blurred step is the worst error a DW-Mesh can be given: it turns into a rubber sheet. So where
two surfaces meet, each full-size pixel is given to one of them, by colour, and takes that surface's
disparity; elsewhere the small map is enlarged linearly and stays smooth.
"""

from __future__ import annotations

from typing import Final

import cv2
import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float32]
Image = npt.NDArray[np.uint8]

_BAND: Final = 1_000_000
"""Pixels that are looked at together: a frame of 8K takes the memory of a small one, besides its own map."""


def enlarge_to_edges(
    disparity: Array, image: Image, step: float = 1.15, reach: int = 3, position_weight: float = 150.0
) -> Array:
    """Disparity at the size of the image.

    Args:
        disparity: (h, w) float32, positive, smooth but for blurred steps.
        image: (H, W, 3) uint8 sRGB, the frame in full.
        step: ratio of disparities within `reach` that makes a step.
        reach: half the width in small pixels within which a step may be moved.
        position_weight: how much (in squared sRGB units) the blurred step's own position counts beside colour.

    Returns: (H, W) float32.
    """
    height, width = image.shape[:2]
    window = np.ones((2 * reach + 1, 2 * reach + 1), np.uint8)
    high, low = cv2.dilate(disparity, window), cv2.erode(disparity, window)
    result = np.asarray(cv2.resize(disparity, (width, height), interpolation=cv2.INTER_LINEAR), np.float32)
    steps = (high > step * low).astype(np.float32)
    if not steps.any():
        return result
    # Each side of the step: pixels clearly nearer to its high or its low disparity than to the middle.
    place = np.clip(np.log(disparity / low) / np.maximum(np.log(high / low), 1e-3), 0, 1)
    small = cv2.resize(image, disparity.shape[::-1], interpolation=cv2.INTER_AREA).astype(np.float32)
    near_colour, near = _side_means(small, disparity, place > 0.75, reach)
    far_colour, far = _side_means(small, disparity, place < 0.25, reach)
    sides = np.dstack([steps, place, near, far, near_colour, far_colour])
    radius = max(1, round(width / disparity.shape[1]))
    rows = max(1, _BAND // width)
    for first in range(0, height, rows):
        # A band with the rows above and below that its votes are averaged over.
        top, bottom = max(first - radius, 0), min(first + rows + radius, height)
        snapped, zone = _snapped(sides, image[top:bottom], (top, height), radius, position_weight)
        inside = slice(first - top, min(first + rows, height) - top)
        band = result[first : first + rows]
        band[zone[inside]] = snapped[inside][zone[inside]]
    return result


def _snapped(
    sides: Array, image: Image, place_in: tuple[int, int], radius: int, position_weight: float
) -> tuple[Array, npt.NDArray[np.bool_]]:
    """The disparity (rows, W) that each pixel of a band takes in the zone (rows, W) of steps.

    Args:
        sides: (h, w, 10): is there a step, place across it, disparities near and far, their colours.
        image: (rows, W, 3), the band.
        place_in: the band's first row, and how many rows the frame has.
    """
    height, width = len(image), image.shape[1]

    def enlarged(channel: int) -> Array:
        return _rows(sides[..., channel], width, place_in[0], height, place_in[1])

    zone = enlarged(0) > 0.5
    across, near, far, *colours = (enlarged(channel)[zone] for channel in range(1, 10))
    pixel = image[zone].astype(np.float32)
    to_near = ((pixel - np.stack(colours[:3], axis=1)) ** 2).sum(1)
    to_far = ((pixel - np.stack(colours[3:], axis=1)) ** 2).sum(1)
    vote = np.zeros(zone.shape, np.float32)
    # Where the two sides look alike the votes are weak and the position decides.
    vote[zone] = (to_far - to_near) / (to_far + to_near + 1e-3 + position_weight) + (
        2 * across - 1
    ) * position_weight / (to_far + to_near + position_weight)
    vote = cv2.boxFilter(vote, -1, (2 * radius + 1, 2 * radius + 1))
    snapped = np.zeros(zone.shape, np.float32)
    snapped[zone] = np.where(vote[zone] > 0, near, far)
    return snapped, zone


def _rows(values: Array, width: int, first: int, count: int, height: int) -> Array:
    """`count` rows from `first` of (h, w) values enlarged linearly to `height` rows of `width`."""
    at = np.clip((np.arange(first, first + count) + 0.5) * len(values) / height - 0.5, 0, len(values) - 1)
    upper = np.floor(at).astype(int)
    lower = np.minimum(upper + 1, len(values) - 1)
    share = (at - upper).astype(np.float32)[:, None]
    rows = values[upper] * (1 - share) + values[lower] * share
    return np.asarray(cv2.resize(rows, (width, count), interpolation=cv2.INTER_LINEAR), np.float32)


def _side_means(colour: Array, disparity: Array, side: npt.NDArray[np.bool_], reach: int) -> tuple[Array, Array]:
    """Mean colour (h, w, 3) and disparity (h, w) of one side of a step, known a little beyond it."""
    window = (4 * reach + 1, 4 * reach + 1)
    weight = side.astype(np.float32)
    # A trace of everything keeps windows that hold no pixel of the side defined.
    weight += 1e-4
    total = cv2.boxFilter(weight, -1, window)
    means = cv2.boxFilter(np.dstack([colour, np.log(disparity)]) * weight[..., None], -1, window) / total[..., None]
    return means[..., :3], np.exp(means[..., 3])
