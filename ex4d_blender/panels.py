# SPDX-License-Identifier: GPL-3.0-or-later
"""The sidebar, tab `EX-4D`: the same in the 3D viewport and in the sequencer. Top to bottom is the order of work."""

from __future__ import annotations

import textwrap
from typing import Any, ClassVar, Final

import bpy
import bpy.utils.previews

from ..ex4d_engine.errors import Ex4dError
from . import jobs
from .current_shot import active_take, why_no_scale
from .depth_choice import VARIANT_PROPERTIES, restriction
from .operators.engine import download_command
from .properties import DIFFUSION_OPTIONS, DIFFUSION_PRESETS, TURNING_MOVES, scene_rate

CATEGORY: Final = "EX-4D"
SPACES: Final = ("VIEW_3D", "SEQUENCE_EDITOR")
PREVIEW_SCALE: Final = 8.0
# what helps where the error itself names nothing: code → operator
ACTIONS: Final = {
    "engine_missing": "ex4d.open_preferences",
    "no_camera": "ex4d.add_camera_move",
    "shot_missing": "ex4d.reconstruct",
}

_previews: bpy.utils.previews.ImagePreviewCollection | None = None


class EX4D_UL_takes(bpy.types.UIList):
    """Takes: name, label, preset; a mark where a result is there."""

    def draw_item(
        self,
        context: bpy.types.Context,
        layout: bpy.types.UILayout,
        data: Any,
        item: Any,
        icon: int,
        active_data: Any,
        active_property: str,
        index: int = 0,
        flt_flag: int = 0,
    ) -> None:
        row = layout.row(align=True)
        row.label(text=item.name.removeprefix("take_"), icon="SEQUENCE" if item.is_finished else "BLANK1")
        row.label(text=item.label)
        row.label(text=f"{item.preset or 'not finished'}, {item.frames}")


class Section:
    """A part of the sidebar. Subclasses draw; `panel_classes` makes a panel of each in either editor."""

    bl_region_type = "UI"
    bl_category = CATEGORY
    bl_label: ClassVar[str]
    name: ClassVar[str]
    layout: bpy.types.UILayout


class Status(Section):
    """The running job, or why the last one failed and what helps."""

    bl_label = "EX-4D"
    name = "main"

    def draw(self, context: bpy.types.Context) -> None:
        job = jobs.current_job()
        failure = jobs.last_failure()
        if job is not None:
            self.layout.label(text=job.title)
            row = self.layout.row(align=True)
            row.progress(factor=job.factor, text=job.text)
            row.operator("ex4d.cancel", text="", icon="CANCEL")
            if job.preview:
                draw_preview(self.layout, job.preview)
        elif failure is not None:
            draw_failure(self.layout, *failure, context)


class Source(Section):
    """The clip, which part of it, and where depth comes from."""

    bl_label = "Source"
    name = "source"

    def draw(self, context: bpy.types.Context) -> None:
        layout, settings = self.layout, context.scene.ex4d
        layout.use_property_split = True
        layout.prop(settings, "clip_path")
        layout.prop(settings, "use_range")
        if settings.use_range:
            column = layout.column(align=True)
            column.prop(settings, "range_first")
            column.prop(settings, "range_last")
        layout.prop(settings, "stride")
        layout.prop(settings, "start_number")
        layout.prop(settings, "use_frame_rate")
        if settings.use_frame_rate:
            layout.prop(settings, "frame_rate", placeholder=scene_rate(context.scene))
        layout.prop(settings, "depth_source")
        if settings.depth_source in VARIANT_PROPERTIES:
            layout.prop(settings, VARIANT_PROPERTIES[settings.depth_source])
        if limits := restriction(settings):
            layout.label(text=f"Licensed {limits}: accept when downloading", icon="INFO")
        if settings.depth_source == "file":
            layout.prop(settings, "depth_path")
            layout.prop(settings, "depth_meaning")
            if settings.depth_meaning == "normalised_disparity":
                layout.prop(settings, "depth_near")
                layout.prop(settings, "depth_far")
        layout.prop(settings, "ignore_cuts")
        layout.operator("ex4d.next_shot_of_clip", icon="SEQUENCE")
        row = layout.row(align=True)
        row.prop(settings, "poses_path")
        row.operator("ex4d.use_tracked_camera", text="", icon="CON_CAMERASOLVER")
        layout.prop(settings, "use_field_of_view")
        if settings.use_field_of_view:
            layout.prop(settings, "lens_unit")
            for name in ("field_of_view",) if settings.lens_unit == "FOV" else ("focal_length", "sensor_size"):
                layout.prop(settings, name)


