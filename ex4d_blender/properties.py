# SPDX-License-Identifier: GPL-3.0-or-later
"""What the user sets, kept with the scene (`scene.ex4d`), and the running job to show (`window_manager.ex4d_job`)."""

from __future__ import annotations

from fractions import Fraction
from math import radians
from typing import Any

import bpy
from bpy.props import (
    BoolProperty,
    CollectionProperty,
    EnumProperty,
    FloatProperty,
    IntProperty,
    PointerProperty,
    StringProperty,
)

from ..ex4d_engine.bundled_model import DEFAULT_PRESET
from ..ex4d_engine.dwmesh.walls import CLOSED, WALL_SHARE, preset_walls
from . import jobs, take_list
from .depth_choice import DEPTH_ANYTHING_3, DEPTH_ANYTHING_V2

# `//` paths are relative to the .blend, as everywhere in Blender
BLEND_RELATIVE = {"PATH_SUPPORTS_BLEND_RELATIVE"} if bpy.app.version >= (4, 5, 0) else set()

AUTOMATIC_DEPTH = "auto"  # the engine chooses
# other identifiers are the engine's own names (ex4d_engine/worker.py); new ones go last: .blend files keep the place
DEPTH_SOURCES = (
    ("rough-pictorial", "Rough, from the Picture", "No model: ground, sky and moving things are told apart by eye"),
    ("file", "Depth Files", "Depth maps that you bring: EXR, PNG or NPY files, or a depth video"),
    ("depth-anything-v2", "Depth Anything V2", "Downloaded network, frame by frame. Small: Apache-2.0"),
    ("depth-anything-3", "Depth Anything 3", "Downloaded network that finds lens and camera too. Apache-2.0"),
    ("video-depth-anything", "Video Depth Anything", "Downloaded network, steady over time. Apache-2.0"),
    ("depth-pro", "Depth Pro", "Downloaded network, in metres, finds the lens. For research only"),
    ("depthcrafter", "DepthCrafter", "Downloaded video diffusion model, slow. For academic use only"),
    ("bundled", "Bundled Network", "The small network that comes with the add-on: any machine, no download"),
    (AUTOMATIC_DEPTH, "Automatic", "Depth Anything V2 once it is downloaded, else the bundled network"),
)
DEPTH_MEANINGS = (
    ("z", "Distance", "Distance along the camera's axis"),
    ("disparity", "Disparity", "One divided by the distance"),
    ("normalised_disparity", "Normalised Disparity", "0 is far, 1 is near, linear in one divided by the distance"),
)
LENS_UNITS = (
    ("FOV", "Field of View", "The angle across the clip's longer side"),
    ("MILLIMETRES", "Millimetres", "Focal length and size of the sensor"),
)
PRESETS = (
    ("preview", "Preview", "Holes filled from other frames and from around: no diffusion, seconds, to judge a move"),
    ("draft", "Draft", "The small diffusion model that comes with the add-on: minutes on any machine, less detail"),
    ("final", "Final", "Wan2.1 14B with the EX-4D adapter, 25 steps"),
    ("fast", "Fast", "The same with a step-distillation adapter, 4 steps"),
)
DIFFUSION_PRESETS = ("draft", "final", "fast")  # the others draw nothing by diffusion
DIFFUSION_OPTIONS = ("tier", "detail", "steps")  # properties of `Ex4dSettings`, named as the engine's options
TIERS = (
    ("AUTO", "Automatic", "The fastest that fits the graphics card's free memory"),
    ("48", "48 GB", "The whole model on the card, exact"),
    ("24", "24 GB", "The whole model on the card, in float8"),
    ("16", "16 GB", "Exact, layer after layer from the computer's memory: slower"),
    ("12", "12 GB", "In float8, layer after layer from the computer's memory: slower"),
)
DETAILS = (
    ("none", "Off", "Generated near the size that the model was trained at, then enlarged"),
    ("full", "Second Pass", "Generated a second time at the take's size, tile by tile: finer and much slower"),
)
MOVES = (
    ("orbit", "Orbit", "Swing about the subject, looking at it"),
    ("dolly", "Dolly", "Move along the line of sight; positive is forward"),
    ("truck", "Truck", "Move sideways; positive is right"),
    ("crane", "Crane", "Rise while looking at the subject; positive is up"),
)
PIVOTS = (
    ("SUBJECT", "The Subject's Depth", "As deep as what the clip is about, as the reconstruction found it"),
    ("CURSOR", "3D Cursor", "On the clip's line of sight, as deep as the 3D cursor is at the shot's first frame"),
    ("DISTANCE", "A Distance", "On the clip's line of sight, at a distance from the camera"),
)
TURNING_MOVES = ("orbit", "crane")  # those that look at a pivot
CONDITIONING = (
    ("AUTO", "Automatic", "The engine draws; Cycles does where the mesh was edited or other objects take part"),
    ("CYCLES", "Cycles", "Cycles draws the scene's mesh, as it is now"),
    ("EEVEE", "EEVEE", "EEVEE draws the scene's mesh, as it is now"),
)
WALLS = (
    ("AUTO", "Automatic", "Short for Preview and Draft, closed for Final and Fast: what each of them fills best"),
    (
        "CLOSED",
        "Closed",
        "What is in front hides all that lies behind it: large holes, and nothing of the clip where it may not belong",
    ),
    (
        "SHORT",
        "Short",
        "Things are as deep as set: past their end the clip shows again, and holes are smaller. Too short, it shows "
        "where they would hide it",
    ),
)


