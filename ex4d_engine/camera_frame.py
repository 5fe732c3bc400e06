# SPDX-License-Identifier: GPL-3.0-or-later
"""One output frame's camera as the shot folder keeps it, and what makes it usable. Standard library only.

Everything behind inverts these matrices: what is no perspective camera at a place is refused here, once.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

from . import json_fields as fields

Matrix = tuple[tuple[float, ...], ...]
IDENTITY: Final[Matrix] = ((1.0, 0.0, 0.0, 0.0), (0.0, 1.0, 0.0, 0.0), (0.0, 0.0, 1.0, 0.0), (0.0, 0.0, 0.0, 1.0))


@dataclass(frozen=True)
class CameraFrame:
    """One output frame's camera.

    intrinsics: (3,3) pixels, (0,0) the image's top-left corner, pixel centres at +0.5.
    camera_to_world: (4,4), OpenCV axes: x right, y down, z forward.
    source: which frame of the shot is seen (a shot frame number): constant for a frozen moment.
    """

    source: int
    intrinsics: Matrix
    camera_to_world: Matrix


def camera_frame_document(frame: CameraFrame) -> dict[str, Any]:
    """A camera frame as plain JSON values."""
    return {"source": frame.source, "intrinsics": frame.intrinsics, "camera_to_world": frame.camera_to_world}


def camera_frame_from(data: Any) -> CameraFrame:
    """The inverse of `camera_frame_document`; raises ValueError on anything that is not a usable camera."""
    mapping = fields.mapping(data, "camera frame")
    return CameraFrame(
        source=fields.integer(mapping, "source", 0),
        intrinsics=intrinsics_from(mapping.get("intrinsics")),
        camera_to_world=pose_from(mapping.get("camera_to_world")),
    )


def intrinsics_from(value: Any) -> Matrix:
    """A perspective camera's K: positive focal lengths, an upper triangle, last row 0 0 1. Raises ValueError."""
    matrix = fields.matrix(value, 3, "intrinsics")
    if matrix[0][0] <= 0 or matrix[1][1] <= 0:
        raise ValueError("the focal length in intrinsics is not positive")
    if matrix[1][0] != 0 or not _near(matrix[2], (0, 0, 1), 1e-9):
        raise ValueError("intrinsics is not the matrix of a perspective camera")
    return matrix


def pose_from(value: Any) -> Matrix:
    """A camera-to-world matrix: a rotation, to float32's accuracy, and a place. Raises ValueError."""
    matrix = fields.matrix(value, 4, "camera_to_world")
    x, y, z = (tuple(matrix[row][column] for row in range(3)) for column in range(3))
    products = (_dot(x, x), _dot(y, y), _dot(z, z), _dot(x, y), _dot(y, z), _dot(z, x))
    if not _near(products, (1, 1, 1, 0, 0, 0), 1e-4) or not _near(matrix[3], (0, 0, 0, 1), 1e-6):
        raise ValueError("camera_to_world is not a rotation and a place: it scales or shears")
    cross = (x[1] * y[2] - x[2] * y[1], x[2] * y[0] - x[0] * y[2], x[0] * y[1] - x[1] * y[0])
    if _dot(cross, z) < 0:
        raise ValueError("camera_to_world mirrors")
    return matrix


def _dot(one: tuple[float, ...], two: tuple[float, ...]) -> float:
    return sum(a * b for a, b in zip(one, two, strict=True))


def _near(values: tuple[float, ...], wanted: tuple[float, ...], tolerance: float) -> bool:
    return all(abs(a - b) <= tolerance for a, b in zip(values, wanted, strict=True))
