# SPDX-License-Identifier: GPL-3.0-or-later
"""The camera that filmed the clip, from Blender: a track, a zoom, a length, and the shots of an edited clip."""

from __future__ import annotations

import dataclasses
import json
import math
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.blender.add_on import ADDON, refusal
from tests.blender.clip import FRAMES, HEIGHT, WIDTH

bpy = pytest.importorskip("bpy")
bmesh = pytest.importorskip("bmesh")


def module(name: str) -> Any:
    return sys.modules[f"{ADDON}.{name}"]


def tracked_camera(scene: Any) -> Any:
    """A camera that is keyed from frame 1 on, as a baked solve is."""
    camera = bpy.data.objects.new("tracked", bpy.data.cameras.new("tracked"))
    scene.collection.objects.link(camera)
    scene.camera = camera
    camera.data.lens = 40
    for frame in range(1, FRAMES + 1):
        camera.location = (0.2 * frame, -3.0, 1.5)
        camera.rotation_euler = (math.radians(85), 0, math.radians(frame))
        camera.keyframe_insert("location", frame=frame)
        camera.keyframe_insert("rotation_euler", frame=frame)
    scene.frame_start, scene.frame_end = 1, FRAMES
    scene.render.resolution_x, scene.render.resolution_y = 4 * WIDTH, 4 * HEIGHT
    return camera


def empties(scene: Any, *places: tuple[float, float, float]) -> None:
    bpy.ops.object.select_all(action="DESELECT")
    for place in places:
        item = bpy.data.objects.new("end", None)
        scene.collection.objects.link(item)
        item.location = place
        item.select_set(True)


def test_a_tracked_camera_is_the_camera_of_the_shot(scene: Any) -> None:
    assert "Select the tracked camera" in refusal(bpy.ops.ex4d.use_tracked_camera)
    camera = tracked_camera(scene)
    scene.frame_set(3)
    assert bpy.ops.ex4d.use_tracked_camera() == {"FINISHED"}
    assert scene.frame_current == 3
    file = Path(bpy.path.abspath(scene.ex4d.poses_path))
    assert file == Path(scene.ex4d.clip_path).with_name("Flug 飛 é_ex4d") / "source_camera.json"
    assert [frame["source"] for frame in json.loads(file.read_text("utf-8"))["frames"]] == list(range(1, FRAMES + 1))

    assert bpy.ops.ex4d.reconstruct() == {"FINISHED"}
    shot = module("ex4d_blender.current_shot").open_shot(scene)
    cameras = module("ex4d_engine.cameras")
    assert shot.require_geometry().intrinsics[0][0] == pytest.approx(40 / 36 * WIDTH)
    source = next(item for item in scene.objects if item.name.startswith("EX-4D source"))
    for frame in range(1, FRAMES + 1):
        scene.frame_set(frame)
        wanted = cameras.camera_to_world_from_blender(np.array(camera.matrix_world))
        assert np.allclose(shot.source_pose(frame), wanted, atol=1e-6)
        assert np.allclose(np.array(source.matrix_world), np.array(camera.matrix_world), atol=1e-5)


def test_frames_of_a_track_are_the_movie_clips(scene: Any) -> None:
    camera = tracked_camera(scene)
    clip = bpy.data.movieclips.load(scene.ex4d.clip_path)
    clip.frame_start = 101
    constraint = camera.constraints.new("CAMERA_SOLVER")
    constraint.use_active_clip, constraint.clip = False, clip
    scene.frame_start, scene.frame_end = 101, 100 + FRAMES
    source_camera = module("ex4d_blender.source_camera")
    _, numbers = source_camera.write_tracked_camera(scene, camera, Path(scene.ex4d.clip_path).parent)
    assert numbers == range(1, FRAMES + 1)
    scene.ex4d.start_number, clip.frame_offset = 1001, 2
    _, numbers = source_camera.write_tracked_camera(scene, camera, Path(scene.ex4d.clip_path).parent)
    assert numbers == range(1003, 1003 + FRAMES)

    camera.constraints.remove(constraint)  # baked: the clip is the scene's
    scene.active_clip = clip
    _, numbers = source_camera.write_tracked_camera(scene, camera, Path(scene.ex4d.clip_path).parent)
    assert numbers == range(1003, 1003 + FRAMES)

    clip.tracking.camera.k1 = -0.2
    assert "distorted lens" in refusal(bpy.ops.ex4d.use_tracked_camera)
    scene.active_clip = None
    assert bpy.ops.ex4d.use_tracked_camera() == {"FINISHED"}, "another clip's lens does not matter"


