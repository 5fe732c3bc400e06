# SPDX-License-Identifier: GPL-3.0-or-later
"""What orbit and crane turn about."""

from __future__ import annotations

import sys
from typing import Any

import numpy as np
import pytest

from tests.blender.add_on import ADDON, moved_to, refusal

bpy = pytest.importorskip("bpy")


def distance_to_axis_crossing(scene: Any) -> float:
    """Depth at which the move's first and last line of sight meet: what it turned about."""
    first, last = (np.array(moved_to(scene, frame).camera_to_world) for frame in (1001, 1004))
    side, travelled = last[:3, 2], first[:3, 3] - last[:3, 3]
    lines = np.stack([first[:3, 2], -side], axis=1)
    return -float(np.linalg.lstsq(lines, travelled, rcond=None)[0][0])


@pytest.mark.parametrize("move", ["orbit", "crane"])
def test_a_move_turns_about_the_pivot_that_was_chosen(imported: Any, move: str) -> None:
    settings = imported.ex4d
    settings.move = move
    assert bpy.ops.ex4d.add_camera_move() == {"FINISHED"}
    subject = sys.modules[f"{ADDON}.ex4d_blender.current_shot"].open_shot(imported).require_geometry().subject
    assert distance_to_axis_crossing(imported) == pytest.approx(subject, rel=1e-4)

    settings.pivot, settings.pivot_distance = "DISTANCE", 7.5
    assert bpy.ops.ex4d.add_camera_move() == {"FINISHED"}
    assert distance_to_axis_crossing(imported) == pytest.approx(7.5, rel=1e-4)

    source = next(item for item in imported.objects if item.get("ex4d_role") == "source_camera")
    imported.frame_set(1001)
    imported.cursor.location = source.matrix_world @ vector(0.7, -0.4, -4.25)
    settings.pivot = "CURSOR"
    assert bpy.ops.ex4d.add_camera_move() == {"FINISHED"}
    assert distance_to_axis_crossing(imported) == pytest.approx(4.25, rel=1e-4)


def test_a_cursor_behind_the_source_camera_is_no_pivot(imported: Any) -> None:
    jobs = sys.modules[f"{ADDON}.ex4d_blender.jobs"]
    source = next(item for item in imported.objects if item.get("ex4d_role") == "source_camera")
    imported.cursor.location = source.matrix_world @ vector(0.0, 0.0, 2.0)
    imported.ex4d.pivot = "CURSOR"
    cameras = len(bpy.data.cameras)
    assert "3D cursor" in refusal(bpy.ops.ex4d.add_camera_move)
    assert jobs.last_failure()[1].code == "camera_invalid"
    assert len(bpy.data.cameras) == cameras
    assert bpy.ops.ex4d.add_camera_move(move="truck", amount=0.1) == {"FINISHED"}, "which turns about nothing"


def vector(*values: float) -> Any:
    from mathutils import Vector

    return Vector(values)
