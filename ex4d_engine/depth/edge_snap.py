# SPDX-License-Identifier: GPL-3.0-or-later
"""A small soft disparity map enlarged to a frame, its steps one pixel wide and on the image's own edges.

A blurred step is the worst error a DW-Mesh can be given: it turns into a rubber sheet. So where
two surfaces meet, each full-size pixel is given to one of them, by colour, and takes that surface's
disparity; elsewhere the small map is enlarged linearly and stays smooth.
"""

from __future__ import annotations

import cv2
import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float32]


def enlarge_to_edges(
    disparity: Array, image: npt.NDArray[np.uint8], step: float = 1.15, reach: int = 3, position_weight: float = 150.0
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
    size = (image.shape[1], image.shape[0])
    window = np.ones((2 * reach + 1, 2 * reach + 1), np.uint8)
    high, low = cv2.dilate(disparity, window), cv2.erode(disparity, window)
    plain = cv2.resize(disparity, size, interpolation=cv2.INTER_LINEAR)
    if not (high > step * low).any():
        return plain
    # Each side of the step: pixels clearly nearer to its high or its low disparity than to the middle.
    place = np.clip(np.log(disparity / low) / np.maximum(np.log(high / low), 1e-3), 0, 1)
    small = cv2.resize(image, disparity.shape[::-1], interpolation=cv2.INTER_AREA).astype(np.float32)
    near_colour, near = _side_means(small, disparity, place > 0.75, reach)
    far_colour, far = _side_means(small, disparity, place < 0.25, reach)
    zone = cv2.resize((high > step * low).astype(np.float32), size, interpolation=cv2.INTER_LINEAR) > 0.5
    rows, columns = np.nonzero(zone)

    def at_zone(values: Array) -> Array:
        return cv2.resize(values, size, interpolation=cv2.INTER_LINEAR)[rows, columns]

    pixel = image[rows, columns].astype(np.float32)
    to_near = ((pixel - at_zone(near_colour)) ** 2).sum(1)
    to_far = ((pixel - at_zone(far_colour)) ** 2).sum(1)
    vote = np.zeros(size[::-1], np.float32)
    # Where the two sides look alike the votes are weak and the position decides.
    vote[rows, columns] = (to_far - to_near) / (to_far + to_near + 1e-3 + position_weight) + (
        2 * at_zone(place) - 1
    ) * position_weight / (to_far + to_near + position_weight)
    radius = max(1, round(size[0] / disparity.shape[1]))
    vote = cv2.boxFilter(vote, -1, (2 * radius + 1, 2 * radius + 1))[rows, columns]
    result = plain
    result[rows, columns] = np.where(vote > 0, at_zone(near), at_zone(far))
    return result


def _side_means(colour: Array, disparity: Array, side: npt.NDArray[np.bool_], reach: int) -> tuple[Array, Array]:
    """Mean colour (h, w, 3) and disparity (h, w) of one side of a step, known a little beyond it."""
    window = (4 * reach + 1, 4 * reach + 1)
    weight = side.astype(np.float32)
    # A trace of everything keeps windows that hold no pixel of the side defined.
    weight += 1e-4
    total = cv2.boxFilter(weight, -1, window)
    means = cv2.boxFilter(np.dstack([colour, np.log(disparity)]) * weight[..., None], -1, window) / total[..., None]
    return means[..., :3], np.exp(means[..., 3])
