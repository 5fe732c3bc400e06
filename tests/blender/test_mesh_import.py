# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

bpy = pytest.importorskip("bpy")

Addon = Callable[[str], Any]


def evaluated_points(item: Any) -> np.ndarray:
    """(V,3) local positions of a mesh object at the present frame."""
    mesh = item.evaluated_get(bpy.context.evaluated_depsgraph_get()).to_mesh()
    points = np.empty(len(mesh.vertices) * 3, np.float32)
    mesh.vertices.foreach_get("co", points)
    return points.reshape(-1, 3)


def expected_points(addon: Addon, shot: Any, number: int) -> np.ndarray:
    """The engine's formula: ray × (pinned z, or the depth of the vertex's pixel)."""
    with np.load(shot.rays_file) as data:
        grid = {name: data[name] for name in ("rays", "pixels", "pinned")}
    image = bpy.data.images.load(str(shot.depth_file(number)))
    depth = np.array(image.pixels[:], np.float32).reshape(image.size[1], image.size[0], 4)[::-1, :, 0]
    bpy.data.images.remove(image)
    z = np.where(grid["pinned"] > 0, grid["pinned"], depth[grid["pixels"][:, 0], grid["pixels"][:, 1]])
    return grid["rays"] * z[:, None]


@pytest.mark.parametrize("kind", ["none", "poses", "reference"])
def test_vertices_follow_the_depth_files(addon: Addon, new_shot: Any, kind: str) -> None:
    shot = new_shot(kind)
    imported = addon("ex4d_blender.mesh_import").import_shot(shot, bpy.context.scene)
    for number in (1001, 1004):
        bpy.context.scene.frame_set(number)
        points = evaluated_points(imported.mesh_object)
        assert np.abs(points - expected_points(addon, shot, number)).max() < 1e-4
    for number, shown in ((2000, 1004), (7, 1001)):  # outside the clip: its nearest frame
        bpy.context.scene.frame_set(number)
        assert np.abs(evaluated_points(imported.mesh_object) - expected_points(addon, shot, shown)).max() < 1e-4


@pytest.mark.parametrize(("kind", "last"), [("none", 1004), ("still", 1001)])
def test_textures_follow_the_timeline_and_stay_within_the_clip(
    addon: Addon, new_shot: Any, kind: str, last: int
) -> None:
    """Seen by Cycles: what the plain source view shows at a frame is that frame's plate."""
    shot = new_shot(kind)
    scene = bpy.context.scene
    imported = addon("ex4d_blender.mesh_import").import_shot(shot, scene)
    read = addon("ex4d_blender.pixel_files").read_rgba
    scene.camera = imported.camera_object
    scene.render.engine, scene.cycles.samples, scene.view_settings.view_transform = "CYCLES", 1, "Standard"
    scene.cycles.pixel_filter_type, scene.cycles.filter_width, scene.cycles.use_denoising = "GAUSSIAN", 0.01, False
    scene.render.resolution_x, scene.render.resolution_y, scene.render.dither_intensity = 96, 64, 0.0
    scene.render.filepath = str(shot.root / "look.png")
    plates = {number: read(shot.plate_file(number))[..., :3].astype(int) for number in shot.plate.numbers}
    for frame, shown in ((-5, 1001), (1000, 1001), (1001, 1001), (1003, min(1003, last)), (2000, last)):
        scene.frame_set(frame)
        bpy.ops.render.render(write_still=True)
        picture = read(shot.root / "look.png")[..., :3].astype(int)
        wrong = {number: (abs(picture - plate).max(axis=-1) > 2).mean() for number, plate in plates.items()}
        assert min(wrong, key=wrong.get) == shown and wrong[shown] < 0.02


