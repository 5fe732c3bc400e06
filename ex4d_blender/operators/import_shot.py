# SPDX-License-Identifier: GPL-3.0-or-later
"""Shot → scene: the mesh with its camera, and the mesh as a point cache where its vertices must move freely."""

from __future__ import annotations

from typing import ClassVar

import bpy

from .. import mesh_import, take_list
from ..current_shot import open_imported, open_shot, why_no_shot, why_not_imported
from ..jobs import Explained
from ..mesh_cache import bake_mesh_cache


class EX4D_OT_import_shot(Explained, bpy.types.Operator):
    """A second import of a shot is a second copy; the newest is the one that is rendered."""

    bl_idname = "ex4d.import_shot"
    bl_label = "Import Shot"
    bl_description = "Bring a reconstructed shot into this scene: its animated mesh and the camera that filmed it"
    bl_options: ClassVar[set[str]] = {"UNDO"}

    @classmethod
    def why_not(cls, context: bpy.types.Context) -> str:
        return why_no_shot(context.scene)

    def work(self, context: bpy.types.Context) -> str:
        shot = open_shot(context.scene)
        imported = mesh_import.import_shot(shot, context.scene)
        take_list.refresh(context.scene)
        return f"{imported.collection.name} imported, {shot.require_plate().count} frames"


class EX4D_OT_bake_mesh_cache(Explained, bpy.types.Operator):
    """See mesh_cache.py for what it replaces."""

    bl_idname = "ex4d.bake_mesh_cache"
    bl_label = "Bake Mesh Cache"
    bl_description = "Write the mesh's motion to a point cache, for edits that move vertices off their rays"
    bl_options: ClassVar[set[str]] = {"UNDO"}

    @classmethod
    def why_not(cls, context: bpy.types.Context) -> str:
        return why_not_imported(context.scene)

    def work(self, context: bpy.types.Context) -> str:
        shot = open_shot(context.scene)
        imported = open_imported(context.scene, shot)
        path = bake_mesh_cache(imported.mesh_object, shot.root / "mesh", context.scene, shot.require_plate().numbers)
        return f"{imported.mesh_object.name} is baked in {path}"


CLASSES = (EX4D_OT_import_shot, EX4D_OT_bake_mesh_cache)
