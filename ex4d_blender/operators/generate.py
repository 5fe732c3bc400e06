# SPDX-License-Identifier: GPL-3.0-or-later
"""Camera → take: its cameras are sampled, its conditioning drawn, its holes filled, its result loaded."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, ClassVar

import bpy
from bpy.props import StringProperty

from ...ex4d_engine.errors import Ex4dError
from ...ex4d_engine.shot import Shot, load_shot
from ...ex4d_engine.take import Take, load_take, new_take, save_take, with_record
from .. import sequencer, take_list
from ..camera_sampling import camera_frames, is_animated
from ..compat import sequencer_scene
from ..conditioning import conditioning_steps, default_engine
from ..current_shot import open_imported, open_shot, scene_again, why_no_camera, why_not_imported
from ..job_run import EngineRequest, JobRun, Steps
from ..jobs import EngineJob
from ..mesh_import import is_edited
from ..properties import DIFFUSION_OPTIONS, DIFFUSION_PRESETS, frozen_frame, wall_share


class EX4D_OT_generate(EngineJob, bpy.types.Operator):
    """Sampling and loading happen here, drawing and filling in the engine (or drawing in Blender)."""

    bl_idname = "ex4d.generate"
    bl_label = "Render & Generate"
    bl_description = "Make a new take of the scene's camera: draw what the clip saw, fill the rest, load the result"
    bl_options: ClassVar[set[str]] = {"UNDO"}

    preset: StringProperty(
        name="Preset", description="Instead of the one in the panel", options={"SKIP_SAVE", "HIDDEN"}
    )
    take: StringProperty(
        name="Take",
        description="Go on with this take instead of making one: its cameras and finished frames are kept",
        options={"SKIP_SAVE", "HIDDEN"},
    )
    tier: StringProperty(name="Memory", description="Instead of the tier in the panel", options={"SKIP_SAVE", "HIDDEN"})

    @classmethod
    def why_not(cls, context: bpy.types.Context) -> str:
        return why_not_imported(context.scene) or why_no_camera(context.scene)

    def steps(self, context: bpy.types.Context, run: JobRun) -> Steps:
        scene_name = context.scene.name
        settings = context.scene.ex4d
        preset, seed = self.preset or settings.preset, settings.seed
        shot = open_shot(context.scene)
        options = diffusion_options(settings, preset, self.tier)
        run.take, run.preset = self.take, preset
        make_take = partial(load_take, shot, self.take) if self.take else sampled_take(context.scene, shot, preset)
        # a preset that cannot run is told before anything is made or drawn for it
        yield EngineRequest("check_preset", {"preset": preset, **options})
        scene = scene_again(scene_name)
        take = make_take()
        run.take = take.name
        take_list.refresh(scene, take.name)
        if not take.conditioning:
            yield from _conditioning(scene, shot, take, run)
        result = yield EngineRequest(
            "generate", {"shot": str(shot.root), "take": take.name, "preset": preset, "seed": seed, **options}
        )
        # looked up again: the user may have undone or loaded things while the engine worked
        scene = scene_again(scene_name)
        take = load_take(load_shot(shot.root), result["take"])
        run.logs += sequencer.load_take(sequencer_scene(context), shot, take).notes
        take_list.refresh(scene, take.name)
        return f"{take.name} is finished ({preset}) and loaded into the sequencer: {result['result']}"


def diffusion_options(settings: Any, preset: str, tier: str = "") -> dict[str, Any]:
    """The parameter `options` of the engine's `generate`, with what the user changed; {} where that is nothing.

    Args:
        settings: `scene.ex4d`.
        preset: one that diffuses nothing has no options.
        tier: instead of the one in the settings.
    """
    if preset not in DIFFUSION_PRESETS:
        return {}
    chosen = {name: getattr(settings, name) for name in DIFFUSION_OPTIONS} | ({"tier": tier} if tier else {})
    defaults = settings.bl_rna.properties
    options = {name: value for name, value in chosen.items() if value != defaults[name].default}
    return {"options": options} if options else {}


def sampled_take(scene: bpy.types.Scene, shot: Shot, preset: str) -> Callable[[], Take]:
    """Samples the scene camera's move as it is now; what is returned makes the take folder with it.

    Args:
        preset: what the take will be generated with; automatic walls follow it.

    Raises:
        Ex4dError: `no_camera` when there is none or it never moves; `camera_unsupported`; `camera_invalid`
            for a frozen frame that the shot does not hold.
    """
    settings = scene.ex4d
    camera = scene.camera
    if camera is None:
        raise Ex4dError("no_camera", "The scene has no camera.", "Add a camera move first.", "ex4d.add_camera_move")
    if not is_animated(camera):
        raise Ex4dError(
            "no_camera",
            f"The camera {camera.name} has no keys, so the take would be a still view.",
            "Set keys, or add a camera move.",
            "ex4d.add_camera_move",
        )
    plate = shot.require_plate()
    size = (plate.width, plate.height)
    if settings.output_size == "SCENE":
        share = scene.render.resolution_percentage / 100
        size = (int(scene.render.resolution_x * share), int(scene.render.resolution_y * share))
    numbers = plate.numbers
    if settings.frame_range == "SCENE":
        numbers = range(scene.frame_start, scene.frame_end + 1)
    frozen = frozen_frame(settings)
    frames = camera_frames(scene, camera, shot, numbers, size, frozen=frozen)
    first, label, walls = numbers[0], str(settings.take_label), wall_share(settings, preset)

    def make() -> Take:
        take = new_take(shot, frames, size, first=first, fps=plate.fps, label=label, wall_share=walls)
        if frozen is not None:
            take = with_record(take, frozen=frozen)
            save_take(take)
        return take

    return make


def conditioning_engine(scene: bpy.types.Scene, shot: Shot) -> str:
    """Who draws the conditioning: "" for the engine, else CYCLES or EEVEE."""
    settings = scene.ex4d
    if settings.conditioning != "AUTO":
        return str(settings.conditioning)
    if settings.include_cg or is_edited(open_imported(scene, shot), scene):
        return default_engine(scene, settings.include_cg)
    return ""


def _conditioning(scene: bpy.types.Scene, shot: Shot, take: Take, run: JobRun) -> Steps:
    engine = conditioning_engine(scene, shot)
    if not engine:
        yield EngineRequest("render", {"shot": str(shot.root), "take": take.name})
        return ""
    frames = conditioning_steps(
        scene, open_imported(scene, shot), shot, take, include_cg=scene.ex4d.include_cg, engine=engine
    )
    run.progress(f"Render in {engine.capitalize()}", 0, len(take.frames))
    try:
        for done, total in frames:
            run.progress(f"Render in {engine.capitalize()}", done, total)
            yield None
    finally:
        frames.close()  # removes its scene, whatever ended it
    return ""


CLASSES = (EX4D_OT_generate,)
