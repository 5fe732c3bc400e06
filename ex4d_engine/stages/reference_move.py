# SPDX-License-Identifier: GPL-3.0-or-later
"""A camera preset of the reference in a shot's world, for its own command line and for ours."""

from __future__ import annotations

from ..image_files import read_exr
from ..reference_paths import reference_path
from ..shot import Shot
from ..trajectories import Trajectory, along


def reference_move(
    shot: Shot,
    cam: str,
    *,
    count: int | None = None,
    pivot: float | None = None,
    frozen: int | None = None,
    size: tuple[int, int] | None = None,
) -> Trajectory:
    """The preset `cam` (reference_paths.REFERENCE_CAMS) for `count` frames, by default the plate's.

    Args:
        pivot: what the preset turns about, in scene units. None is the subject's depth; where the reference's
            geometry is repeated it is frame 0's nearest pixel, however noisy.
        frozen, size: as in `trajectories.along`.
    """
    plate, geometry = shot.require_plate(), shot.require_geometry()
    if pivot is None:
        pivot = geometry.subject
        if geometry.compat == "reference":
            pivot = float(read_exr(shot.depth_file(plate.first)).min())
    return along(shot, reference_path(cam, count or plate.count, pivot), frozen=frozen, size=size)
