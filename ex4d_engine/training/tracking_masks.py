# SPDX-License-Identifier: GPL-3.0-or-later
"""Tracking masks: holes that stick to what they cover and move with it through the clip.

A blob of surface is chosen at one frame and points in it are followed to both ends of the clip. Painted as patches,
they make a hole that is coherent in time and has nothing to do with depth: what a rendering mask never hides.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import cv2
import numpy as np
from numpy.typing import NDArray

from ..errors import Ex4dError

Tracker = Callable[[NDArray[np.uint8], int, NDArray[np.float32]], tuple[NDArray[np.float32], NDArray[np.bool_]]]
"""Follows points: frames (F,H,W,3), the frame they are given at, and their places (N,2) as x, y in pixels from the
corner → places (F,N,2) and whether each is seen there, (F,N). A CoTracker-like network fits behind it."""

LONG_SIDE: Final = 384  # flow is sought at this size: small clips gain by it, and large ones fit in memory
RETURNS_WITHIN_PX: Final = 1.0  # there and back, a point must arrive where it came from, at that size
LOST_SHARE: Final = 0.25  # a blob of which less than this is still followed has left, or is hidden
AGREES_WITHIN_PX: Final = 1.0  # from frame to frame: what moves otherwise belongs to something else
LEAST_FOR_AFFINE: Final = 12  # points
_SPACING_SHARE: Final = 1 / 64  # between a blob's points, of the picture's shorter side


@dataclass(frozen=True)
class BlobSettings:
    """What the holes look like.

    Attributes:
        count: least and most blobs a clip, both included.
        area: a blob's area as a share of the picture, drawn evenly in the logarithm.
        raggedness: how far its outline departs from a circle, 0 … 1.
        dilation: how far a patch reaches beyond its point, as a share of the picture's shorter side.
    """

    count: tuple[int, int] = (1, 5)
    area: tuple[float, float] = (0.01, 0.15)
    raggedness: float = 0.5
    dilation: float = 0.01

    def __post_init__(self) -> None:
        if not 1 <= self.count[0] <= self.count[1]:
            raise _refused("count", self.count, "two rising numbers from 1 on")
        if not 0 < self.area[0] <= self.area[1] < 1:
            raise _refused("area", self.area, "two rising shares between 0 and 1")
        if not 0 <= self.raggedness <= 1:
            raise _refused("raggedness", self.raggedness, "a share from 0 to 1")
        if not 0 <= self.dilation <= 0.25:
            raise _refused("dilation", self.dilation, "a share from 0 to 0.25")


def tracking_masks(
    draw: np.random.Generator,
    frames: NDArray[np.uint8],
    settings: BlobSettings,
    tracker: Tracker | None = None,
) -> NDArray[np.uint8]:
    """Keep-masks of a clip with random blobs followed through it.

    Args:
        frames: (F,H,W,3) uint8 sRGB, one window.
        tracker: what follows the points; optical flow (`FlowTracker`) by default.

    Returns:
        (F,H,W) uint8, 255 where a pixel is kept. The first frame is whole.
    """
    count, height, width = frames.shape[:3]
    keep = np.full((count, height, width), 255, np.uint8)
    tracker = FlowTracker(frames) if tracker is None else tracker
    reach = settings.dilation * min(width, height)
    for _ in range(int(draw.integers(settings.count[0], settings.count[1] + 1))):
        blob = _blob(draw, width, height, settings)
        key = int(draw.integers(count))
        keep[followed_region(frames, blob, key, tracker, dilation_px=reach)] = 0
    keep[0] = 255
    return keep


def followed_region(
    frames: NDArray[np.uint8],
    region: NDArray[np.bool_],
    key: int,
    tracker: Tracker,
    *,
    dilation_px: float = 0.0,
) -> NDArray[np.bool_]:
    """(F,H,W) bool, where a region (H,W) of frame `key` is in every frame; empty where it left or is hidden."""
    height, width = region.shape
    spacing = max(1, round(_SPACING_SHARE * min(width, height)))
    points = _points_in(region, spacing)
    result = np.zeros((len(frames), height, width), bool)
    if not len(points):
        return result
    places, seen = tracker(frames, key, points)
    for index, here in enumerate(_carried_on(places, seen, key)):
        if here is not None:
            result[index] = _painted(here, width, height, spacing, dilation_px)
    return result


class FlowTracker:
    """Follows the points of one surface by dense optical flow (DIS) in both directions.

    From frame to frame most of them agree on an affine motion. A point that does not come back to where it was, or
    departs from that motion, counts as not seen and is carried by it, to be looked for again in the next frame: flow
    is smooth across outlines, and points near one would bit by bit stay behind.

    The flow of a pair of frames is made when it is first asked for and kept at half precision, as all blobs of a
    clip need the same: 32 MB for 49 frames at 384 × 216.
    """

    def __init__(self, frames: NDArray[np.uint8]) -> None:
        height, width = frames.shape[1:3]
        scale = LONG_SIDE / max(width, height)
        # DIS matches patches in a pyramid and cannot take a picture smaller than a few of them
        self._size = max(32, round(width * scale)), max(32, round(height * scale))
        self._scale = np.array([self._size[0] / width, self._size[1] / height], np.float32)
        shrinking = cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR
        self._greys = [
            cv2.cvtColor(cv2.resize(frame, self._size, interpolation=shrinking), cv2.COLOR_RGB2GRAY) for frame in frames
        ]
        self._method = cv2.DISOpticalFlow.create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM)
        self._flows: dict[tuple[int, int], NDArray[np.float16]] = {}

    def __call__(
        self, frames: NDArray[np.uint8], key: int, points: NDArray[np.float32]
    ) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
        """See `Tracker`; the frames are those it was made with."""
        count = len(self._greys)
        places = np.repeat(points[None] * self._scale, count, axis=0)
        seen = np.zeros((count, len(points)), bool)
        seen[key] = True
        for step, end in ((1, count), (-1, -1)):
            for index in range(key + step, end, step):
                before = places[index - step]
                there = before + self._at(index - step, index, before)
                back = there + self._at(index, index - step, there)
                found = np.linalg.norm(back - before, axis=1) <= RETURNS_WITHIN_PX
                found &= ((there >= 0) & (there <= self._size)).all(axis=1)
                if found.mean() < LOST_SHARE:
                    break
                motion, agree = _common_motion(before[found], there[found])
                found[found] = agree
                places[index] = np.where(found[:, None], there, _moved(before, motion))
                seen[index] = found
        return (places / self._scale).astype(np.float32), seen

    def _at(self, start: int, end: int, places: NDArray[np.float32]) -> NDArray[np.float32]:
        """(N,2) the flow from one frame to its neighbour, at places of the first."""
        if (start, end) not in self._flows:
            flow = self._method.calc(self._greys[start], self._greys[end], None)
            self._flows[start, end] = flow.astype(np.float16)
        centred = np.ascontiguousarray(places - 0.5, np.float32)[:, None]
        sampled = cv2.remap(
            self._flows[start, end].astype(np.float32), centred, None, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE
        )
        result: NDArray[np.float32] = sampled[:, 0]
        return result


def _carried_on(places: NDArray[np.float32], seen: NDArray[np.bool_], key: int) -> list[NDArray[np.float32] | None]:
    """A blob's points (N,2) by frame, those that are not seen carried along by the others; None once it is gone."""
    count = len(places)
    result: list[NDArray[np.float32] | None] = [None] * count
    result[key] = places[key]
    for step, end in ((1, count), (-1, -1)):
        here = places[key]
        for index in range(key + step, end, step):
            both = seen[index] & seen[index - step]
            if seen[index].mean() < LOST_SHARE or not both.any():
                break
            motion, _ = _common_motion(places[index - step][both], places[index][both])
            here = np.where(seen[index][:, None], places[index], _moved(here, motion)).astype(np.float32)
            result[index] = here
    return result


