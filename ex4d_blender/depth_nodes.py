# SPDX-License-Identifier: GPL-3.0-or-later
"""The Geometry Nodes group that moves the static ray mesh to a frame's depth: position = ray × depth.

Only Blender's own nodes and the depth files are used, so the mesh moves without the add-on too.
"""

from __future__ import annotations

import bpy

from ..ex4d_engine.shot import Plate

PIXEL_ATTRIBUTE = "pix"  # where a vertex finds its depth: centre of its texel, (0,0) bottom left, z = 0
SOURCE_Z_ATTRIBUTE = "source_z"  # a vertex's depth, whatever modifiers move it afterwards
PINNED_ATTRIBUTE = "pinned"  # 0, or the constant depth of a vertex that no pixel moves


def depth_group(name: str, depth: bpy.types.Image, plate: Plate) -> bpy.types.NodeTree:
    """Builds the group for one shot.

    Args:
        depth: image sequence, Non-Color, depth in red; Geometry Nodes reads file number = `Frame`.
    """
    group = bpy.data.node_groups.new(name, "GeometryNodeTree")
    group.is_modifier = True
    group.interface.new_socket("Geometry", in_out="INPUT", socket_type="NodeSocketGeometry")
    group.interface.new_socket("Geometry", in_out="OUTPUT", socket_type="NodeSocketGeometry")

    def node(kind: str, column: int, row: int, **settings: object) -> bpy.types.Node:
        made = group.nodes.new(kind)
        made.location = (column * 220, -row * 180)
        for key, value in settings.items():
            setattr(made, key, value)
        return made

    time = node("GeometryNodeInputSceneTime", 0, 0)
    clamp = node("ShaderNodeClamp", 1, 0, label="First and last file")
    clamp.inputs["Min"].default_value = plate.numbers[0]
    clamp.inputs["Max"].default_value = plate.numbers[-1]
    texel = node("GeometryNodeInputNamedAttribute", 1, 1, data_type="FLOAT_VECTOR")
    texel.inputs["Name"].default_value = PIXEL_ATTRIBUTE
    # Closest: a depth between two pixels would be a point on no surface
    texture = node("GeometryNodeImageTexture", 2, 0, interpolation="Closest", extension="EXTEND", label="Depth")
    texture.inputs["Image"].default_value = depth
    # not the colour itself: Blender would weigh its three channels into a luminance
    red = node("FunctionNodeSeparateColor", 3, 0)
    pinned = node("GeometryNodeInputNamedAttribute", 2, 2, data_type="FLOAT")
    pinned.inputs["Name"].default_value = PINNED_ATTRIBUTE
    is_pinned = node("FunctionNodeCompare", 3, 1, data_type="FLOAT", operation="GREATER_THAN")
    is_pinned.inputs["B"].default_value = 0.0
    z = node("GeometryNodeSwitch", 4, 1, input_type="FLOAT", label="z")
    ray = node("GeometryNodeInputPosition", 4, 2, label="Ray")
    point = node("ShaderNodeVectorMath", 5, 1, operation="SCALE")
    move = node("GeometryNodeSetPosition", 6, 0)
    kept = node("GeometryNodeStoreNamedAttribute", 7, 0, data_type="FLOAT", domain="POINT")
    kept.inputs["Name"].default_value = SOURCE_Z_ATTRIBUTE
    start, end = node("NodeGroupInput", 5, 0), node("NodeGroupOutput", 8, 0)

    def link(source: bpy.types.Node, output: str, target: bpy.types.Node, socket: str) -> None:
        group.links.new(source.outputs[output], target.inputs[socket])

    link(time, "Frame", clamp, "Value")
    link(clamp, "Result", texture, "Frame")
    link(texel, "Attribute", texture, "Vector")
    link(texture, "Color", red, "Color")
    link(pinned, "Attribute", is_pinned, "A")
    link(is_pinned, "Result", z, "Switch")
    link(red, "Red", z, "False")
    link(pinned, "Attribute", z, "True")
    link(ray, "Position", point, "Vector")
    link(z, "Output", point, "Scale")
    link(point, "Vector", move, "Position")
    link(start, "Geometry", move, "Geometry")
    link(move, "Geometry", kept, "Geometry")
    link(z, "Output", kept, "Value")
    link(kept, "Geometry", end, "Geometry")
    return group
