# SPDX-License-Identifier: GPL-3.0-or-later
"""Small shots in memory, for tests that need a shot folder's description and none of its pixels."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import numpy as np

from ex4d_engine.camera_frame import IDENTITY, CameraFrame, Matrix
from ex4d_engine.cameras import as_matrix, intrinsics_from_fov, rotation_about
from ex4d_engine.shot import Geometry, Plate, Shot

FOLDER = "Ünï 作業 shot"
LENS: Matrix = as_matrix(intrinsics_from_fov(64, 48))
FPS = Fraction(30000, 1001)


def turning_poses(count: int) -> tuple[Matrix, ...]:
    """A source camera that moves and turns; not at the origin at its first frame either."""
    poses = []
    for index in range(count):
        pose = np.eye(4)
        pose[:3, :3] = rotation_about([1, 2, 3], 0.1 * (index + 1))
        pose[:3, 3] = [index, 0.5, -1]
        poses.append(as_matrix(pose))
    return tuple(poses)


def make_shot(root: Path, *, count: int = 5, first: int = 7, poses: bool = False) -> Shot:
    """A reconstructed shot's description; nothing is written."""
    return Shot(
        root=root,
        plate=Plate(
            path="/clips/Blüte 花.mov",
            fps=FPS,
            first=first,
            count=count,
            width=64,
            height=48,
            source_first=first,
            stride=2,
            notes=("rotated by 90°",),
        ),
        geometry=Geometry(
            depth_source="rough-pictorial",
            depth_note="rough 粗い",
            intrinsics=LENS,
            near=0.5,
            far=20.0,
            subject=2.0,
            repaired=3,
            poses=turning_poses(count) if poses else (),
        ),
        settings={"source": "/clips/Blüte 花.mov", "stride": 2, "fov_deg": None, "depth_options": {"near": 0.5}},
    )


def still_frames(count: int, source: int = 7) -> tuple[CameraFrame, ...]:
    """Cameras that stay at the source view."""
    return tuple(CameraFrame(source + index, LENS, IDENTITY) for index in range(count))
