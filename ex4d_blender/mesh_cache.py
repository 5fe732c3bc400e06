# SPDX-License-Identifier: GPL-3.0-or-later
"""The moving mesh baked to a Mesh Cache (PC2), so that it can be edited freely and exported.

The format: a header of 32 bytes (magic, version, number of points, first frame, frames a sample, number of
samples), then float32 x, y, z of every point, sample after sample; little-endian.
"""

from __future__ import annotations

import struct
from pathlib import Path

import bpy
import numpy as np
from numpy.typing import NDArray

from ..ex4d_engine.errors import Ex4dError
from ..ex4d_engine.files import atomic_path, prepare_folder
from .compat import blend_path
from .mesh_import import BAKED_ROLE, ROLE_PROPERTY
from .scene_evaluation import depsgraph_of, frame_kept

_HEADER = struct.Struct("<12siiffi")
_MAGIC, _VERSION = b"POINTCACHE2\0", 1


def bake_mesh_cache(mesh_object: bpy.types.Object, folder: Path, scene: bpy.types.Scene, frames: range) -> Path:
    """Bakes an imported mesh to `<folder>/<object>.pc2` and puts a free copy in its place.

    The copy is in the same collections, has the baked file as its only modifier and can be edited, as long as
    its vertices stay the same. The original stays too, hidden in viewport and render.

    Args:
        frames: scene frames to bake without gaps; the shot's numbers. Outside them the nearest one stays.

    Returns:
        The file that was written.

    Raises:
        Ex4dError: `depth_mismatch` when a modifier changes the number of vertices; `disk_full`, `read_only`.
    """
    with frame_kept(scene):
        scene.frame_set(frames[0])
        first = _points(mesh_object, scene)
        path = folder / f"{bpy.path.clean_name(mesh_object.name)}.pc2"
        prepare_folder(folder, need_bytes=_HEADER.size + first.nbytes * len(frames))
        with atomic_path(path) as temporary, temporary.open("wb") as file:
            file.write(_HEADER.pack(_MAGIC, _VERSION, len(first), 0.0, 1.0, len(frames)))
            for frame in frames:
                scene.frame_set(frame)
                points = _points(mesh_object, scene)
                if points.shape != first.shape:
                    raise Ex4dError(
                        "depth_mismatch",
                        f"{mesh_object.name} has {len(first)} vertices at frame {frames[0]}, {len(points)} at {frame}.",
                        "Disable the modifiers that add or remove vertices; then bake again.",
                    )
                file.write(points.tobytes())
        scene.frame_set(frames[0])
        depsgraph = depsgraph_of(scene)
        mesh = bpy.data.meshes.new_from_object(mesh_object.evaluated_get(depsgraph), depsgraph=depsgraph)
    baked = mesh_object.copy()
    baked.name = mesh.name = f"{mesh_object.name} baked"
    baked.data = mesh
    baked[ROLE_PROPERTY] = BAKED_ROLE
    baked.modifiers.clear()
    modifier = baked.modifiers.new("EX-4D Mesh Cache", "MESH_CACHE")
    modifier.cache_format = "PC2"
    modifier.filepath = blend_path(path)
    modifier.frame_start = frames[0]
    for collection in mesh_object.users_collection:
        collection.objects.link(baked)
    mesh_object.hide_render = mesh_object.hide_viewport = True
    return path


def _points(item: bpy.types.Object, scene: bpy.types.Scene) -> NDArray[np.float32]:
    """(V,3) float32 positions of the evaluated mesh, in the object's own space."""
    depsgraph = depsgraph_of(scene)
    evaluated = item.evaluated_get(depsgraph)
    mesh = evaluated.to_mesh()
    try:
        points = np.empty(len(mesh.vertices) * 3, np.float32)
        mesh.vertices.foreach_get("co", points)
    finally:
        evaluated.to_mesh_clear()
    return points.reshape(-1, 3)
