# SPDX-License-Identifier: GPL-3.0-or-later
"""Putting the plate back: known pixels through a soft matte over the generated picture."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

MATTE_FEATHER_PX = 4.0


def soft_matte(mask: NDArray[np.uint8], feather_px: float = MATTE_FEATHER_PX) -> NDArray[np.uint8]:
    """(H,W) uint8: 255 well inside the seen area, falling to 0 at its edge, 0 outside.

    The ramp lies inside the seen area, as outside it there is nothing to restore. The frame's own border is
    no edge: what continues beyond it stays whole.

    Args:
        mask: (H,W) uint8, 255 = seen.
        feather_px: width of the ramp; 0 gives the mask back.
    """
    if feather_px <= 0:
        return mask
    distance = cv2.distanceTransform((mask > 0).astype(np.uint8), cv2.DIST_L2, 3)
    ramp = np.clip(distance / feather_px, 0.0, 1.0)
    return np.rint(255 * ramp * ramp * (3 - 2 * ramp)).astype(np.uint8)


def match_colour(generated: NDArray[np.uint8], plate: NDArray[np.uint8], mask: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """The generated picture with a gain and an offset a channel, fitted to the plate on seen pixels.

    Least squares with one trimming round, so that moved edges do not count. Too few seen pixels, or a flat
    picture, leave it as it is.

    Args:
        generated, plate: (H,W,3) uint8 sRGB; mask: (H,W) uint8, 255 = seen.
    """
    known = cv2.erode((mask > 0).astype(np.uint8), np.ones((5, 5), np.uint8)) > 0
    if np.count_nonzero(known) < 256:
        return generated
    result = np.empty_like(generated)
    for channel in range(3):
        x = generated[..., channel][known].astype(np.float64)
        y = plate[..., channel][known].astype(np.float64)
        gain, offset = _line(x, y)
        residual = np.abs(gain * x + offset - y)
        kept = residual <= np.percentile(residual, 80)
        gain, offset = _line(x[kept], y[kept])
        result[..., channel] = np.clip(np.rint(gain * generated[..., channel] + offset), 0, 255)
    return result


def composite(generated: NDArray[np.uint8], plate: NDArray[np.uint8], matte: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """plate over generated through matte, (H,W,3) uint8; exactly the plate where the matte is 255."""
    share = matte.astype(np.float32)[..., None] / 255
    mixed = plate * share + generated * (1 - share)
    return np.rint(mixed).astype(np.uint8)


def _line(x: NDArray[np.float64], y: NDArray[np.float64]) -> tuple[float, float]:
    spread = float(x.var())
    if spread < 1.0:
        return 1.0, float(y.mean() - x.mean())
    gain = float(((x - x.mean()) * (y - y.mean())).mean() / spread)
    gain = float(np.clip(gain, 0.5, 2.0))  # a stronger correction is no colour drift but another picture
    return gain, float(y.mean() - gain * x.mean())
