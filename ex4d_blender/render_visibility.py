# SPDX-License-Identifier: GPL-3.0-or-later
"""Which objects of a scene a render shows."""

from __future__ import annotations

from collections.abc import Iterator

import bpy


def active_layer(scene: bpy.types.Scene) -> bpy.types.ViewLayer:
    """The view layer that the user works in, or the scene's first one where no window shows the scene."""
    return bpy.context.view_layer if bpy.context.scene == scene else scene.view_layers[0]


def rendered_objects(scene: bpy.types.Scene) -> list[bpy.types.Object]:
    """Objects in a collection that is neither excluded from the view layer nor off in renders, once each."""
    found = {}
    for collection in _rendered_collections(active_layer(scene).layer_collection):
        for item in collection.objects:
            if not item.hide_render:
                found[item.name_full] = item
    return list(found.values())


def _rendered_collections(layer: bpy.types.LayerCollection) -> Iterator[bpy.types.Collection]:
    if layer.collection.hide_render:
        return
    if not layer.exclude:
        yield layer.collection
    for child in layer.children:
        yield from _rendered_collections(child)