def test_a_camera_without_perspective_is_refused(scene: Any) -> None:
    tracked_camera(scene).data.type = "ORTHO"
    assert "orthographic" in refusal(bpy.ops.ex4d.use_tracked_camera)
    assert not scene.ex4d.poses_path


def test_a_bad_camera_file_is_said_in_one_sentence(scene: Any) -> None:
    scene.ex4d.poses_path = str(Path(scene.ex4d.clip_path).with_name("gone é.json"))
    assert "gone é.json" in refusal(bpy.ops.ex4d.reconstruct)


def test_a_zoom_keeps_every_vertex_on_its_pixel(addon: Callable[[str], Any], new_shot: Any) -> None:
    shots, cameras = addon("ex4d_engine.shot"), addon("ex4d_engine.cameras")
    shot = new_shot("poses")
    geometry = dataclasses.replace(shot.require_geometry(), zoom=(1.0, 1.2, 1.5, 1.9))
    shots.save_shot(dataclasses.replace(shot, geometry=geometry))
    shot = shots.load_shot(shot.root)
    scene = bpy.context.scene
    imported = addon("ex4d_blender.mesh_import").import_shot(shot, scene)
    assert not addon("ex4d_blender.mesh_import").is_edited(imported, scene)
    uv = np.load(shot.rays_file)["uv"][:-1] * (96, 64)
    sampling = addon("ex4d_blender.camera_sampling")
    for number in shot.require_plate().numbers:
        view = sampling.camera_frames(scene, imported.camera_object, shot, [number], (96, 64))[0]
        assert np.allclose(view.intrinsics, shot.source_intrinsics(number), atol=1e-3)
        scene.frame_set(number)
        depsgraph = bpy.context.evaluated_depsgraph_get()
        item = imported.mesh_object.evaluated_get(depsgraph)
        points = np.empty(len(item.data.vertices) * 3, np.float32)
        item.data.vertices.foreach_get("co", points)
        to_world = cameras.WORLD_TO_BLENDER.T @ np.array(item.matrix_world)
        points = points.reshape(-1, 3)[:-1] @ to_world[:3, :3].T + to_world[:3, 3]
        image, _ = cameras.project(points, np.array(view.intrinsics), np.array(view.camera_to_world))
        assert np.abs(image - uv).max() < 0.02, number
    moves = addon("ex4d_blender.camera_moves")
    camera = moves.add_camera_move(scene, shot, imported, np.eye(4)[None], "frozen", frozen=1004)
    assert camera.data.lens == pytest.approx(shot.source_intrinsics(1004)[0][0] / 96 * 36, rel=1e-5)
    moves.snap_camera_to_source(camera, imported, shot, 1002)
    assert camera.data.lens == pytest.approx(shot.source_intrinsics(1002)[0][0] / 96 * 36, rel=1e-5)


def test_two_objects_say_how_large_the_scene_is(scene: Any) -> None:
    bpy.ops.ex4d.reconstruct()
    shot = module("ex4d_blender.current_shot").open_shot(scene)
    near = shot.require_geometry().near
    empties(scene, (0, 2, 0), (0, 2, 4))
    scene.ex4d.real_length = 1.0
    assert bpy.ops.ex4d.set_scale() == {"FINISHED"}
    scaled = module("ex4d_blender.current_shot").open_shot(scene).require_geometry()
    assert scaled.is_metric and scaled.scale == pytest.approx(0.25) and scaled.near == pytest.approx(near / 4)
    assert scene.ex4d.use_scene_scale and scene.ex4d.scene_scale == pytest.approx(0.25)
    # the new mesh is measured, not the former one
    empties(scene, (0, 0, 0), (0, 0, 0.5))
    assert bpy.ops.ex4d.set_scale() == {"FINISHED"}
    assert module("ex4d_blender.current_shot").open_shot(scene).require_geometry().scale == pytest.approx(0.5)


def test_a_scale_is_not_that_of_another_clip_depth_or_camera(scene: Any) -> None:
    settings = scene.ex4d
    params = module("ex4d_blender.operators.reconstruct").reconstruct_params
    for name, value in (
        ("clip_path", "//other.mkv"),
        ("depth_source", "rough-pictorial"),
        ("depth_anything_v2_variant", "base"),
        ("depth_path", "//depth"),
        ("depth_meaning", "disparity"),
        ("poses_path", "//solved.json"),
    ):
        settings.use_scene_scale, settings.scene_scale = True, 2.5
        assert params(scene, Path("shot"))["scene_scale"] == 2.5
        setattr(settings, name, value)
        assert params(scene, Path("shot"))["scene_scale"] is None, name