def _common_motion(
    before: NDArray[np.float32], after: NDArray[np.float32]
) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """The affine motion (2,3) that most of N points share, and which points follow it."""
    if len(before) >= LEAST_FOR_AFFINE:
        motion, agree = cv2.estimateAffine2D(before, after, method=cv2.RANSAC, ransacReprojThreshold=AGREES_WITHIN_PX)
        if motion is not None and agree.any():
            return motion, agree.ravel() > 0
    shift = np.median(after - before, axis=0)
    return np.array([[1, 0, shift[0]], [0, 1, shift[1]]]), np.ones(len(before), bool)


def _moved(places: NDArray[np.float32], motion: NDArray[np.float64]) -> NDArray[np.float64]:
    result: NDArray[np.float64] = places @ motion[:, :2].T + motion[:, 2]
    return result


def _painted(
    places: NDArray[np.float32], width: int, height: int, spacing: int, dilation_px: float
) -> NDArray[np.bool_]:
    """(H,W) bool: a patch around every point, joined and with a smooth outline."""
    joining = spacing + 1
    margin = 2 * joining + math.ceil(dilation_px)  # points just outside the picture reach into it
    canvas = np.zeros((height + 2 * margin, width + 2 * margin), np.uint8)
    column, row = np.floor(places + margin).astype(int).T
    inside = (column >= 0) & (column < canvas.shape[1]) & (row >= 0) & (row < canvas.shape[0])
    canvas[row[inside], column[inside]] = 255
    # grown until neighbours join, then shrunk again, so that only the dilation that was asked for is left
    joined = cv2.dilate(canvas, _disc(joining))
    shrink = joining - spacing / 2 - dilation_px
    joined = cv2.erode(joined, _disc(shrink)) if shrink > 0 else cv2.dilate(joined, _disc(-shrink))
    joined = joined[margin : margin + height, margin : margin + width]
    return cv2.GaussianBlur(joined, (0, 0), 0.75 * spacing) > 127


