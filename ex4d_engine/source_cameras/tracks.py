# SPDX-License-Identifier: GPL-3.0-or-later
"""Points of the clip followed from frame to frame (Lucas–Kanade), streamed: only points that still live are held."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Final

import cv2
import numpy as np
from numpy.typing import NDArray

LONG_SIDE: Final = 960  # frames are followed at no more than this; a tenth of its pixel is followed well
MOST_POINTS: Final = 400
LONGEST: Final = 48  # frames; what is followed from frame to frame drifts, so a track ends and begins anew
SHORTEST: Final = 3
RETURNS_WITHIN_PX: Final = 0.4  # followed back, a point must arrive where it came from
SPACING_PX: Final = 8
_UNEVEN: Final = 0.01
"""Root mean square distance of 1/z in a window from a plane's, as a share of it, above which the window holds an edge.
A plane's 1/z is linear in the picture, at any angle. By the ratio of depths, which is as great on a ground at a grazing
angle as at an edge, only the nearest strip of such a ground would be left."""
_UNEVEN_AT: Final = 0.03  # the same for the largest distance among the pixels that a point's depth is read from
_SLIPS_BY_PX: Final = 0.3  # of the followed frame
_SEARCH_WINDOW, _WINDOW = 15, 7
"""Pixels across of what is recognised again, while a point is searched for and when it is settled. In a large window
what is near has most of the contrast, on a ground as beside an edge: the point would go as far as that does."""

_SIXTEEN: Final = np.array([(1.0, x - 1.5, y - 1.5) for y in range(4) for x in range(4)])
_PLANE_OF_16: Final = np.linalg.pinv(_SIXTEEN)  # mean, change to the right and down, of 4 × 4 values

Grey = NDArray[np.uint8]


@dataclass(frozen=True)
class Track:
    """A point in consecutive frames.

    first: index of the first frame; positions: (N,2) float64 pixels of the plate from its corner;
    inverse_depth: (N,) the depth source's 1/z there, NaN where it has none or the point lies at an edge.
    spread: (N,) by which share depth is uneven around it, and changes over what a point slips by.
    confidence: (N,) the depth source's, 0…1; 1 where it gives none.
    """

    first: int
    positions: NDArray[np.float64]
    inverse_depth: NDArray[np.float64]
    spread: NDArray[np.float64]
    confidence: NDArray[np.float64]


@dataclass
class _Living:
    first: int
    positions: list[NDArray[np.float64]] = field(default_factory=list)
    said: list[tuple[float, float, float]] = field(default_factory=list)  # 1/z, spread, confidence

    def ended(self) -> Track:
        return Track(self.first, np.array(self.positions), *np.array(self.said).T)


def feature_tracks(
    frames: Iterable[tuple[NDArray[np.uint8], NDArray[np.float32], NDArray[np.float32] | None]],
) -> Iterator[Track]:
    """Tracks of three frames or more, each as it ends.

    Args:
        frames: (image (H,W,3) uint8, z depth (H,W) float32 with inf and NaN allowed, confidence (H,W) 0…1 or None) in
            order.
    """
    before: Grey | None = None
    living: list[_Living] = []
    points = np.zeros((0, 2), np.float32)
    for index, (image, depth, confidence) in enumerate(frames):
        grey, scale = _followed(image)
        if before is not None and len(points):
            moved, found = _follow(before, grey, points)
            for track, is_found in zip(living, found, strict=True):
                if not is_found and len(track.positions) >= SHORTEST:
                    yield track.ended()
            points = moved[found]
            living = [track for track, is_found in zip(living, found, strict=True) if is_found]
        if len(points) < MOST_POINTS:
            fresh = _fresh_points(grey, points, _on_surfaces(depth, grey.shape))
            points = np.concatenate([points, fresh])
            living += [_Living(index) for _ in fresh]
        positions = points.astype(np.float64) / scale
        values, spreads = inverse_depth_at(depth, positions, _SLIPS_BY_PX / float(scale.min()))
        said = np.c_[values, spreads, _confidence_at(confidence, positions)]
        for track, position, what in zip(living, positions, said.tolist(), strict=True):
            track.positions.append(position)
            track.said.append(tuple(what))
        full = np.array([len(track.positions) >= LONGEST for track in living], bool)
        yield from (track.ended() for track, is_full in zip(living, full, strict=True) if is_full)
        points = points[~full]
        living = [track for track, is_full in zip(living, full, strict=True) if not is_full]
        before = grey
    yield from (track.ended() for track in living if len(track.positions) >= SHORTEST)


def inverse_depth_at(
    depth: NDArray[np.float32], positions: NDArray[np.float64], slips_by: float = _SLIPS_BY_PX
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """1/z at positions (N,2) in pixels from the corner, and by which share depth is uncertain there.

    Linear in 1/z between the pixels' centres: exact on a plane. The share is how far the pixels within two of it lie
    off a plane, and how much that plane's 1/z changes over `slips_by` pixels.

    Returns:
        Both (N,), NaN at edges, borders, the sky and where unknown.
    """
    height, width = depth.shape
    x, y = positions[:, 0] - 0.5, positions[:, 1] - 0.5
    left, top = np.floor(x).astype(int), np.floor(y).astype(int)
    inside = (left >= 1) & (top >= 1) & (left < width - 2) & (top < height - 2)
    result, spread = np.full((2, len(positions)), np.nan)
    left, top = left[inside], top[inside]
    offsets = np.arange(-1, 3)
    around = depth[top[:, None, None] + offsets[:, None], left[:, None, None] + offsets].astype(np.float64)
    with np.errstate(invalid="ignore", divide="ignore"):
        usable = (np.isfinite(around) & (around > 0)).all(axis=(1, 2))
        inverse = np.where(usable[:, None, None], 1.0 / around, 1.0)
    planes = inverse.reshape(-1, 16) @ _PLANE_OF_16.T
    size = planes[:, 0]
    uneven = np.abs(inverse.reshape(-1, 16) - planes @ _SIXTEEN.T).max(axis=1) / size
    usable &= uneven < _UNEVEN_AT
    across, down = (x[inside] - left)[:, None], (y[inside] - top)
    rows = inverse[:, 1:3, 1] * (1 - across) + inverse[:, 1:3, 2] * across
    result[inside] = np.where(usable, rows[:, 0] * (1 - down) + rows[:, 1] * down, np.nan)
    slope = np.linalg.norm(planes[:, 1:], axis=1) / size
    spread[inside] = np.where(usable, uneven + slips_by * slope, np.nan)
    return result, spread


def _confidence_at(confidence: NDArray[np.float32] | None, positions: NDArray[np.float64]) -> NDArray[np.float64]:
    """(N,) of the pixels that hold the positions (N,2)."""
    if confidence is None:
        return np.ones(len(positions))
    last = np.array(confidence.shape[::-1]) - 1
    column, row = np.clip(positions.astype(int), 0, last).T
    return confidence[row, column].astype(np.float64)


def _followed(image: NDArray[np.uint8]) -> tuple[Grey, NDArray[np.float64]]:
    """The frame as it is followed, and its size as a share (x, y) of the plate's."""
    grey = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)
    height, width = grey.shape
    share = LONG_SIDE / max(height, width)
    if share < 1:
        small = (max(1, round(width * share)), max(1, round(height * share)))
        grey = cv2.resize(grey, small, interpolation=cv2.INTER_AREA)
    return grey, np.array([grey.shape[1] / width, grey.shape[0] / height])


