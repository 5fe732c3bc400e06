# SPDX-License-Identifier: GPL-3.0-or-later
"""What the operators refuse, and what the user reads then."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.blender.add_on import refusal, stop_engine

bpy = pytest.importorskip("bpy")


def test_every_greyed_out_button_says_why(addon: Callable[[str], Any], tmp_path: Path) -> None:
    addon("ex4d_blender.jobs")
    settings = bpy.context.scene.ex4d
    assert "Choose a clip first" in refusal(bpy.ops.ex4d.reconstruct)
    for name in ("import_shot", "generate", "snap_camera", "add_camera_move", "coverage", "load_take"):
        assert "Choose a shot folder" in refusal(getattr(bpy.ops.ex4d, name)), name
    settings.shot_folder = str(tmp_path)
    for name in ("import_shot", "bake_mesh_cache", "refresh_takes", "open_take_folder"):
        assert "holds no shot yet" in refusal(getattr(bpy.ops.ex4d, name)), name
    settings.clip_path, settings.depth_source = str(tmp_path / "clip.mov"), "file"
    assert "depth files" in refusal(bpy.ops.ex4d.reconstruct)
    assert "Nothing is running" in refusal(bpy.ops.ex4d.cancel)


def test_what_needs_an_import_or_a_camera_says_so(scene: Any, new_shot: Callable[..., Any]) -> None:
    scene.ex4d.shot_folder = str(new_shot().root)
    assert "import it first" in refusal(bpy.ops.ex4d.generate)
    bpy.ops.ex4d.import_shot()
    scene.camera = None
    assert "no camera" in refusal(bpy.ops.ex4d.generate)
    assert "no takes yet" in refusal(bpy.ops.ex4d.load_take)


def test_a_camera_without_keys_is_refused_before_a_take_is_made(imported: Any) -> None:
    imported.camera = bpy.data.objects.new("Still", bpy.data.cameras.new("Still"))
    imported.collection.objects.link(imported.camera)
    assert "no keys" in refusal(bpy.ops.ex4d.generate)
    assert not (Path(imported.ex4d.shot_folder) / "takes").exists()


def test_an_orthographic_camera_is_refused_with_the_reason(imported: Any) -> None:
    bpy.ops.ex4d.add_camera_move(move="truck", amount=0.1)
    imported.camera.data.type = "ORTHO"
    assert "orthographic" in refusal(bpy.ops.ex4d.generate)
    assert not (Path(imported.ex4d.shot_folder) / "takes").exists()


def test_a_clip_that_is_no_video_is_named(scene: Any, tmp_path: Path) -> None:
    clip = tmp_path / "letter.mov"
    clip.write_text("Dear all")
    scene.ex4d.clip_path = str(clip)
    assert "letter.mov" in refusal(bpy.ops.ex4d.reconstruct)
    assert not [item for item in scene.objects if item.type == "MESH"]


def test_a_folder_that_cannot_be_written_is_refused_before_the_engine_starts(scene: Any, tmp_path: Path) -> None:
    (tmp_path / "taken").write_text("a file")
    scene.ex4d.shot_folder = str(tmp_path / "taken")
    stop_engine()
    assert "a file is in the way" in refusal(bpy.ops.ex4d.reconstruct)
    assert "not running" in refusal(bpy.ops.ex4d.stop_engine)


def test_the_shot_of_another_clip_is_not_overwritten(scene: Any) -> None:
    bpy.ops.ex4d.reconstruct()
    root = Path(scene.ex4d.shot_folder)
    before = {path: path.read_bytes() for path in root.rglob("*") if path.is_file()}
    other = Path(scene.ex4d.clip_path).with_name("other.mkv")
    shutil.copy(scene.ex4d.clip_path, other)
    scene.ex4d.clip_path = str(other)
    assert "another clip, Flug 飛 é.mkv" in refusal(bpy.ops.ex4d.reconstruct)
    assert {path: path.read_bytes() for path in root.rglob("*") if path.is_file()} == before
    scene.ex4d.shot_folder = ""
    assert bpy.ops.ex4d.reconstruct() == {"FINISHED"}
    assert Path(scene.ex4d.shot_folder).name == "other_ex4d"


def test_a_shot_of_a_newer_version_is_refused_and_stays_as_it_is(imported: Any) -> None:
    path = Path(imported.ex4d.shot_folder) / "shot.json"
    document = json.loads(path.read_text("utf-8")) | {"schema": 99}
    path.write_text(json.dumps(document), "utf-8")
    files = sorted(path.parent.rglob("*"))
    for operator in (bpy.ops.ex4d.reconstruct, bpy.ops.ex4d.import_shot, bpy.ops.ex4d.refresh_takes):
        assert "newer EX-4D" in refusal(operator)
    assert json.loads(path.read_text("utf-8")) == document
    assert sorted(path.parent.rglob("*")) == files