def _folder_changed(settings: Ex4dSettings, context: bpy.types.Context) -> None:
    scene: Any = settings.id_data  # an ID, as its type says; of these settings it is a scene
    take_list.refresh(scene)


def _units_changed(settings: Ex4dSettings, context: bpy.types.Context) -> None:
    """A scale is of the units of one clip's depth and camera."""
    settings.use_scene_scale = False


class Ex4dTake(bpy.types.PropertyGroup):
    """A row of the list of takes; `name` is the take's."""

    label: StringProperty(name="Label")
    preset: StringProperty(name="Preset")
    frames: IntProperty(name="Frames")
    is_finished: BoolProperty(name="Finished")


class Ex4dSettings(bpy.types.PropertyGroup):
    """A scene's settings."""

    clip_path: StringProperty(
        name="Clip",
        description="A movie, an image, or any file of an image sequence",
        subtype="FILE_PATH",
        options=BLEND_RELATIVE,
        update=_units_changed,
    )
    use_range: BoolProperty(name="Part of the Clip", description="Take only some of the clip's frames")
    range_first: IntProperty(name="First", description="In the clip's own numbers", default=1, min=0)
    range_last: IntProperty(name="Last", description="In the clip's own numbers, included", default=100, min=0)
    stride: IntProperty(name="Step", description="Take every Nth frame", default=1, min=1)
    start_number: IntProperty(
        name="Movie Starts At",
        description="Number of a movie's first frame; an image sequence keeps its files' numbers",
        default=1,
        min=0,
    )
    use_frame_rate: BoolProperty(
        name="Set Frame Rate", description="Otherwise a movie's own, or 24 for images, which say nothing of it"
    )
    frame_rate: StringProperty(
        name="Frame Rate", description="Frames per second, such as 24 or 24000/1001; empty: the scene's"
    )
    depth_source: EnumProperty(name="Depth", items=DEPTH_SOURCES, default=AUTOMATIC_DEPTH, update=_units_changed)
    depth_anything_v2_variant: EnumProperty(
        name="Variant", items=DEPTH_ANYTHING_V2, default="small", update=_units_changed
    )
    depth_anything_3_variant: EnumProperty(
        name="Variant", items=DEPTH_ANYTHING_3, default="base", update=_units_changed
    )
    depth_path: StringProperty(
        name="Depth Files",
        description="A folder, any file of a sequence, an NPY or NPZ stack, or a depth video",
        subtype="FILE_PATH",
        options=BLEND_RELATIVE,
        update=_units_changed,
    )
    depth_meaning: EnumProperty(name="Values Are", items=DEPTH_MEANINGS, default="z", update=_units_changed)
    depth_near: FloatProperty(
        name="Near", description="Distance of disparity 1", default=1.0, min=1e-4, update=_units_changed
    )
    depth_far: FloatProperty(
        name="Far", description="Distance of disparity 0", default=100.0, min=1e-4, update=_units_changed
    )
    ignore_cuts: BoolProperty(
        name="Ignore Cuts", description="Take the clip as one shot, even where it looks edited from several"
    )
    poses_path: StringProperty(
        name="Camera File",
        description="The solved camera of the clip: a .json of EX-4D, or the folder of COLMAP's text files; empty: "
        "the camera stands still",
        subtype="FILE_PATH",
        options=BLEND_RELATIVE,
        update=_units_changed,
    )
    use_field_of_view: BoolProperty(
        name="Set Lens",
        description="Otherwise the camera file's, the depth source's or the clip's own, or 50° where nobody knows it",
    )
    lens_unit: EnumProperty(name="Lens Unit", items=LENS_UNITS, default="FOV")
    focal_length: FloatProperty(
        name="Focal Length", description="In millimetres", subtype="DISTANCE_CAMERA", default=35.0, min=1.0
    )
    sensor_size: FloatProperty(
        name="Sensor",
        description="In millimetres, along the clip's longer side",
        subtype="DISTANCE_CAMERA",
        default=36.0,
        min=1.0,
    )
    # what Set Scale found, for the next reconstruction
    use_scene_scale: BoolProperty(
        name="Scale to Metres",
        description="Multiply depth and cameras, so that one unit is one metre",
        options={"HIDDEN"},
    )
    scene_scale: FloatProperty(
        name="Metres per Unit",
        description="Of the shot as its depth source gives it",
        default=1.0,
        min=1e-6,
        max=1e6,
        options={"HIDDEN"},
    )
    real_length: FloatProperty(
        name="Real Length",
        description="Between the two selected objects or vertices, in metres",
        default=1.7,
        min=1e-4,
        precision=3,
    )
    field_of_view: FloatProperty(
        name="Field of View",
        description="Of the clip's longer side",
        subtype="ANGLE",
        default=radians(50),
        min=radians(1),
        max=radians(179),
    )
    shot_folder: StringProperty(
        name="Shot Folder",
        description="Where the reconstruction and the takes are kept; empty: beside the clip",
        subtype="DIR_PATH",
        options=BLEND_RELATIVE,
        update=_folder_changed,
    )

    move: EnumProperty(name="Move", items=MOVES, default="orbit")
    orbit_angle: FloatProperty(
        name="Angle",
        description="Between the first and the last line of sight; positive swings to the right",
        subtype="ANGLE",
        default=radians(30),
        min=radians(-90),
        max=radians(90),
    )
    move_amount: FloatProperty(
        name="Amount",
        description="As a share of the subject's distance, in a crane of the pivot's",
        default=0.3,
        soft_min=-1,
        soft_max=1,
    )
    pivot: EnumProperty(name="Pivot", description="What the camera turns about", items=PIVOTS, default="SUBJECT")
    pivot_distance: FloatProperty(
        name="Distance", description="Of the pivot from the clip's camera", subtype="DISTANCE", default=3.0, min=1e-4
    )
    move_frames: IntProperty(name="Frames", description="Length of the move; 0: as long as the shot", default=0, min=0)
    use_freeze: BoolProperty(
        name="Bullet Time", description="One frame of the shot stands still, while the camera moves through it"
    )
    freeze_frame: IntProperty(
        name="Freeze Frame", description="The frame of the shot that is seen all the time", default=1, min=0
    )
    coverage_text: StringProperty(name="Coverage", options={"SKIP_SAVE"})

    frame_range: EnumProperty(
        name="Frames",
        items=(
            ("SHOT", "The Shot's", "Every frame of the shot"),
            ("SCENE", "The Scene's", "The scene's frame range; beyond the shot its first or last frame stands still"),
        ),
        default="SHOT",
    )
    output_size: EnumProperty(
        name="Size",
        items=(("PLATE", "The Clip's", "As large as the clip"), ("SCENE", "The Scene's", "The scene's resolution")),
        default="PLATE",
    )
    conditioning: EnumProperty(name="Draw With", items=CONDITIONING, default="AUTO")
    include_cg: BoolProperty(
        name="Other Objects", description="Draw the scene's other objects too, with its lamps and world"
    )
    walls: EnumProperty(
        name="Walls",
        description="How deep things are taken to be in a new view, as the clip never shows their far side",
        items=WALLS,
        default="AUTO",
    )
    wall_depth: FloatProperty(
        name="Wall Depth",
        description="As a share of a thing's distance from the clip's camera: 0.15 is 60 cm at a distance of 4 m",
        subtype="FACTOR",
        default=WALL_SHARE,
        min=0.02,
        max=2.0,
    )
    preset: EnumProperty(name="Preset", items=PRESETS, default=DEFAULT_PRESET)
    seed: IntProperty(name="Seed", description="Of every random draw", default=0, min=0)
    tier: EnumProperty(
        name="Memory", description="How the model is kept to fit the graphics card", items=TIERS, default="AUTO"
    )
    detail: EnumProperty(name="Detail", items=DETAILS, default="none")
    steps: IntProperty(name="Steps", description="Of the denoiser; 0: the preset's own", default=0, min=0, soft_max=50)
    take_label: StringProperty(name="Label", description="A name for the next take")

    takes: CollectionProperty(type=Ex4dTake)
    active_take: IntProperty(name="Take")