def _disc(radius: float) -> NDArray[np.uint8]:
    size = 2 * math.ceil(radius - 0.5) + 1 if radius > 0.5 else 1
    return cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (size, size))


def _points_in(region: NDArray[np.bool_], spacing: int) -> NDArray[np.float32]:
    """(N,2) places x, y of a grid in the region; one in its middle where the grid misses it."""
    height, width = region.shape
    columns, rows = np.meshgrid(np.arange(spacing // 2, width, spacing), np.arange(spacing // 2, height, spacing))
    chosen = region[rows, columns]
    points = np.stack([columns[chosen], rows[chosen]], axis=-1)
    if not len(points) and region.any():
        found = np.argwhere(region)[:, ::-1]
        points = found[len(found) // 2 : len(found) // 2 + 1]
    return (points + 0.5).astype(np.float32)


def _blob(draw: np.random.Generator, width: int, height: int, settings: BlobSettings) -> NDArray[np.bool_]:
    """(H,W) bool: a round shape with a wavy outline around a random pixel."""
    area = math.exp(draw.uniform(math.log(settings.area[0]), math.log(settings.area[1]))) * width * height
    x, y = draw.uniform(0, width), draw.uniform(0, height)
    waves = np.arange(2, 7)
    heights = settings.raggedness * draw.uniform(-1, 1, len(waves)) / waves
    phases = draw.uniform(0, 2 * math.pi, len(waves))
    across, down = np.arange(width)[None, :] + 0.5 - x, np.arange(height)[:, None] + 0.5 - y
    angle = np.arctan2(down, across)
    outline = np.ones((height, width))
    for wave, amount, phase in zip(waves, heights, phases, strict=True):
        outline += amount * np.cos(wave * angle + phase)
    # a wavy circle of radius r has the area π r² (1 + Σ amount² / 2)
    radius = math.sqrt(area / (math.pi * (1 + float(np.sum(heights**2)) / 2)))
    result: NDArray[np.bool_] = np.hypot(across, down) < radius * outline
    return result


def _refused(name: str, value: object, wanted: str) -> Ex4dError:
    return Ex4dError("bad_request", f"The blobs' {name} cannot be {value}.", f"Give {wanted}.")
