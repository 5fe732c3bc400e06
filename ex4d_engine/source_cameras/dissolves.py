# SPDX-License-Identifier: GPL-3.0-or-later
"""Dissolves in a clip: cross-fades, and fades through black or white, found while its frames stream by.

No frame of a dissolve begins the new shot, so nothing changes at once. But each is a mixture of the two pictures at
its ends, `a · A + b · B + c`, with a falling and b rising. Shots move while they dissolve: each end may be shifted and
scaled a little, to first order, by its own derivatives. A camera that moves slowly makes such pictures too, but it
keeps their detail, of which a mixture of two pictures has less than either: a² and b² of it. And its points are found
again.
"""

from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass
from typing import Final

import cv2
import numpy as np
from numpy.typing import NDArray

from .points import points_found_again, small_grey

Array = NDArray[np.float32]
Weights = NDArray[np.float64]

LONG_SIDE: Final = 48
BLUR: Final = 1.5  # pixels of LONG_SIDE: what a first-order shift reaches
SPANS_S: Final = (0.25, 0.4, 0.6, 0.9, 1.3, 1.9, 2.6)  # seconds between the ends that are tried
FASTEST: Final = 120.0  # frames a second; of more, as of a wrongly labelled clip, too many pictures would be kept
FEWEST_MIXED: Final = 4  # frames; fewer are as good as a hard cut, which is found otherwise
_LOOKED_AT: Final = 9  # frames between the ends
_BLANK: Final = 4.0  # standard deviation of a picture with nothing in it, in 255ths
_OTHER_PICTURE: Final = 0.6  # share of one end that the other, shifted and lit otherwise, does not explain
_MIXTURE: Final = 0.35  # share of a frame's contrast that the mixture may leave over
_WANDER: Final = 0.12  # by how much a may rise and b may fall from frame to frame
_LOST_DETAIL: Final = (0.5, 1.4)  # of what a mixture loses, 1; a camera loses none, defocus more or all
_COMPARABLE: Final = 1 / 12  # of the one end's contrast and detail in the other's: dark and blurred ends say nothing
_POINTS_STAY: Final = 0.2  # share found again, above which it is the same picture
_SEEN_BETWEEN: Final = 4  # pairs of ends; a real dissolve is seen between many
_FINE: Final = 1.5  # pixels of the grey picture
_RIDGE: Final = 1e-3


@dataclass(frozen=True)
class Dissolve:
    """first, last: numbers of the frames that are of both shots or of none."""

    first: int
    last: int


@dataclass(frozen=True)
class _Look:
    """What is kept of a frame.

    basis: (4, n): the picture, and what it changes by if it moves to the right, down, and towards the camera.
    grey: the picture as `points_found_again` wants it. detail: variance of what is finer than a few pixels.
    """

    number: int
    basis: Array
    grey: NDArray[np.uint8]
    detail: float

    @property
    def picture(self) -> Array:
        return self.basis[0]


class DissolveFinder:
    """Give it every frame in order, then ask for the dissolves. Holds small pictures of the last seconds.

    Args:
        rate: frames a second.
    """

    def __init__(self, rate: float) -> None:
        self._spans = sorted({max(FEWEST_MIXED + 1, round(span * min(rate, FASTEST))) for span in SPANS_S})
        self._looks: deque[_Look] = deque(maxlen=self._spans[-1] + 1)
        self._found: list[tuple[Dissolve, int]] = []  # each with the number of pairs of ends it was seen between

    def add(self, number: int, image: NDArray[np.uint8]) -> None:
        """A frame's number and picture (H,W,3) uint8. Blank ones say nothing, and are part of the fade around them."""
        look = _look(number, image)
        if float(look.picture.std()) < _BLANK or (self._looks and look.basis.shape != self._looks[-1].basis.shape):
            return
        self._looks.append(look)
        for span in self._spans:
            if len(self._looks) > span:
                found = _dissolve([self._looks[index] for index in range(-1 - span, 0)])
                if found is not None:
                    self._join(found)

    def dissolves(self) -> list[Dissolve]:
        """What has been found, in order."""
        return [dissolve for dissolve, count in self._found if count >= _SEEN_BETWEEN]

    def _join(self, found: Dissolve) -> None:
        """One dissolve is seen at many places, and between many ends."""
        total = 1
        while self._found and self._found[-1][0].last >= found.first - 1:
            before, count = self._found.pop()
            found, total = Dissolve(min(before.first, found.first), max(before.last, found.last)), total + count
        self._found.append((found, total))


