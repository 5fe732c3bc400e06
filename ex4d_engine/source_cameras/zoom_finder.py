# SPDX-License-Identifier: GPL-3.0-or-later
"""Whether a clip's lens zooms, found while its frames stream by, whatever estimates its depth.

A lens that zooms moves every point away from the middle of the picture (or towards it) by the same share of its
distance from there, near or far. A camera that moves forwards moves what is near by more than what is far. So points
are followed from a frame on until the picture has grown by a little; if then one growth, with the camera's turning,
explains how nearly all parts of the picture moved, it was the lens. A camera that goes straight to a wall and sees
nothing else looks the same, and so does a picture that was enlarged afterwards.
"""

from __future__ import annotations

import math
from typing import Final

import cv2
import numpy as np
from numpy.typing import NDArray

LEAST_ZOOM: Final = 1.08  # longest over shortest focal length; lenses that are focused breathe by a few percent
LONG_SIDE: Final = 480
_GROWN: Final = 0.08  # after which a look at the followed points ends
_LONGEST: Final = 48  # frames; the same
_LEAST_GROWTH: Final = 0.01  # of one look; less is not told from noise
_CELLS: Final = 6  # across and down: parts of the picture that are judged by themselves
_A_CELL: Final = 6  # points followed in it
_LEAST_CELLS: Final = 10
_LEAST_CELL: Final = 5  # pixels across
_BLANK: Final = 2.0  # standard deviation of a cell with nothing in it, in 255ths
_ALIKE: Final = 0.85  # share of the cells that must move as one
_STRAYS_BY: Final = 0.12  # of the displacement that the zoom makes, and no less than
_STRAYS_BY_PX: Final = 0.4
_MOSTLY: Final = 0.75  # share of all growth that must be the lens's: a camera that moves has flat views too
_STAYS: Final = 0.6  # share of the points, below which a look ends

Grey = NDArray[np.uint8]
Points = NDArray[np.float32]


class ZoomFinder:
    """Give it every frame in order, then ask for the zoom. Holds two small pictures and the points it follows."""

    def __init__(self) -> None:
        self._before: Grey | None = None
        self._first: Points = np.zeros((0, 2), np.float32)  # where points were when the look began, and are now
        self._now: Points = self._first
        self._followed = 0  # how many there were at the beginning
        self._age = 0
        self._zoom, self._least, self._most = 0.0, 0.0, 0.0  # logarithms, of what is the lens's
        self._by_lens, self._by_all = 0.0, 0.0  # growth either way, summed

    def add(self, image: NDArray[np.uint8]) -> None:
        """A frame (H,W,3) uint8."""
        grey = _small(image)
        if self._before is not None and self._before.shape == grey.shape and len(self._now):
            moved, found = _follow(self._before, grey, self._now)
            # with what is lost the last look would be lost too
            if found.sum() < _STAYS * self._followed:
                self._judge(self._before.shape)
                self._begin(self._before)
                moved, found = _follow(self._before, grey, self._now)
            self._first, self._now = self._first[found], moved[found]
            self._age += 1
            if self._age >= _LONGEST or abs(_growth(self._first, self._now, grey.shape)[0]) >= _GROWN:
                self._judge(grey.shape)
                self._begin(grey)
        else:
            self._begin(grey)
        self._before = grey

    def zoom(self) -> float | None:
        """The longest focal length over the shortest as far as it was seen, or None for a lens that seems fixed.

        To be asked once, after the last frame.
        """
        if self._before is not None:
            self._judge(self._before.shape)
            self._before = None
        zoom = math.exp(self._most - self._least)
        return zoom if zoom >= LEAST_ZOOM and self._by_lens >= _MOSTLY * self._by_all else None

    def notes(self) -> tuple[str, ...]:
        """One sentence for a lens that zooms, none for any other."""
        zoom = self.zoom()
        if zoom is None:
            return ()
        return (
            f"The lens seems to zoom, by about {zoom:.2g} times, but is taken as fixed: split the clip where it zooms, "
            "or give its solved camera (--poses).",
        )

    def _begin(self, grey: Grey) -> None:
        self._first = self._now = _points(grey)
        self._followed, self._age = len(self._first), 0

    def _judge(self, shape: tuple[int, ...]) -> None:
        """Ends a look: whose is the growth of the picture?"""
        growth, alike = _growth(self._first, self._now, shape)
        if abs(growth) < _LEAST_GROWTH:
            return
        self._by_all += abs(growth)
        if alike >= _ALIKE:
            self._by_lens += abs(growth)
            self._zoom += math.log1p(growth)
            self._least, self._most = min(self._least, self._zoom), max(self._most, self._zoom)


