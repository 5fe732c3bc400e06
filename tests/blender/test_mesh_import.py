# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

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
    first = evaluated_points(imported.mesh_object)
    bpy.context.scene.frame_set(2000)  # beyond the clip: its last frame stays
    assert np.array_equal(first, evaluated_points(imported.mesh_object))
