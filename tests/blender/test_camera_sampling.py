# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

bpy = pytest.importorskip("bpy")

Addon = Callable[[str], Any]
SIZE = (96, 64)


def new_camera(name: str = "mine") -> Any:
    camera = bpy.data.objects.new(name, bpy.data.cameras.new(name))
    bpy.context.scene.collection.objects.link(camera)
    return camera


def blenders_projection(camera: Any, size: tuple[int, int], points: np.ndarray) -> np.ndarray:
    """(N,2) pixels from the top left of world points (N,3), by `calc_matrix_camera`."""
    depsgraph = bpy.context.evaluated_depsgraph_get()
    render = bpy.context.scene.render
    evaluated = camera.evaluated_get(depsgraph)
    projection = np.array(
        evaluated.calc_matrix_camera(
            depsgraph, x=size[0], y=size[1], scale_x=render.pixel_aspect_x, scale_y=render.pixel_aspect_y
        )
    )
    view = np.array(evaluated.matrix_world.normalized().inverted())
    clip = np.c_[points, np.ones(len(points))] @ (projection @ view).T
    return (clip[:, :2] / clip[:, 3:] * (0.5, -0.5) + 0.5) * size


def test_constraints_drivers_parents_and_lens_are_evaluated(addon: Addon, new_shot: Any) -> None:
    shot = new_shot()
    scene = bpy.context.scene
    scene.render.pixel_aspect_x = 1.5
    target = bpy.data.objects.new("target", None)
    parent = bpy.data.objects.new("parent", None)
    for item in (target, parent):
        scene.collection.objects.link(item)
    target.location = (0.3, 6.0, 0.2)
    parent.scale = (2.0, 2.0, 2.0)
    parent.location = (0.0, -1.0, 0.0)
    parent.keyframe_insert("location", frame=1001)
    parent.location = (0.7, -0.5, 0.4)
    parent.keyframe_insert("location", frame=1004)
    camera = new_camera()
    camera.parent = parent
    camera.constraints.new("TRACK_TO").target = target
    camera.data.sensor_fit, camera.data.shift_x, camera.data.shift_y = "VERTICAL", 0.1, -0.05
    driver = camera.data.driver_add("lens").driver
    driver.type = "SCRIPTED"
    driver.expression = "30 + (frame - 1001) * 5"
    scene.frame_set(1007, subframe=0.5)
    frames = addon("ex4d_blender.camera_sampling").camera_frames(scene, camera, shot, range(1000, 1006), SIZE)
    assert (scene.frame_current, scene.frame_subframe) == (1007, 0.5)
    assert [frame.source for frame in frames] == [1001, 1001, 1002, 1003, 1004, 1004]

    cameras = addon("ex4d_engine.cameras")
    points = np.random.default_rng(3).uniform((-1, 3, -1), (1, 8, 1), (20, 3))
    ours = points @ cameras.WORLD_TO_BLENDER[:3, :3]
    for number, frame in zip(range(1000, 1006), frames, strict=True):
        scene.frame_set(number)
        image, depth = cameras.project(ours, np.array(frame.intrinsics), np.array(frame.camera_to_world))
        assert (depth > 0).all()
        assert np.abs(image - blenders_projection(camera, SIZE, points)).max() < 0.01
    focal = [frame.intrinsics[1][1] for frame in frames]
    assert focal[5] / focal[1] == pytest.approx(50 / 30, rel=1e-6)


def test_a_scene_that_no_window_shows(addon: Addon, new_shot: Any) -> None:
    shot = new_shot()
    other = bpy.data.scenes.new("other")
    camera = bpy.data.objects.new("there", bpy.data.cameras.new("there"))
    other.collection.objects.link(camera)
    for frame, place in ((1001, 0.0), (1003, 2.0)):
        camera.location.x = place
        camera.keyframe_insert("location", frame=frame)
    frames = addon("ex4d_blender.camera_sampling").camera_frames(other, camera, shot, (1001, 1003), SIZE)
    assert [round(frame.camera_to_world[0][3], 5) for frame in frames] == [0.0, 2.0]


def test_a_frozen_moment_is_seen_in_every_frame(addon: Addon, new_shot: Any) -> None:
    shot = new_shot()
    scene, camera = bpy.context.scene, new_camera()
    for frame, place in ((1001, 0.0), (1004, 3.0)):
        camera.location.x = place
        camera.keyframe_insert("location", frame=frame)
    sampling = addon("ex4d_blender.camera_sampling")
    free = sampling.camera_frames(scene, camera, shot, range(1000, 1007), SIZE)
    frozen = sampling.camera_frames(scene, camera, shot, range(1000, 1007), SIZE, frozen=1002)
    assert [frame.source for frame in frozen] == [1002] * 7
    assert [frame.camera_to_world for frame in frozen] == [frame.camera_to_world for frame in free]
    for number in (1000, 1005):
        with pytest.raises(addon("ex4d_engine.errors").Ex4dError, match="holds 1001 to 1004") as caught:
            sampling.camera_frames(scene, camera, shot, range(1001, 1005), SIZE, frozen=number)
        assert caught.value.code == "camera_invalid"


