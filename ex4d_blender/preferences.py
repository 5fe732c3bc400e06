# SPDX-License-Identifier: GPL-3.0-or-later
"""The add-on's preferences: where the engine is. Nothing else; what belongs to a shot is kept with the scene."""

from __future__ import annotations

import bpy
from bpy.props import StringProperty

from .engine_process import PYTHON_VARIABLE
from .engine_session import ADDON, current_engine


class Ex4dPreferences(bpy.types.AddonPreferences):
    """Shown under Edit ‣ Preferences ‣ Add-ons."""

    bl_idname = ADDON

    engine_python: StringProperty(
        name="Engine Python",
        description=f"The Python of the engine's environment, or its folder; empty: the variable {PYTHON_VARIABLE}",
        subtype="FILE_PATH",
    )

    def draw(self, context: bpy.types.Context) -> None:
        layout = self.layout
        layout.use_property_split = True
        layout.prop(self, "engine_python")
        row = layout.row()
        row.operator("ex4d.check_engine")
        row.operator("ex4d.free_vram")
        row.operator("ex4d.stop_engine")
        engine = current_engine()
        if engine is not None and engine.is_alive and engine.hello is not None:
            layout.label(text=describe_engine(), icon="CHECKMARK")
        elif not self.engine_python:
            layout.label(text="tools/bootstrap.py makes the engine's environment: .venv in its folder", icon="INFO")


def describe_engine() -> str:
    """The running engine's hello in one line; "" when none runs."""
    engine = current_engine()
    hello = engine.hello if engine is not None and engine.is_alive else None
    if hello is None:
        return ""
    free, total = hello.memory_gib
    return f"Engine {hello.engine} on {hello.device}, {free:.1f} of {total:.1f} GiB were free"


CLASSES = (Ex4dPreferences,)
