# SPDX-License-Identifier: GPL-3.0-or-later
"""From a frame of any size and aspect to one the model takes, and back: one scale for both axes, never squashed.

The weights were trained near 512² pixels of any shape, so a frame is scaled to about that area, up as well as down:
a small clip as it is would be as far from what they know as a large one. Its edge is then repeated to the model's
multiple, and cut off again on the way back.

Pixel centres lie at +0.5: working pixel (x, y) covers the frame from x/scale to (x+1)/scale.
"""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

TRAINED_AREA = 512 * 512
DRAFT_AREA = 256 * 256
"""What the small bundled model was trained with."""
SIZE_MULTIPLE = 16
"""Pixels of one token's side: 8 of the VAE times 2 of the transformer's patch."""


@dataclass(frozen=True)
class WorkingSize:
    """A frame's size where the model works on it. All in pixels.

    Attributes:
        source_width, source_height: of the frame.
        scale: working pixels a source pixel, on both axes.
        width, height: multiples of the model's; the scaled frame lies at their top left.
    """

    source_width: int
    source_height: int
    scale: float
    width: int
    height: int

    @property
    def content(self) -> tuple[int, int]:
        """(width, height) of the scaled frame, whose last column and row may reach beyond its edge."""
        return _covering(self.source_width * self.scale), _covering(self.source_height * self.scale)


def working_size(width: int, height: int, area: int = TRAINED_AREA, multiple: int = SIZE_MULTIPLE) -> WorkingSize:
    """The size at which a frame of `width` × `height` is generated.

    Args:
        width, height: of the frame, at least 1.
        area: of the scaled frame, pixels. A frame within one per cent of it keeps its pixels.
        multiple: of the model.

    Raises:
        ValueError: no pixels.
    """
    if width < 1 or height < 1 or area < 1:
        raise ValueError(f"a frame of {width} × {height} pixels cannot be worked on at an area of {area}")
    scale = math.sqrt(area / (width * height))
    if abs(scale - 1) < 0.005:
        scale = 1.0
    padded = (max(1, math.ceil(_covering(side * scale) / multiple)) * multiple for side in (width, height))
    return WorkingSize(width, height, scale, *padded)


def to_working_size(
    colour: NDArray[np.uint8], mask: NDArray[np.uint8], size: WorkingSize
) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """A conditioning frame at the working size.

    A pixel counts as seen only if all that it covers was. So the black of the unseen never darkens the edge of the
    seen, and no pixel shows the model the colour of one half of what it covers; the plate's own pixels come back at
    full size afterwards anyway.

    Args:
        colour: (H, W, 3) uint8; mask: (H, W) uint8, seen above 127.
        size: of `working_size` for W × H.

    Returns:
        colour (size.height, size.width, 3) uint8, black where unseen, and mask (size.height, size.width) {0, 255}.
    """
    known = mask > 127
    if size.scale != 1:
        known = _scaled(known.astype(np.float32), size) > 1 - 1e-4
        planes = [_scaled(plane.astype(np.float32), size) for plane in np.moveaxis(colour, -1, 0)]
        colour = np.rint(np.stack(planes, axis=-1)).clip(0, 255).astype(np.uint8)
    frame = colour * known[..., None]
    return _padded(frame, size), _padded(np.where(known, np.uint8(255), np.uint8(0)), size)


def to_source_size(frame: NDArray[np.uint8], size: WorkingSize) -> NDArray[np.uint8]:
    """A frame (size.height, size.width, 3) uint8 back at the source's size: Lanczos up, area mean down."""
    width, height = size.content
    frame = frame[:height, :width]
    if size.scale == 1:
        return frame.copy()  # no view: a frame that waits to be written would hold its whole window
    if size.scale > 1:
        back = [
            _apply(
                channel,
                _means(size.source_height, height, 1 / size.scale),
                _means(size.source_width, width, 1 / size.scale),
            )
            for channel in np.moveaxis(frame.astype(np.float32), -1, 0)
        ]
        return np.rint(np.stack(back, axis=-1)).clip(0, 255).astype(np.uint8)
    return enlarged(frame, (size.source_width, size.source_height), size.scale)


def enlarged(frame: NDArray[np.uint8], size: tuple[int, int], scale: float) -> NDArray[np.uint8]:
    """A frame (h, w, 3) uint8 by Lanczos at `size` (width, height), `scale` < 1 pixels of it a pixel of the result."""
    # Centre to centre: (x + 0.5)·scale − 0.5. A warp, as OpenCV's resize has a scale of its own for each axis.
    shift = 0.5 * scale - 0.5
    return cv2.warpAffine(
        frame,
        np.array([[scale, 0, shift], [0, scale, shift]]),
        size,
        flags=cv2.INTER_LANCZOS4 | cv2.WARP_INVERSE_MAP,
        borderMode=cv2.BORDER_REPLICATE,
    )


def _scaled(plane: NDArray[np.float32], size: WorkingSize) -> NDArray[np.float32]:
    width, height = size.content
    weights = _means if size.scale < 1 else _linear
    return _apply(plane, weights(height, size.source_height, size.scale), weights(width, size.source_width, size.scale))


def _apply(plane: NDArray[np.float32], rows: NDArray[np.float32], columns: NDArray[np.float32]) -> NDArray[np.float32]:
    return (rows @ plane @ columns.T).astype(np.float32, copy=False)


@functools.lru_cache(maxsize=8)
def _means(target: int, source: int, scale: float) -> NDArray[np.float32]:
    """(target, source) weights of the mean over what each target pixel covers, for a scale below 1."""
    edges = np.arange(target + 1) / scale
    left, right = edges[:-1, None], edges[1:, None]
    pixel = np.arange(source)[None]
    covered = np.clip(np.minimum(right, pixel + 1) - np.maximum(left, pixel), 0, None)
    return (covered / covered.sum(axis=1, keepdims=True)).astype(np.float32)


@functools.lru_cache(maxsize=8)
def _linear(target: int, source: int, scale: float) -> NDArray[np.float32]:
    """(target, source) weights of linear interpolation between pixel centres, for a scale above 1."""
    centre = np.clip((np.arange(target) + 0.5) / scale - 0.5, 0, source - 1)[:, None]
    return np.clip(1 - np.abs(centre - np.arange(source)[None]), 0, None).astype(np.float32)


def _padded(frame: NDArray[np.uint8], size: WorkingSize) -> NDArray[np.uint8]:
    down, right = size.height - frame.shape[0], size.width - frame.shape[1]
    return np.pad(frame, ((0, down), (0, right), *((0, 0),) * (frame.ndim - 2)), mode="edge")


def _covering(length: float) -> int:
    return max(1, math.ceil(length - 1e-6))
