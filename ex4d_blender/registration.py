# SPDX-License-Identifier: GPL-3.0-or-later
"""Registers everything with Blender, and takes everything back in the opposite order.

Blender 4.2 and 4.5 hang at exit where an add-on leaves a handler, a timer or a property behind.
"""

from __future__ import annotations

import atexit

import bpy

from . import engine_session, operators, panels, preferences, properties, shot_paths, take_list

_classes: list[type] = []


def register() -> None:
    """Called when the add-on is switched on."""
    for cls in (*properties.CLASSES, *preferences.CLASSES, *operators.CLASSES, *panels.panel_classes()):
        bpy.utils.register_class(cls)
        _classes.append(cls)
    properties.register_properties()
    bpy.app.handlers.load_post.append(take_list.refresh_after_load)
    shot_paths.register_handlers()
    # the engine ends with its pipe anyway; this waits for it, so that it is gone when Blender is
    atexit.register(engine_session.stop_engine)


def unregister() -> None:
    """Called when the add-on is switched off."""
    atexit.unregister(engine_session.stop_engine)
    engine_session.stop_engine()
    shot_paths.unregister_handlers()
    if take_list.refresh_after_load in bpy.app.handlers.load_post:
        bpy.app.handlers.load_post.remove(take_list.refresh_after_load)
    panels.forget_previews()
    properties.unregister_properties()
    while _classes:
        bpy.utils.unregister_class(_classes.pop())
