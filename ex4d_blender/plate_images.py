# SPDX-License-Identifier: GPL-3.0-or-later
"""A shot's numbered files as Blender image sequences: timeline frame n shows file number n."""

from __future__ import annotations

from pathlib import Path

import bpy

from ..ex4d_engine.errors import Ex4dError
from ..ex4d_engine.shot import Plate
from .compat import blend_path


def load_sequence(first_file: Path, name: str, *, is_colour: bool) -> bpy.types.Image:
    """Loads the sequence that `first_file` belongs to.

    Alpha is ignored: the albedo's flags the seen pixels, and premultiplying by it would blacken colours that
    the mesh stretches over.

    Args:
        is_colour: sRGB picture, or else numbers to be taken as they are.

    Raises:
        Ex4dError: `missing_frame`.
    """
    if not first_file.is_file():
        raise Ex4dError("missing_frame", f"{first_file} does not exist.", "Reconstruct the clip again.")
    image = bpy.data.images.load(str(first_file.absolute()))
    image.name = name
    image.source = "SEQUENCE"
    image.filepath = blend_path(first_file)
    image.colorspace_settings.name = "sRGB" if is_colour else "Non-Color"
    image.alpha_mode = "NONE"
    return image


def follow_timeline(image_user: bpy.types.ImageUser, plate: Plate) -> None:
    """Makes an image texture show file number n at timeline frame n, and the nearest one outside the clip."""
    image_user.frame_start = plate.first
    image_user.frame_duration = plate.count
    image_user.frame_offset = plate.first - 1
    image_user.use_cyclic = False
    image_user.use_auto_refresh = True