@pytest.mark.parametrize(("kind", "word"), [("ORTHO", "orthographic"), ("PANO", "panoramic")])
def test_cameras_without_a_centre_are_refused(addon: Addon, new_shot: Any, kind: str, word: str) -> None:
    shot = new_shot()
    camera = new_camera()
    camera.data.type = kind
    scene = bpy.context.scene
    scene.frame_set(5)
    with pytest.raises(addon("ex4d_engine.errors").Ex4dError, match=word) as caught:
        addon("ex4d_blender.camera_sampling").camera_frames(scene, camera, shot, (1001,), SIZE)
    assert caught.value.code == "camera_unsupported" and scene.frame_current == 5


def test_camera_of_another_scene_is_refused(addon: Addon, new_shot: Any) -> None:
    shot = new_shot()
    camera = bpy.data.objects.new("nowhere", bpy.data.cameras.new("nowhere"))
    with pytest.raises(addon("ex4d_engine.errors").Ex4dError) as caught:
        addon("ex4d_blender.camera_sampling").camera_frames(bpy.context.scene, camera, shot, (1001,), SIZE)
    assert caught.value.code == "camera_unsupported"


def test_set_camera_is_the_inverse(addon: Addon, new_shot: Any) -> None:
    shot = new_shot()
    module, model = addon("ex4d_blender.camera_sampling"), addon("ex4d_engine.camera_frame")
    cameras = addon("ex4d_engine.cameras")
    scene, camera = bpy.context.scene, new_camera()
    pose = np.eye(4)
    pose[:3, :3] = cameras.rotation_about([1, 2, 3], 0.7)
    pose[:3, 3] = (1, -2, 3)
    for focal_x, focal_y in ((80.0, 80.0), (80.0, 100.0), (100.0, 80.0)):
        wanted = model.CameraFrame(
            1002, ((focal_x, 0.0, 50.0), (0.0, focal_y, 30.0), (0.0, 0.0, 1.0)), cameras.as_matrix(pose)
        )
        module.set_camera(scene, camera, wanted, SIZE)
        (got,) = module.camera_frames(scene, camera, shot, (1002,), SIZE)
        assert np.abs(np.array(got.intrinsics) - np.array(wanted.intrinsics)).max() < 1e-3
        assert np.abs(np.array(got.camera_to_world) - pose).max() < 1e-5


def test_what_counts_as_animated(addon: Addon) -> None:
    module = addon("ex4d_blender.camera_sampling")
    camera, parent = new_camera(), new_camera("parent")
    assert not module.is_animated(camera)
    camera.parent = parent
    assert not module.is_animated(camera)
    parent.keyframe_insert("location", frame=1)
    assert module.is_animated(camera)


def test_camera_move_follows_the_preset(addon: Addon, new_shot: Any) -> None:
    shot = new_shot("poses")
    scene = bpy.context.scene
    imported = addon("ex4d_blender.mesh_import").import_shot(shot, scene)
    trajectories = addon("ex4d_engine.trajectories")
    poses = trajectories.orbit(6, 30.0, 3.0)
    camera = addon("ex4d_blender.camera_moves").add_camera_move(scene, shot, imported, poses, "EX-4D orbit")
    expected = trajectories.along(shot, poses)
    frames = addon("ex4d_blender.camera_sampling").camera_frames(scene, camera, shot, range(1001, 1007), SIZE)
    for got, wanted in zip(frames, expected.frames, strict=True):
        assert np.abs(np.array(got.camera_to_world) - np.array(wanted.camera_to_world)).max() < 1e-5
        assert np.abs(np.array(got.intrinsics) - np.array(wanted.intrinsics)).max() < 1e-3
        assert got.source == wanted.source
    assert scene.camera != camera and addon("ex4d_blender.camera_sampling").is_animated(camera)
    angle = math.degrees(math.acos(np.clip(frames[0].camera_to_world[0][0], -1, 1)))
    assert angle < 5  # it starts at the source view


def test_snapped_camera_is_the_source_view(addon: Addon, new_shot: Any) -> None:
    shot = new_shot("poses")
    scene = bpy.context.scene
    imported = addon("ex4d_blender.mesh_import").import_shot(shot, scene)
    camera = new_camera()
    camera.data.type, camera.data.sensor_fit = "ORTHO", "VERTICAL"
    addon("ex4d_blender.camera_moves").snap_camera_to_source(camera, imported, shot, 1003)
    camera.location.x += 1
    camera.keyframe_insert("location", frame=1010)
    (frame,) = addon("ex4d_blender.camera_sampling").camera_frames(scene, camera, shot, (1003,), SIZE)
    assert np.abs(np.array(frame.camera_to_world) - np.array(shot.source_pose(1003))).max() < 1e-5
    assert np.abs(np.array(frame.intrinsics) - np.array(shot.geometry.intrinsics)).max() < 1e-3
