# SPDX-License-Identifier: GPL-3.0-or-later
"""From shapes to Blender objects."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import bpy
import numpy as np
from mathutils import Matrix

from .shapes import Floats, Shape, joined


def add(name: str, shape: Shape, material: Any, matrix: Floats | None = None, smooth: bool = True) -> Any:
    """Link a shape into the scene as an object."""
    mesh = bpy.data.meshes.new(name)
    mesh.from_pydata(shape.vertices.tolist(), [], shape.faces)
    mesh.materials.append(material)
    mesh.shade_smooth() if smooth else mesh.shade_flat()
    if shape.grain is not None:
        attribute: Any = mesh.attributes.new("grain", "FLOAT_VECTOR", "POINT")
        attribute.data.foreach_set("vector", shape.grain.astype(np.float32).ravel())
    if shape.normals is not None:
        mesh.normals_split_custom_set_from_vertices(shape.normals.tolist())
    item = bpy.data.objects.new(name, mesh)
    if matrix is not None:
        item.matrix_world = Matrix(matrix.tolist())
    scene: Any = bpy.context.scene
    scene.collection.objects.link(item)
    return item


def carve(wall: Any, cutters: Sequence[Shape], bevel: float) -> None:
    """Cut openings out of a wall and soften its edges."""
    cutter = add(wall.name + " openings", joined(cutters), wall.data.materials[0], smooth=False)
    cutter.matrix_world = wall.matrix_world
    cutter.hide_render = True
    cut = wall.modifiers.new("openings", "BOOLEAN")
    cut.object, cut.solver = cutter, "EXACT"
    soft = wall.modifiers.new("edges", "BEVEL")
    soft.width, soft.segments, soft.harden_normals = bevel, 2, True
