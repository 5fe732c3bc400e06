# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

bpy = pytest.importorskip("bpy")

Addon = Callable[[str], Any]


def points_of(item: Any) -> np.ndarray:
    mesh = item.evaluated_get(bpy.context.evaluated_depsgraph_get()).to_mesh()
    points = np.empty(len(mesh.vertices) * 3, np.float32)
    mesh.vertices.foreach_get("co", points)
    return points


def test_baked_mesh_moves_as_the_nodes_do(addon: Addon, new_shot: Any, tmp_path: Path) -> None:
    shot = new_shot("poses")
    scene = bpy.context.scene
    module = addon("ex4d_blender.mesh_import")
    imported = module.import_shot(shot, scene)
    scene.frame_set(1002)
    expected = {}
    for number in shot.plate.numbers:
        scene.frame_set(number)
        expected[number] = points_of(imported.mesh_object)
    scene.frame_set(1002)
    path = addon("ex4d_blender.mesh_cache").bake_mesh_cache(
        imported.mesh_object, tmp_path / "bäked", scene, shot.plate.numbers
    )
    assert scene.frame_current == 1002
    count = len(expected[1001]) // 3
    header = struct.unpack("<12siiffi", path.read_bytes()[:32])
    assert header == (b"POINTCACHE2\0", 1, count, 0.0, 1.0, 4)
    assert path.stat().st_size == 32 + 4 * count * 12

    found = module.find_imported(scene, shot.root)
    assert found.mesh_object != imported.mesh_object and imported.mesh_object.hide_render
    assert [modifier.type for modifier in found.mesh_object.modifiers] == ["MESH_CACHE"]
    assert module.is_edited(found, scene)
    for number, points in expected.items():
        scene.frame_set(number)
        assert np.abs(points_of(found.mesh_object) - points).max() < 1e-5
        assert np.abs(np.array(found.mesh_object.matrix_world) - module.mesh_matrix(shot, number)).max() < 1e-5
    scene.frame_set(1010)
    assert np.abs(points_of(found.mesh_object) - expected[1004]).max() < 1e-5


def test_changing_topology_is_refused_and_leaves_nothing(addon: Addon, new_shot: Any, tmp_path: Path) -> None:
    shot = new_shot()
    scene = bpy.context.scene
    imported = addon("ex4d_blender.mesh_import").import_shot(shot, scene)
    decimate = imported.mesh_object.modifiers.new("fewer", "DECIMATE")
    decimate.ratio = 1.0
    decimate.keyframe_insert("ratio", frame=1001)
    decimate.ratio = 0.5
    decimate.keyframe_insert("ratio", frame=1002)
    objects = len(bpy.data.objects)
    with pytest.raises(addon("ex4d_engine.errors").Ex4dError) as caught:
        addon("ex4d_blender.mesh_cache").bake_mesh_cache(imported.mesh_object, tmp_path, scene, shot.plate.numbers)
    assert caught.value.code == "depth_mismatch"
    assert not list(tmp_path.glob("*.pc2")) and not list(tmp_path.glob(".*.pc2")) and len(bpy.data.objects) == objects
