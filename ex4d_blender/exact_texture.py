# SPDX-License-Identifier: GPL-3.0-or-later
"""Texture sampling by nodes where a renderer's own is not exact enough."""

from __future__ import annotations

import bpy

from .shader_nodes import vector


def snap_to_texels(material: bpy.types.Material, texture_name: str, where: bpy.types.NodeSocket) -> None:
    """Makes an image node give the nearest texel, unblended, where a socket is 1.

    A renderer's texture coordinates are some hundredths of a pixel off on a triangle that is seen edge-on; at
    a pixel's own centre the pixel's own colour is right.
    """
    tree = material.node_tree
    texture = tree.nodes[texture_name]
    targets = [link.to_socket for link in texture.outputs["Color"].links]
    nearest = _nearest(tree, texture)
    tree.links.new(texture.inputs["Vector"].links[0].from_socket, nearest.inputs["Vector"])
    colour = _blend(tree, where, texture.outputs["Color"], nearest.outputs["Color"])
    for socket in targets:
        tree.links.new(colour, socket)


def sample_without_mipmaps(material: bpy.types.Material, texture_name: str, size: tuple[int, int]) -> None:
    """Makes an image node bilinear over a pixel, for EEVEE, whose own averages over more (mipmaps).

    Four samples of the nearest kind are blended by where the point lies between their centres.

    Args:
        size: (width, height) of the image; Blender does not know a sequence's before it has shown a file of it.
    """
    tree = material.node_tree
    texture = tree.nodes[texture_name]
    targets = [link.to_socket for link in texture.outputs["Color"].links]
    coordinates = texture.inputs["Vector"].links[0].from_socket
    width, height = size
    place = vector(tree, "MULTIPLY_ADD", coordinates, (width, height, 0.0), (-0.5, -0.5, 0.0))
    share = vector(tree, "FRACTION", place)
    corner = vector(tree, "SUBTRACT", place, share)
    parts = tree.nodes.new("ShaderNodeSeparateXYZ")
    tree.links.new(share, parts.inputs[0])
    texels = []
    for right, up in ((0, 0), (1, 0), (0, 1), (1, 1)):
        centre = ((right + 0.5) / width, (up + 0.5) / height, 0.0)
        node = _nearest(tree, texture)
        position = vector(tree, "MULTIPLY_ADD", corner, (1 / width, 1 / height, 0.0), centre)
        tree.links.new(position, node.inputs["Vector"])
        texels.append(node.outputs["Color"])
    low, high = (_blend(tree, parts.outputs[0], texels[row], texels[row + 1]) for row in (0, 2))
    colour = _blend(tree, parts.outputs[1], low, high)
    for socket in targets:
        tree.links.new(colour, socket)


def _nearest(tree: bpy.types.NodeTree, texture: bpy.types.Node) -> bpy.types.Node:
    """An image node like `texture` that gives the nearest texel."""
    node = tree.nodes.new("ShaderNodeTexImage")
    node.image, node.interpolation, node.extension = texture.image, "Closest", texture.extension
    for name in ("frame_start", "frame_duration", "frame_offset", "use_cyclic", "use_auto_refresh"):
        setattr(node.image_user, name, getattr(texture.image_user, name))
    return node


def _blend(
    tree: bpy.types.NodeTree, weight: bpy.types.NodeSocket, first: bpy.types.NodeSocket, second: bpy.types.NodeSocket
) -> bpy.types.NodeSocket:
    node = tree.nodes.new("ShaderNodeMix")
    node.data_type = "RGBA"
    # the node has sockets of the same names for every type; those of the other types are hidden
    colours = [socket for socket in node.inputs if socket.type == "RGBA"]
    tree.links.new(weight, next(socket for socket in node.inputs if socket.type == "VALUE"))
    tree.links.new(first, colours[0])
    tree.links.new(second, colours[1])
    return next(socket for socket in node.outputs if socket.type == "RGBA")
