# SPDX-License-Identifier: GPL-3.0-or-later
"""The new camera: start it at the source view, give it a move, and see how much of its view the clip has seen."""

from __future__ import annotations

from math import degrees
from typing import ClassVar

import bpy
import numpy as np
from bpy.props import EnumProperty, FloatProperty

from ...ex4d_engine import trajectories
from ...ex4d_engine.shot import Shot
from .. import properties
from ..camera_moves import add_camera_move, cursor_pivot, snap_camera_to_source
from ..camera_sampling import check_frozen, is_animated
from ..current_shot import open_imported, open_shot, why_no_camera, why_not_imported
from ..jobs import Explained
from ..path_coverage import path_coverage
from ..properties import frozen_frame


class EX4D_OT_snap_camera(Explained, bpy.types.Operator):
    """Only the first key is touched, so that an existing move stays."""

    bl_idname = "ex4d.snap_camera"
    bl_label = "Snap First Key to Source"
    bl_description = (
        "Put the camera where the clip was filmed from, at the shot's first frame: a take must begin at the source view"
    )
    bl_options: ClassVar[set[str]] = {"UNDO"}

    @classmethod
    def why_not(cls, context: bpy.types.Context) -> str:
        return why_not_imported(context.scene) or why_no_camera(context.scene)

    def work(self, context: bpy.types.Context) -> str:
        shot = open_shot(context.scene)
        camera, frame = context.scene.camera, shot.require_plate().first
        frozen = frozen_frame(context.scene.ex4d)
        snap_camera_to_source(camera, open_imported(context.scene, shot), shot, frame, frozen=frozen)
        return f"{camera.name} starts at the source view, at frame {frame}"


class EX4D_OT_add_camera_move(Explained, bpy.types.Operator):
    """A button takes the panel's settings; a script may give its own."""

    bl_idname = "ex4d.add_camera_move"
    bl_label = "Add Camera Move"
    bl_description = "Add a camera that starts at the source view and makes this move, as keys that can be edited"
    bl_options: ClassVar[set[str]] = {"UNDO"}

    move: EnumProperty(name="Move", items=(("PANEL", "As in the Panel", ""), *properties.MOVES), default="PANEL")
    amount: FloatProperty(
        name="Amount",
        description="Degrees of an orbit, else a share of the subject's distance (of the pivot's); used with Move",
    )

    @classmethod
    def why_not(cls, context: bpy.types.Context) -> str:
        return why_not_imported(context.scene)

    def work(self, context: bpy.types.Context) -> str:
        scene, settings = context.scene, context.scene.ex4d
        shot = open_shot(scene)
        name, amount = self.move, self.amount
        if name == "PANEL":
            name = settings.move
            amount = degrees(settings.orbit_angle) if name == "orbit" else settings.move_amount
        count = settings.move_frames or shot.require_plate().count
        frozen = frozen_frame(settings)
        poses = trajectories.preset(name, amount, count, pivot_depth(scene, shot, name))
        camera = add_camera_move(scene, shot, open_imported(scene, shot), poses, f"EX-4D {name}", frozen=frozen)
        scene.camera = camera
        return f"{camera.name}: {count} frames, now the scene's camera"


def pivot_depth(scene: bpy.types.Scene, shot: Shot, move: str) -> float:
    """Depth of what a move turns about as the panel says it; a move that does not turn goes by the subject's.

    Raises:
        Ex4dError: `camera_invalid` for a 3D cursor that is not in front of the source camera.
    """
    settings = scene.ex4d
    if move not in properties.TURNING_MOVES or settings.pivot == "SUBJECT":
        return shot.require_geometry().subject
    if settings.pivot == "DISTANCE":
        return float(settings.pivot_distance)
    frozen = frozen_frame(settings)
    check_frozen(shot, frozen)
    return cursor_pivot(scene, shot, shot.require_plate().first if frozen is None else frozen)


class EX4D_OT_coverage(Explained, bpy.types.Operator):
    """Leaves the answer in `scene.ex4d.coverage_text`."""

    bl_idname = "ex4d.coverage"
    bl_label = "Coverage"
    bl_description = "Estimate how much of the camera's view the clip has seen, along its path; the rest is made up"

    @classmethod
    def why_not(cls, context: bpy.types.Context) -> str:
        return why_not_imported(context.scene) or why_no_camera(context.scene)

    def work(self, context: bpy.types.Context) -> str:
        scene = context.scene
        shot = open_shot(scene)
        imported, frozen = open_imported(scene, shot), frozen_frame(scene.ex4d)
        walls = properties.wall_share(scene.ex4d, scene.ex4d.preset)
        shares = path_coverage(scene, shot, imported, scene.camera, wall_share=walls, frozen=frozen)
        least = min(shares, key=lambda frame: shares[frame])
        still = "" if is_animated(scene.camera) else " The camera has no keys."
        scene.ex4d.coverage_text = (
            f"{np.mean(list(shares.values())):.0%} seen on average, least {shares[least]:.0%} at frame {least}"
        )
        return scene.ex4d.coverage_text + "." + still


CLASSES = (EX4D_OT_snap_camera, EX4D_OT_add_camera_move, EX4D_OT_coverage)
