# SPDX-License-Identifier: GPL-3.0-or-later
"""Cards of the pixels at the plate's edges (ex4d_engine/dwmesh/edges.py), in Geometry Nodes.

They stand where the mesh's vertices are after all of the user's modifiers, so that what was moved takes its cards
along. A mesh that no longer knows its vertices' pixels, such as a baked copy, has none.
"""

from __future__ import annotations

from collections.abc import Mapping

import bpy

from ..ex4d_engine.dwmesh.walls import CARD_PIXELS, CARD_SETBACK
from ..ex4d_engine.shot import Shot
from .depth_nodes import PIXEL_ATTRIBUTE, SOURCE_Z_ATTRIBUTE
from .plate_material import ALBEDO_UV
from .shader_nodes import scalar, vector

OWN_PIXEL = 0.25  # pixels between a vertex and its pixel: half a one on the edge ring
CENTRE = 0.01  # likewise: a vertex that a modifier has put between two pixels belongs to neither
MOST_LEAN = 0.05  # of a card's quarters, which its setback makes: a fine plate's would be steep


def card_group(
    name: str, alpha: bpy.types.Image, shot: Shot, materials: Mapping[int, bpy.types.Material]
) -> bpy.types.NodeTree:
    """A group for a modifier, the last one, that adds to a plate's mesh the cards of its pixels.

    Args:
        alpha: the frame's albedo, whose alpha is `EDGE` where a pixel has a card.
        materials: of the cards, by the material slot of the faces beside them; beside others there are none.
    """
    group = bpy.data.node_groups.new(name, "GeometryNodeTree")
    group.is_modifier = True
    group.interface.new_socket("Geometry", in_out="INPUT", socket_type="NodeSocketGeometry")
    group.interface.new_socket("Geometry", in_out="OUTPUT", socket_type="NodeSocketGeometry")
    mesh = group.nodes.new("NodeGroupInput").outputs["Geometry"]
    pixel = _attribute(group, PIXEL_ATTRIBUTE, "FLOAT_VECTOR").outputs["Attribute"]
    is_edge, scale, card = _is_edge(group, pixel, alpha, shot), _source_z(group), _card(group, shot)
    parts = []
    for slot, material in materials.items():
        instances = group.nodes.new("GeometryNodeInstanceOnPoints")
        chosen = scalar(group, "MULTIPLY", is_edge, _beside_slot(group, slot))
        for source, socket in ((mesh, "Points"), (chosen, "Selection"), (card, "Instance"), (scale, "Scale")):
            group.links.new(source, instances.inputs[socket])
        real = _after(group, "GeometryNodeRealizeInstances", instances.outputs[0])
        # where the artist's nodes look things up, too
        placed = group.nodes.new("GeometryNodeStoreNamedAttribute")
        placed.data_type, placed.domain = "FLOAT2", "CORNER"
        placed.inputs["Name"].default_value = ALBEDO_UV
        group.links.new(real, placed.inputs["Geometry"])
        group.links.new(pixel, placed.inputs["Value"])
        painted = group.nodes.new("GeometryNodeSetMaterial")
        painted.inputs["Material"].default_value = material
        group.links.new(placed.outputs[0], painted.inputs["Geometry"])
        parts.append(painted.outputs[0])
    joined = group.nodes.new("GeometryNodeJoinGeometry")
    # the last link counts as the first: the mesh's materials keep their slots
    for part in (*parts, mesh):
        group.links.new(part, joined.inputs[0])
    group.links.new(joined.outputs[0], group.nodes.new("NodeGroupOutput").inputs["Geometry"])
    return group


def _is_edge(
    group: bpy.types.NodeTree, pixel: bpy.types.NodeSocket, alpha: bpy.types.Image, shot: Shot
) -> bpy.types.NodeSocket:
    """1 at vertices in the centre of a pixel that has a card, else 0."""
    plate = shot.require_plate()
    size = (float(plate.width), float(plate.height), 0.0)
    uv = _attribute(group, ALBEDO_UV, "FLOAT_VECTOR").outputs["Attribute"]
    from_pixel = vector(group, "MULTIPLY", vector(group, "SUBTRACT", uv, pixel), size)
    within = vector(group, "FRACTION", vector(group, "MULTIPLY", pixel, size))
    from_centre = vector(group, "SUBTRACT", within, (0.5, 0.5, 0.0))
    texture = group.nodes.new("GeometryNodeImageTexture")
    texture.interpolation, texture.extension = "Closest", "EXTEND"
    texture.inputs["Image"].default_value = alpha
    group.links.new(pixel, texture.inputs["Vector"])
    from_edge = scalar(group, "ABSOLUTE", scalar(group, "SUBTRACT", texture.outputs["Alpha"], 0.5))
    own = scalar(group, "LESS_THAN", _length(group, from_pixel), OWN_PIXEL)
    at_centre = scalar(group, "LESS_THAN", _length(group, from_centre), CENTRE)
    at_edge = scalar(group, "LESS_THAN", from_edge, 0.25)
    return scalar(group, "MULTIPLY", scalar(group, "MULTIPLY", own, at_centre), at_edge)


