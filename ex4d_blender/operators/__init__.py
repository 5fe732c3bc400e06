# SPDX-License-Identifier: GPL-3.0-or-later
"""The operators `bpy.ops.ex4d.*`, a file for each of the panel's sections. Thin: they hold no logic of their own."""

from . import camera, engine, generate, import_shot, reconstruct, source_camera, takes

CLASSES = (
    *reconstruct.CLASSES,
    *source_camera.CLASSES,
    *import_shot.CLASSES,
    *camera.CLASSES,
    *generate.CLASSES,
    *takes.CLASSES,
    *engine.CLASSES,
)
