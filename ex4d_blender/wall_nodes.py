# SPDX-License-Identifier: GPL-3.0-or-later
"""How far a face that the plate did not see is drawn, in nodes; see ex4d_engine/dwmesh/walls.py.

A face begins at the nearest of the four plate pixels around its cell of the mesh. Which cell that is, its texel in
the `seen` image tells: the same at all three corners, so that no interpolation, however inexact on a face that is
seen edge-on, gives a neighbour's depth. Held against it is the depth that a point had before the user's modifiers
(depth_nodes.py), so that a face that is moved, cut or subdivided keeps its walls.
"""

from __future__ import annotations

from dataclasses import dataclass

import bpy

from ..ex4d_engine.shot import Plate
from .depth_nodes import SOURCE_Z_ATTRIBUTE
from .plate_images import follow_timeline
from .shader_nodes import scalar, vector

RINGS = 2  # of vertices around the plate's pixels, on each side: docs/shot_folder.md, "The mesh"


@dataclass(frozen=True)
class Walls:
    """share: of the depth where a face begins; depth: the plate's, as an image sequence, Non-Color, in red.

    kept_z: whether the mesh has `SOURCE_Z_ATTRIBUTE`. One that was imported by an earlier version, or baked, has not:
    its points count where they are now.
    """

    share: float
    depth: bpy.types.Image
    plate: Plate
    kept_z: bool


def beyond_walls(tree: bpy.types.NodeTree, seen_uv: str, walls: Walls) -> bpy.types.NodeSocket:
    """1 where a face of the grid, if unseen, is farther from the source camera than its wall reaches, else 0.

    Args:
        seen_uv: the UV map that holds a face's texel in the `seen` image.
    """
    plate = walls.plate
    face = tree.nodes.new("ShaderNodeUVMap")
    face.uv_map = seen_uv
    columns, rows = plate.width + 2 * RINGS - 1, plate.height + 2 * RINGS - 1  # of cells, each with two texels
    texel = vector(tree, "MULTIPLY_ADD", face.outputs["UV"], (2.0 * columns, -rows, 0.0), (0.0, rows, 0.0))
    cell = vector(tree, "FLOOR", vector(tree, "MULTIPLY", texel, (0.5, 1.0, 0.0)))
    begins = [
        _depth_at(tree, vector(tree, "ADD", cell, (right - RINGS, down - RINGS, 0.0)), walls)
        for right in (0.0, 1.0)
        for down in (0.0, 1.0)
    ]
    nearest = begins[0]
    for other in begins[1:]:
        nearest = scalar(tree, "MINIMUM", nearest, other)

    beyond = scalar(tree, "GREATER_THAN", _source_z(tree, walls), scalar(tree, "MULTIPLY", nearest, 1.0 + walls.share))
    # the fan that closes the mesh has the first texel, whose own face has no area: it is no wall
    across, down, _ = _parts(tree, texel)
    is_wall = scalar(tree, "GREATER_THAN", scalar(tree, "MAXIMUM", across, down), 1.0)
    return scalar(tree, "MULTIPLY", beyond, is_wall)


def _source_z(tree: bpy.types.NodeTree, walls: Walls) -> bpy.types.NodeSocket:
    if walls.kept_z:
        attribute = tree.nodes.new("ShaderNodeAttribute")
        attribute.attribute_type, attribute.attribute_name = "GEOMETRY", SOURCE_Z_ATTRIBUTE
        return attribute.outputs["Fac"]
    point = tree.nodes.new("ShaderNodeTexCoord")  # the mesh's own space is the source camera's
    return _parts(tree, point.outputs["Object"])[2]


def _depth_at(tree: bpy.types.NodeTree, pixel: bpy.types.NodeSocket, walls: Walls) -> bpy.types.NodeSocket:
    """Depth of the plate's pixel (column, row) from the top left, or of the border pixel next to it."""
    width, height = walls.plate.width, walls.plate.height
    inside = vector(tree, "MAXIMUM", pixel, (0.0, 0.0, 0.0))
    inside = vector(tree, "MINIMUM", inside, (width - 1.0, height - 1.0, 0.0))
    first_centre = (0.5 / width, 1 - 0.5 / height, 0.0)
    centre = vector(tree, "MULTIPLY_ADD", inside, (1 / width, -1 / height, 0.0), first_centre)
    texture = tree.nodes.new("ShaderNodeTexImage")
    texture.image, texture.interpolation, texture.extension = walls.depth, "Closest", "EXTEND"
    follow_timeline(texture.image_user, walls.plate)
    tree.links.new(centre, texture.inputs["Vector"])
    # not the colour itself: Blender would weigh its three channels into a luminance
    channels = tree.nodes.new("ShaderNodeSeparateColor")
    tree.links.new(texture.outputs["Color"], channels.inputs[0])
    return channels.outputs[0]


def _parts(tree: bpy.types.NodeTree, value: bpy.types.NodeSocket) -> list[bpy.types.NodeSocket]:
    """x, y and z of a vector."""
    parts = tree.nodes.new("ShaderNodeSeparateXYZ")
    tree.links.new(value, parts.inputs[0])
    return list(parts.outputs)
