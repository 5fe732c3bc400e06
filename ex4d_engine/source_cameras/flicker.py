# SPDX-License-Identifier: GPL-3.0-or-later
"""How much the depth of a still scene breathes from frame to frame."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

LEAST_IN_A_FRAME: Final = 6


@dataclass(frozen=True)
class Flicker:
    """Shares of the depth: 0.01 is one percent.

    frame_to_frame: root mean square of the change of a frame's scale to the next frame's.
    over_shot: standard deviation of the frames' scales, slow drift included.
    """

    frame_to_frame: float
    over_shot: float


def measure_flicker(
    frame: NDArray[np.int64], source: NDArray[np.float64], world: NDArray[np.float64]
) -> Flicker | None:
    """Flicker of inverse depths (N,) against what the cameras say of the same places; None with too few of them.

    A frame's scale is the median over its points, so that whatever moves by itself does not count. Its size over the
    whole shot is no flicker: it cancels.

    Args:
        frame: (N,) index of the frame of each; source, world: (N,) 1/z.
    """
    usable = (source > 0) & (world > 0)
    ratio = np.log(source[usable] / world[usable])
    order = np.argsort(frame[usable], kind="stable")
    numbers, starts, counts = np.unique(frame[usable][order], return_index=True, return_counts=True)
    groups = np.split(ratio[order], starts[1:])
    many = counts >= LEAST_IN_A_FRAME
    scales = np.array([float(np.median(group)) for group, is_many in zip(groups, many, strict=True) if is_many])
    steps = np.diff(scales)[np.diff(numbers[many]) == 1]
    if not len(steps):
        return None
    return Flicker(float(np.sqrt(np.mean(steps**2))), float(np.std(scales)))
