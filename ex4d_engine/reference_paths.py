# SPDX-License-Identifier: GPL-3.0-or-later
"""The reference implementation's camera presets (facts: arXiv 2506.05554 and its public code).

"30", "60", "90" and "180" are its paths exactly. It also has "zoom_in" and "zoom_out", whose formulas we do
not know: ours are our own moves under those names, along the axis by half the distance to the pivot.

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
ZOOM_SHARE = 0.5  # of the distance to the pivot; our choice, not the reference's


def reference_intrinsics(width: int, height: int) -> Array:
    """K (3,3): 500 px at every size, axis at (W/2, H/2)."""
    return np.array([[REFERENCE_FOCAL_PX, 0, width / 2], [0, REFERENCE_FOCAL_PX, height / 2], [0, 0, 1]])


def reference_path(cam: str, count: int, nearest_z: float) -> Array:
    """camera_to_world (count,4,4) of a preset, spread over `count` frames.

    With r = nearest_z + 0.15, looking at (0, 0, r), y down, and an angle a from 0 to its end:
      "180": a ends at 2π; eye = (r sin a, 0.2 r (cos a − 1), 0).
      "30", "60", "90": a ends at so many degrees; eye = (r sin a, 0.2 r (|cos a| − 1), r − r |cos a|).
      "zoom_in", "zoom_out": 0.5 r forward or back along the axis. The reference's own formula for these two
      is not known; they keep its command line working and are no parity with it.

    Args:
        cam: one of REFERENCE_CAMS.
        nearest_z: the smallest depth of frame 0.

    Raises:
        Ex4dError: `camera_invalid` for another name, no frames, or a depth that is not positive.
    """
    if cam not in REFERENCE_CAMS:
        raise Ex4dError("camera_invalid", f"There is no preset {cam!r}.", f"Choose one of {', '.join(REFERENCE_CAMS)}.")
    if count < 1 or not (math.isfinite(nearest_z) and nearest_z > 0):
        raise Ex4dError(
            "camera_invalid",
            f"A path of {count} frames about a depth of {nearest_z:g} is impossible.",
            "Give one frame or more, and a positive depth.",
        )
    radius = nearest_z + RADIUS_MARGIN
    target = np.array([0.0, 0.0, radius])
    poses = np.empty((count, 4, 4))
    for index, share in enumerate(np.linspace(0.0, 1.0, count)):
        if cam == "180":
            angle = 2 * math.pi * share
            eye = np.array([math.sin(angle) * radius, (math.cos(angle) - 1) * radius * 0.2, 0.0])
        elif cam == "zoom_in":
            eye = np.array([0.0, 0.0, ZOOM_SHARE * radius * share])
        elif cam == "zoom_out":
            eye = np.array([0.0, 0.0, -ZOOM_SHARE * radius * share])
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
