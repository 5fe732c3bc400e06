# SPDX-License-Identifier: GPL-3.0-or-later
"""Numbers of one frame of a shot, as an image datablock or an array: exactly as the file has them."""

from __future__ import annotations

from pathlib import Path

import bpy
import numpy as np
from numpy.typing import NDArray

from ..ex4d_engine.dwmesh.walls import WIDE
from ..ex4d_engine.errors import Ex4dError


def load_frame(file: Path, name: str) -> bpy.types.Image:
    """A new image of one file, not converted; its alpha is a channel like the others.

    Raises:
        Ex4dError: `missing_frame`.
    """
    try:
        image = bpy.data.images.load(str(file.absolute()), check_existing=False)
    except RuntimeError as error:
        raise Ex4dError("missing_frame", f"{file} cannot be read.", "Reconstruct the clip again.") from error
    image.name = name
    image.colorspace_settings.name = "Non-Color"
    image.alpha_mode = "CHANNEL_PACKED"
    image.use_half_precision = False  # EEVEE: as half floats depths would be a two-thousandth off
    return image


def read_widths(file: Path) -> NDArray[np.uint16]:
    """(H+1,W+1) uint16, `Shot.width_file`."""
    image = load_frame(file, file.name)
    try:
        width, height = image.size
        values = np.empty(width * height * image.channels, np.float32)
        image.pixels.foreach_get(values)
    finally:
        bpy.data.images.remove(image)
    # Blender counts rows from the bottom
    return np.round(values.reshape(height, width, -1)[::-1, :, 0] * WIDE).astype(np.uint16)
