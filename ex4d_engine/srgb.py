# SPDX-License-Identifier: GPL-3.0-or-later
"""The sRGB transfer curve, both ways (IEC 61966-2-1): scene-linear light to display code values and back."""

from __future__ import annotations

import numpy as np


def encode_srgb(linear: np.ndarray) -> np.ndarray:
    """Linear light to sRGB 8-bit, the look of Blender's Standard view transform: clipped to [0, 1], not tone mapped.

    Args:
        linear: any shape, float, 1 = display white. Values that are not numbers become 0.

    Returns:
        The same shape, uint8.
    """
    light = np.clip(np.nan_to_num(linear, nan=0.0, posinf=1.0, neginf=0.0).astype(np.float32, copy=False), 0, 1)
    curve = np.where(light <= 0.0031308, 12.92 * light, 1.055 * np.power(light, 1 / 2.4) - 0.055)
    return np.asarray(curve * 255 + 0.5, dtype=np.uint8)


def decode_srgb(image: np.ndarray) -> np.ndarray:
    """sRGB code values (any shape, uint8 or uint16) to linear light, float32 in [0, 1]."""
    codes = np.arange(np.iinfo(image.dtype).max + 1, dtype=np.float64) / np.iinfo(image.dtype).max
    table = np.where(codes <= 0.04045, codes / 12.92, ((codes + 0.055) / 1.055) ** 2.4)
    return np.asarray(table.astype(np.float32)[image])