class Reconstruct(Section):
    """From clip to mesh."""

    bl_label = "Reconstruct"
    name = "reconstruct"

    def draw(self, context: bpy.types.Context) -> None:
        layout, settings = self.layout, context.scene.ex4d
        layout.use_property_split = True
        layout.prop(settings, "shot_folder")
        layout.operator("ex4d.reconstruct", icon="MESH_GRID")
        row = layout.row(align=True)
        row.operator("ex4d.import_shot")
        row.operator("ex4d.bake_mesh_cache")
        if not why_no_scale(context.scene):
            row = layout.row(align=True)
            row.prop(settings, "real_length")
            row.operator("ex4d.set_scale", icon="DRIVER_DISTANCE")


class Camera(Section):
    """The new camera move."""

    bl_label = "Camera"
    name = "camera"

    def draw(self, context: bpy.types.Context) -> None:
        layout, settings = self.layout, context.scene.ex4d
        layout.use_property_split = True
        layout.prop(context.scene, "camera")
        layout.operator("ex4d.snap_camera", icon="SNAP_ON")
        layout.prop(settings, "move")
        layout.prop(settings, "orbit_angle" if settings.move == "orbit" else "move_amount")
        if settings.move in TURNING_MOVES:
            layout.prop(settings, "pivot")
            if settings.pivot == "DISTANCE":
                layout.prop(settings, "pivot_distance")
        layout.prop(settings, "move_frames")
        layout.prop(settings, "use_freeze")
        if settings.use_freeze:
            layout.prop(settings, "freeze_frame")
        layout.operator("ex4d.add_camera_move", icon="OUTLINER_OB_CAMERA")
        layout.operator("ex4d.coverage", icon="HIDE_OFF")
        if settings.coverage_text:
            layout.label(text=settings.coverage_text)


class Generate(Section):
    """From camera to result."""

    bl_label = "Render & Generate"
    name = "generate"

    def draw(self, context: bpy.types.Context) -> None:
        layout, settings = self.layout, context.scene.ex4d
        layout.use_property_split = True
        layout.prop(settings, "frame_range")
        layout.prop(settings, "output_size")
        layout.prop(settings, "conditioning")
        layout.prop(settings, "include_cg")
        layout.prop(settings, "walls")
        if settings.walls == "SHORT":
            layout.prop(settings, "wall_depth")
        layout.prop(settings, "preset")
        if settings.preset in DIFFUSION_PRESETS:
            header, body = layout.panel("ex4d_diffusion", default_closed=True)
            header.label(text="Diffusion")
            if body is not None:
                for name in DIFFUSION_OPTIONS:
                    body.prop(settings, name)
                body.operator("ex4d.free_vram")
        layout.prop(settings, "seed")
        layout.prop(settings, "take_label")
        layout.operator("ex4d.generate", icon="RENDER_ANIMATION")


