# SPDX-License-Identifier: GPL-3.0-or-later
"""How far a face that the plate did not see is drawn, in nodes; see ex4d_engine/dwmesh/{walls,edges}.py.

A face begins at the nearest of the four plate pixels around its cell of the mesh, and goes on by a share of that
depth, and by no more than the thing that it begins at is wide. Which cell that is, its texel in
the `seen` image tells: the same at all three corners, so that no interpolation, however inexact on a face that is
seen edge-on, gives a neighbour's depth. Held against it is the depth that a point had before the user's modifiers
(depth_nodes.py), so that a face that is moved, cut or subdivided keeps its walls.
"""

from __future__ import annotations

from dataclasses import dataclass

import bpy

from ..ex4d_engine.dwmesh.walls import WIDE
from ..ex4d_engine.shot import Plate
from .depth_nodes import SOURCE_Z_ATTRIBUTE
from .shader_nodes import scalar, vector

RINGS = 2  # of vertices around the plate's pixels, on each side: docs/shot_folder.md, "The mesh"


@dataclass(frozen=True)
class Walls:
    """share: the most of the depth where a face begins; depth: the frame's, as `load_frame` gives it.

    widths: the frame's `Shot.width_file`, likewise; None: all walls go on by the share.
    focal_px: of the plate.
    kept_z: whether the mesh has `SOURCE_Z_ATTRIBUTE`. One that was imported by an earlier version, or baked, has not:
    its points count where they are now.
    """

    share: float
    depth: bpy.types.Image
    widths: bpy.types.Image | None
    focal_px: float
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
    size = (plate.width, plate.height)
    begins = [
        _texel(tree, vector(tree, "ADD", cell, (right - RINGS, down - RINGS, 0.0)), walls.depth, size)
        for right in (0.0, 1.0)
        for down in (0.0, 1.0)
    ]
    nearest = begins[0]
    for other in begins[1:]:
        nearest = scalar(tree, "MINIMUM", nearest, other)

    ends = scalar(tree, "MULTIPLY_ADD", nearest, _share(tree, cell, walls), nearest)
    beyond = scalar(tree, "GREATER_THAN", _source_z(tree, walls), ends)
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


def _share(tree: bpy.types.NodeTree, cell: bpy.types.NodeSocket, walls: Walls) -> bpy.types.NodeSocket | float:
    """How far the walls of a cell (column, row) go on, as a share of the depth where they begin."""
    if walls.widths is None:
        return walls.share
    # the image has the cells between pixels and the half ones at the border
    place = vector(tree, "ADD", cell, (1.0 - RINGS, 1.0 - RINGS, 0.0))
    stored = _texel(tree, place, walls.widths, (walls.plate.width + 1, walls.plate.height + 1))
    pixels = scalar(tree, "ROUND", scalar(tree, "MULTIPLY", stored, float(WIDE)))
    is_wide = scalar(tree, "GREATER_THAN", pixels, WIDE - 0.5)
    limit = scalar(tree, "MULTIPLY_ADD", is_wide, walls.share, scalar(tree, "DIVIDE", pixels, walls.focal_px))
    return scalar(tree, "MINIMUM", limit, walls.share)


def _texel(
    tree: bpy.types.NodeTree, place: bpy.types.NodeSocket, image: bpy.types.Image, size: tuple[int, int]
) -> bpy.types.NodeSocket:
    """Red of the texel (column, row) from the top left, or of the border's next to it.

    Args:
        size: (width, height) of the image.
    """
    width, height = size
    inside = vector(tree, "MAXIMUM", place, (0.0, 0.0, 0.0))
    inside = vector(tree, "MINIMUM", inside, (width - 1.0, height - 1.0, 0.0))
    first_centre = (0.5 / width, 1 - 0.5 / height, 0.0)
    centre = vector(tree, "MULTIPLY_ADD", inside, (1 / width, -1 / height, 0.0), first_centre)
    texture = tree.nodes.new("ShaderNodeTexImage")
    texture.image, texture.interpolation, texture.extension = image, "Closest", "EXTEND"
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
