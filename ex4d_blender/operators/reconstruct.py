# SPDX-License-Identifier: GPL-3.0-or-later
"""Clip → shot: the engine reconstructs it, and it is imported."""

from __future__ import annotations

from math import degrees
from pathlib import Path
from typing import Any, ClassVar

import bpy

from ...ex4d_engine.errors import Ex4dError
from ...ex4d_engine.files import prepare_folder
from ...ex4d_engine.shot import Shot, load_shot
from .. import mesh_import, take_list
from ..compat import absolute_path, blend_path
from ..current_shot import scene_again, shot_root, why_no_clip
from ..depth_choice import variant_options
from ..job_run import EngineRequest, JobRun, Steps
from ..jobs import EngineJob
from ..properties import AUTOMATIC_DEPTH, scene_rate


class EX4D_OT_reconstruct(EngineJob, bpy.types.Operator):
    """A shot that was reconstructed with the same settings is resumed, not made again."""

    bl_idname = "ex4d.reconstruct"
    bl_label = "Reconstruct"
    bl_description = "Turn the clip into a watertight mesh per frame, and import it with the camera that filmed it"
    bl_options: ClassVar[set[str]] = {"UNDO"}

    @classmethod
    def why_not(cls, context: bpy.types.Context) -> str:
        settings = context.scene.ex4d
        if reason := why_no_clip(context.scene):
            return reason
        if settings.depth_source == "file" and not settings.depth_path:
            return "Choose the depth files first"
        return ""

    def steps(self, context: bpy.types.Context, run: JobRun) -> Steps:
        return (yield from reconstruct_steps(context))


def reconstruct_steps(context: bpy.types.Context) -> Steps:
    """Reconstructs the scene's clip as its settings say, and imports what is new."""
    scene_name = context.scene.name
    root = wanted_shot_root(context.scene)
    before = _shot_there(root, absolute_path(context.scene.ex4d.clip_path))
    prepare_folder(root)  # a folder that cannot be written is said before any work starts
    result = yield EngineRequest("reconstruct", reconstruct_params(context.scene, root))

    scene = scene_again(scene_name)
    scene.ex4d.shot_folder = blend_path(root)
    shot = load_shot(root)
    imported = mesh_import.find_imported(scene, root)
    if imported is None or before != shot:
        if imported is not None:  # it shows files that are no more; what the user did to it is kept
            imported.collection.hide_viewport = imported.collection.hide_render = True
        mesh_import.import_shot(shot, scene)
    take_list.refresh(scene)
    return f"{result['frames']} frames reconstructed in {root}"


def wanted_shot_root(scene: bpy.types.Scene) -> Path:
    """The folder of the clip's shot: the one that is set, else one beside the clip."""
    return shot_root(scene) or default_shot_root(absolute_path(scene.ex4d.clip_path))


def default_shot_root(clip: Path) -> Path:
    """Beside the clip, named after it."""
    name = clip.stem.rstrip("0123456789").rstrip("._- ") or clip.stem
    return clip.with_name(f"{name}_ex4d")


def reconstruct_params(scene: bpy.types.Scene, root: Path) -> dict[str, Any]:
    """The parameters of the engine's method `reconstruct` for a scene's settings."""
    settings = scene.ex4d
    depth_options = variant_options(settings)
    if settings.depth_source == "file":
        depth_options = {"path": str(absolute_path(settings.depth_path)), "meaning": settings.depth_meaning}
        if settings.depth_meaning == "normalised_disparity":
            depth_options |= {"near": settings.depth_near, "far": settings.depth_far}
    return {
        "shot": str(root),
        "source": str(absolute_path(settings.clip_path)),
        "first": settings.range_first if settings.use_range else None,
        "last": settings.range_last if settings.use_range else None,
        "stride": settings.stride,
        "first_number": settings.start_number,
        "fps": (settings.frame_rate.strip() or scene_rate(scene)) if settings.use_frame_rate else None,
        "depth": None if settings.depth_source == AUTOMATIC_DEPTH else settings.depth_source,
        "depth_options": depth_options,
        **_lens_params(settings),
        "poses": str(absolute_path(settings.poses_path)) if settings.poses_path else None,
        "scene_scale": settings.scene_scale if settings.use_scene_scale else None,
        "cuts": "ignore" if settings.ignore_cuts else None,
    }


def _lens_params(settings: Any) -> dict[str, float | None]:
    if not settings.use_field_of_view:
        return {"fov_deg": None}
    if settings.lens_unit == "FOV":
        return {"fov_deg": degrees(settings.field_of_view)}
    return {"focal_mm": settings.focal_length, "sensor_mm": settings.sensor_size}


def _shot_there(root: Path, clip: Path) -> Shot | None:
    """The shot that is in the folder already; one of another clip, a newer or a damaged one is not overwritten."""
    try:
        shot = load_shot(root)
    except Ex4dError as error:
        if error.code == "shot_missing":
            return None
        raise
    source = Path(str(shot.settings.get("source", clip)))
    if source.name != clip.name:  # the folder may be another: a project that was moved is still the same one
        raise Ex4dError(
            "shot_invalid",
            f"{root} holds the shot of another clip, {source.name}.",
            "Choose another shot folder, or leave it empty for one beside the clip.",
        )
    return shot


CLASSES = (EX4D_OT_reconstruct,)
