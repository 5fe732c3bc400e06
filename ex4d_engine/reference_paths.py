# SPDX-License-Identifier: GPL-3.0-or-later
"""The reference implementation's camera presets, exactly (facts: arXiv 2506.05554 and its public code).

For its weights and for parity tests; a new shot is better served by trajectories.py, whose orbits are in
real degrees about a pivot that is not the nearest noisy pixel.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from .cameras import look_at
from .errors import Ex4dError

Array = NDArray[np.float64]

REFERENCE_FOCAL_PX = 500.0
RADIUS_MARGIN = 0.15
REFERENCE_CAMS = ("30", "60", "90", "180", "zoom_in", "zoom_out")
ZOOM_IN_SHARE, ZOOM_OUT_SHARE = 0.5, 0.5


def reference_intrinsics(width: int, height: int) -> Array:
    """K (3,3): 500 px at every size, axis at (W/2, H/2)."""
    return np.array([[REFERENCE_FOCAL_PX, 0, width / 2], [0, REFERENCE_FOCAL_PX, height / 2], [0, 0, 1]])


def reference_path(cam: str, count: int, nearest_z: float) -> Array:
    """camera_to_world (count,4,4) of a preset.

    Args:
        cam: one of REFERENCE_CAMS.
        nearest_z: the smallest depth of frame 0; the pivot is (0, 0, nearest_z + 0.15).

    Raises:
        Ex4dError: `camera_invalid` for another name.
    """
    if cam not in REFERENCE_CAMS:
        raise Ex4dError("camera_invalid", f"There is no preset {cam!r}.", f"Choose one of {', '.join(REFERENCE_CAMS)}.")
    radius = nearest_z + RADIUS_MARGIN
    target = np.array([0.0, 0.0, radius])
    poses = np.empty((count, 4, 4))
    for index, share in enumerate(np.linspace(0.0, 1.0, count)):
        if cam == "180":
            angle = 2 * math.pi * share
            eye = np.array([math.sin(angle) * radius, (math.cos(angle) - 1) * radius * 0.2, 0.0])
        elif cam == "zoom_in":
            eye = np.array([0.0, 0.0, ZOOM_IN_SHARE * radius * share])
        elif cam == "zoom_out":
            eye = np.array([0.0, 0.0, -ZOOM_OUT_SHARE * radius * share])
        else:
            angle = math.radians(float(cam)) * share
            eye = np.array(
                [
                    math.sin(angle) * radius,
                    (abs(math.cos(angle)) - 1) * radius * 0.2,
                    radius - radius * abs(math.cos(angle)),
                ]
            )
        poses[index] = look_at(eye, target)
    return poses
