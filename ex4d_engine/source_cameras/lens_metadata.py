# SPDX-License-Identifier: GPL-3.0-or-later
"""The focal length that a camera wrote into its file: QuickTime and MP4 tags, EXIF in images."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

import av
from PIL import ExifTags, Image

from ..image_sequence import find_sequence

FULL_FRAME_DIAGONAL_MM: Final = math.hypot(36.0, 24.0)
# Phones write the first; the others are what editors and converters make of it.
_EQUIVALENT_KEYS: Final = (
    "com.apple.quicktime.camera.focal_length.35mm_equivalent",
    "camera.focal_length.35mm_equivalent",
    "focallengthin35mmfilm",
    "focallengthin35mmformat",
)
_NUMBER: Final = re.compile(r"\s*(\d+(?:\.\d+)?)\s*(?:mm)?\s*", re.ASCII)
_SHORTEST_MM, _LONGEST_MM = 3.0, 3000.0
_MM_PER_UNIT: Final = {2: 25.4, 3: 10.0, 4: 1.0, 5: 0.001}  # EXIF's FocalPlaneResolutionUnit


def focal_from_metadata(source: Path, size: tuple[int, int]) -> tuple[float, str] | None:
    """The focal length in pixels of a plate of `size` (width, height), and the tag that says so.

    A focal length "in 35 mm" compares diagonals (CIPA DCG-001); a phone that crops its sensor for video may mean the
    uncropped one, so it is within some percent only. Nothing but the header is read; a file without such a tag, or
    one that is damaged, says nothing.
    """
    sequence = find_sequence(source)
    if sequence is not None:
        return _from_image(sequence.file(sequence.numbers[0]), size)
    return _from_movie(source, size)


def _from_movie(path: Path, size: tuple[int, int]) -> tuple[float, str] | None:
    try:
        with av.open(str(path), "r", metadata_errors="replace") as container:
            for tags in (container.metadata, *(stream.metadata for stream in container.streams)):
                for key, millimetres in _equivalents(tags):
                    return _focal_of_equivalent(millimetres, size), f"{key}, {millimetres:g} mm"
    except (av.FFmpegError, OSError):
        return None  # what is wrong with the clip is said by whoever decodes it
    return None


def _equivalents(tags: Mapping[str, str]) -> Iterator[tuple[str, float]]:
    for name, value in tags.items():
        number = _NUMBER.fullmatch(value)
        # ffmpeg names the language of a translated tag behind its key
        if number and any(name.lower().startswith(key) for key in _EQUIVALENT_KEYS):
            millimetres = float(number[1])
            if _SHORTEST_MM <= millimetres <= _LONGEST_MM:
                yield name, millimetres


def _focal_of_equivalent(millimetres: float, size: tuple[int, int]) -> float:
    return millimetres / FULL_FRAME_DIAGONAL_MM * math.hypot(*size)


def _from_image(path: Path, size: tuple[int, int]) -> tuple[float, str] | None:
    try:
        with Image.open(path) as image:
            tags = dict(image.getexif().get_ifd(ExifTags.IFD.Exif))
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError):  # SyntaxError: Pillow's for a broken PNG
        return None
    equivalent = _positive(tags.get(ExifTags.Base.FocalLengthIn35mmFilm))
    if equivalent and _SHORTEST_MM <= equivalent <= _LONGEST_MM:
        return _focal_of_equivalent(equivalent, size), f"EXIF FocalLengthIn35mmFilm, {equivalent:g} mm"
    focal = _positive(tags.get(ExifTags.Base.FocalLength))
    density = _positive(tags.get(ExifTags.Base.FocalPlaneXResolution))
    unit = _MM_PER_UNIT.get(int(_positive(tags.get(ExifTags.Base.FocalPlaneResolutionUnit)) or 2))
    long_side = max(
        _positive(tags.get(ExifTags.Base.ExifImageWidth)) or 0, _positive(tags.get(ExifTags.Base.ExifImageHeight)) or 0
    )
    if not (focal and density and unit and long_side):
        return None
    sensor = long_side / density * unit
    if not 1.0 <= sensor <= 300.0:
        return None
    return focal / sensor * max(size), f"EXIF FocalLength, {focal:g} mm on a sensor of {sensor:.3g} mm"


def _positive(value: Any) -> float | None:
    try:
        number = float(value)
    except (TypeError, ValueError, ZeroDivisionError):  # the latter: a rational 0/0
        return None
    return number if math.isfinite(number) and number > 0 else None
