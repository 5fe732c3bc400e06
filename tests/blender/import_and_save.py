# SPDX-License-Identifier: GPL-3.0-or-later
"""Run by another Blender's Python for the tests: imports a shot into an empty file and saves it.

import_and_save.py SHOT_FOLDER BLEND_FILE
"""

from __future__ import annotations

import importlib
import os
import sys
import types
from pathlib import Path

import bpy


def main(folder: str, blend: str) -> None:
    extension = types.ModuleType("ex4d_extension")  # the add-on as a package, without installing it
    extension.__path__ = [str(Path(__file__).resolve().parents[2])]
    sys.modules["ex4d_extension"] = extension
    shot = importlib.import_module("ex4d_extension.ex4d_engine.shot").load_shot(Path(folder))
    bpy.ops.wm.read_homefile(use_empty=True, use_factory_startup=True)
    importlib.import_module("ex4d_extension.ex4d_blender.mesh_import").import_shot(shot, bpy.context.scene)
    bpy.ops.wm.save_as_mainfile(filepath=blend)


if __name__ == "__main__":
    main(*sys.argv[1:])
    sys.stdout.flush()
    os._exit(0)  # Blender 4.2 as a module may hang at its own exit
