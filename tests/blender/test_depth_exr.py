# SPDX-License-Identifier: GPL-3.0-or-later
"""Blender's image loader reads the engine's depth files to the bit: why their only channel is called `Y`.

Blender's Python has no OpenEXR, so the file was written by `ex4d_engine.image_files.write_exr_depth` beforehand;
tests/unit/test_image_files.py holds the engine to the same file.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

bpy = pytest.importorskip("bpy")

GOLDEN = Path(__file__).parents[1] / "golden" / "depth.0001.exr"


def test_depth_is_read_to_the_bit() -> None:
    image = bpy.data.images.load(str(GOLDEN))
    try:
        assert image.type == "IMAGE"  # a multilayer one could not be shown by an image texture
        assert tuple(image.size) == (4, 3)
        assert image.is_float
        pixels = np.empty(len(image.pixels), np.float32)
        image.pixels.foreach_get(pixels)
    finally:
        bpy.data.images.remove(image)
    row, column = np.mgrid[0:3, 0:4]
    depth = (0.1 + 10 * row + np.sqrt(column)).astype(np.float32)
    read = pixels.reshape(3, 4, 4)[::-1]  # Blender counts rows from the bottom
    for channel in range(3):
        assert np.array_equal(read[..., channel], depth)
