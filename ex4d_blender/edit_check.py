# SPDX-License-Identifier: GPL-3.0-or-later
"""A fingerprint of everything about an object that decides what it looks like, to notice that it was edited."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator

import bpy
import numpy as np

from .compat import animation_curves


def fingerprint(item: bpy.types.Object) -> str:
    """Hex digest of a mesh object's data, modifiers, nodes, materials, relations, place and keys.

    Where the object has keys, their values count; its present place, which follows from them, does not.
    """
    digest = hashlib.sha256()
    mesh = item.data
    positions = np.empty(len(mesh.vertices) * 3, np.float32)
    mesh.vertices.foreach_get("co", positions)
    digest.update(positions.tobytes())
    corners = np.empty(len(mesh.loops), np.int32)
    mesh.loops.foreach_get("vertex_index", corners)
    digest.update(corners.tobytes())
    for line in _description(item):
        digest.update(line.encode("utf-8") + b"\n")
    return digest.hexdigest()


def _description(item: bpy.types.Object) -> Iterator[str]:
    yield f"shape keys {item.data.shape_keys is not None}"
    yield f"parent {item.parent is not None} constraints {len(item.constraints)} drivers {_driver_count(item)}"
    for modifier in item.modifiers:
        yield f"modifier {modifier.type} {modifier.show_render}"
        if modifier.type == "NODES" and modifier.node_group is not None:
            yield from _tree_lines(modifier.node_group)
    for slot in item.material_slots:
        if slot.material is not None and slot.material.node_tree is not None:
            yield from _tree_lines(slot.material.node_tree)
    if item.animation_data is None or item.animation_data.action is None:
        yield f"place {_rounded(value for row in item.matrix_basis for value in row)}"
    else:
        for curve in animation_curves(item.animation_data):
            keys = np.empty(len(curve.keyframe_points) * 2, np.float32)
            curve.keyframe_points.foreach_get("co", keys)
            yield f"keys {curve.data_path} {curve.array_index} {keys.tobytes().hex()}"


def _tree_lines(tree: bpy.types.NodeTree) -> Iterator[str]:
    for node in tree.nodes:
        values = []
        for socket in node.inputs:
            value = getattr(socket, "default_value", None)
            if isinstance(value, (bool, int, float, str)):
                values.append(_rounded([value]) if isinstance(value, float) else str(value))
            elif isinstance(value, bpy.types.Image):
                values.append(_image_text(value))
            elif value is not None and not isinstance(value, bpy.types.ID) and hasattr(value, "__len__"):
                values.append(_rounded(value))
        image = getattr(node, "image", None)
        yield f"node {node.bl_idname} {node.mute} {_image_text(image)} {' '.join(values)}"
    for link in tree.links:
        source = f"{link.from_node.bl_idname} {_position(link.from_socket, link.from_node.outputs)}"
        yield f"link {source} {link.to_node.bl_idname} {_position(link.to_socket, link.to_node.inputs)}"


def _position(socket: bpy.types.NodeSocket, among: Iterable[bpy.types.NodeSocket]) -> int:
    # not by name: Blender renames sockets from version to version (Mix Shader's "Fac" is "Factor" from 5.0 on),
    # and a file saved by one version and opened in a later one was not edited by that
    return next(index for index, other in enumerate(among) if other == socket)


def _image_text(image: bpy.types.Image | None) -> str:
    # by name of the file, not by path: that becomes relative when the .blend is saved
    return "" if image is None else f"{image.source} {bpy.path.basename(image.filepath)} {image.is_dirty}"


def _driver_count(item: bpy.types.Object) -> int:
    return 0 if item.animation_data is None else len(item.animation_data.drivers)


def _rounded(values: Iterable[float]) -> str:
    return " ".join(f"{float(value):.5g}" for value in values)
