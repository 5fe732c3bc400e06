# SPDX-License-Identifier: GPL-3.0-or-later
"""Which shot, import, camera and take the scene's settings point at, and why there is none where there is none.

The `why_no_…` functions are asked at every redraw of a panel: they look whether a file is there and read none.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import bpy

from ..ex4d_engine.errors import Ex4dError
from ..ex4d_engine.shot import Shot, load_shot
from ..ex4d_engine.take import Take, load_take
from .compat import absolute_path
from .depth_choice import is_in_metres
from .mesh_import import ImportedShot, find_imported


def shot_root(scene: bpy.types.Scene) -> Path | None:
    """The shot folder that is set, whether it exists or not."""
    folder = scene.ex4d.shot_folder
    return absolute_path(folder) if folder else None


def scene_again(name: str) -> bpy.types.Scene:
    """A scene looked up after the engine has worked, as the user may have deleted it meanwhile.

    Raises:
        Ex4dError: `shot_missing`.
    """
    scene: bpy.types.Scene | None = bpy.data.scenes.get(name)
    if scene is None:
        raise Ex4dError(
            "shot_missing",
            f"The scene {name} is gone, so the result could not be loaded.",
            "It is in the shot folder: set that in another scene and load it from there.",
            "ex4d.refresh_takes",
        )
    return scene


def why_no_clip(scene: bpy.types.Scene) -> str:
    """Why there is no clip to work with; "" when one is chosen."""
    return "" if scene.ex4d.clip_path else "Choose a clip first"


def why_no_shot(scene: bpy.types.Scene) -> str:
    """Why there is no shot to work with; "" when there is one."""
    root = shot_root(scene)
    if root is None:
        return "Choose a shot folder, or reconstruct a clip first"
    if not (root / "shot.json").is_file():
        return f"{root.name} holds no shot yet: reconstruct a clip first"
    return ""


def open_shot(scene: bpy.types.Scene) -> Shot:
    """The shot, read from disk; reconstructed.

    Raises:
        Ex4dError: `shot_missing`, `shot_newer`, `shot_invalid`.
    """
    root = shot_root(scene)
    if root is None:
        raise Ex4dError("shot_missing", "No shot folder is set.", "Choose one, or reconstruct a clip first.")
    shot = load_shot(root)
    shot.require_geometry()
    return shot


def why_not_imported(scene: bpy.types.Scene) -> str:
    """Why the shot's mesh is not in the scene; "" when it is."""
    root = shot_root(scene)
    if reason := why_no_shot(scene):
        return reason
    assert root is not None
    return "" if find_imported(scene, root) else f"The shot {root.name} is not in this scene: import it first"


def why_no_scale(scene: bpy.types.Scene) -> str:
    """Why there is no scale to set: the depth brings it, or is going to; "" where somebody has to say it."""
    root = shot_root(scene)
    imported = None if root is None else find_imported(scene, root)
    if imported is not None and imported.is_in_metres:
        return "The shot is in metres already: its depth was"
    # in the world of a solved camera the depth takes that world's size
    if is_in_metres(scene.ex4d) and not scene.ex4d.poses_path:
        return "The chosen depth is in metres already"
    return ""


def open_imported(scene: bpy.types.Scene, shot: Shot) -> ImportedShot:
    """The shot's collection in the scene.

    Raises:
        Ex4dError: `shot_missing` when it was not imported or was deleted.
    """
    imported = find_imported(scene, shot.root)
    if imported is None:
        raise Ex4dError(
            "shot_missing",
            f"The shot {shot.root.name} is not in the scene {scene.name}.",
            "Import it first.",
            "ex4d.import_shot",
        )
    return imported


def why_no_camera(scene: bpy.types.Scene) -> str:
    """Why there is no camera to sample; "" when there is one."""
    return "" if scene.camera is not None else "The scene has no camera: add a camera move first"


def active_take(scene: bpy.types.Scene) -> Any:
    """The row (properties.Ex4dTake) that is selected in the list of takes; None when there is none."""
    settings = scene.ex4d
    return settings.takes[settings.active_take] if 0 <= settings.active_take < len(settings.takes) else None


def why_no_take(scene: bpy.types.Scene) -> str:
    """Why there is no take to work with; "" when one is selected."""
    return why_no_shot(scene) or ("" if active_take(scene) else "There are no takes yet: generate one first")


def open_take(scene: bpy.types.Scene, shot: Shot, name: str = "") -> Take:
    """A take by its name, by default the selected one.

    Raises:
        Ex4dError: `take_missing`, `shot_newer`, `shot_invalid`.
    """
    row = active_take(scene)
    return load_take(shot, name or (row.name if row else ""))
