# SPDX-License-Identifier: GPL-3.0-or-later
"""A scene at a frame, as Blender evaluates it: its depsgraph, and which objects a render shows."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import bpy


@contextmanager
def frame_kept(scene: bpy.types.Scene) -> Iterator[None]:
    """Puts the scene's current frame back, also after an error."""
    frame, subframe = scene.frame_current, scene.frame_subframe
    try:
        yield
    finally:
        scene.frame_set(frame, subframe=subframe)


def depsgraph_of(scene: bpy.types.Scene) -> bpy.types.Depsgraph:
    """The evaluated state of a scene, after `scene.frame_set`, which makes it for scenes that no window shows."""
    if bpy.context.scene == scene:
        return bpy.context.evaluated_depsgraph_get()
    return scene.view_layers[0].depsgraph


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
