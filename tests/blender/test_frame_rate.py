# SPDX-License-Identifier: GPL-3.0-or-later
"""The frame rate of clips that have none of their own."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.blender.add_on import ADDON, refusal

bpy = pytest.importorskip("bpy")


def test_an_image_sequence_gets_the_frame_rate_that_was_set(scene: Any, made_clip: Path) -> None:
    reconstruct = sys.modules[f"{ADDON}.ex4d_blender.operators.reconstruct"]
    settings = scene.ex4d
    scene.render.fps, scene.render.fps_base = 24, 1.001

    def passed() -> Any:
        return reconstruct.reconstruct_params(scene, Path(settings.clip_path).parent)["fps"]

    settings.frame_rate = "25"
    assert passed() is None, "not ticked: the clip's own"
    settings.use_frame_rate = True
    assert passed() == "25"
    settings.frame_rate = " 30000/1001 "
    assert passed() == "30000/1001"
    settings.frame_rate = ""
    assert passed() == "24000/1001", "the scene's"
    scene.render.fps, scene.render.fps_base = 30, 1.0
    assert passed() == "30"


def test_a_shot_of_images_has_the_frame_rate_that_was_set(
    scene: Any, tmp_path: Path, made_shots: Callable[[str], Path]
) -> None:
    settings = scene.ex4d
    frames = tmp_path / "frames"
    shutil.copytree(made_shots("none") / "plate", frames)
    settings.clip_path = str(sorted(frames.glob("*.png"))[0])
    settings.use_frame_rate, settings.frame_rate = True, "24000/1001"
    assert bpy.ops.ex4d.reconstruct() == {"FINISHED"}
    shot = json.loads((Path(bpy.path.abspath(settings.shot_folder)) / "shot.json").read_text("utf-8"))
    assert shot["plate"]["fps"] == "24000/1001"

    settings.shot_folder, settings.frame_rate = str(tmp_path / "other"), "many"
    assert "many" in refusal(bpy.ops.ex4d.reconstruct)
