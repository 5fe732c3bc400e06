# SPDX-License-Identifier: GPL-3.0-or-later
"""Cuts in a clip, found while its frames stream by. Each shot between two cuts is its own: its own camera and world.

A cut changes the picture and its colours at once, and they do not come back. A camera that is whipped around changes
the picture but hardly its colours; a flash changes both and ends; a black frame says nothing. Of a dissolve no frame is
the first of the new shot: that one is the first after it, and the dissolve's own frames belong to no shot.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final

import cv2
import numpy as np
from numpy.typing import NDArray

from .dissolves import Dissolve, DissolveFinder
from .points import points_found_again, small_picture

FLASH_FRAMES: Final = 4  # a picture that comes back within so many was only lit otherwise
COLOURS_DIFFER: Final = 0.25  # Bhattacharyya distance of the colours' histograms, 0 … 1
POINTS_STAY: Final = 0.35  # share of points found again, above which it is the same picture
SUDDEN: Final = 2.5  # times as much as between the frames before: a clip that always changes so has no cut there
COLOURS_STIR, NOTHING_STAYS, STEADY = 0.06, 0.12, 0.6  # the same for a cut between pictures of like colours
_BLANK: Final = 4.0  # standard deviation of a picture with nothing in it, in 255ths


@dataclass(frozen=True)
class _Look:
    number: int
    grey: NDArray[np.uint8]
    colours: NDArray[np.float32]


class CutFinder:
    """Give it every frame in order, then ask for the cuts. Holds small pictures of the last seconds.

    Args:
        rate: frames a second.
    """

    def __init__(self, rate: float) -> None:
        self._dissolves = DissolveFinder(rate)
        self._cuts: list[int] = []
        self._last: _Look | None = None
        self._usual_change, self._usual_stay = 0.0, 0.0  # between the frames before, running means
        self._waiting: list[_Look] = []  # from a possible first frame of a new shot on

    def add(self, number: int, image: NDArray[np.uint8]) -> None:
        """A frame's number and picture (H,W,3) uint8."""
        self._dissolves.add(number, image)
        look = _look(number, image)
        if float(look.grey.std()) < _BLANK:
            return
        if self._last is None:
            self._last = look
            return
        change, stay = _colour_change(self._last, look), points_found_again(self._last.grey, look.grey)
        is_recoloured = change > max(COLOURS_DIFFER, SUDDEN * self._usual_change) and stay < POINTS_STAY
        # two views of one room: alike in colour, but of a picture that was followed easily nothing is left
        is_replaced = change > COLOURS_STIR and stay < NOTHING_STAYS and self._usual_stay > STEADY
        if is_recoloured or (is_replaced and not self._is_whipped(look)):
            self._wait(look)
            return
        if self._waiting:  # the old picture is back, or was whipped away
            self._waiting, self._usual_stay = [], 0.0
        else:
            self._usual_change += 0.3 * (change - self._usual_change)
            self._usual_stay += 0.3 * (stay - self._usual_stay)
        self._last = look

    def cuts(self) -> list[int]:
        """Numbers of the frames that begin a new shot. To be asked once, after the last frame."""
        if self._waiting:
            self._cut()
        dissolves = self.dissolves()
        sudden = [cut for cut in self._cuts if not any(found.first <= cut <= found.last + 1 for found in dissolves)]
        return sorted([*sudden, *(found.last + 1 for found in dissolves)])

    def dissolves(self) -> list[Dissolve]:
        """Frames between two shots that are of neither."""
        return self._dissolves.dissolves()

    def _is_whipped(self, look: _Look) -> bool:
        """Whether the picture goes on to be replaced, as in a pan too fast to follow; a new shot holds still."""
        return bool(self._waiting) and points_found_again(self._waiting[-1].grey, look.grey) < POINTS_STAY

    def _wait(self, look: _Look) -> None:
        self._waiting.append(look)
        if len(self._waiting) > FLASH_FRAMES:
            self._cut()
            self._last, self._usual_change, self._usual_stay, self._waiting = look, 0.0, 0.0, []

    def _cut(self) -> None:
        self._cuts.append(self._waiting[0].number)


def find_cuts(frames: Iterable[tuple[int, NDArray[np.uint8]]], rate: float = 24.0) -> list[int]:
    """Numbers of the frames that begin a new shot; `frames`: (number, picture (H,W,3) uint8) in order."""
    finder = CutFinder(rate)
    for number, image in frames:
        finder.add(number, image)
    return finder.cuts()


def shot_ranges(
    numbers: range, cuts: Iterable[int], dissolves: Sequence[tuple[int, int]] = ()
) -> list[tuple[int, int]]:
    """(first, last) of every shot of a clip.

    Args:
        numbers: of its frames, without gaps, or with a step.
        cuts: that begin a shot; dissolves: (first, last) of those that are of no shot.
    """
    starts = [numbers[0], *cuts]
    last_before = {last + 1: first - numbers.step for first, last in dissolves}
    ends = [last_before.get(start, start - numbers.step) for start in starts[1:]] + [numbers[-1]]
    return list(zip(starts, ends, strict=True))


def _look(number: int, image: NDArray[np.uint8]) -> _Look:
    small = small_picture(image)
    hsv = cv2.cvtColor(small, cv2.COLOR_RGB2HSV)
    colours = cv2.calcHist([hsv], [0, 1, 2], None, [12, 4, 8], [0, 180, 0, 256, 0, 256])
    # one bin's neighbour is not another colour: a change of exposure must not jump from bin to bin
    for axis in range(3):
        colours = (colours + 0.5 * np.roll(colours, 1, axis) + 0.5 * np.roll(colours, -1, axis)) / 2
    return _Look(number, cv2.cvtColor(small, cv2.COLOR_RGB2GRAY), colours.ravel() / max(float(colours.sum()), 1.0))


def _colour_change(one: _Look, two: _Look) -> float:
    return float(cv2.compareHist(one.colours, two.colours, cv2.HISTCMP_BHATTACHARYYA))
