# SPDX-License-Identifier: GPL-3.0-or-later
"""Takes in Blender: new ones beside old ones, those made elsewhere, those whose files are gone."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from tests.blender.add_on import ADDON, refusal, takes_of

bpy = pytest.importorskip("bpy")


def test_another_preset_on_the_same_camera_makes_a_take_of_its_own(imported: Any) -> None:
    bpy.ops.ex4d.add_camera_move(move="truck", amount=0.1)
    bpy.ops.ex4d.generate()
    bpy.ops.ex4d.generate(take="take_0001", preset="preview")
    assert [name for name, _, finished in takes_of(imported) if finished] == ["take_0001", "take_0002"]
    cameras = [
        json.loads((Path(imported.ex4d.shot_folder) / "takes" / name / "take.json").read_text("utf-8"))["camera"]
        for name in ("take_0001", "take_0002")
    ]
    assert cameras[0] == cameras[1]


def test_takes_made_elsewhere_appear_when_the_file_opens(imported: Any, tmp_path: Path) -> None:
    bpy.ops.ex4d.add_camera_move(move="truck", amount=0.1)
    bpy.ops.ex4d.generate()
    root = Path(imported.ex4d.shot_folder)
    bpy.ops.wm.save_as_mainfile(filepath=str(tmp_path / "mine.blend"))
    shutil.copytree(root / "takes" / "take_0001", root / "takes" / "take_0007")
    bpy.ops.wm.open_mainfile(filepath=str(tmp_path / "mine.blend"))
    assert [row.name for row in bpy.context.scene.ex4d.takes] == ["take_0001", "take_0007"]
    assert bpy.ops.ex4d.load_take(take="take_0007") == {"FINISHED"}


def test_files_that_are_missing_are_named(imported: Any) -> None:
    bpy.ops.ex4d.add_camera_move(move="truck", amount=0.1)
    bpy.ops.ex4d.generate()
    take = Path(imported.ex4d.shot_folder) / "takes" / "take_0001"
    (take / "result.mp4").unlink()
    for file in take.glob("composite.*.png"):
        file.unlink()
    assert "take_0001" in refusal(bpy.ops.ex4d.load_take)
    shutil.rmtree(take)
    assert "take_0001" in refusal(bpy.ops.ex4d.load_take)
    assert bpy.ops.ex4d.refresh_takes() == {"FINISHED"}
    assert not takes_of(imported)


def test_a_take_s_folder_is_shown(imported: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    takes = sys.modules[f"{ADDON}.ex4d_blender.operators.takes"]
    bpy.ops.ex4d.add_camera_move(move="truck", amount=0.1)
    bpy.ops.ex4d.generate()
    opened: list[Path] = []

    def path_open(filepath: str) -> None:
        opened.append(Path(filepath))

    monkeypatch.setattr(takes, "bpy", SimpleNamespace(ops=SimpleNamespace(wm=SimpleNamespace(path_open=path_open))))
    assert bpy.ops.ex4d.open_take_folder() == {"FINISHED"}
    assert opened == [Path(imported.ex4d.shot_folder) / "takes" / "take_0001"]
