# SPDX-License-Identifier: GPL-3.0-or-later
"""How far away a shot's subject is: what an orbit turns about unless it is told.

Where the camera stands still, the subject is what moves. Elsewhere it is the nearer part of the frame's middle. A
pivot behind the subject is the worst guess: the subject leaves the picture, and is seen from twice the angle asked for.
"""

from __future__ import annotations

from typing import Final

import cv2
import numpy as np
from numpy.typing import NDArray

from ..image_files import read_exr, read_png
from ..progress import Reporter
from ..shot import Shot

_SIDE: Final = 128  # of the small frames that are compared
_CHANGE: Final = 6.0  # grey levels, after a blur: noise and compression stay below
_LEAST: Final = 0.003
_MOST: Final = 0.3
"""Least and most share of the frame that a moving subject takes. More is a camera that moves, or light that changes."""
_EDGE: Final = 8  # a border strip is this part of the frame; three of four that change mean that the camera moves
_NEARER: Final = 30
"""Percentile of depth where it changes: what the subject uncovers behind it changes as well."""
_LOOKS: Final = 24  # pairs of frames that are looked at, spread over the shot


def subject_of(shot: Shot, reporter: Reporter) -> float:
    """Depth of the shot's subject, from its plate and depth files; NaN where nothing is known.

    Looks at no more than two dozen pairs of frames, whatever the shot's length.
    """
    numbers = shot.require_plate().numbers
    chosen = np.unique(np.linspace(0, len(numbers) - 1, min(_LOOKS, len(numbers))).round().astype(int))
    moving: list[float] = []
    middle: list[float] = []
    for index in chosen:
        reporter.check()
        depth = read_exr(shot.depth_file(numbers[index]))
        middle.append(nearer_middle(depth))
        if index:
            before, now = (_grey(read_png(shot.plate_file(numbers[at]))[..., :3]) for at in (index - 1, index))
            found = moving_depth(before, now, depth)
            if found is not None:
                moving.append(found)
    # in most of the frames, or it is a passer-by
    found_in = moving if 2 * len(moving) > len(chosen) else middle
    known = [value for value in found_in if np.isfinite(value)]
    return float(np.median(known)) if known else float("nan")


def moving_depth(before: NDArray[np.float32], now: NDArray[np.float32], depth: NDArray[np.float32]) -> float | None:
    """Depth of what moves between two grey frames (h,w) of a camera that stands still; None where that is not so.

    depth: (H,W) z at `now`, of any size.
    """
    changed = np.abs(now - before) > _CHANGE
    share = float(changed.mean())
    if not _LEAST < share < _MOST:
        return None
    height, width = changed.shape
    strip = max(1, height // _EDGE), max(1, width // _EDGE)
    borders = (changed[: strip[0]], changed[-strip[0] :], changed[:, : strip[1]], changed[:, -strip[1] :])
    if sum(float(border.mean()) > share / 2 for border in borders) >= 3:
        return None
    there = cv2.resize(depth, (width, height), interpolation=cv2.INTER_NEAREST)[changed]
    return float(np.percentile(there, _NEARER, method="nearest"))


def nearer_middle(depth: NDArray[np.float32]) -> float:
    """The median depth of the nearer half of the middle of the frame. depth: (H,W), may hold inf."""
    height, width = depth.shape
    middle = depth[height // 4 : height - height // 4, width // 4 : width - width // 4].ravel()
    return float(np.median(middle[middle <= np.median(middle)]))


def _grey(image: NDArray[np.uint8]) -> NDArray[np.float32]:
    height, width = image.shape[:2]
    scale = _SIDE / max(height, width)
    size = max(8, round(width * scale)), max(8, round(height * scale))
    small = cv2.resize(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY), size, interpolation=cv2.INTER_AREA)
    return np.asarray(cv2.GaussianBlur(small.astype(np.float32), (0, 0), 1), np.float32)