def scene_rate(scene: bpy.types.Scene) -> str:
    """Frames per second of a scene, as the engine takes them: "25", "24000/1001"."""
    # the base is kept in float32: 1.001 is not exactly that
    return str(scene.render.fps / Fraction(scene.render.fps_base).limit_denominator(1000))


def frozen_frame(settings: Any) -> int | None:
    """The shot frame that is seen all the time; None when the clip runs."""
    return int(settings.freeze_frame) if settings.use_freeze else None


def wall_share(settings: Any, preset: str) -> float:
    """How far a new take of these settings draws unseen faces, generated with `preset`: see dwmesh/walls.py."""
    match settings.walls:
        case "CLOSED":
            return CLOSED
        case "SHORT":
            return round(float(settings.wall_depth), 6)  # Blender keeps a float32: 0.3 is 0.30000001
        case _:
            return preset_walls(preset)


# by name and not as lambdas: Blender evaluates the annotations below where this module's names are unknown
def _job_is_running(_: Ex4dJob) -> bool:
    return jobs.current_job() is not None


def _job_text(_: Ex4dJob) -> str:
    job = jobs.current_job()
    return "" if job is None else job.text


def _job_title(_: Ex4dJob) -> str:
    job = jobs.current_job()
    return "" if job is None else job.title


