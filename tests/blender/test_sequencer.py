# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest

bpy = pytest.importorskip("bpy")

Addon = Callable[[str], Any]


@pytest.fixture
def finished_take(addon: Addon, new_shot: Any, run_engine: Any) -> tuple[Any, Any]:
    """A shot and a take of it with all layers and a result, at 24000/1001 frames a second."""
    shot = new_shot()
    trajectories = addon("ex4d_engine.trajectories")
    path = trajectories.along(shot, trajectories.orbit(4, 10.0, 3.0))
    model = addon("ex4d_engine.shot")
    take = model.new_take(shot, path.frames, path.size, first=shot.plate.first, fps=shot.plate.fps)
    run_engine("finish", shot.root, take.name)
    return shot, model.load_take(shot, take.name)


def test_take_becomes_strips(addon: Addon, finished_take: tuple[Any, Any], tmp_path: Path) -> None:
    shot, take = finished_take
    scene = bpy.context.scene
    bpy.ops.wm.save_as_mainfile(filepath=str(tmp_path / "edit.blend"))
    compat = addon("ex4d_blender.compat")
    before = (scene.render.fps, scene.render.resolution_x, scene.frame_start)
    loaded = addon("ex4d_blender.sequencer").load_take(scene, shot, take)
    assert (scene.render.fps, scene.render.resolution_x, scene.frame_start) == before

    assert loaded.result.name == "EX-4D take_0001 result"
    assert loaded.result.filepath.startswith("//")
    assert Path(bpy.path.abspath(loaded.result.filepath)).samefile(take.result_file)
    for strip in (loaded.plate, *loaded.layers):
        assert strip.directory.startswith("//")
    assert [element.filename for element in loaded.plate.elements] == [f"plate.{n:04d}.png" for n in take.numbers]
    for strip in (loaded.plate, loaded.result, *loaded.layers):
        assert compat.strip_range(strip) == (1001, 1005)
    assert loaded.plate.channel < min(strip.channel for strip in loaded.layers)
    assert loaded.result.channel > max(strip.channel for strip in loaded.layers)
    assert all(strip.mute for strip in loaded.layers) and not loaded.plate.mute and not loaded.result.mute
    assert {strip.name.rsplit(" ", 1)[1] for strip in loaded.layers} >= {"color", "mask", "depth", "composite", "matte"}


def test_second_take_overwrites_nothing(addon: Addon, finished_take: tuple[Any, Any]) -> None:
    shot, take = finished_take
    scene = bpy.context.scene
    sequencer, compat = addon("ex4d_blender.sequencer"), addon("ex4d_blender.compat")
    sequencer.load_take(scene, shot, take)
    strips = compat.strips(scene.sequence_editor)
    state = {strip.name: (strip.channel, strip.mute, compat.strip_range(strip)) for strip in strips}
    again = sequencer.load_take(scene, shot, take)
    for strip in strips:
        if strip.name in state:
            assert (strip.channel, strip.mute, compat.strip_range(strip)) == state[strip.name]
    assert again.plate.channel > max(channel for channel, _, _ in state.values())
    elsewhere = sequencer.load_take(scene, shot, take, start_frame=2000)
    assert elsewhere.plate.channel == 1 and compat.strip_range(elsewhere.result) == (2000, 2004)


def test_notes_tell_rate_size_and_look(addon: Addon, finished_take: tuple[Any, Any]) -> None:
    shot, take = finished_take
    scene = bpy.context.scene
    scene.render.fps, scene.render.fps_base = 24, 1.0
    scene.view_settings.view_transform = "AgX"
    notes = " ".join(addon("ex4d_blender.sequencer").load_take(scene, shot, take).notes)
    assert "24000/1001" in notes and "96 x 64" in notes and "AgX" in notes
    scene.render.fps, scene.render.fps_base = 24, 1.001
    scene.render.resolution_x, scene.render.resolution_y = 96, 64
    scene.view_settings.view_transform = "Standard"
    assert addon("ex4d_blender.sequencer").load_take(scene, shot, take).notes == ()


def test_unfinished_take_is_refused(addon: Addon, new_shot: Any) -> None:
    shot = new_shot()
    trajectories = addon("ex4d_engine.trajectories")
    path = trajectories.along(shot, trajectories.still(2))
    take = addon("ex4d_engine.shot").new_take(shot, path.frames, path.size, first=1001, fps=Fraction(25))
    with pytest.raises(addon("ex4d_engine.errors").Ex4dError) as caught:
        addon("ex4d_blender.sequencer").load_take(bpy.context.scene, shot, take)
    assert caught.value.code == "take_incomplete"
    editor = bpy.context.scene.sequence_editor
    assert editor is None or not addon("ex4d_blender.compat").strips(editor)
