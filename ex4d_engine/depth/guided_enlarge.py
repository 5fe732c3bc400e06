# SPDX-License-Identifier: GPL-3.0-or-later
"""A network's disparity map enlarged to a frame: each pixel near a step takes the side that its colour is of.

Unlike `edge_snap.py`, which knows two surfaces in a place, this takes any number that meet there. A network's step is
a ramp of some pixels; left so it would be a rubber sheet in the DW-Mesh, which a new camera sees as a smear.
"""

from __future__ import annotations

from typing import Final

import cv2
import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float32]

STEP: Final = 1.15
LEAST_STEP: Final = 0.015
"""Ratio of neighbouring disparities from which surfaces are kept apart, as in `edge_snap.py`; and the difference, in
disparities of the near end. By the ratio alone, a ground that runs to the horizon would be all steps there."""
_BLURS: Final = ((4, 1.4), (2, 1.3))
"""Reach of a blurred step in pixels of the map, each way, and the ratio of disparities across it."""
_SETTLED: Final = 0.7
"""Of what the map changes by over twice the reach, from which it is a step: a slope's half is 0.5."""
_TRACE: Final = 0.01  # of the logarithm
_COLOUR: Final = 24.0
_PLACE: Final = 1.2
"""How far a small pixel may be from a full one to count fully: in sRGB units, and in small pixels."""
_CHUNK: Final = 1 << 16
"""Pixels decided at once: memory does not grow with the frame, and what is worked on stays in the processor's cache."""
_AROUND: Final = np.array([(y, x) for y in range(-2, 3) for x in range(-2, 3) if abs(y) + abs(x) <= 2])


