# SPDX-License-Identifier: GPL-3.0-or-later
"""The list of takes: read it again, load one, open its folder."""

from __future__ import annotations

from typing import ClassVar

import bpy
from bpy.props import StringProperty

from ...ex4d_engine.errors import Ex4dError
from .. import sequencer, take_list
from ..compat import sequencer_scene
from ..current_shot import open_shot, open_take, why_no_shot, why_no_take
from ..jobs import Explained


class EX4D_OT_refresh_takes(Explained, bpy.types.Operator):
    """Other programs make takes too."""

    bl_idname = "ex4d.refresh_takes"
    bl_label = "Refresh Takes"
    bl_description = "Read the list of takes from the shot folder again"

    @classmethod
    def why_not(cls, context: bpy.types.Context) -> str:
        return why_no_shot(context.scene)

    def work(self, context: bpy.types.Context) -> str:
        open_shot(context.scene)  # says what is wrong with it
        for problem in take_list.refresh(context.scene):
            self.report({"WARNING"}, problem)
        return ""


class EX4D_OT_load_take(Explained, bpy.types.Operator):
    """Any take, as often as wanted."""

    bl_idname = "ex4d.load_take"
    bl_label = "Load Take"
    bl_description = "Load the take's result into the sequencer, at the frames that it belongs to"
    bl_options: ClassVar[set[str]] = {"UNDO"}

    take: StringProperty(name="Take", description="By default the one that is selected", options={"SKIP_SAVE"})

    @classmethod
    def why_not(cls, context: bpy.types.Context) -> str:
        return why_no_take(context.scene)

    def work(self, context: bpy.types.Context) -> str:
        shot = open_shot(context.scene)
        take = open_take(context.scene, shot, self.take)
        for note in sequencer.load_take(sequencer_scene(context), shot, take).notes:
            self.report({"WARNING"}, note)
        return f"{take.name} is loaded into the sequencer"


class EX4D_OT_open_take_folder(Explained, bpy.types.Operator):
    """In the system's own file browser."""

    bl_idname = "ex4d.open_take_folder"
    bl_label = "Open Take Folder"
    bl_description = "Show the take's files: the result, and every layer of it as numbered images"

    @classmethod
    def why_not(cls, context: bpy.types.Context) -> str:
        return why_no_take(context.scene)

    def work(self, context: bpy.types.Context) -> str:
        take = open_take(context.scene, open_shot(context.scene))
        try:
            bpy.ops.wm.path_open(filepath=str(take.root))
        except RuntimeError as error:
            raise Ex4dError(
                "no_such_file", f"{take.root} cannot be shown by this system.", "Open it in a file browser."
            ) from error
        return str(take.root)


CLASSES = (EX4D_OT_refresh_takes, EX4D_OT_load_take, EX4D_OT_open_take_folder)
