# SPDX-License-Identifier: GPL-3.0-or-later
"""Bilinear texture sampling by nodes, for EEVEE, which else averages a texture over more than a pixel (mipmaps).

Four samples of the nearest kind are blended by where the point lies between their centres. At a texel's centre
the result is that texel's value exactly.
"""

from __future__ import annotations

import bpy


def sample_exactly(material: bpy.types.Material, node_name: str, size: tuple[int, int]) -> None:
    """Replaces an image node of a material, which must have a linked `Vector`, by four of them and a blend.

    Args:
        size: (width, height) of the image; Blender does not know a sequence's before it has shown a file of it.
    """
    tree = material.node_tree
    texture = tree.nodes[node_name]
    coordinates = texture.inputs["Vector"].links[0].from_socket
    width, height = size

    def vector_math(operation: str, first: bpy.types.NodeSocket, *others: object) -> bpy.types.NodeSocket:
        node = tree.nodes.new("ShaderNodeVectorMath")
        node.operation = operation
        for socket, value in zip(node.inputs, (first, *others), strict=False):
            if isinstance(value, bpy.types.NodeSocket):
                tree.links.new(value, socket)
            else:
                socket.default_value = value
        return node.outputs["Vector"]

    def blend(weight: bpy.types.NodeSocket, first: bpy.types.NodeSocket, second: bpy.types.NodeSocket):  # type: ignore[no-untyped-def]
        node = tree.nodes.new("ShaderNodeMix")
        node.data_type = "RGBA"
        tree.links.new(weight, node.inputs["Factor"])
        # every type of this node's sockets carries the names A and B: the colours are the last ones
        first_colour, second_colour = (
            [socket for socket in node.inputs if socket.name == name and socket.type == "RGBA"][0] for name in "AB"
        )
        tree.links.new(first, first_colour)
        tree.links.new(second, second_colour)
        return next(socket for socket in node.outputs if socket.type == "RGBA")

    place = vector_math("MULTIPLY_ADD", coordinates, (width, height, 0.0), (-0.5, -0.5, 0.0))
    share = vector_math("FRACTION", place)
    corner = vector_math("SUBTRACT", place, share)
    parts = tree.nodes.new("ShaderNodeSeparateXYZ")
    tree.links.new(share, parts.inputs[0])
    texels = []
    for right, up in ((0, 0), (1, 0), (0, 1), (1, 1)):
        centre = ((right + 0.5) / width, (up + 0.5) / height, 0.0)
        node = tree.nodes.new("ShaderNodeTexImage")
        node.image, node.interpolation, node.extension = texture.image, "Closest", "EXTEND"
        for name in ("frame_start", "frame_duration", "frame_offset", "use_cyclic", "use_auto_refresh"):
            setattr(node.image_user, name, getattr(texture.image_user, name))
        tree.links.new(vector_math("MULTIPLY_ADD", corner, (1 / width, 1 / height, 0.0), centre), node.inputs["Vector"])
        texels.append(node.outputs["Color"])
    low, high = (blend(parts.outputs[0], texels[row], texels[row + 1]) for row in (0, 2))
    colour = blend(parts.outputs[1], low, high)
    for link in list(texture.outputs["Color"].links):
        tree.links.new(colour, link.to_socket)
