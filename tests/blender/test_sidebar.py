# SPDX-License-Identifier: GPL-3.0-or-later
"""What the sidebar shows, and that all that is there has a description."""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.blender.add_on import ADDON, refusal
from tests.blender.sidebar import drawn

bpy = pytest.importorskip("bpy")


def test_all_operators_and_panels_are_there_and_described(scene: Any) -> None:
    names = [name for name in dir(bpy.types) if name.startswith("EX4D_OT_")]
    wanted = (
        "reconstruct import_shot snap_camera add_camera_move coverage generate load_take open_take_folder "
        "refresh_takes bake_mesh_cache cancel check_engine stop_engine copy_report"
    )
    assert {f"EX4D_OT_{name}" for name in wanted.split()} <= set(names)
    for name in names:
        description = getattr(bpy.ops.ex4d, name.removeprefix("EX4D_OT_")).get_rna_type().description
        assert description and not description.endswith("."), name  # Blender adds the full stop
    for space in ("VIEW_3D", "SEQUENCE_EDITOR"):
        panels = {
            panel.bl_label
            for panel in bpy.types.Panel.__subclasses__()
            if getattr(panel, "bl_category", "") == "EX-4D" and panel.bl_space_type == space and panel.is_registered
        }
        assert panels == {"EX-4D", "Source", "Reconstruct", "Camera", "Render & Generate", "Takes"}


def test_the_sidebar_shows_what_there_is_to_set_and_to_do(imported: Any) -> None:
    seen = drawn()
    assert {"ex4d.reconstruct", "ex4d.generate", "ex4d.coverage", "orbit_angle", "takes"} <= seen
    assert "depth_path" not in seen and "range_first" not in seen
    settings = imported.ex4d
    settings.depth_source, settings.depth_meaning = "file", "normalised_disparity"
    settings.use_range = settings.use_field_of_view = settings.use_freeze = settings.use_frame_rate = True
    assert not {"pivot_distance", "freeze_frame", "frame_rate"} & seen and "pivot" in seen
    settings.move = "dolly"
    assert "pivot" not in drawn()
    settings.move, settings.pivot = "crane", "DISTANCE"
    diffusion = {"Diffusion", "tier", "detail", "steps", "ex4d.free_vram"}
    assert not diffusion & seen, "the preview has nothing to set"
    settings.preset = "final"
    assert diffusion & drawn(is_open=False) == {"Diffusion"}
    assert diffusion <= drawn()
    row = settings.takes.add()
    row.name = "take_0001"
    seen = drawn()
    for source in ("depth-anything-v2", "depth-anything-3"):
        settings.depth_source = source
        seen |= drawn()
    settings.depth_source = "file"
    assert {"depth_path", "depth_near", "range_first", "field_of_view", "move_amount", "frame_rate"} <= seen
    assert "walls" in seen and "wall_depth" not in seen
    settings.lens_unit, settings.walls = "MILLIMETRES", "SHORT"
    seen |= drawn()
    shown = (entry.identifier for entry in settings.bl_rna.properties if not entry.is_hidden)
    every = set(shown) - {"rna_type", "name", "orbit_angle"}
    assert every - {"coverage_text"} <= seen, "no setting is out of reach"


def test_one_control_says_how_large_the_scene_is_and_none_where_a_metric_model_does(
    scene: Any, addon: Callable[[str], Any], new_shot: Callable[..., Any]
) -> None:
    shots = addon("ex4d_engine.shot")

    def import_shot(is_metric: bool, **settings: Any) -> None:
        shot = shots.load_shot(root)
        geometry = dataclasses.replace(shot.require_geometry(), is_metric=is_metric)
        shots.save_shot(dataclasses.replace(shot, geometry=geometry, settings={**shot.settings, **settings}))
        for collection in list(scene.collection.children):
            bpy.data.collections.remove(collection)
        assert bpy.ops.ex4d.import_shot() == {"FINISHED"}

    def controls() -> set[str]:
        return drawn() & {"use_scene_scale", "scene_scale", "real_length", "ex4d.set_scale"}

    root = new_shot().root
    scene.ex4d.shot_folder = str(root)
    one = {"real_length", "ex4d.set_scale"}
    import_shot(False)
    assert controls() == one
    import_shot(True, scene_scale=2.0)
    assert controls() == one, "what the user has set can be set again"
    import_shot(True, scene_scale=None)
    assert not controls()
    assert "in metres already" in refusal(bpy.ops.ex4d.set_scale)

    import_shot(False)
    scene.ex4d.depth_source = "depth-pro"
    assert not controls(), "the next reconstruction will be in metres"
    scene.ex4d.poses_path = "//solved.json"
    assert controls() == one, "the depth takes the size of the camera's world"
    scene.ex4d.poses_path, scene.ex4d.depth_source = "", "depth-anything-v2"
    assert controls() == one
    scene.ex4d.depth_anything_v2_variant = "base-metric-outdoor"
    assert not controls()


def test_the_sidebar_shows_a_running_job_and_a_failure_with_what_helps(imported: Any, tmp_path: Path) -> None:
    jobs = sys.modules[f"{ADDON}.ex4d_blender.jobs"]
    job_run = sys.modules[f"{ADDON}.ex4d_blender.job_run"]

    def steps(run: Any) -> Any:
        run.progress("composite", 3, 4)
        run.preview = str(tmp_path / "composite.0001.png")
        yield None

    run = jobs._run = job_run.JobRun("Job", steps, lambda: None)
    run.advance()
    seen = drawn()
    assert {"Job", "Composite 3/4", "ex4d.cancel", "picture"} <= seen
    run.abandon()

    for settings, button in (({"preset": "final"}, "ex4d.generate"), ({"take": "take_0099"}, "ex4d.copy_report")):
        if imported.camera is None:
            bpy.ops.ex4d.add_camera_move()
        refusal(bpy.ops.ex4d.generate, **settings)
        seen = drawn()
        assert {"Render & Generate failed", button, "ex4d.copy_report", "ex4d.dismiss"} <= seen
    assert bpy.ops.ex4d.dismiss() == {"FINISHED"}
    assert "Render & Generate failed" not in drawn()