def test_depth_reaches_the_right_texels_with_a_lens_and_axes(addon: Addon, new_shot: Any) -> None:
    """Where the mesh's vertices are in Blender's world, seen by Blender's own projection of the source camera."""
    from bpy_extras.object_utils import world_to_camera_view
    from mathutils import Vector

    shot = new_shot("poses")
    scene = bpy.context.scene
    scene.render.resolution_x, scene.render.resolution_y = 96, 64
    imported = addon("ex4d_blender.mesh_import").import_shot(shot, scene)
    scene.frame_set(1003)
    with np.load(shot.rays_file) as data:
        uv, pinned = data["uv"], data["pinned"]
    world = np.array(imported.mesh_object.matrix_world)
    points = evaluated_points(imported.mesh_object)
    for index in range(3, len(pinned) - 1, 97):
        x, y, z = world[:3, :3] @ points[index] + world[:3, 3]
        seen = world_to_camera_view(scene, imported.camera_object, Vector((x, y, z)))
        assert abs(seen.x - uv[index, 0]) < 1e-3 and abs(1 - seen.y - uv[index, 1]) < 1e-3
        assert abs(seen.z - points[index, 2]) < 1e-3 * points[index, 2]


def test_nothing_else_of_the_scene_changes(addon: Addon, new_shot: Any) -> None:
    scene = bpy.context.scene
    names = ("frame_start", "frame_end", "frame_current", "camera")
    render = ("resolution_x", "resolution_y", "fps", "engine", "filepath", "film_transparent")
    before = [getattr(scene, n) for n in names] + [getattr(scene.render, n) for n in render]
    imported = addon("ex4d_blender.mesh_import").import_shot(new_shot(), scene)
    assert [getattr(scene, n) for n in names] + [getattr(scene.render, n) for n in render] == before
    assert list(scene.collection.children) == [imported.collection] and not scene.collection.objects
    assert set(imported.collection.objects) == {imported.mesh_object, imported.camera_object}


def test_source_camera_has_the_shots_lens_and_keys(addon: Addon, new_shot: Any) -> None:
    shot = new_shot("poses")
    scene = bpy.context.scene
    imported = addon("ex4d_blender.mesh_import").import_shot(shot, scene)
    frames = addon("ex4d_blender.camera_sampling").camera_frames(
        scene, imported.camera_object, shot, shot.plate.numbers, (96, 64)
    )
    for number, frame in zip(shot.plate.numbers, frames, strict=True):
        assert np.abs(np.array(frame.intrinsics) - np.array(shot.geometry.intrinsics)).max() < 1e-3
        assert np.abs(np.array(frame.camera_to_world) - np.array(shot.source_pose(number))).max() < 1e-5
        assert frame.source == number


def test_saved_file_works_without_the_addon(addon: Addon, new_shot: Any, tmp_path: Path) -> None:
    shot = new_shot()
    blend = tmp_path / "Ünï 作業.blend"
    bpy.ops.wm.save_as_mainfile(filepath=str(blend))
    imported = addon("ex4d_blender.mesh_import").import_shot(shot, bpy.context.scene)
    assert all(image.filepath.startswith("//") for image in bpy.data.images if image.source == "SEQUENCE")
    assert imported.mesh_object["ex4d_shot"].startswith("//")
    bpy.context.scene.frame_set(1003)
    points = evaluated_points(imported.mesh_object)
    bpy.ops.wm.save_as_mainfile(filepath=str(blend))

    script = tmp_path / "reopen.py"
    script.write_text(
        "import os, sys, bpy, numpy as np\n"
        "bpy.ops.wm.read_factory_settings(use_empty=True)\n"
        "bpy.ops.wm.open_mainfile(filepath=sys.argv[1])\n"
        "assert not any('ex4d' in name for name in bpy.context.preferences.addons.keys())\n"
        "bpy.context.scene.frame_set(1001); bpy.context.scene.frame_set(1003)\n"
        "item = next(o for o in bpy.data.objects if o.get('ex4d_role') == 'mesh')\n"
        "mesh = item.evaluated_get(bpy.context.evaluated_depsgraph_get()).to_mesh()\n"
        "points = np.empty(len(mesh.vertices) * 3, np.float32)\n"
        "mesh.vertices.foreach_get('co', points)\n"
        "np.save(sys.argv[2], points)\n"
        "sys.stdout.flush(); os._exit(0)\n",
        encoding="utf-8",
    )
    moved = tmp_path.parent / f"{tmp_path.name} moved"  # .blend and shot go elsewhere together
    tmp_path.rename(moved)
    try:
        environment = {**os.environ, "BLENDER_USER_RESOURCES": str(moved / "none")}
        command = [sys.executable, str(moved / script.name), str(moved / blend.name), str(moved / "points.npy")]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120)
        assert done.returncode == 0, done.stderr
        assert np.array_equal(np.load(moved / "points.npy").reshape(-1, 3), points)
    finally:
        moved.rename(tmp_path)