def _source_z(group: bpy.types.NodeTree) -> bpy.types.NodeSocket:
    """A vertex's depth before anybody moved it; where the mesh does not know it, its depth now."""
    kept = _attribute(group, SOURCE_Z_ATTRIBUTE, "FLOAT")
    now = group.nodes.new("ShaderNodeSeparateXYZ")
    group.links.new(group.nodes.new("GeometryNodeInputPosition").outputs[0], now.inputs[0])
    choice = group.nodes.new("GeometryNodeSwitch")
    choice.input_type = "FLOAT"
    group.links.new(kept.outputs["Exists"], choice.inputs["Switch"])
    group.links.new(now.outputs["Z"], choice.inputs["False"])
    group.links.new(kept.outputs["Attribute"], choice.inputs["True"])
    return choice.outputs[0]


def _card(group: bpy.types.NodeTree, shot: Shot) -> bpy.types.NodeSocket:
    """A card at depth 1, its front towards the source camera, which looks along +Z of the mesh's space.

    It is four squares around its centre, whose outer corners are set back by as much as the engine's, so that between
    two pixels of a surface their cards meet in the middle.
    """
    intrinsics = shot.require_geometry().intrinsics
    square = group.nodes.new("GeometryNodeMeshGrid")
    for socket, value in (("Size X", CARD_PIXELS), ("Size Y", CARD_PIXELS), ("Vertices X", 3), ("Vertices Y", 3)):
        square.inputs[socket].default_value = value
    place = group.nodes.new("GeometryNodeInputPosition").outputs[0]
    distance = vector(group, "DOT_PRODUCT", place, place).node.outputs["Value"]
    setback = min(CARD_SETBACK, MOST_LEAN / (CARD_PIXELS / 2) / max(intrinsics[0][0], intrinsics[1][1]))
    back = group.nodes.new("ShaderNodeCombineXYZ")
    group.links.new(scalar(group, "MULTIPLY", distance, setback), back.inputs["Z"])
    scale = (1 / intrinsics[0][0], 1 / intrinsics[1][1], 0.0)
    moved = group.nodes.new("GeometryNodeSetPosition")
    group.links.new(square.outputs["Mesh"], moved.inputs["Geometry"])
    group.links.new(vector(group, "MULTIPLY_ADD", place, scale, back.outputs[0]), moved.inputs["Position"])
    return _after(group, "GeometryNodeFlipFaces", moved.outputs[0])


def _beside_slot(group: bpy.types.NodeTree, slot: int) -> bpy.types.NodeSocket:
    """Whether any face at a vertex has the material of a slot."""
    same = group.nodes.new("FunctionNodeCompare")
    same.data_type, same.operation = "INT", "EQUAL"
    numbers = [socket for socket in same.inputs if socket.type == "INT"]  # those of the other types are hidden
    group.links.new(group.nodes.new("GeometryNodeInputMaterialIndex").outputs[0], numbers[0])
    numbers[1].default_value = slot
    # compared a face: at a vertex the numbers of its faces would be averaged first
    by_face = group.nodes.new("GeometryNodeFieldOnDomain")
    by_face.data_type, by_face.domain = "BOOLEAN", "FACE"
    group.links.new(same.outputs[0], by_face.inputs[0])
    return by_face.outputs[0]


def _attribute(group: bpy.types.NodeTree, name: str, kind: str) -> bpy.types.Node:
    node = group.nodes.new("GeometryNodeInputNamedAttribute")
    node.data_type = kind
    node.inputs["Name"].default_value = name
    return node


def _after(group: bpy.types.NodeTree, kind: str, geometry: bpy.types.NodeSocket) -> bpy.types.NodeSocket:
    node = group.nodes.new(kind)
    group.links.new(geometry, node.inputs[0])
    return node.outputs[0]


def _length(group: bpy.types.NodeTree, value: bpy.types.NodeSocket) -> bpy.types.NodeSocket:
    return vector(group, "LENGTH", value).node.outputs["Value"]
