# SPDX-License-Identifier: GPL-3.0-or-later
"""A shot's numbered files as Blender image sequences: timeline frame n shows file number n."""

from __future__ import annotations

from pathlib import Path

import bpy

from ..ex4d_engine.errors import Ex4dError
from ..ex4d_engine.shot import Plate
from .compat import blend_path


def load_sequence(first_file: Path, name: str, plate: Plate, *, is_colour: bool) -> bpy.types.Image:
    """Loads the sequence of `plate.count` files that `first_file` begins.

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
    image.source = "SEQUENCE" if plate.count > 1 else "FILE"  # a sequence of one file has no duration
    image.filepath = blend_path(first_file)
    image.colorspace_settings.name = "sRGB" if is_colour else "Non-Color"
    image.alpha_mode = "NONE"
    return image


def follow_timeline(image_user: bpy.types.ImageUser, plate: Plate) -> None:
    """Makes an image texture show file number n at timeline frame n, and the nearest one outside the clip.

    Blender shows file `offset` + the number of frames since `start`, where that number is cut to 0 … `duration`.
    Counted from the second frame on, the cut gives the first file before the clip; counted from the first frame,
    which is Blender's own habit, it would be the file before it, which does not exist.
    """
    image_user.frame_start = plate.first + 1
    image_user.frame_duration = plate.count - 1
    image_user.frame_offset = plate.first
    image_user.use_cyclic = False
    image_user.use_auto_refresh = True
