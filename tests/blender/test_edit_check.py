# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

bpy = pytest.importorskip("bpy")

Addon = Callable[[str], Any]
REPOSITORY = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize("version", [(4, 2), (4, 5)])
def test_opening_a_file_of_an_older_blender_is_no_edit(
    addon: Addon, new_shot: Any, tmp_path: Path, version: tuple[int, int]
) -> None:
    name = f".venv-blender-{version[0]}.{version[1]}"
    python = REPOSITORY / name / ("Scripts/python.exe" if sys.platform == "win32" else "bin/python")
    if bpy.app.version[:2] <= version:
        pytest.skip(f"this Blender is not newer than {version}")
    if not python.is_file():
        pytest.skip(f"no older Blender in {name}")
    shot = new_shot("poses")
    blend = tmp_path / "older.blend"
    script = Path(__file__).with_name("import_and_save.py")
    environment = {key: value for key, value in os.environ.items() if not key.startswith("PYTHON")}
    environment["BLENDER_USER_RESOURCES"] = str(tmp_path / "older")
    done = subprocess.run(
        [str(python), str(script), str(shot.root), str(blend)],
        env=environment, capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr

    bpy.ops.wm.open_mainfile(filepath=str(blend))
    scene = bpy.context.scene
    module = addon("ex4d_blender.mesh_import")
    imported = module.find_imported(scene, shot.root)
    assert imported is not None and not module.is_edited(imported, scene)
    tree = imported.mesh_object.material_slots[0].material.node_tree
    tree.links.remove(tree.links[-1])
    assert module.is_edited(imported, scene)
