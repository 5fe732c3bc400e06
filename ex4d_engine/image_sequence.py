# SPDX-License-Identifier: GPL-3.0-or-later
"""Numbered image files as a plate: found from a pattern, a folder or any one of them, and read as 8-bit sRGB."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Final

import numpy as np

from .errors import Ex4dError
from .image_files import decode_image, read_bytes, read_exr_rgba
from .plate import PlateFrame, PlateInfo
from .progress import Reporter
from .srgb import encode_srgb

IMAGE_SUFFIXES: Final = (".png", ".exr", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp", ".webp")
ASSUMED_RATE: Final = Fraction(24)

# The number is the digits before the suffix, unless they are a version: `shot_v02.png` is no frame 2.
_NUMBERED: Final = re.compile(r"(?P<prefix>.*?)(?<![0-9])(?P<number>[0-9]+)(?P<suffix>\.[^.]+)", re.DOTALL)
_VERSION: Final = re.compile(r"(^|[^A-Za-z])[vV]$")
_PATTERN: Final = re.compile(
    r"(?P<prefix>.*?)(?:(?P<hashes>#+)|%(?:0(?P<width>[0-9]+))?d)(?P<suffix>[^#%]*)", re.DOTALL
)


@dataclass(frozen=True)
class ImageSequence:
    """Files `prefix` + number, zero-padded to `padding` digits, + `suffix` in `folder`; `numbers` rising.

    A single image without a number is a sequence of one with `padding` 0, its name all prefix and suffix.
    """

    folder: Path
    prefix: str
    suffix: str
    padding: int
    numbers: tuple[int, ...]

    @property
    def pattern(self) -> Path:
        return self.folder / f"{self.prefix}{'#' * self.padding}{self.suffix}"

    def file(self, number: int) -> Path:
        digits = str(number).zfill(self.padding) if self.padding else ""
        return self.folder / f"{self.prefix}{digits}{self.suffix}"


def find_sequence(path: Path, first_number: int = 1) -> ImageSequence | None:
    """The images that `path` stands for, or None if it is a file that is no image.

    Args:
        path: a pattern (`name.####.exr`, `name.%04d.exr`), a folder that holds one sequence, one file of a sequence,
            or one image.
        first_number: the number of an image that has no numbered siblings.

    Raises:
        Ex4dError: `no_such_file`; `no_frames` for a folder without images; `bad_request` for one with several
            sequences; `missing_frame`, naming the first number that is missing.
    """
    if path.is_dir():
        return _complete(_only_sequence_in(path))
    if (pattern := _PATTERN.fullmatch(path.name)) and not path.is_file():
        padding = len(pattern["hashes"] or "") or int(pattern["width"] or 1)
        found = _siblings(path.parent, pattern["prefix"], pattern["suffix"], padding)
        if not found.numbers:
            raise Ex4dError("no_such_file", f"No file matches {path}.", "Check the folder and the name.")
        return _complete(found)
    if path.suffix.lower() not in IMAGE_SUFFIXES:
        return None
    if not path.is_file():
        raise Ex4dError("no_such_file", f"There is no file {path}.", "Check the path.")
    numbered = _NUMBERED.fullmatch(path.name)
    if numbered and not _VERSION.search(numbered["prefix"]):
        # 1001 may be padded to four digits or not padded at all: the way that finds more files is the one meant.
        paddings = {len(numbered["number"])} if numbered["number"].startswith("0") else {len(numbered["number"]), 1}
        found = max(
            (
                _siblings(path.parent, numbered["prefix"], numbered["suffix"], padding)
                for padding in sorted(paddings, reverse=True)
            ),
            key=lambda sequence: len(sequence.numbers),
        )
        if len(found.numbers) > 1:
            return _complete(found)
    return ImageSequence(path.parent, path.stem, path.suffix, 0, (first_number,))


def probe_sequence(sequence: ImageSequence) -> PlateInfo:
    """Size, bit depth and alpha from the first image; the rate, which images do not store, is assumed."""
    first = sequence.file(sequence.numbers[0])
    image, alpha, notes = _read_image(first)
    single = sequence.padding == 0
    if not single:
        notes.append(f"Images store no frame rate: {ASSUMED_RATE} is assumed.")
    return PlateInfo(
        path=first if single else sequence.pattern,
        kind="image" if single else "sequence",
        width=image.shape[1],
        height=image.shape[0],
        fps=ASSUMED_RATE,
        frame_count=len(sequence.numbers),
        first_number=sequence.numbers[0],
        has_alpha=alpha is not None,
        bit_depth=image.dtype.itemsize * 8,
        notes=tuple(notes),
    )


def read_sequence(
    sequence: ImageSequence, info: PlateInfo, numbers: Iterable[int], reporter: Reporter
) -> Iterator[PlateFrame]:
    """The frames of these numbers, in 8 bits. Raises Ex4dError `unreadable_image` for one that differs in size."""
    for number in numbers:
        reporter.check()
        path = sequence.file(number)
        image, alpha, _ = _read_image(path)
        if image.shape[:2] != (info.height, info.width):
            size = f"{image.shape[1]} x {image.shape[0]}"
            raise Ex4dError(
                "unreadable_image",
                f"{path} is {size}, but the sequence began with {info.width} x {info.height}.",
                "Render all frames in one size.",
            )
        yield PlateFrame(number, _to_srgb8(image), None if alpha is None else _to_8_bits(alpha))


def _read_image(path: Path) -> tuple[np.ndarray, np.ndarray | None, list[str]]:
    """Colour (H, W, 3), straight alpha (H, W) or None, and notes. Float colour is linear light, integer is sRGB."""
    if path.suffix.lower() == ".exr":
        colour, alpha = read_exr_rgba(path)
        notes = ["EXR is taken as linear Rec.709 light and shown in sRGB, clipped at white."]
        if alpha is not None:
            # EXR holds premultiplied colour. Where alpha is 0 it is light added over the background: kept as it is.
            colour = colour / np.where(alpha > 0, alpha, 1)[..., None]
        return colour, alpha, notes
    image = decode_image(read_bytes(path), path)
    notes = ["The images have more than 8 bits a channel: they are read as 8."] if image.dtype == np.uint16 else []
    if image.dtype not in (np.uint8, np.uint16):
        notes.append("Float images are taken as linear Rec.709 light and shown in sRGB, clipped at white.")
    if image.ndim == 2:
        image = np.repeat(image[..., None], 3, axis=-1)
    return image[..., :3], (image[..., 3] if image.shape[2] == 4 else None), notes


def _to_srgb8(image: np.ndarray) -> np.ndarray:
    if np.issubdtype(image.dtype, np.floating):
        return encode_srgb(image)
    return np.ascontiguousarray(_to_8_bits(image))


def _to_8_bits(codes: np.ndarray) -> np.ndarray:
    """Code values to the nearest of 256; float ones are in [0, 1], and no sRGB curve is put on them."""
    if np.issubdtype(codes.dtype, np.floating):
        return np.asarray(np.nan_to_num(codes).clip(0, 1) * 255 + 0.5, dtype=np.uint8)
    if codes.dtype == np.uint16:
        return np.asarray((codes.astype(np.uint32) + 128) // 257, dtype=np.uint8)
    return np.ascontiguousarray(codes)


def _siblings(folder: Path, prefix: str, suffix: str, padding: int) -> ImageSequence:
    """Every file of this name whose number is written with this padding."""
    if not folder.is_dir():
        raise Ex4dError("no_such_file", f"There is no folder {folder}.", "Check the path.")
    name = re.compile(re.escape(prefix) + r"([0-9]+)" + re.escape(suffix))
    digits = (match[1] for file in folder.iterdir() if (match := name.fullmatch(file.name)))
    numbers = sorted(int(number) for number in digits if str(int(number)).zfill(padding) == number)
    return ImageSequence(folder, prefix, suffix, padding, tuple(numbers))


def _only_sequence_in(folder: Path) -> ImageSequence:
    groups: dict[tuple[str, str], str] = {}
    for file in sorted(file for file in folder.iterdir() if file.suffix.lower() in IMAGE_SUFFIXES):
        numbered = _NUMBERED.fullmatch(file.name)
        if numbered and not file.name.startswith(".") and not _VERSION.search(numbered["prefix"]):
            # The lowest number in text order starts with the most zeros: its length is the padding.
            groups.setdefault((numbered["prefix"], numbered["suffix"]), numbered["number"])
    if not groups:
        raise Ex4dError("no_frames", f"There is no image sequence in {folder}.", "Choose a folder of numbered images.")
    if len(groups) > 1:
        names = ", ".join(sorted(f"{prefix}#{suffix}" for prefix, suffix in groups))
        raise Ex4dError("bad_request", f"{folder} holds several sequences: {names}.", "Choose a file of one of them.")
    (prefix, suffix), number = next(iter(groups.items()))
    padded = _siblings(folder, prefix, suffix, len(number))
    unpadded = _siblings(folder, prefix, suffix, 1)
    return max(padded, unpadded, key=lambda sequence: len(sequence.numbers))


def _complete(sequence: ImageSequence) -> ImageSequence:
    """The sequence, if no number is missing."""
    numbers = sequence.numbers
    missing = next((a + 1 for a, b in itertools.pairwise(numbers) if b != a + 1), None)
    if missing is not None:
        raise Ex4dError(
            "missing_frame",
            f"Frame {missing} is missing: there is no {sequence.file(missing)}.",
            "Render it, or move the frames that are not of this shot.",
        )
    return sequence
