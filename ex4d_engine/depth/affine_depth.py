# SPDX-License-Identifier: GPL-3.0-or-later
"""Inverse depth that a network knows only up to a scale and a shift: aligned, and read as z.

Most single-image networks are trained so that a·d + b would be right for some a and b that nobody knows. What the
windows of a clip say is brought together by `fit_scale_shift`. What scene units the result has is a convention, for
no picture tells it; `read_clip` states it, once for the whole clip and never frame by frame.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from .pictorial.cues import NEAR, SKY

Array = npt.NDArray[np.float32]

_SHARES: Final = (0.02, 0.98)
"""Quantiles of a frame that stand for its farthest and its nearest: beyond them networks overshoot."""
_SAMPLES: Final = 20_000
"""Pixels of a map that are looked at."""
_ROUNDS: Final = 10


@dataclass(frozen=True)
class AffineReading:
    """1 / z = scale · value + shift, and nothing beyond the sky's distance."""

    scale: float
    shift: float

    def inverse_z(self, values: Array) -> Array:
        """(h, w) values of the network as inverse z in 1 / scene units; NaN stays."""
        return np.maximum(np.float32(self.scale) * values + np.float32(self.shift), np.float32(SKY))


def read_clip(maps: Iterable[Array], *, zero_is_far: bool) -> AffineReading:
    """The reading of a clip whose values grow towards the camera.

    The convention: what is nearest (the median over the frames of each frame's 98 % quantile) lies at 2 scene units,
    as in the sources that guess; what is farthest lies at 60, as their sky does. The unknown shift follows from the
    latter.

    Args:
        maps: (h, w) of every frame, NaN where unknown.
        zero_is_far: the network says 0 for the sky, so 0 is what is farthest; else the lowest 2 % quantile of the
            clip is.
    """
    ends = [np.quantile(known, _SHARES) for values in maps if (known := _sample(values)).size]
    if not ends:
        return AffineReading(0.0, NEAR)
    lows, highs = np.array(ends).T
    high = float(np.median(highs))
    low = 0.0 if zero_is_far else float(lows.min())
    if high - low <= 1e-6 * max(abs(high), abs(low), 1e-6):  # one wall, or nothing at all
        return AffineReading(0.0, NEAR)
    scale = (NEAR - SKY) / (high - low)
    return AffineReading(scale, SKY - scale * low)


def fit_scale_shift(values: npt.NDArray[np.floating], target: npt.NDArray[np.floating]) -> tuple[float, float]:
    """Scale and shift by which `values` come nearest to `target`, both of any one shape, NaN where unknown.

    Least squares, repeated with each pixel weighted by how well it agrees (Cauchy's weights), so that a thing that
    changed between the two does not pull the rest. Where the values have no slope to speak of, or would have to be
    turned around, only the shift is fitted.
    """
    x, y = values.ravel().astype(np.float64), target.ravel().astype(np.float64)
    known = np.flatnonzero(np.isfinite(x) & np.isfinite(y))
    known = known[:: max(1, known.size // _SAMPLES)]
    if not known.size:
        return 1.0, 0.0
    x, y = x[known], y[known]
    spread = float(x.std())
    only_shift = 1.0, float(np.median(y - x))
    if spread <= 1e-6 * max(float(np.abs(x).max()), 1e-6):
        return only_shift
    weight = np.ones_like(x)
    scale, shift = 1.0, 0.0
    for _ in range(_ROUNDS):
        total = weight.sum()
        mean_x, mean_y = (weight * x).sum() / total, (weight * y).sum() / total
        variance = (weight * (x - mean_x) ** 2).sum()
        if variance <= 1e-12 * spread**2 * total:
            return only_shift
        scale = float((weight * (x - mean_x) * (y - mean_y)).sum() / variance)
        shift = float(mean_y - scale * mean_x)
        residual = np.abs(scale * x + shift - y)
        width = max(2.0 * float(np.median(residual)), 1e-6 * float(np.abs(y).max()), 1e-12)
        weight = 1.0 / (1.0 + (residual / width) ** 2)
    return (scale, shift) if scale > 0 else only_shift


def _sample(values: Array) -> Array:
    flat = values.ravel()
    flat = flat[:: max(1, flat.size // _SAMPLES)]
    return flat[np.isfinite(flat)]
