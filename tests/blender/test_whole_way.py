# SPDX-License-Identifier: GPL-3.0-or-later
"""The user's way through the add-on by its operators, with the real engine, in the extension as it is installed."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.blender.add_on import ADDON, refusal, strip_files, takes_of
from tests.blender.clip import FRAMES

bpy = pytest.importorskip("bpy")


def test_clip_to_result_and_a_second_take_beside_the_first(scene: Any) -> None:
    settings = scene.ex4d
    assert bpy.ops.ex4d.reconstruct() == {"FINISHED"}
    root = Path(bpy.path.abspath(settings.shot_folder))
    assert root == Path(settings.clip_path).with_name("Flug 飛 é_ex4d")
    assert json.loads((root / "shot.json").read_text("utf-8"))["plate"]["count"] == FRAMES
    assert len([item for item in scene.objects if item.type == "MESH"]) == 1

    settings.move, settings.take_label = "orbit", "right"
    assert bpy.ops.ex4d.add_camera_move() == {"FINISHED"}
    assert scene.camera is not None
    assert bpy.ops.ex4d.coverage() == {"FINISHED"}
    assert "seen on average" in settings.coverage_text

    assert bpy.ops.ex4d.generate() == {"FINISHED"}
    first = root / "takes" / "take_0001"
    for layer in ("color", "mask", "generated", "composite", "matte"):
        assert len(list(first.glob(f"{layer}.????.png"))) == FRAMES, layer
    assert (first / "result.mp4").stat().st_size > 0
    assert takes_of(scene) == [("take_0001", "preview", True)]
    assert settings.takes[0].label == "right"
    assert strip_files(scene), "the result is in the sequencer"

    result = (first / "result.mp4").read_bytes()
    settings.orbit_angle, settings.take_label = -settings.orbit_angle, "left"
    assert bpy.ops.ex4d.add_camera_move() == {"FINISHED"}
    assert bpy.ops.ex4d.generate() == {"FINISHED"}
    assert [name for name, _, finished in takes_of(scene) if finished] == ["take_0001", "take_0002"]
    assert (first / "result.mp4").read_bytes() == result
    assert settings.active_take == 1, "the new take is selected"
    assert (root / "takes" / "take_0002" / "result.mp4").read_bytes() != result


def test_reconstructing_again_with_the_same_settings_keeps_the_import(scene: Any) -> None:
    bpy.ops.ex4d.reconstruct()
    mesh = next(item for item in scene.objects if item.type == "MESH")
    mesh["mine"] = 1
    bpy.ops.ex4d.reconstruct()
    assert [item.get("mine") for item in scene.objects if item.type == "MESH"] == [1]

    scene.ex4d.use_range, scene.ex4d.range_first, scene.ex4d.range_last = True, 2, 4
    bpy.ops.ex4d.reconstruct()
    meshes = [item for item in scene.objects if item.type == "MESH"]
    assert len(meshes) == 2, "the former import is kept, as the user may have worked on it"
    hidden = [collection.hide_render for collection in scene.collection.children]
    assert sorted(hidden) == [False, True]


def test_blender_draws_the_conditioning_when_the_mesh_was_edited(imported: Any) -> None:
    mesh = next(item for item in imported.objects if item.type == "MESH")
    mesh.data.vertices[500].co.z *= 1.1
    bpy.ops.ex4d.add_camera_move(move="truck", amount=0.1)
    assert bpy.ops.ex4d.generate() == {"FINISHED"}
    take = json.loads((Path(imported.ex4d.shot_folder) / "takes/take_0001/take.json").read_text("utf-8"))
    assert take["conditioning"] == "blender"
    assert takes_of(imported) == [("take_0001", "preview", True)]
    assert [scene.name for scene in bpy.data.scenes] == [imported.name], "no scene is left behind"


def test_a_take_of_the_scene_s_size_and_range_with_other_objects(imported: Any) -> None:
    bpy.ops.mesh.primitive_cube_add(size=0.3, location=(0, 2, 0))
    settings = imported.ex4d
    settings.frame_range, settings.output_size, settings.include_cg = "SCENE", "SCENE", True
    imported.render.resolution_x, imported.render.resolution_y, imported.render.resolution_percentage = 160, 100, 50
    imported.render.engine = "CYCLES"  # a new scene's is EEVEE, which needs minutes without a graphics card
    imported.frame_start, imported.frame_end, imported.cycles.samples = 1003, 1006, 1
    bpy.ops.ex4d.add_camera_move(move="truck", amount=0.1)
    assert bpy.ops.ex4d.generate() == {"FINISHED"}
    take = json.loads((Path(settings.shot_folder) / "takes/take_0001/take.json").read_text("utf-8"))
    assert (take["size"], take["first"], take["conditioning"]) == ([80, 50], 1003, "blender")
    assert [frame["source"] for frame in take["camera"]] == [1003, 1004, 1004, 1004], "the last frame stands still"
    assert take["record"]["blender"]["include_cg"] is True


def test_a_moved_camera_is_covered_less_than_the_source_view(imported: Any) -> None:
    path_coverage = sys.modules[f"{ADDON}.ex4d_blender.path_coverage"]
    current = sys.modules[f"{ADDON}.ex4d_blender.current_shot"]
    shot = current.open_shot(imported)
    shot_in_scene = current.open_imported(imported, shot)
    bpy.ops.ex4d.add_camera_move(move="orbit", amount=40)
    imported.frame_set(1003)
    arguments = (imported, shot, shot_in_scene, imported.camera)
    shares = path_coverage.path_coverage(*arguments, wall_share=math.inf)
    assert list(shares) == [1001, 1002, 1003, 1004]
    # at this tiny size the faces along the edges in depth are a good part of the picture
    assert shares[1001] > 0.75 > shares[1001] - 0.1 > shares[1004]
    assert imported.frame_current == 1003
    short = path_coverage.path_coverage(*arguments, wall_share=0.25)
    assert short[1004] > shares[1004] + 0.05
    assert short[1001] > 0.99, "cards: where the clip was filmed from, all of it is covered"


def test_snapping_puts_the_camera_where_the_clip_was_filmed_from(imported: Any) -> None:
    camera = bpy.data.objects.new("Mine", bpy.data.cameras.new("Mine"))
    imported.collection.objects.link(camera)
    imported.camera = camera
    camera.location = (3, 1, 2)
    camera.keyframe_insert("location", frame=1004)
    assert bpy.ops.ex4d.snap_camera() == {"FINISHED"}
    imported.frame_set(1001)
    source = next(item for item in imported.objects if item.get("ex4d_role") == "source_camera")
    assert np.abs(np.array(camera.matrix_world) - np.array(source.matrix_world)).max() < 1e-5
    imported.frame_set(1004)
    assert tuple(camera.location) == pytest.approx((3, 1, 2)), "the other keys stay"


def test_undo_takes_back_an_import_and_a_camera_move(scene: Any, new_shot: Callable[..., Any]) -> None:
    scene.ex4d.shot_folder = str(new_shot().root)

    def counts() -> tuple[int, ...]:
        scene = bpy.context.scene
        return len(scene.objects), len(bpy.data.objects), len(bpy.data.cameras), len(bpy.data.collections)

    bpy.ops.ed.undo_push(message="start")
    stages = [counts()]
    for operator in (bpy.ops.ex4d.import_shot, bpy.ops.ex4d.add_camera_move):
        assert operator() == {"FINISHED"}
        bpy.ops.ed.undo_push(message=operator.idname())
        stages.append(counts())
    assert len(set(stages)) == 3
    for stage in stages[-2::-1]:
        assert bpy.ops.ed.undo() == {"FINISHED"}
        assert counts() == stage
    assert "import it first" in refusal(bpy.ops.ex4d.add_camera_move)
    assert bpy.ops.ex4d.import_shot() == {"FINISHED"}
    assert bpy.ops.ex4d.add_camera_move() == {"FINISHED"}


def test_the_mesh_is_baked_into_the_shot_folder(imported: Any) -> None:
    assert bpy.ops.ex4d.bake_mesh_cache() == {"FINISHED"}
    assert list((Path(imported.ex4d.shot_folder) / "mesh").glob("*.pc2"))
    assert [item.get("ex4d_role") for item in imported.objects if item.type == "MESH"].count("baked") == 1
    bpy.ops.ex4d.add_camera_move(move="truck", amount=0.1)
    assert bpy.ops.ex4d.coverage() == {"FINISHED"}
