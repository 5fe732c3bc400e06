# SPDX-License-Identifier: GPL-3.0-or-later
"""What a plate is: the description of a clip, and one frame of it. Reading them is `video.py`."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Literal

import numpy as np

PlateKind = Literal["movie", "sequence", "image"]


@dataclass(frozen=True)
class PlateInfo:
    """A clip as the rest of the program sees it.

    path: the movie or image; for a sequence its pattern, `name.####.png`, which `probe` takes again.
    width, height: pixels as displayed: rotated, and square (a clip with other pixels is resampled).
    fps: frames a second, exact. A sequence stores none: 24, and a note says so.
    frame_count: frames `read_frames` is expected to give, after a variable rate is made constant. It comes from
        the packets in the file and never from the container's header; damage inside a packet shows in decoding only.
    first_number: number of the first frame. A sequence keeps its files' numbers, a movie starts at 1.
    bit_depth: bits a channel in the file (EXR counts as 32); frames are always given in 8.
    notes: sentences about everything that was assumed, changed or found wanting.
    """

    path: Path
    kind: PlateKind
    width: int
    height: int
    fps: Fraction
    frame_count: int | None
    first_number: int
    has_alpha: bool
    bit_depth: int
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class PlateFrame:
    """number: source frame number; image: (H, W, 3) uint8 sRGB, not premultiplied; alpha: (H, W) uint8 or None."""

    number: int
    image: np.ndarray
    alpha: np.ndarray | None = None
