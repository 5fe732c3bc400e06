# SPDX-License-Identifier: GPL-3.0-or-later
"""The camera that filmed the clip: its track, the size of its world, and which shot of an edited clip it is."""

from __future__ import annotations

from typing import ClassVar

import bpy

from ..compat import absolute_path, blend_path
from ..current_shot import open_shot, scene_again, why_no_clip, why_no_scale, why_not_imported
from ..job_run import EngineRequest, JobRun, Steps
from ..jobs import EngineJob, Explained
from ..source_camera import camera_to_use, measured_distance, write_tracked_camera
from .reconstruct import default_shot_root, reconstruct_steps, wanted_shot_root


class EX4D_OT_use_tracked_camera(Explained, bpy.types.Operator):
    """The file is written anew each time: a track that was solved better is taken over by pressing again."""

    bl_idname = "ex4d.use_tracked_camera"
    bl_label = "Use Tracked Camera"
    bl_description = (
        "Reconstruct the clip with the solved camera of this scene: the active camera, else the scene's. "
        "The mesh then stands in the tracked scene"
    )
    bl_options: ClassVar[set[str]] = {"UNDO"}

    @classmethod
    def why_not(cls, context: bpy.types.Context) -> str:
        return why_no_clip(context.scene) or ("" if camera_to_use(context) else "Select the tracked camera first")

    def work(self, context: bpy.types.Context) -> str:
        camera = camera_to_use(context)
        path, numbers = write_tracked_camera(context.scene, camera, wanted_shot_root(context.scene))
        settings, file = context.scene.ex4d, blend_path(path)
        if settings.poses_path != file:  # setting it forgets the scale, which a better track keeps
            settings.poses_path = file
        return f"{camera.name} is the camera of the clip's frames {numbers[0]} to {numbers[-1]}: now reconstruct"


class EX4D_OT_set_scale(EngineJob, bpy.types.Operator):
    """No depth is estimated again: the shot's files and its cameras are multiplied."""

    bl_idname = "ex4d.set_scale"
    bl_label = "Set Scale"
    bl_description = (
        "Scale the shot to metres: what is selected, two objects or two vertices of the mesh, is as far apart as Real "
        "Length says. Set it before adding camera moves"
    )
    bl_options: ClassVar[set[str]] = {"UNDO"}

    @classmethod
    def why_not(cls, context: bpy.types.Context) -> str:
        return why_no_scale(context.scene) or why_not_imported(context.scene)

    def steps(self, context: bpy.types.Context, run: JobRun) -> Steps:
        settings = context.scene.ex4d
        ratio = settings.real_length / measured_distance(context)
        if context.mode == "EDIT_MESH":
            bpy.ops.object.mode_set(mode="OBJECT")
        settings.use_scene_scale = True
        settings.scene_scale = open_shot(context.scene).require_geometry().scale * ratio
        yield from reconstruct_steps(context)
        return f"The shot is scaled by {ratio:.4g}: one unit is one metre"


class EX4D_OT_next_shot_of_clip(EngineJob, bpy.types.Operator):
    """Each shot gets a folder of its own, so that one does not replace another."""

    bl_idname = "ex4d.next_shot_of_clip"
    bl_label = "Next Shot of the Clip"
    bl_description = "Find the cuts in an edited clip, and set its first shot, or the one after this, as the range"
    bl_options: ClassVar[set[str]] = {"UNDO"}

    @classmethod
    def why_not(cls, context: bpy.types.Context) -> str:
        return why_no_clip(context.scene)

    def steps(self, context: bpy.types.Context, run: JobRun) -> Steps:
        scene_name, settings = context.scene.name, context.scene.ex4d
        clip = absolute_path(settings.clip_path)
        params = {"source": str(clip), "first_number": settings.start_number}
        result = yield EngineRequest("find_shots", params)
        shots = [(int(first), int(last)) for first, last in result["shots"]]
        if len(shots) == 1:
            return f"{clip.name} has no cut: it is one shot, {shots[0][0]} to {shots[0][1]}"

        settings = scene_again(scene_name).ex4d
        later = [shot for shot in shots if settings.use_range and shot[0] > settings.range_first]
        first, last = later[0] if later else shots[0]
        settings.use_range, settings.range_first, settings.range_last = True, first, last
        settings.use_scene_scale = False  # it was another shot's
        root = default_shot_root(clip)
        settings.shot_folder = blend_path(root.with_name(f"{root.name}_{first}"))
        return f"Shot {shots.index((first, last)) + 1} of {len(shots)}, frames {first} to {last}"


CLASSES = (EX4D_OT_use_tracked_camera, EX4D_OT_set_scale, EX4D_OT_next_shot_of_clip)