def _growth(first: Points, now: Points, shape: tuple[int, ...]) -> tuple[float, float]:
    """By which share the picture has grown, and the share of its cells that moved by that and a turn of the camera.

    A turn moves all by the same, rolls the picture, and stretches it towards where it came from: with the growth six
    numbers. The lens need not be known for it.
    """
    height, width = shape[:2]
    row, column = (first[:, 1] * _CELLS / height).astype(int), (first[:, 0] * _CELLS / width).astype(int)
    cells, cell = np.unique(row * _CELLS + column, return_inverse=True)
    if len(cells) < _LEAST_CELLS:
        return 0.0, 0.0
    half = 0.5 * max(shape[:2])
    x, y = ((first - np.array([width / 2, height / 2])) / half).astype(np.float64).T
    nought, one = np.zeros_like(x), np.ones_like(x)
    terms = np.stack(
        [
            np.stack([one, nought, x, -y, x * x, x * y], axis=1),
            np.stack([nought, one, y, x, x * y, y * y], axis=1),
        ],
        axis=1,
    )
    moved = ((now - first) / half).astype(np.float64)
    even = 1.0 / np.bincount(cell)[cell]  # a cell full of points has no more say than another
    weight = even
    for _ in range(12):
        root = np.sqrt(weight)[:, None]
        answer, *_ = np.linalg.lstsq((terms * root[..., None]).reshape(-1, 6), (moved * root).reshape(-1), rcond=None)
        off = np.linalg.norm(moved - terms @ answer, axis=1)
        weight = even / np.maximum(off, 0.2 / half)  # least sum of distances: what moves by itself has little say
    growth = float(answer[2])
    size = float(np.sqrt(np.average(x * x + y * y, weights=even)))
    allowed = max(_STRAYS_BY * abs(growth) * size, _STRAYS_BY_PX / half)
    return growth, float(np.mean([np.median(off[cell == index]) < allowed for index in range(len(cells))]))


def _points(grey: Grey) -> Points:
    """The best corners of every cell (N,2), in pixels from the first one's centre."""
    height, width = grey.shape
    found = []
    for row in range(_CELLS):
        for column in range(_CELLS):
            top, left = row * height // _CELLS, column * width // _CELLS
            part = grey[top : (row + 1) * height // _CELLS, left : (column + 1) * width // _CELLS]
            shows = min(part.shape) >= _LEAST_CELL and float(part.std()) > _BLANK
            corners = cv2.goodFeaturesToTrack(part, _A_CELL, 0.05, 5) if shows else None
            if corners is not None:
                found.append(corners.reshape(-1, 2) + np.array([left, top], np.float32))
    return np.concatenate(found) if found else np.zeros((0, 2), np.float32)


def _follow(before: Grey, after: Grey, points: Points) -> tuple[Points, NDArray[np.bool_]]:
    """Where points are in the next picture, and whether they were found and found back."""
    if not len(points):
        return points, np.zeros(0, bool)
    moved, found, _ = cv2.calcOpticalFlowPyrLK(before, after, points, None, winSize=(15, 15), maxLevel=3)
    back, found_back, _ = cv2.calcOpticalFlowPyrLK(after, before, moved, None, winSize=(15, 15), maxLevel=3)
    good = (found.ravel() == 1) & (found_back.ravel() == 1) & (np.linalg.norm(back - points, axis=1) < 0.5)
    last = np.array(after.shape[::-1]) - 1
    return moved, good & ((moved >= 0) & (moved <= last)).all(axis=1)


def _small(image: NDArray[np.uint8]) -> Grey:
    share = min(1.0, LONG_SIDE / max(image.shape[:2]))
    size = (max(1, round(image.shape[1] * share)), max(1, round(image.shape[0] * share)))
    small = cv2.resize(image, size, interpolation=cv2.INTER_AREA) if share < 1 else image
    return np.asarray(cv2.cvtColor(small, cv2.COLOR_RGB2GRAY), np.uint8)
