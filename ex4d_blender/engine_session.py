# SPDX-License-Identifier: GPL-3.0-or-later
"""The one engine of this Blender: started when a job first needs it, kept for the next, ended with Blender."""

from __future__ import annotations

from typing import Final

import bpy

from .engine_process import EngineProcess, engine_command, find_engine_python

ADDON: Final = __package__.rpartition(".")[0]  # as Blender knows the extension: bl_ext.<repository>.ex4d

_engine: EngineProcess | None = None


def current_engine() -> EngineProcess | None:
    """The engine as it is, running or ended; None when none was started yet."""
    return _engine


def start_engine() -> EngineProcess:
    """The engine, started; a new one when there is none, it has died, or another Python was chosen.

    Raises:
        Ex4dError: `engine_missing`.
    """
    global _engine
    command = engine_command(find_engine_python(bpy.path.abspath(engine_python_preference())))
    if _engine is None or _engine.command != command:
        stop_engine()
        _engine = EngineProcess(command)
    _engine.start()
    return _engine


def is_running() -> bool:
    """Whether there is an engine to talk to."""
    return _engine is not None and _engine.is_alive


def stop_engine(grace_s: float = 2.0) -> None:
    """Ends the engine, which frees its memory; the next job starts it again."""
    if _engine is not None:
        _engine.stop(grace_s)


def engine_python_preference() -> str:
    """What the user chose in the preferences; "" when nothing, or while the add-on is being switched off."""
    addon: bpy.types.Addon | None = bpy.context.preferences.addons.get(ADDON)
    return "" if addon is None or addon.preferences is None else str(addon.preferences.engine_python)
