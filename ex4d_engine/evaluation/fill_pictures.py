# SPDX-License-Identifier: GPL-3.0-or-later
"""Fills beside the truth in a contact sheet, and a row's lead over the angle as a plot. OpenCV draws both."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

import cv2
import numpy as np
from numpy.typing import NDArray

from .fill_table import FIGURE_TITLES

CELL_PX: Final = 192  # the longer side of a cell
GAP_PX, LABEL_PX, HEADER_PX = 4, 96, 26
PAPER, INK = (24, 24, 26), (214, 214, 218)
PLOT_SIZE: Final = (960, 560)
PLOT_MARGIN: Final = (70, 60, 230, 50)  # left, top, right, bottom; the legend stands at the right
LEGEND_STEP_PX: Final = 24
PLOT_COLOURS: Final = (
    (214, 60, 40),
    (30, 100, 210),
    (30, 140, 60),
    (225, 135, 0),
    (140, 60, 180),
    (0, 160, 175),
    (120, 75, 40),
    (225, 90, 160),
    (110, 110, 110),
)
"""Told apart on white; where there are more rows, the next marker begins with the first again."""

UNFILLED: Final = "black holes"
"""The row that plots leave out: everything is so far ahead of it that the others would lie on one line."""

Image = NDArray[np.uint8]


def contact_sheet(lines: Sequence[Sequence[Image]], titles: Sequence[str], labels: Sequence[str]) -> Image:
    """(H,W,3) RGB: pictures of one size in lines, with a title a column and a label a line; ASCII only.

    Args:
        lines: as many pictures (h,w,3) in each as there are titles.
    """
    height, width = lines[0][0].shape[:2]
    scale = CELL_PX / max(width, height)
    cell = (max(1, round(width * scale)), max(1, round(height * scale)))
    canvas = np.full(
        (HEADER_PX + len(lines) * (cell[1] + GAP_PX), LABEL_PX + len(titles) * (cell[0] + GAP_PX), 3), PAPER, np.uint8
    )
    for column, title in enumerate(titles):
        _write(canvas, title, (LABEL_PX + column * (cell[0] + GAP_PX) + 2, 17))
    for line, (images, label) in enumerate(zip(lines, labels, strict=True)):
        top = HEADER_PX + line * (cell[1] + GAP_PX)
        for row, part in enumerate(label.split("\n")):
            _write(canvas, part, (6, top + 18 + 16 * row))
        for column, image in enumerate(images):
            left = LABEL_PX + column * (cell[0] + GAP_PX)
            method = cv2.INTER_AREA if scale < 1 else cv2.INTER_NEAREST
            canvas[top : top + cell[1], left : left + cell[0]] = cv2.resize(image, cell, interpolation=method)
    return canvas


def lead_plot(document: Mapping[str, Any], figure: str) -> Image:
    """(H,W,3) RGB: how far the document's leader is ahead of each other row, by angle, with standard errors.

    Args:
        document: as from `fill_table.summary`.
        figure: one of `fill_metrics.FIGURES`.
    """
    width, height = PLOT_SIZE
    left, top, right, bottom = PLOT_MARGIN
    canvas = np.full((height, width, 3), 255, np.uint8)
    rows = [row for row in document["rows"] if row not in (document["leader"], UNFILLED)]
    curves = {row: _curve(document["lead_fine"], row, figure) for row in rows}
    levels = [value + sign * error for points in curves.values() for _, value, error in points for sign in (-1, 1)]
    low, high = min([0.0, *levels]), max([1e-3, *levels])
    low, high = low - 0.05 * (high - low), high + 0.05 * (high - low)

    def place(angle: float, value: float) -> tuple[int, int]:
        across = left + angle / 90 * (width - left - right)
        return round(across), round(top + (high - value) / (high - low) * (height - top - bottom))

    for value in _round_levels(low, high):
        cv2.line(canvas, place(0, value), place(90, value), (90,) * 3 if value == 0 else (225,) * 3, 1)
        _write(canvas, f"{value:g}", (10, place(0, value)[1] + 5), (60, 60, 60))
    for degrees in range(0, 91, 15):
        _write(canvas, str(degrees), (place(degrees, low)[0] - 8, height - bottom + 20), (60, 60, 60))
    title = f"lead of {document['leader']} in {FIGURE_TITLES[figure]}, by angle in degrees; above zero it is ahead"
    _write(canvas, title, (left, 30), (0, 0, 0))
    for number, (row, points) in enumerate(curves.items()):
        again, colour = divmod(number, len(PLOT_COLOURS))
        ink, mark = PLOT_COLOURS[colour], MARKERS[again % len(MARKERS)]
        for (angle, value, error), after in itertools.zip_longest(points, points[1:]):
            cv2.line(canvas, place(angle, value - error), place(angle, value + error), ink, 1, cv2.LINE_AA)
            if after is not None:
                cv2.line(canvas, place(angle, value), place(*after[:2]), ink, 2 if again == 0 else 1, cv2.LINE_AA)
        for angle, value, _ in points:
            mark(canvas, place(angle, value), ink)
        begin, line = width - right + 14, top + 6 + LEGEND_STEP_PX * number
        cv2.line(canvas, (begin, line), (begin + 28, line), ink, 2 if again == 0 else 1, cv2.LINE_AA)
        mark(canvas, (begin + 14, line), ink)
        _write(canvas, row, (begin + 36, line + 5), (40, 40, 40))
    return canvas


def _disc(canvas: Image, where: tuple[int, int], ink: tuple[int, ...]) -> None:
    cv2.circle(canvas, where, 4, ink, -1, cv2.LINE_AA)


def _square(canvas: Image, where: tuple[int, int], ink: tuple[int, ...]) -> None:
    corners = (where[0] - 5, where[1] - 5), (where[0] + 5, where[1] + 5)
    cv2.rectangle(canvas, *corners, (255,) * 3, -1)
    cv2.rectangle(canvas, *corners, ink, 2)


def _triangle(canvas: Image, where: tuple[int, int], ink: tuple[int, ...]) -> None:
    corners = np.array(where) + np.array([(0, -7), (6, 5), (-6, 5)])
    cv2.fillPoly(canvas, [corners.astype(np.int32)], ink, cv2.LINE_AA)


MARKERS: Final[tuple[Callable[[Image, tuple[int, int], tuple[int, ...]], None], ...]] = (_disc, _square, _triangle)
"""Of a curve's points, in the plot and in its legend."""


def _curve(bins: Mapping[str, Any], row: str, figure: str) -> list[tuple[float, float, float]]:
    """(angle, mean, standard error) of each bin that has cases."""
    points = []
    for name, rows in bins.items():
        mean, error, _ = rows[row][figure]
        if math.isfinite(mean):
            points.append((sum(map(float, name.split("-"))) / 2, mean, error if math.isfinite(error) else 0.0))
    return points


def _round_levels(low: float, high: float) -> list[float]:
    """A handful of round numbers between two."""
    rough = (high - low) / 6
    size = 10.0 ** math.floor(math.log10(rough))
    step = next(size * factor for factor in (1, 2, 5, 10) if size * factor >= rough)
    return [round(step * number, 9) for number in range(math.ceil(low / step), math.floor(high / step) + 1)]


def _write(canvas: Image, text: str, where: tuple[int, int], colour: tuple[int, ...] = INK) -> None:
    cv2.putText(canvas, text, where, cv2.FONT_HERSHEY_SIMPLEX, 0.42, colour, 1, cv2.LINE_AA)
