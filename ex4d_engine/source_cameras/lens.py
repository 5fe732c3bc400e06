# SPDX-License-Identifier: GPL-3.0-or-later
"""The lens of the source camera: several may say what it is, and this is the one place that chooses.

In this order: the user, the file of a solved camera, the depth model, the camera's own metadata, and a field of view
that is assumed. A lens is a geometry and no number of pixels: K of a proxy and of the full plate differ by the scale.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ..cameras import DEFAULT_FIELD_OF_VIEW_DEG, NARROWEST_FOV_DEG, WIDEST_FOV_DEG, intrinsics_from_fov
from ..errors import Ex4dError
from .lens_metadata import focal_from_metadata

Array = NDArray[np.float64]
FULL_FRAME_MM = 36.0


@dataclass(frozen=True)
class SourceLens:
    """intrinsics: (3,3) of the first frame, in pixels of the plate.

    zoom: (F,) focal length of every frame as a multiple of the first one's, or None for a fixed lens.
    note: one sentence that says where it came from.
    """

    intrinsics: Array
    zoom: Array | None
    note: str

    def of_frame(self, index: int) -> Array:
        """K (3,3) of the frame at this index."""
        factor = 1.0 if self.zoom is None else float(self.zoom[index])
        return zoomed(self.intrinsics, factor)


def zoomed(intrinsics: Array, factor: float) -> Array:
    """K of the same lens at `factor` times the focal length; the axis stays where it is."""
    result = np.array(intrinsics, dtype=np.float64)
    result[0, :2] *= factor
    result[1, 1] *= factor
    return result


def field_of_view_from_focal(focal_mm: float, sensor_mm: float = FULL_FRAME_MM) -> float:
    """Degrees across the longer side for a focal length and the sensor's length along that side, in millimetres.

    Raises:
        Ex4dError: `camera_invalid` for lengths that give no usable field of view.
    """
    lengths_are_usable = all(math.isfinite(value) and value > 0 for value in (focal_mm, sensor_mm))
    degrees = 2 * math.degrees(math.atan2(sensor_mm, 2 * focal_mm)) if lengths_are_usable else 0.0
    if not NARROWEST_FOV_DEG <= degrees <= WIDEST_FOV_DEG:
        raise Ex4dError(
            "camera_invalid",
            f"A focal length of {focal_mm:g} mm on a sensor of {sensor_mm:g} mm is impossible.",
            "Give both in millimetres, the sensor's along the longer side of the picture.",
        )
    return degrees


def user_field_of_view(fov_deg: float | None, focal_mm: float | None, sensor_mm: float | None) -> float | None:
    """The field of view in degrees that the user's settings give; None where they say nothing.

    Raises:
        Ex4dError: `bad_request` for two answers at once, or a sensor without a focal length; `camera_invalid` for
            impossible ones.
    """
    if fov_deg is not None:
        if focal_mm is not None or sensor_mm is not None:
            raise Ex4dError("bad_request", "The lens is given twice.", "Give a field of view or a focal length.")
        intrinsics_from_fov(1, 1, fov_deg)  # refuses an impossible angle
        return fov_deg
    if focal_mm is None:
        if sensor_mm is not None:
            raise Ex4dError("bad_request", "A sensor's size alone is no lens.", "Give the focal length too.")
        return None
    return field_of_view_from_focal(focal_mm, FULL_FRAME_MM if sensor_mm is None else sensor_mm)


def choose_lens(
    size: tuple[int, int],
    *,
    user_fov_deg: float | None,
    solved: Array | None,
    estimated: Array | None,
    source: Path,
) -> SourceLens:
    """The most trusted lens for a plate of `size` (width, height) pixels.

    Args:
        solved: (F,3,3) of every frame from the file of a solved camera.
        estimated: (3,3) from the depth source.
        source: the clip, whose metadata are looked at where nobody else knows.

    Raises:
        Ex4dError: `camera_unsupported` for a solved lens whose axis wanders or whose pixels change their shape.
    """
    if user_fov_deg is not None:
        note = f"The lens is the one that was given: {user_fov_deg:.4g}° across the longer side."
        return SourceLens(intrinsics_from_fov(*size, user_fov_deg), None, note)
    if solved is not None:
        zoom = _zoom_of(solved)
        said = "" if zoom is None else f", a zoom by {zoom.max() / zoom.min():.3g}"
        return SourceLens(solved[0], zoom, f"The lens is the camera file's: {described(solved[0], size)}{said}.")
    if estimated is not None:
        return SourceLens(estimated, None, f"The lens is the depth source's: {described(estimated, size)}.")
    found = focal_from_metadata(source, size)
    if found is not None:
        focal, tag = found
        intrinsics = np.array([[focal, 0, size[0] / 2], [0, focal, size[1] / 2], [0, 0, 1]])
        return SourceLens(intrinsics, None, f"The lens is the clip's own ({tag}): {described(intrinsics, size)}.")
    default = f"{DEFAULT_FIELD_OF_VIEW_DEG:g}"
    note = f"The lens is not known: a field of view of {default}° is assumed. Give the real one for exact moves."
    return SourceLens(intrinsics_from_fov(*size), None, note)


def described(intrinsics: Array, size: tuple[int, int]) -> str:
    """The field of view of K (3,3) for a plate of `size` (width, height) pixels, in words."""
    longer = 0 if size[0] >= size[1] else 1
    degrees = 2 * math.degrees(math.atan2(max(size), 2 * float(intrinsics[longer, longer])))
    return f"{degrees:.4g}° across the longer side"


def _zoom_of(lenses: Array) -> Array | None:
    """(F,) factors of the focal length, None where it stays.

    The mesh is one grid of rays for the whole shot. A focal length that changes only stretches it, which the frame's
    matrix does without touching a pixel; an axis that wanders would shear it, and that no Blender object can.
    """
    first = lenses[0]
    factors = lenses[:, [0, 1], [0, 1]] / first[[0, 1], [0, 1]]
    drift = np.abs(lenses[:, :2, 2] - first[:2, 2]).max()
    if drift > 0.5 or np.abs(factors[:, 0] / factors[:, 1] - 1).max() > 2e-3 or np.abs(lenses[:, 0, 1]).max() > 1e-6:
        raise Ex4dError(
            "camera_unsupported",
            "The camera file's lens shifts or changes its pixels' shape from frame to frame.",
            "Solve the camera again with one principal point; a focal length that changes is fine.",
        )
    zoom: Array = factors.mean(axis=1)
    return None if np.abs(zoom - 1).max() < 1e-4 else zoom
