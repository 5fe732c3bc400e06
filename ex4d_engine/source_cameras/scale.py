# SPDX-License-Identifier: GPL-3.0-or-later
"""Scene units to metres: one number for the shot, or two points of a frame and their distance ("this is 1.7 m")."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ..cameras import pixel_rays
from ..errors import Ex4dError


@dataclass(frozen=True)
class Measurement:
    """Two points of shot frame `frame`, in pixels of the plate from its top-left corner, that are `metres` apart."""

    frame: int
    one: tuple[float, float]
    two: tuple[float, float]
    metres: float


def measurement_from(numbers: Sequence[float]) -> Measurement:
    """A measurement from [frame, x1, y1, x2, y2, metres].

    Raises:
        Ex4dError: `bad_request` for anything else.
    """
    values = [float(value) for value in numbers if isinstance(value, (int, float)) and not isinstance(value, bool)]
    if len(values) != 6 or len(numbers) != 6 or not all(map(math.isfinite, values)):
        raise Ex4dError(
            "bad_request",
            "A measured length is six numbers: frame, x and y of two points in pixels, and metres.",
            "Give them like 12 310 840 310 1020 1.7.",
        )
    frame, x1, y1, x2, y2, metres = values
    if frame != int(frame) or metres <= 0 or (x1, y1) == (x2, y2):
        raise Ex4dError(
            "bad_request", "A measured length needs two points, a whole frame number and metres above 0.", "Check them."
        )
    return Measurement(int(frame), (x1, y1), (x2, y2), metres)


def check_scale(metres_per_unit: float) -> None:
    """Raises `bad_request` for a scale that no scene can have."""
    if not (math.isfinite(metres_per_unit) and 1e-6 <= metres_per_unit <= 1e6):
        raise Ex4dError("bad_request", f"A scale of {metres_per_unit:g} is impossible.", "Give 0.000001 to 1000000.")


def metres_per_unit(measurement: Measurement, depth: NDArray[np.float32], intrinsics: NDArray[np.float64]) -> float:
    """What a scene unit is in metres, from the depth (H,W) of the measured frame and its K (3,3).

    Raises:
        Ex4dError: `bad_request` for points outside the picture, or ones that depth puts in one place or nowhere.
    """
    height, width = depth.shape
    places = np.array([measurement.one, measurement.two])
    if (places < 0).any() or (places > [width, height]).any():
        raise Ex4dError(
            "bad_request",
            f"A measured point lies outside the picture of {width} x {height} pixels.",
            "Give both points in pixels of the clip, from its top-left corner.",
        )
    columns = np.clip(places[:, 0].astype(int), 0, width - 1)
    rows = np.clip(places[:, 1].astype(int), 0, height - 1)
    z = depth[rows, columns].astype(np.float64)
    points = pixel_rays(intrinsics, places[:, 0], places[:, 1]) * np.where(np.isfinite(z), z, 0.0)[:, None]
    length = float(np.linalg.norm(points[0] - points[1]))
    if not (np.isfinite(z).all() and (z > 0).all() and length > 0):
        raise Ex4dError(
            "bad_request",
            f"The depth of frame {measurement.frame} says nothing about the measured length.",
            "Choose two points that lie on something near, not in the sky.",
        )
    return measurement.metres / length
