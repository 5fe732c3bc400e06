# SPDX-License-Identifier: GPL-3.0-or-later
"""Whether two frames show the same picture: how many of the one's points are found in the other."""

from __future__ import annotations

from typing import Final

import cv2
import numpy as np
from numpy.typing import NDArray

LONG_SIDE: Final = 240


def small_picture(image: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """A picture (H,W,3) with a longer side of at most LONG_SIDE."""
    share = min(1.0, LONG_SIDE / max(image.shape[:2]))
    size = (max(1, round(image.shape[1] * share)), max(1, round(image.shape[0] * share)))
    return np.asarray(cv2.resize(image, size, interpolation=cv2.INTER_AREA), np.uint8)


def small_grey(image: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """(h,w): `small_picture` in grey."""
    return np.asarray(cv2.cvtColor(small_picture(image), cv2.COLOR_RGB2GRAY), np.uint8)


def points_found_again(one: NDArray[np.uint8], two: NDArray[np.uint8]) -> float:
    """Share of the first grey picture's corners that are found in the second, and back where they came from."""
    if one.shape != two.shape:
        return 0.0
    points = cv2.goodFeaturesToTrack(one, 150, 0.02, 6)
    if points is None or len(points) < 8:
        return 0.0
    first, second = cv2.equalizeHist(one), cv2.equalizeHist(two)  # a change of light is no change of picture
    moved, found, error = cv2.calcOpticalFlowPyrLK(first, second, points, None, winSize=(15, 15), maxLevel=3)
    back, found_back, _ = cv2.calcOpticalFlowPyrLK(second, first, moved, None, winSize=(15, 15), maxLevel=3)
    returns = np.linalg.norm((back - points).reshape(-1, 2), axis=1) < 1.0
    alike = error.ravel() < 25
    return float(np.mean((found.ravel() == 1) & (found_back.ravel() == 1) & returns & alike))