def test_a_track_that_was_solved_better_keeps_the_scale(scene: Any) -> None:
    tracked_camera(scene)
    assert bpy.ops.ex4d.use_tracked_camera() == {"FINISHED"}
    scene.ex4d.use_scene_scale = True
    assert bpy.ops.ex4d.use_tracked_camera() == {"FINISHED"}
    assert scene.ex4d.use_scene_scale


def test_a_length_has_two_ends(imported: Any) -> None:
    bpy.ops.object.select_all(action="DESELECT")
    assert "0 objects are selected" in refusal(bpy.ops.ex4d.set_scale)
    empties(imported, (1, 1, 1))
    assert "1 objects" in refusal(bpy.ops.ex4d.set_scale)
    empties(imported, (1, 1, 1), (1, 1, 1))
    assert "in one place" in refusal(bpy.ops.ex4d.set_scale)


def test_two_vertices_are_as_far_apart_as_depth_puts_them(imported: Any) -> None:
    shot = module("ex4d_blender.current_shot").open_shot(imported)
    mesh = next(item for item in imported.objects if item.type == "MESH")
    imported.frame_set(1001)
    columns, one, two = 96 + 4, 30 * 100 + 20, 40 * 100 + 70
    evaluated = mesh.evaluated_get(bpy.context.evaluated_depsgraph_get())
    wanted = (evaluated.data.vertices[one].co - evaluated.data.vertices[two].co).length
    rest = (mesh.data.vertices[one].co - mesh.data.vertices[two].co).length
    assert columns == np.load(shot.rays_file)["grid"][1] and abs(wanted - rest) > 0.1
    bpy.context.view_layer.objects.active = mesh
    bpy.ops.object.mode_set(mode="EDIT")
    bpy.ops.mesh.select_mode(type="VERT")
    bpy.ops.mesh.select_all(action="DESELECT")
    edited = bmesh.from_edit_mesh(mesh.data)
    edited.verts.ensure_lookup_table()
    for index in (one, two):
        edited.verts[index].select = True
    bmesh.update_edit_mesh(mesh.data)
    try:
        assert module("ex4d_blender.source_camera").measured_distance(bpy.context) == pytest.approx(wanted, rel=1e-5)
    finally:
        bpy.ops.object.mode_set(mode="OBJECT")


def test_the_shots_of_an_edited_clip_one_after_another(scene: Any, tmp_path: Path) -> None:
    settings = scene.ex4d
    assert bpy.ops.ex4d.next_shot_of_clip() == {"FINISHED"}
    assert not settings.use_range, "this clip has no cut"
    folder = tmp_path / "edit é"
    folder.mkdir()
    random = np.random.default_rng(6)
    grounds = [np.ones((16, 24, 4)), np.ones((16, 24, 4))]
    for ground, tint in zip(grounds, ((0.7, 0.3, 0.2), (0.2, 0.3, 0.7)), strict=True):
        ground[..., :3] = np.clip(random.normal(0, 0.12, (16, 24, 3)) + tint, 0, 1)
    for index in range(14):
        image = bpy.data.images.new("frame", 96, 64)
        pixels = np.roll(np.kron(grounds[index >= 8], np.ones((4, 4, 1))), index, axis=1)
        image.pixels.foreach_set(pixels.astype(np.float32).ravel())
        image.filepath_raw, image.file_format = str(folder / f"edit.{index + 1:04d}.png"), "PNG"
        image.save()
    settings.clip_path = str(folder / "edit.0001.png")
    assert "2 shots: frames 1 to 8, 9 to 14" in refusal(bpy.ops.ex4d.reconstruct)
    for wanted in ((1, 8), (9, 14), (1, 8)):
        settings.use_scene_scale = True
        assert bpy.ops.ex4d.next_shot_of_clip() == {"FINISHED"}
        assert not settings.use_scene_scale
        assert settings.use_range and (settings.range_first, settings.range_last) == wanted
        assert Path(bpy.path.abspath(settings.shot_folder)).name == f"edit_ex4d_{wanted[0]}"
    assert bpy.ops.ex4d.reconstruct() == {"FINISHED"}
    settings.use_range, settings.ignore_cuts, settings.shot_folder = False, True, ""
    assert bpy.ops.ex4d.reconstruct() == {"FINISHED"}


def test_a_lens_in_millimetres(scene: Any) -> None:
    settings = scene.ex4d
    settings.use_field_of_view, settings.lens_unit = True, "MILLIMETRES"
    settings.focal_length, settings.sensor_size = 20.0, 24.0
    assert bpy.ops.ex4d.reconstruct() == {"FINISHED"}
    geometry = module("ex4d_blender.current_shot").open_shot(scene).require_geometry()
    assert geometry.intrinsics[0][0] == pytest.approx(20 / 24 * WIDTH)
