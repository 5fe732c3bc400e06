# SPDX-License-Identifier: GPL-3.0-or-later
"""The take's conditioning at the size the model works on, read a window at a time."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from . import preprocess
from .sizes import WorkingSize, to_working_size
from .windows import Window

ReadFrame = Callable[[int], tuple[NDArray[np.uint8], NDArray[np.uint8]]]
"""A frame's number, from 0, to its colour (H, W, 3) uint8 RGB and mask (H, W) uint8, 255 = seen, at full size."""


@dataclass(frozen=True)
class WorkingFrames:
    """The conditioning frames of a clip at a working size.

    Attributes:
        read: gives a frame at full size; called once a frame of a window, in order.
        size: to scale to.
        kernels: one erosion kernel a frame of the clip, pixels at the working size.
    """

    read: ReadFrame
    size: WorkingSize
    kernels: Sequence[int]

    def window(self, window: Window) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
        """Colours (F, h, w, 3) and eroded masks (F, h, w) of a window; the clip's last frame is repeated.

        Raises:
            ValueError: a frame of another size than the clip's.
        """
        colours = np.empty((window.frames, self.size.height, self.size.width, 3), np.uint8)
        masks = np.empty((window.frames, self.size.height, self.size.width), np.uint8)
        last = min(window.stop, len(self.kernels)) - window.start
        for place in range(last):
            colour, mask = self.read(window.start + place)
            expected = (self.size.source_height, self.size.source_width)
            if colour.shape != (*expected, 3) or mask.shape != expected:
                raise ValueError(
                    f"frame {window.start + place} is {colour.shape} with a mask {mask.shape}, not {expected}"
                )
            colours[place], scaled = to_working_size(colour, mask, self.size)
            masks[place] = preprocess.eroded_mask(scaled, self.kernels[window.start + place])
        colours[last:], masks[last:] = colours[last - 1], masks[last - 1]
        return colours, masks