def _on_surfaces(depth: NDArray[np.float32], shape: tuple[int, ...]) -> NDArray[np.uint8]:
    """255 where depth is known and the window holds one surface, at the size `shape` (h, w) of the followed frame.

    The best corners of a picture are where things end. Followed, they say how the background moves as well.
    """
    if depth.shape != shape:
        depth = cv2.resize(depth, shape[::-1], interpolation=cv2.INTER_NEAREST_EXACT)
    known = np.isfinite(depth) & (depth > 0)
    with np.errstate(divide="ignore", invalid="ignore"):
        inverse = np.where(known, 1.0 / depth.astype(np.float64), 0.0)
    offsets = np.arange(_WINDOW) - _WINDOW // 2.0
    mean, slope = np.full(_WINDOW, 1 / _WINDOW), offsets / _WINDOW
    level, square, right, down = (
        cv2.sepFilter2D(values, -1, across, along)
        for values, across, along in (
            (inverse, mean, mean), (inverse**2, mean, mean), (inverse, slope, mean), (inverse, mean, slope)
        )
    )  # fmt: skip
    # of the variance, what no plane has
    uneven = square - level**2 - (right**2 + down**2) / np.mean(offsets**2)
    even = uneven < (_UNEVEN * level) ** 2
    even &= cv2.erode(known.astype(np.uint8), np.ones((_WINDOW, _WINDOW), np.uint8)) > 0
    return np.where(even, np.uint8(255), np.uint8(0))


def _fresh_points(grey: Grey, present: NDArray[np.float32], free: NDArray[np.uint8]) -> NDArray[np.float32]:
    """New points (N,2), where `free` (h, w) is 255 and away from the present ones; `free` is used up."""
    for x, y in present:
        cv2.circle(free, (int(x), int(y)), SPACING_PX, 0, -1)
    found = cv2.goodFeaturesToTrack(grey, MOST_POINTS - len(present), 0.01, SPACING_PX, mask=free)
    # OpenCV counts from the first pixel's centre, we from the corner
    return np.zeros((0, 2), np.float32) if found is None else found.reshape(-1, 2) + np.float32(0.5)


def _follow(before: Grey, after: Grey, points: NDArray[np.float32]) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    start = points - np.float32(0.5)
    moved, found = _flow(before, after, start)
    back, found_back = _flow(after, before, moved)
    height, width = after.shape
    good = found & found_back
    good &= np.linalg.norm(back - start, axis=1) < RETURNS_WITHIN_PX
    good &= ((moved >= 0) & (moved <= np.array([width - 1, height - 1]))).all(axis=1)
    return moved + np.float32(0.5), good


def _flow(one: Grey, two: Grey, points: NDArray[np.float32]) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """Where points (N,2) of one frame are in the other, and whether they were found."""
    search = (_SEARCH_WINDOW, _SEARCH_WINDOW)
    near, found, _ = cv2.calcOpticalFlowPyrLK(one, two, points, None, winSize=search, maxLevel=4)
    settled, again, _ = cv2.calcOpticalFlowPyrLK(
        one, two, points, near, winSize=(_WINDOW, _WINDOW), maxLevel=0, flags=cv2.OPTFLOW_USE_INITIAL_FLOW
    )
    return settled, (found.ravel() == 1) & (again.ravel() == 1)