def _job_factor(_: Ex4dJob) -> float:
    job = jobs.current_job()
    return 0.0 if job is None else job.factor


def _failure_text(_: Ex4dJob) -> str:
    failure = jobs.last_failure()
    return "" if failure is None else str(failure[1])


class Ex4dJob(bpy.types.PropertyGroup):
    """The running job, to be read by panels and scripts. Computed, so nothing of it gets into a file."""

    is_running: BoolProperty(name="Running", get=_job_is_running)
    title: StringProperty(name="Job", get=_job_title)
    text: StringProperty(name="Progress", get=_job_text)
    factor: FloatProperty(name="Factor", min=0, max=1, get=_job_factor)
    error: StringProperty(name="Error", description="Why the last one failed", get=_failure_text)


def register_properties() -> None:
    """Hangs the groups onto scenes and the window manager, after their classes are registered."""
    bpy.types.Scene.ex4d = PointerProperty(type=Ex4dSettings)
    bpy.types.WindowManager.ex4d_job = PointerProperty(type=Ex4dJob)


def unregister_properties() -> None:
    """The inverse of `register_properties`."""
    del bpy.types.WindowManager.ex4d_job
    del bpy.types.Scene.ex4d


CLASSES = (Ex4dTake, Ex4dSettings, Ex4dJob)
