# SPDX-License-Identifier: GPL-3.0-or-later
"""The Blender extension's entry: Blender wants it beside the manifest. Everything is in ex4d_blender."""

from __future__ import annotations


def register() -> None:
    """Called by Blender when the add-on is enabled."""
    from .ex4d_blender import register as register_addon

    register_addon()


def unregister() -> None:
    """Called by Blender when the add-on is disabled."""
    from .ex4d_blender import unregister as unregister_addon

    unregister_addon()
