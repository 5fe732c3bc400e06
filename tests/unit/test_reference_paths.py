# SPDX-License-Identifier: GPL-3.0-or-later
"""The reference's presets: against its formulas, and against a camera file that it wrote itself."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest

from ex4d_engine import reference_paths
from ex4d_engine.cameras import camera_to_world_from_reference, check_camera, project, reference_extrinsics
from ex4d_engine.errors import Ex4dError
from ex4d_engine.reference_paths import REFERENCE_CAMS, reference_intrinsics, reference_path

CAMERA_180 = Path(__file__).resolve().parents[2].parent / "shared" / "data" / "flower" / "camera_180.npz"


def test_the_presets_reproduce_the_reference_s_own_camera_file() -> None:
    if not CAMERA_180.is_file():
        pytest.skip(f"{CAMERA_180} is not here")
    with np.load(CAMERA_180) as data:
        extrinsics, intrinsics = data["extrinsics"].astype(np.float64), data["intrinsics"]
    # the file does not say its radius; a quarter of the way round, the eye is at x = r
    radius = camera_to_world_from_reference(extrinsics[12])[0, 3]
    ours = [reference_extrinsics(pose) for pose in reference_path("180", len(extrinsics), radius - 0.15)]
    np.testing.assert_allclose(ours, extrinsics, atol=1e-6)
    np.testing.assert_array_equal(reference_intrinsics(512, 512), intrinsics)


@pytest.mark.parametrize("count", [1, 2, 25, 49, 97])
@pytest.mark.parametrize("cam", ["30", "60", "90", "180"])
def test_eyes_follow_the_formulas_for_any_length(cam: str, count: int) -> None:
    # shared/facts/reference.md §1
    r = 2.0 + 0.15
    end = 2 * math.pi if cam == "180" else math.radians(float(cam))
    for a, pose in zip(np.linspace(0, end, count), reference_path(cam, count, 2.0), strict=True):
        if cam == "180":
            eye = [math.sin(a) * r, (math.cos(a) - 1) * r * 0.2, 0]
        else:
            eye = [math.sin(a) * r, (abs(math.cos(a)) - 1) * r * 0.2, r - r * abs(math.cos(a))]
        np.testing.assert_allclose(pose[:3, 3], eye, atol=1e-12)
        np.testing.assert_allclose(project(np.array([0, 0, r]), np.eye(3), pose)[0], 0, atol=1e-12)


@pytest.mark.parametrize("cam", REFERENCE_CAMS)
def test_every_path_starts_at_the_source_view_and_is_a_camera(cam: str) -> None:
    path = reference_path(cam, 7, 1.0)
    np.testing.assert_allclose(path[0], np.eye(4), atol=1e-12)
    for pose in path:
        check_camera(reference_intrinsics(64, 32), pose)


def test_yaw_and_pitch_of_180_are_those_of_the_facts() -> None:
    forward = reference_path("180", 481, 3.0)[:, :3, 2]
    yaw = np.degrees(np.arctan2(forward[:, 0], forward[:, 2]))
    pitch = np.degrees(np.arcsin(forward[:, 1]))
    assert (yaw.min(), yaw.max()) == pytest.approx((-45, 45), abs=0.01)
    assert pitch.max() == pytest.approx(21.8, abs=0.01)


def test_zooms_are_straight_and_said_to_be_our_own() -> None:
    assert reference_path("zoom_in", 3, 1.85)[-1, 2, 3] == pytest.approx(1.0)
    assert reference_path("zoom_out", 3, 1.85)[-1, 2, 3] == pytest.approx(-1.0)
    for cam in ("zoom_in", "zoom_out"):
        np.testing.assert_array_equal(reference_path(cam, 5, 1.0)[:, :3, :3], np.tile(np.eye(3), (5, 1, 1)))
    # the facts give no formula for them: nobody may read them as parity with the reference
    assert "not known" in (reference_path.__doc__ or "")
    assert "do\nnot know" in (reference_paths.__doc__ or "")


@pytest.mark.parametrize(
    ("cam", "count", "nearest_z"),
    [("45", 9, 1.0), ("180", 0, 1.0), ("180", 9, 0.0), ("30", 9, -1.0), ("30", 9, math.nan), ("30", 9, math.inf)],
)
def test_impossible_paths_are_refused(cam: str, count: int, nearest_z: float) -> None:
    with pytest.raises(Ex4dError) as caught:
        reference_path(cam, count, nearest_z)
    assert caught.value.code == "camera_invalid"
