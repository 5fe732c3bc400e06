# SPDX-License-Identifier: GPL-3.0-or-later
"""The Blender half of EX-4D: imports shots, samples cameras, and asks the engine for the rest.

bpy is imported only by `register`, so that the modules without it can be used and tested outside Blender.
"""

from __future__ import annotations


def register() -> None:
    """Makes operators, panels, properties and preferences known to Blender."""
    from .registration import register as register_all

    register_all()


def unregister() -> None:
    """Takes everything back and ends the engine."""
    from .registration import unregister as unregister_all

    unregister_all()
