# SPDX-License-Identifier: GPL-3.0-or-later
"""Formulas in a shader's node tree, a call a node."""

from __future__ import annotations

import bpy


def scalar(tree: bpy.types.NodeTree, operation: str, *operands: bpy.types.NodeSocket | float) -> bpy.types.NodeSocket:
    """The result of a Math node; operands are sockets or numbers."""
    return _calculated(tree, "ShaderNodeMath", operation, operands)


def vector(
    tree: bpy.types.NodeTree, operation: str, *operands: bpy.types.NodeSocket | tuple[float, float, float]
) -> bpy.types.NodeSocket:
    """The result of a Vector Math node whose result is a vector; operands are sockets or triples."""
    return _calculated(tree, "ShaderNodeVectorMath", operation, operands)


def _calculated(
    tree: bpy.types.NodeTree, kind: str, operation: str, operands: tuple[object, ...]
) -> bpy.types.NodeSocket:
    node = tree.nodes.new(kind)
    node.operation = operation
    for socket, value in zip(node.inputs, operands, strict=False):
        if isinstance(value, bpy.types.NodeSocket):
            tree.links.new(value, socket)
        else:
            socket.default_value = value
    return node.outputs[0]
