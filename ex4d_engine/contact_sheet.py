# SPDX-License-Identifier: GPL-3.0-or-later
"""One picture that shows a take: plate, colour conditioning, mask and result over time."""

from __future__ import annotations

from pathlib import Path
from typing import Final

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from .image_files import read_png, write_png
from .shot import Shot
from .take import Take

COLUMNS: Final = 7
CELL_PX: Final = 256  # the longer side of a cell
GAP_PX: Final = 6
LABEL_PX: Final = 112
HEADER_PX: Final = 30
BACKGROUND: Final = (24, 24, 26)
INK: Final = (214, 214, 218)


def write_contact_sheet(shot: Shot, take: Take, path: Path) -> None:
    """Writes the sheet as a PNG: rows plate, colour, mask, result; 7 columns spread over the take."""
    picked = np.unique(np.linspace(0, len(take.frames) - 1, COLUMNS).round().astype(int))
    columns = [(take.numbers[int(index)], take.frames[int(index)].source) for index in picked]
    rows = {
        "plate": [read_png(shot.plate_file(source))[..., :3] for _, source in columns],
        "colour": [read_png(take.file("color", number)) for number, _ in columns],
        "mask": [np.repeat(read_png(take.file("mask", number))[..., None], 3, axis=2) for number, _ in columns],
        "result": [read_png(take.file("composite", number)) for number, _ in columns],
    }
    note = "preview\n(no diffusion)" if take.preset == "preview" else take.preset
    labels = ["plate", "colour\nconditioning", "mask\nwhite = seen", f"result\n{note}"]
    write_png(path, _sheet(list(rows.values()), labels, [f"frame {number}" for number, _ in columns]))


def _sheet(rows: list[list[NDArray[np.uint8]]], labels: list[str], titles: list[str]) -> NDArray[np.uint8]:
    height, width = rows[-1][0].shape[:2]
    scale = CELL_PX / max(width, height)
    cell = (max(1, round(width * scale)), max(1, round(height * scale)))
    size = (
        LABEL_PX + len(titles) * (cell[0] + GAP_PX),
        HEADER_PX + len(rows) * (cell[1] + GAP_PX),
    )
    canvas = Image.new("RGB", size, BACKGROUND)
    draw = ImageDraw.Draw(canvas)
    font = ImageFont.load_default(size=14)
    for column, title in enumerate(titles):
        draw.text((LABEL_PX + column * (cell[0] + GAP_PX) + 2, 7), title, INK, font)
    for row, (images, label) in enumerate(zip(rows, labels, strict=True)):
        top = HEADER_PX + row * (cell[1] + GAP_PX)
        draw.multiline_text((10, top + 8), label, INK, font, spacing=4)
        for column, image in enumerate(images):
            left = LABEL_PX + column * (cell[0] + GAP_PX)
            canvas.paste(Image.fromarray(_fitted(image, cell)), (left, top))
    return np.asarray(canvas)


def _fitted(image: NDArray[np.uint8], cell: tuple[int, int]) -> NDArray[np.uint8]:
    """The image in a cell without squashing it; plate and take may have different shapes."""
    height, width = image.shape[:2]
    scale = min(cell[0] / width, cell[1] / height)
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    small = cv2.resize(image, size, interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR)
    result = np.full((cell[1], cell[0], 3), BACKGROUND, np.uint8)
    top, left = (cell[1] - size[1]) // 2, (cell[0] - size[0]) // 2
    result[top : top + size[1], left : left + size[0]] = small
    return result