def _look(number: int, image: NDArray[np.uint8]) -> _Look:
    share = LONG_SIDE / max(image.shape[:2])
    size = (max(4, round(image.shape[1] * share)), max(4, round(image.shape[0] * share)))
    small = cv2.resize(image, size, interpolation=cv2.INTER_AREA).astype(np.float32)
    small = cv2.GaussianBlur(small, (0, 0), BLUR)
    down, right = np.gradient(small, axis=(0, 1))
    y, x = np.mgrid[: size[1], : size[0]].astype(np.float32)
    x, y = (x - x.mean())[..., None] / LONG_SIDE, (y - y.mean())[..., None] / LONG_SIDE
    grey = small_grey(image)
    fine = grey - cv2.GaussianBlur(grey.astype(np.float32), (0, 0), _FINE)
    return _Look(number, np.stack([small, right, down, x * right + y * down]).reshape(4, -1), grey, float(fine.var()))


def _dissolve(looks: list[_Look]) -> Dissolve | None:
    """The dissolve from the first of the pictures to the last; None where those between are no mixtures of them."""
    one, two = looks[0], looks[-1]
    if not (_comparable(one.detail, two.detail) and _comparable(one.picture.var(), two.picture.var())):
        return None
    alone, _ = _explained(one.basis, two.picture[None])
    if alone[0] < _OTHER_PICTURE:
        return None
    places = np.unique(np.linspace(1, len(looks) - 2, _LOOKED_AT).round().astype(int))
    between = np.stack([looks[place].picture for place in places])
    left_over, weights = _explained(np.concatenate([one.basis, two.basis]), between)
    a, b, constant = weights[:, 0], weights[:, 4], weights[:, 8]
    if left_over.max() > _MIXTURE or np.diff(a).max() > _WANDER or np.diff(b).min() < -_WANDER:
        return None
    rest = 1 - a - b
    through = constant / np.where(np.abs(rest) < 0.2, np.inf, rest)
    is_faded = np.abs(rest) >= 0.2
    if np.any(is_faded & (rest < 0)) or np.any(is_faded & (np.abs(through - 127.5) < 87.5)):
        return None
    if np.count_nonzero((a > 0.1) & (a < 0.9)) < 2 or np.count_nonzero((b > 0.1) & (b < 0.9)) < 2:
        return None  # a hard cut between two of the frames looked at
    if not _LOST_DETAIL[0] < _lost_detail(looks, places, a, b) < _LOST_DETAIL[1]:
        return None
    if points_found_again(one.grey, two.grey) > _POINTS_STAY:
        return None
    first, last = _begins(places, a), len(looks) - 1 - _begins(len(looks) - 1 - places[::-1], b[::-1])
    if last - first < FEWEST_MIXED:
        return None
    return Dissolve(looks[first].number, looks[last].number)


def _begins(places: NDArray[np.intp], weights: Weights) -> int:
    """Where falling weights leave 1: by their slope in the middle, for near the ends they are uncertain."""
    falling = np.minimum.accumulate(weights)[::-1]
    low, high = np.interp((0.25, 0.75), falling, places[::-1])
    return max(1, math.floor(high - (low - high) / 2))


def _comparable(one: float, two: float) -> bool:
    return min(one, two) > _COMPARABLE * max(one, two)


def _lost_detail(looks: list[_Look], places: NDArray[np.intp], a: Weights, b: Weights) -> float:
    """How much of the detail is gone between the ends: 0 for a picture that changes into another, 1 for a mixture."""
    one, two = looks[0].detail, looks[-1].detail
    seen = np.array([looks[place].detail for place in places])
    whole = np.maximum(a * one + b * two, 1e-6)
    mixed = 1 - (a * a * one + b * b * two) / whole
    return float((1 - seen / whole) @ mixed / max(float(mixed @ mixed), 1e-6))


def _explained(basis: Array, pictures: Array) -> tuple[Weights, Weights]:
    """(m,) share of each picture's contrast that the basis (k, n) and a constant leave over, and (m, k + 1) weights."""
    scale = np.maximum(basis.std(1), 1e-3)[:, None]
    full = np.concatenate([basis / scale, np.ones((1, basis.shape[1]), np.float32)])
    gram = (full @ full.T).astype(np.float64) / basis.shape[1]
    gram[np.diag_indices(len(gram) - 1)] += _RIDGE
    right = (full @ pictures.T).astype(np.float64) / basis.shape[1]
    solved = np.linalg.solve(gram, right)
    rest = pictures - solved.T.astype(np.float32) @ full
    left_over = rest.std(1) / np.maximum(pictures.std(1), _BLANK)
    weights = solved.T / np.append(scale[:, 0], 1.0)
    return left_over.astype(np.float64), weights
