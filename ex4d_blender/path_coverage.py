# SPDX-License-Identifier: GPL-3.0-or-later
"""Coverage along a Blender camera's path: the imported mesh as it is at some frames, given to coverage.py."""

from __future__ import annotations

from typing import Final

import bpy
import numpy as np
from numpy.typing import NDArray

from ..ex4d_engine import cameras
from ..ex4d_engine.errors import Ex4dError
from ..ex4d_engine.shot import Shot
from .camera_sampling import camera_frames
from .coverage import coarse_size, coverage
from .mesh_import import ImportedShot, mesh_matrix
from .pixel_files import read_rgba

SAMPLED_FRAMES: Final = 7


def path_coverage(
    scene: bpy.types.Scene, shot: Shot, imported: ImportedShot, camera: bpy.types.Object
) -> dict[int, float]:
    """Share 0…1 of the view that the plate has seen, at some frames spread over the shot.

    Raises:
        Ex4dError: `camera_unsupported`; `take_incomplete` for a mesh with other vertices than were imported.
    """
    plate = shot.require_plate()
    size = coarse_size(plate.width, plate.height)
    picked = np.linspace(plate.numbers[0], plate.numbers[-1], min(SAMPLED_FRAMES, plate.count))
    numbers = sorted({round(float(number)) for number in picked})
    shares: dict[int, float] = {}
    for number, frame in zip(numbers, camera_frames(scene, camera, shot, numbers, size), strict=True):
        seen = read_rgba(shot.seen_file(number))[..., 0] > 127
        points = _grid_points(scene, shot, imported, number, (seen.shape[0] + 1, seen.shape[1] // 2 + 1))
        shares[number] = coverage(
            points, seen, np.array(frame.intrinsics), np.array(frame.camera_to_world), size
        )
    return shares
