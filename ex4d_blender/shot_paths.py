# SPDX-License-Identifier: GPL-3.0-or-later
"""The paths that the add-on keeps in a .blend still lead to the right place when that is saved elsewhere or moved.

Blender does this for its own paths (images, caches, strips) but not for an add-on's: to it they are mere text. So
what is relative to the .blend is told anew before it is saved in another folder, and a file that was never saved,
whose paths are all absolute, gets relative ones. Where a path is wrong in spite of that, because a file was saved
without the add-on or a collection was appended from another file, the depth images, which Blender keeps right,
tell where the shot is.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import bpy

from .compat import absolute_path, blend_path, set_without_update
from .plate_material import SHOT_PROPERTY

SCENE_PATHS = ("shot_folder", "clip_path", "depth_path", "poses_path")


def imported_root(block: bpy.types.Object | bpy.types.Collection) -> Path | None:
    """The shot folder that an object or a collection was imported from, resolved; None for anything else."""
    recorded = block.get(SHOT_PROPERTY)
    if not isinstance(recorded, str):
        return None
    return _root_of_images(block) or Path(bpy.path.abspath(recorded, library=block.library)).resolve()


def register_handlers() -> None:
    """From now on paths are kept right. The list of takes is read after this, from the folder found here."""
    for handlers, function in _handlers():
        handlers.insert(0, function)


def unregister_handlers() -> None:
    """The inverse of `register_handlers`."""
    for handlers, function in _handlers():
        if function in handlers:
            handlers.remove(function)


def _handlers() -> list[tuple[list[Callable[..., None]], Callable[..., None]]]:
    on = bpy.app.handlers
    return [
        (on.save_pre, _before_save),
        (on.save_post, _after_save),
        (on.save_post_fail, _after_save),
        (on.load_post, _after_load),
    ]


@bpy.app.handlers.persistent
def _before_save(path: str, *_: object) -> None:
    _rebase(bpy.data.filepath, path)


@bpy.app.handlers.persistent
def _after_save(path: str, *_: object) -> None:
    # a copy was saved, or nothing was: the open file stays where it was, and so do its paths
    _rebase(path, bpy.data.filepath)


@bpy.app.handlers.persistent
def _after_load(*_: object) -> None:
    for collection in bpy.data.collections:
        if collection.library is None and isinstance(collection.get(SHOT_PROPERTY), str):
            _follow_images(collection)


def _rebase(old: str, new: str) -> None:
    """Tells paths that were right in the .blend `old` for the .blend `new`; either is "" for an unsaved file."""
    old_folder, new_folder = (str(Path(blend).parent) if blend else "" for blend in (old, new))
    if old_folder == new_folder:
        return
    for holder, name, path in _kept_paths():
        rebased = _rebased(path, old_folder, new_folder)
        if rebased != path:
            _set(holder, name, rebased)


def _rebased(path: str, old_folder: str, new_folder: str) -> str:
    is_relative = path.startswith("//")
    if is_relative and not old_folder:
        return path  # relative to nothing
    if not is_relative and (old_folder or not bpy.context.preferences.filepaths.use_relative_paths):
        return path  # absolute because the user wants it so
    absolute = os.path.normpath(bpy.path.abspath(path, start=old_folder)) if is_relative else path
    if not new_folder:
        return absolute
    try:
        return str(bpy.path.relpath(absolute, start=new_folder))
    except ValueError:  # Windows: another drive
        return absolute


def _follow_images(collection: bpy.types.Collection) -> None:
    """Sets an import's paths, and those of scenes that use it, to the folder that its depth images are in."""
    recorded = absolute_path(collection[SHOT_PROPERTY]).resolve()
    root = _root_of_images(collection)
    if root is None or root == recorded:
        return
    for holder, name, path in list(_kept_paths()):
        if name in (SHOT_PROPERTY, "shot_folder") and absolute_path(path).resolve() == recorded:
            _set(holder, name, blend_path(root))


def _root_of_images(block: bpy.types.ID) -> Path | None:
    """The shot folder that the depth images of an import's nodes are in; None where it has none or they are lost."""
    for item in block.all_objects if isinstance(block, bpy.types.Collection) else (block,):
        if item.get(SHOT_PROPERTY) is None:
            continue
        for modifier in item.modifiers:
            if modifier.type != "NODES" or modifier.node_group is None:
                continue
            for node in modifier.node_group.nodes:
                if node.bl_idname != "GeometryNodeImageTexture" or node.inputs["Image"].default_value is None:
                    continue
                image = node.inputs["Image"].default_value
                file = Path(bpy.path.abspath(image.filepath, library=image.library)).resolve()
                root = file.parent.parent  # <root>/depth/depth.0001.exr
                if (root / "shot.json").is_file():
                    return root
    return None


def _kept_paths() -> Iterator[tuple[bpy.types.PropertyGroup | bpy.types.ID, str, str]]:
    """(what holds it, name there, path) of every path that the add-on keeps in this file; empty ones are left out."""
    for scene in bpy.data.scenes:
        if scene.library is None:
            for name in SCENE_PATHS:
                if path := getattr(scene.ex4d, name):
                    yield scene.ex4d, name, path
    for blocks in (bpy.data.collections, bpy.data.objects, bpy.data.materials):
        for block in blocks:
            path = block.get(SHOT_PROPERTY)
            if block.library is None and isinstance(path, str) and path:
                yield block, SHOT_PROPERTY, path


def _set(holder: bpy.types.PropertyGroup | bpy.types.ID, name: str, path: str) -> None:
    if isinstance(holder, bpy.types.ID):
        holder[name] = path
    else:
        set_without_update(holder, name, path)
