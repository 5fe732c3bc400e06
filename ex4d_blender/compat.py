# SPDX-License-Identifier: GPL-3.0-or-later
"""Every difference between Blender versions (4.2 to 5.2) that the add-on meets; nothing else depends on one.

Where a feature can be looked at, it is looked at and not the version number, so that a version between two
tested ones, or a later one, is treated by what it can do.
"""

from __future__ import annotations

import ctypes
import sys
from pathlib import Path
from typing import Any

import bpy

CYCLES = "CYCLES"


def eevee_engine() -> str:
    """EEVEE's identifier: `BLENDER_EEVEE_NEXT` in 4.2 to 4.5, `BLENDER_EEVEE` from 5.0 on."""
    return "BLENDER_EEVEE" if bpy.app.version >= (5, 0, 0) else "BLENDER_EEVEE_NEXT"


def can_draw_opengl() -> bool:
    """Whether Workbench and EEVEE can draw here.

    In background on Linux they need libEGL; without it Blender does not fail but *aborts the process*.
    """
    if not (bpy.app.background and sys.platform.startswith("linux")):
        return True
    try:
        ctypes.CDLL("libEGL.so.1")
    except OSError:
        return False
    return True


def set_still_png(render: bpy.types.RenderSettings) -> None:
    """Still frames as 8-bit RGBA PNG with little compression: they are read back once and removed."""
    settings = render.image_settings
    if hasattr(settings, "media_type"):  # 5.0 on: the media type decides which formats can be chosen
        settings.media_type = "IMAGE"
    settings.file_format = "PNG"
    settings.color_mode = "RGBA"
    settings.color_depth = "8"
    settings.compression = 0
    settings.color_management = "FOLLOW_SCENE"


def animation_curves(data: bpy.types.AnimData) -> list[bpy.types.FCurve]:
    """The F-curves that move a data-block: of the action up to 4.3, of the slot's channel bags from 4.4 on."""
    if data.action is None:
        return []
    if not hasattr(data.action, "layers"):
        return list(data.action.fcurves)
    if data.action_slot is None:
        return []
    bags = [strip.channelbag(data.action_slot) for layer in data.action.layers for strip in layer.strips]
    return [curve for bag in bags if bag is not None for curve in bag.fcurves]


def strips(holder: bpy.types.SequenceEditor | bpy.types.MetaStrip) -> Any:
    """The strips of a sequencer or a meta strip: `sequences` up to 4.3, `strips` from 4.4 on."""
    return holder.strips if hasattr(holder, "strips") else holder.sequences


def strip_range(strip: Any) -> tuple[int, int]:
    """(first frame, frame after the last) of a strip on the timeline; `frame_final_*` goes away in 6.0."""
    if hasattr(strip, "left_handle"):
        return int(strip.left_handle), int(strip.right_handle)
    return int(strip.frame_final_start), int(strip.frame_final_end)


def set_strip_length(strip: Any, frames: int) -> None:
    """Cuts a strip to a number of frames, from its start."""
    first, _ = strip_range(strip)
    if hasattr(strip, "right_handle"):
        strip.right_handle = first + frames
    else:
        strip.frame_final_end = first + frames


def sequencer_scene(context: bpy.types.Context) -> bpy.types.Scene:
    """The scene whose timeline the user edits.

    From 5.0 on the sequencer shows `workspace.sequencer_scene`, which is empty at first: it becomes the active
    scene then, as nothing would be seen otherwise.
    """
    workspace = context.workspace
    if workspace is None or not hasattr(workspace, "sequencer_scene"):
        return context.scene
    if workspace.sequencer_scene is None:
        workspace.sequencer_scene = context.scene
    return workspace.sequencer_scene


def set_without_update(group: bpy.types.PropertyGroup, name: str, value: str) -> None:
    """Sets a registered property without what its `update` does.

    Up to 4.5 its value is one of the group's custom properties, from 5.0 on it is kept apart from those.
    """
    if hasattr(group, "bl_system_properties_get"):
        group.bl_system_properties_get(do_create=True)[name] = value
    else:
        group[name] = value


def blend_path(path: Path) -> str:
    """`path` as Blender keeps it: relative to the .blend (`//…`) where that is saved and on the same drive."""
    absolute = str(path.absolute())
    if not bpy.data.filepath:
        return absolute
    try:
        return bpy.path.relpath(absolute)
    except ValueError:  # Windows: another drive
        return absolute


def absolute_path(path: str) -> Path:
    """The inverse of `blend_path`."""
    return Path(bpy.path.abspath(path)).absolute()
