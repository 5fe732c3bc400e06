# SPDX-License-Identifier: GPL-3.0-or-later
"""8-bit PNG files to and from arrays, exactly, with what Blender's Python has."""

from __future__ import annotations

import struct
import zlib
from pathlib import Path

import bpy
import numpy as np
from numpy.typing import NDArray

from ..ex4d_engine.errors import Ex4dError
from ..ex4d_engine.files import write_bytes

_COLOUR_TYPES = {1: 0, 3: 2, 4: 6}  # channels → PNG colour type
_COMPRESSION = 1  # zlib's fastest: a fifth larger and many times faster than its default


def write_png(path: Path, image: NDArray[np.uint8]) -> None:
    """Writes (H,W) grey, (H,W,3) RGB or (H,W,4) straight RGBA uint8, atomically.

    By hand, as Blender's own writer goes through the scene's colour management.
    """
    height, width = image.shape[:2]
    channels = 1 if image.ndim == 2 else image.shape[2]
    rows = np.ascontiguousarray(image).reshape(height, width * channels)
    # each row differs from the one above (filter 2, "up"): pictures pack half as large as without a filter
    packed = np.full((height, 1 + width * channels), 2, np.uint8)
    packed[0, 1:] = rows[0]
    packed[1:, 1:] = rows[1:] - rows[:-1]
    header = struct.pack(">IIBBBBB", width, height, 8, _COLOUR_TYPES[channels], 0, 0, 0)
    body = zlib.compress(packed.tobytes(), _COMPRESSION)
    write_bytes(path, b"\x89PNG\r\n\x1a\n" + _chunk(b"IHDR", header) + _chunk(b"IDAT", body) + _chunk(b"IEND", b""))


def read_rgba(path: Path) -> NDArray[np.uint8]:
    """(H,W,4) uint8 of an 8-bit image file, as stored: no colour management, straight alpha.

    Raises:
        Ex4dError: `unreadable_image`.
    """
    try:
        image = bpy.data.images.load(str(path), check_existing=False)
    except RuntimeError as error:
        raise Ex4dError("unreadable_image", f"{path} cannot be read.", "Write the file again.") from error
    try:
        image.alpha_mode = "CHANNEL_PACKED"  # else colours are multiplied by alpha on the way
        width, height = image.size
        if width == 0:
            raise Ex4dError("unreadable_image", f"{path} is not a readable image.", "Write the file again.")
        pixels = np.empty(width * height * 4, np.float32)
        image.pixels.foreach_get(pixels)
    finally:
        bpy.data.images.remove(image)
    # Blender counts rows from the bottom
    return np.round(pixels * 255).astype(np.uint8).reshape(height, width, 4)[::-1]


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
