# SPDX-License-Identifier: GPL-3.0-or-later
"""Bullet time: one frame of the clip, seen by a moving camera."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.blender.add_on import ADDON, moved_to, refusal

bpy = pytest.importorskip("bpy")


@pytest.mark.parametrize("drawn_by", ["AUTO", "CYCLES"])
def test_a_frozen_moment_seen_by_a_still_camera_is_the_same_in_all_frames(imported: Any, drawn_by: str) -> None:
    settings = imported.ex4d
    settings.use_freeze, settings.freeze_frame, settings.conditioning = True, 1003, drawn_by
    bpy.ops.ex4d.add_camera_move(move="dolly", amount=0.0)
    assert bpy.ops.ex4d.generate() == {"FINISHED"}
    root = Path(settings.shot_folder)
    take = root / "takes" / "take_0001"
    document = json.loads((take / "take.json").read_text("utf-8"))
    assert document["conditioning"] == {"AUTO": "engine", "CYCLES": "blender"}[drawn_by]
    assert [frame["source"] for frame in document["camera"]] == [1003] * 4
    for layer in ("color", "mask"):
        pictures = [pixels(take / f"{layer}.{number}.png") for number in range(1001, 1005)]
        assert all(np.array_equal(picture, pictures[0]) for picture in pictures), layer
    plate = root / "plate"
    frozen, other = (pixels(next(plate.glob(f"*{number}.png"))).astype(int) for number in (1003, 1001))
    color = pixels(take / "color.1001.png").astype(int)
    assert abs(color - frozen).max() <= 1 < abs(color - other).max()


def pixels(path: Path) -> Any:
    return sys.modules[f"{ADDON}.ex4d_blender.pixel_files"].read_rgba(path)[..., :3]


def test_other_objects_stand_still_in_a_frozen_moment_beyond_the_shot_too(imported: Any) -> None:
    """Without the freeze they move on there, over the last frame of the clip."""
    settings = imported.ex4d
    bpy.ops.mesh.primitive_cube_add(size=0.4, location=(-0.3, 1.5, 0))
    cube = bpy.context.object
    cube.keyframe_insert("location", frame=1004)
    cube.location.x = 0.3
    cube.keyframe_insert("location", frame=1006)
    imported.render.engine, imported.cycles.samples = "CYCLES", 1
    imported.frame_start, imported.frame_end, settings.frame_range = 1004, 1006, "SCENE"
    settings.include_cg, settings.conditioning = True, "CYCLES"
    bpy.ops.ex4d.add_camera_move(move="dolly", amount=0.0)
    same = []
    for settings.use_freeze in (False, True):
        settings.freeze_frame = 1004
        assert bpy.ops.ex4d.generate() == {"FINISHED"}
        take = Path(settings.shot_folder) / "takes" / settings.takes[settings.active_take].name
        first, last = (pixels(take / f"color.{number}.png").astype(int) for number in (1004, 1006))
        same.append(abs(first - last).max() <= 8)
    assert same == [False, True]


def test_bullet_time_starts_at_the_source_view_of_the_frozen_frame(
    scene: Any, addon: Callable[[str], Any], new_shot: Callable[..., Any]
) -> None:
    shot = new_shot("poses")
    scene.ex4d.shot_folder = str(shot.root)
    bpy.ops.ex4d.import_shot()
    scene.ex4d.use_freeze, scene.ex4d.freeze_frame = True, 1003
    bpy.ops.ex4d.add_camera_move(move="orbit", amount=20)
    wanted = np.array(shot.source_pose(1003))
    assert abs(np.array(moved_to(scene, 1001).camera_to_world) - wanted).max() < 1e-5
    scene.camera.location.x += 1
    assert bpy.ops.ex4d.snap_camera() == {"FINISHED"}
    assert abs(np.array(moved_to(scene, 1001).camera_to_world) - wanted).max() < 1e-5


def test_the_coverage_of_a_frozen_moment_is_that_of_the_frozen_frame(imported: Any) -> None:
    path_coverage = sys.modules[f"{ADDON}.ex4d_blender.path_coverage"]
    current = sys.modules[f"{ADDON}.ex4d_blender.current_shot"]
    shot = current.open_shot(imported)
    bpy.ops.ex4d.add_camera_move(move="truck", amount=0.4)
    imported.camera.animation_data_clear()  # it stands beside the source camera
    imported.frame_set(1001)
    imported.camera.location.x += 0.8
    arguments = (imported, shot, current.open_imported(imported, shot), imported.camera)
    running, frozen = (
        path_coverage.path_coverage(*arguments, wall_share=math.inf, frozen=frame) for frame in (None, 1003)
    )
    assert len(set(running.values())) > 1
    assert frozen == dict.fromkeys(running, running[1003])


def test_a_frame_that_the_shot_lacks_cannot_be_frozen(imported: Any) -> None:
    jobs = sys.modules[f"{ADDON}.ex4d_blender.jobs"]
    bpy.ops.ex4d.add_camera_move(move="truck", amount=0.1)
    imported.ex4d.use_freeze, imported.ex4d.freeze_frame = True, 1005
    for operator in (
        bpy.ops.ex4d.generate,
        bpy.ops.ex4d.coverage,
        bpy.ops.ex4d.add_camera_move,
        bpy.ops.ex4d.snap_camera,
    ):
        assert "Frame 1005 cannot be frozen: the shot holds 1001 to 1004" in refusal(operator)
        assert jobs.last_failure()[1].code == "camera_invalid"
    assert not (Path(imported.ex4d.shot_folder) / "takes").exists()