class Takes(Section):
    """What has been made."""

    bl_label = "Takes"
    name = "takes"

    def draw(self, context: bpy.types.Context) -> None:
        layout, settings = self.layout, context.scene.ex4d
        row = layout.row()
        row.template_list("EX4D_UL_takes", "", settings, "takes", settings, "active_take", rows=3)
        row.operator("ex4d.refresh_takes", text="", icon="FILE_REFRESH")
        row = layout.row(align=True)
        row.operator("ex4d.load_take", icon="SEQ_SEQUENCER")
        row.operator("ex4d.open_take_folder", text="Open Folder", icon="FILE_FOLDER")
        take = active_take(context.scene)
        if take is not None:
            text = f"{settings.bl_rna.properties['preset'].enum_items[settings.preset].name} from This Take's Camera"
            layout.operator("ex4d.generate", text=text, icon="FILE_REFRESH").take = take.name


SECTIONS: Final = (Source, Reconstruct, Camera, Generate, Takes)


def panel_classes() -> tuple[type, ...]:
    """A panel for every section in every editor, parents first."""
    classes: list[type] = [EX4D_UL_takes]
    for space in SPACES:
        parent = f"EX4D_PT_{space.lower()}_{Status.name}"
        classes.append(_panel(Status, space, parent, {}))
        for section in SECTIONS:
            name = f"EX4D_PT_{space.lower()}_{section.name}"
            classes.append(_panel(section, space, name, {"bl_parent_id": parent}))
    return tuple(classes)


def _panel(section: type[Section], space: str, name: str, extra: dict[str, str]) -> type:
    members = {"bl_idname": name, "bl_space_type": space, "__doc__": section.__doc__, **extra}
    return type(name, (section, bpy.types.Panel), members)


def draw_failure(layout: bpy.types.UILayout, title: str, error: Ex4dError, context: bpy.types.Context) -> None:
    """What happened, what to do, the button that does it, and the report."""
    box = layout.box()
    row = box.row()
    row.label(text=f"{title} failed", icon="ERROR")
    row.operator("ex4d.dismiss", text="", icon="X", emboss=False)
    column = box.column(align=True)
    # labels do not wrap; a letter is about seven pixels wide at the usual size (0 without a window)
    letters = int(context.region.width / (7 * (bpy.context.preferences.system.ui_scale or 1.0)))
    for sentence in (error.message, error.hint):
        for line in textwrap.wrap(sentence, max(20, letters)):
            column.label(text=line)
    draw_action(box, error.action or ACTIONS.get(error.code, ""))
    box.operator("ex4d.copy_report", icon="COPYDOWN")


def draw_action(layout: bpy.types.UILayout, action: str) -> None:
    """The button of an error's action: an operator, `preset:NAME`, `tier:NAME` or `models:NAME`; none for others."""
    kind, _, name = action.partition(":")
    # the take that the failed job had begun is gone on with, not made a second time
    job = jobs.last_job()
    match kind:
        case "preset":
            button = layout.operator("ex4d.generate", text=f"Use Preset {name.capitalize()}")
            button.preset = name
            button.take = "" if job is None else job.take
        case "tier":
            button = layout.operator("ex4d.generate", text=f"Use Memory Tier {name} GB")
            button.tier = name
            button.preset, button.take = ("", "") if job is None else (job.preset, job.take)
        case "models":
            layout.label(text=download_command(name), icon="CONSOLE")
            layout.operator("ex4d.copy_download_command", icon="COPYDOWN").model = name
        case _ if action.startswith("ex4d."):
            layout.operator(action)


def draw_preview(layout: bpy.types.UILayout, path: str) -> None:
    """A finished frame, small."""
    global _previews
    if _previews is None:
        _previews = bpy.utils.previews.new()
    if path not in _previews:
        _previews.clear()  # only the newest is shown
        _previews.load(path, path, "IMAGE")
    layout.template_icon(_previews[path].icon_id, scale=PREVIEW_SCALE)


def forget_previews() -> None:
    """Frees the pictures; Blender complains at exit about those that are left."""
    global _previews
    if _previews is not None:
        bpy.utils.previews.remove(_previews)
        _previews = None
