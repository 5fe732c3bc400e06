# SPDX-License-Identifier: GPL-3.0-or-later
"""What tests ask of the add-on in an open scene."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest

bpy = pytest.importorskip("bpy")

ADDON = "bl_ext.user_default.ex4d"


def refusal(operator: Any, **settings: Any) -> str:
    """What the user reads when the operator refuses or fails; one or two sentences on one line."""
    with pytest.raises(RuntimeError) as failed:
        operator(**settings)
    text = str(failed.value).removeprefix("Error: ").strip()
    assert "Traceback" not in text
    assert len(text.splitlines()) == 1
    return text


def strip_files(scene: Any) -> list[str]:
    editor = scene.sequence_editor
    if editor is None:
        return []
    strips = editor.strips_all if hasattr(editor, "strips_all") else editor.sequences_all
    return [Path(bpy.path.abspath(getattr(strip, "filepath", ""))).name for strip in strips]


def takes_of(scene: Any) -> list[tuple[str, str, bool]]:
    return [(row.name, row.preset, row.is_finished) for row in scene.ex4d.takes]


def moved_to(scene: Any, frame: int) -> Any:
    """The scene camera's view at a frame, as the engine sees it."""
    sampling = sys.modules[f"{ADDON}.ex4d_blender.camera_sampling"]
    shot = sys.modules[f"{ADDON}.ex4d_blender.current_shot"].open_shot(scene)
    return sampling.camera_frames(scene, scene.camera, shot, [frame], (96, 64))[0]


def stop_engine() -> None:
    if bpy.ops.ex4d.stop_engine.poll():
        bpy.ops.ex4d.stop_engine()