def enlarge_guided(disparity: Array, image: npt.NDArray[np.uint8]) -> Array:
    """Disparity at the size of the image.

    Args:
        disparity: (h, w) float32, positive, about 1 at the near end.
        image: (H, W, 3) uint8 sRGB, the frame in full.

    Returns: (H, W) float32: linear between the map's pixels on surfaces, and between two surfaces nothing.
    """
    size = (image.shape[1], image.shape[0])
    sharp = sharpened(without_blur(disparity))
    full = np.asarray(cv2.resize(sharp, size, interpolation=cv2.INTER_LINEAR))
    stepped = _stepped(sharp)[0]
    if not stepped.any():
        return full
    zone = cv2.resize(stepped.astype(np.uint8), size, interpolation=cv2.INTER_NEAREST)
    shrinks = image.shape[1] > disparity.shape[1]
    small = cv2.resize(image, disparity.shape[::-1], interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR)
    small = small.astype(np.float32)
    rows = max(1, _CHUNK // size[0])
    for first in range(0, size[1], rows):
        y, x = np.nonzero(zone[first : first + rows])
        if len(y):
            y += first
            full[y, x] = _decided(sharp, small, image[y, x].astype(np.float32), y, x, size)
    return full


def without_blur(disparity: Array) -> Array:
    """The map (h, w) with ramps between two surfaces made steps: each pixel takes the side that it is nearer to.

    A slope, such as the ground, goes on beyond the ramp's reach, and stays; so does a surface between two others.
    """
    for reach, ratio in _BLURS:
        high, low = _extremes(disparity, reach)
        highest, lowest = _extremes(disparity, 2 * reach)
        step = high - low
        blurred = (
            (high > ratio * low) & (step > LEAST_STEP) & (step > _SETTLED * (highest - lowest)) & _climbs(disparity)
        )
        nearer = np.where(disparity * disparity > high * low, high, low)  # by the ratio
        disparity = np.where(blurred, nearer, disparity).astype(np.float32)
    return disparity


def sharpened(disparity: Array) -> Array:
    """The map (h, w) without the values between two surfaces: where it steps, each takes its nearer extreme."""
    stepped, high, low = _stepped(disparity)
    nearer = np.where(disparity - low > high - disparity, high, low)
    return np.where(stepped, nearer, disparity).astype(np.float32)


def _decided(
    sharp: Array,
    small: Array,
    colours: Array,
    rows: npt.NDArray[np.intp],
    columns: npt.NDArray[np.intp],
    size: tuple[int, int],
) -> Array:
    """Disparity (N,) of full-size pixels near steps: of the surface that most of what is alike around them is of."""
    height, width = sharp.shape
    y = ((rows + 0.5) * height / size[1] - 0.5).astype(np.float32)
    x = ((columns + 0.5) * width / size[0] - 0.5).astype(np.float32)
    # What lies around is the same for all that lie in one pixel of the map, and so is which of it is of one surface.
    cells, own = _distinct(np.rint(y).astype(np.intp) * width + np.rint(x).astype(np.intp), height * width)
    near_y = np.clip((cells // width)[:, None] + _AROUND[:, 0], 0, height - 1)
    near_x = np.clip((cells % width)[:, None] + _AROUND[:, 1], 0, width - 1)
    near = np.stack([*np.moveaxis(small[near_y, near_x], 2, 0), near_y, near_x]).astype(np.float32)
    weight = _likeness(near, np.stack([*colours.T, y, x]), own)
    level = sharp[near_y, near_x]
    surfaces, first, count = _surfaces(level)
    chosen, votes = first[own], np.zeros(len(own), np.float32)
    for place in range(int(count.max())):
        asked = np.flatnonzero(count[own] > place)
        surface = first[own[asked]] + place
        total = _weighed(weight[:, asked], surfaces, surface)
        wins = total > votes[asked]
        chosen[asked[wins]], votes[asked[wins]] = surface[wins], total[wins]
    levels = surfaces * np.repeat(level, count, axis=0).T
    return _weighed(weight, levels, chosen) / votes


def _likeness(near: Array, pixels: Array, own: npt.NDArray[np.intp]) -> Array:
    """How much each of the map's pixels around it counts for a full-size pixel, (around, N), the most being 1.

    near: (5, P, around) colour, y and x of the pixels around P pixels of the map; pixels: (5, N) the same of the
    full-size ones; own: (N,) which of the P each of them lies in.
    """
    spread = np.array([_COLOUR] * 3 + [_PLACE] * 2, np.float32) * np.float32(2**0.5)
    near, pixels = near / spread[:, None, None], pixels / spread[:, None]
    doubt = np.zeros((near.shape[2], len(own)), np.float32)
    for theirs, ours in zip(near, pixels, strict=True):
        for total, value in zip(doubt, np.ascontiguousarray(theirs.T), strict=True):
            apart = value.take(own)
            apart -= ours
            apart *= apart
            total += apart
    # Less the least, as a pixel like nothing around it belongs to something all the same.
    np.subtract(doubt.min(0), doubt, out=doubt)
    return np.exp(doubt, out=doubt)


def _distinct(numbers: npt.NDArray[np.intp], limit: int) -> tuple[npt.NDArray[np.intp], npt.NDArray[np.intp]]:
    """The numbers below `limit` that occur, and the place of each in that list: np.unique without its sorting."""
    occurs = np.zeros(limit, bool)
    occurs[numbers] = True
    return np.flatnonzero(occurs), (np.cumsum(occurs) - 1)[numbers]


def _surfaces(level: Array) -> tuple[Array, npt.NDArray[np.intp], npt.NDArray[np.intp]]:
    """The surfaces among the disparities (P, around) about each of P pixels: for each disparity those near it.

    Returns: (around, M) 1 for what is of the surface and 0, P lists one after another, each without repetitions;
    where in it each list begins (P,), and how long it is (P,).
    """
    reach = np.maximum((STEP - 1) * level, LEAST_STEP)
    same = np.abs(level[:, None] - level[:, :, None]) < reach[:, :, None]
    code = same @ (1 << np.arange(len(_AROUND)))
    fresh = np.ones(code.shape, bool)
    for place in range(1, code.shape[1]):
        fresh[:, place] = (code[:, :place] != code[:, place, None]).all(1)
    count = fresh.sum(1)
    return np.ascontiguousarray(same[fresh].T, np.float32), np.cumsum(count) - count, count


def _weighed(weight: Array, values: Array, surface: npt.NDArray[np.intp]) -> Array:
    """Σ weight (around, N) · values (around, M), of the surface (N,) among the M that each is asked about."""
    total = np.zeros(len(surface), np.float32)
    for own, value in zip(weight, values, strict=True):
        total += own * value.take(surface)
    return total


def _stepped(disparity: Array) -> tuple[npt.NDArray[np.bool_], Array, Array]:
    """Where the map (h, w) has a step within a pixel, and the highest and lowest value there."""
    high, low = _extremes(disparity, 1)
    return (high > STEP * low) & (high - low > LEAST_STEP), high, low


def _climbs(disparity: Array) -> npt.NDArray[np.bool_]:
    """Where the map (h, w) goes on rising from neighbour to opposite neighbour, across or down, more than a trace."""
    level = np.pad(np.log(disparity), 1, mode="edge")
    middle = level[1:-1, 1:-1]
    climbs = np.zeros(disparity.shape, bool)
    for before, after in ((level[1:-1, :-2], level[1:-1, 2:]), (level[:-2, 1:-1], level[2:, 1:-1])):
        climbs |= np.minimum(middle - before, after - middle) > _TRACE
        climbs |= np.minimum(before - middle, middle - after) > _TRACE
    return climbs


def _extremes(disparity: Array, reach: int) -> tuple[Array, Array]:
    """The highest and lowest value within so many pixels of each."""
    window = np.ones((2 * reach + 1, 2 * reach + 1), np.uint8)
    return np.asarray(cv2.dilate(disparity, window)), np.asarray(cv2.erode(disparity, window))
