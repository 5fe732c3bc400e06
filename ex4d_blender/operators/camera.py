# SPDX-License-Identifier: GPL-3.0-or-later
"""The new camera: start it at the source view, give it a move, and see how much of its view the clip has seen."""

from __future__ import annotations

from math import degrees
from typing import ClassVar

import bpy
import numpy as np
from bpy.props import EnumProperty, FloatProperty

from ...ex4d_engine import trajectories
from .. import properties
from ..camera_moves import add_camera_move, snap_camera_to_source
from ..camera_sampling import is_animated
from ..current_shot import open_imported, open_shot, why_no_camera, why_not_imported
from ..jobs import Explained
from ..path_coverage import path_coverage


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
        snap_camera_to_source(camera, open_imported(context.scene, shot), shot, frame)
        return f"{camera.name} starts at the source view, at frame {frame}"


class EX4D_OT_add_camera_move(Explained, bpy.types.Operator):
    """A button takes the panel's settings; a script may give its own."""

    bl_idname = "ex4d.add_camera_move"
    bl_label = "Add Camera Move"
    bl_description = "Add a camera that starts at the source view and makes this move, as keys that can be edited"
    bl_options: ClassVar[set[str]] = {"UNDO"}

    move: EnumProperty(name="Move", items=(("PANEL", "As in the Panel", ""), *properties.MOVES), default="PANEL")
    amount: FloatProperty(
        name="Amount", description="Degrees of an orbit, else a share of the subject's distance; used with Move"
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
        poses = trajectories.preset(name, amount, count, shot.require_geometry().subject)
        camera = add_camera_move(scene, shot, open_imported(scene, shot), poses, f"EX-4D {name}")
        scene.camera = camera
        return f"{camera.name}: {count} frames, now the scene's camera"


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
        shares = path_coverage(scene, shot, open_imported(scene, shot), scene.camera)
        least = min(shares, key=lambda frame: shares[frame])
        still = "" if is_animated(scene.camera) else " The camera has no keys."
        scene.ex4d.coverage_text = (
            f"{np.mean(list(shares.values())):.0%} seen on average, least {shares[least]:.0%} at frame {least}"
        )
        return scene.ex4d.coverage_text + "." + still


CLASSES = (EX4D_OT_snap_camera, EX4D_OT_add_camera_move, EX4D_OT_coverage)