def test_import_is_found_again(addon: Addon, new_shot: Any, tmp_path: Path) -> None:
    module = addon("ex4d_blender.mesh_import")
    shot = new_shot()
    scene = bpy.context.scene
    assert module.find_imported(scene, shot.root) is None
    first = module.import_shot(shot, scene)
    second = module.import_shot(shot, scene)
    assert first.collection != second.collection
    assert module.find_imported(scene, shot.root) == second
    assert module.find_imported(scene, tmp_path / "other") is None
    bpy.ops.wm.save_as_mainfile(filepath=str(tmp_path / "x.blend"))
    bpy.ops.wm.open_mainfile(filepath=str(tmp_path / "x.blend"))
    found = module.find_imported(bpy.context.scene, shot.root)
    assert found is not None and found.collection.name == "EX-4D Ünï 作業 none.001"
    bpy.data.objects.remove(found.camera_object)
    assert module.find_imported(bpy.context.scene, shot.root).collection.name == "EX-4D Ünï 作業 none"


def _moved(item: Any) -> None:
    item.location.x += 0.01


def _modifier(item: Any) -> None:
    item.modifiers.new("smooth", "SMOOTH")


def _vertex(item: Any) -> None:
    item.data.vertices[7].co.x += 0.001


def _node(item: Any) -> None:
    item.modifiers[0].node_group.nodes.new("GeometryNodeTransform")


def _image(item: Any) -> None:
    item.data.materials[0].node_tree.nodes["EX-4D Albedo"].image = bpy.data.images.new("painted", 8, 8)


def _constraint(item: Any) -> None:
    item.constraints.new("LIMIT_LOCATION")


def _key(item: Any) -> None:
    item.location.x += 1
    item.keyframe_insert("location", frame=1002)


def _copy(item: Any) -> None:
    bpy.context.scene.collection.objects.link(item.copy())


def _hidden(item: Any) -> None:
    item.hide_render = True


EDITS = (_modifier, _vertex, _node, _image, _constraint, _key, _copy, _hidden)


# with poses the object is keyed, and its keys put it back at the next frame: there moving it is no edit
@pytest.mark.parametrize(
    ("edit", "kind"), [(_moved, "none"), *((edit, kind) for edit in EDITS for kind in ("none", "poses"))]
)
def test_every_edit_is_noticed(addon: Addon, new_shot: Any, edit: Callable[[Any], None], kind: str) -> None:
    module = addon("ex4d_blender.mesh_import")
    scene = bpy.context.scene
    imported = module.import_shot(new_shot(kind), scene)
    scene.frame_set(1003)
    assert not module.is_edited(imported, scene)
    edit(imported.mesh_object)
    assert module.is_edited(imported, scene)


def test_saving_is_no_edit(addon: Addon, new_shot: Any, tmp_path: Path) -> None:
    module = addon("ex4d_blender.mesh_import")
    shot = new_shot("poses")
    module.import_shot(shot, bpy.context.scene)
    bpy.ops.wm.save_as_mainfile(filepath=str(tmp_path / "x.blend"), relative_remap=True)
    bpy.ops.wm.open_mainfile(filepath=str(tmp_path / "x.blend"))
    bpy.context.scene.frame_set(1002)
    assert not module.is_edited(module.find_imported(bpy.context.scene, shot.root), bpy.context.scene)


@pytest.mark.parametrize("lost", ["rays", "depth", "albedo", "seen"])
def test_missing_or_damaged_files_are_named_and_nothing_is_left(addon: Addon, new_shot: Any, lost: str) -> None:
    shot = new_shot()
    if lost == "rays":
        shot.rays_file.write_bytes(b"PK not a zip")
    else:
        getattr(shot, f"{lost}_file")(1003).unlink()
    with pytest.raises(addon("ex4d_engine.errors").Ex4dError) as caught:
        addon("ex4d_blender.mesh_import").import_shot(shot, bpy.context.scene)
    assert caught.value.code == ("shot_invalid" if lost == "rays" else "missing_frame")
    assert not bpy.data.objects and not bpy.data.meshes and not bpy.data.collections and not bpy.data.images
