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
    takes = addon("ex4d_engine.take")
    take = takes.new_take(shot, path.frames, path.size, first=shot.plate.first, fps=shot.plate.fps)
    run_engine("finish", shot.root, take.name)
    return shot, takes.load_take(shot, take.name)


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
    assert (loaded.plate.channel, loaded.layers_meta.channel, loaded.result.channel) == (1, 2, 3)
    assert loaded.layers_meta.mute and not loaded.plate.mute and not loaded.result.mute
    assert loaded.layers_meta.name == "EX-4D take_0001 layers"
    assert compat.strip_range(loaded.layers_meta) == (1001, 1005)
    assert list(compat.strips(loaded.layers_meta)) == list(loaded.layers)
    assert len({strip.channel for strip in loaded.layers}) == len(loaded.layers)
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


def test_there_is_room_for_many_takes_and_then_a_reason(addon: Addon, finished_take: tuple[Any, Any]) -> None:
    shot, take = finished_take
    scene = bpy.context.scene
    sequencer, compat = addon("ex4d_blender.sequencer"), addon("ex4d_blender.compat")
    loaded = [sequencer.load_take(scene, shot, take) for _ in range(20)]
    channels = [one.plate.channel for one in loaded]
    assert channels == list(range(1, 61, 3)) and loaded[-1].layers_meta.channel == 59
    assert all(compat.strip_range(one.layers_meta) == (1001, 1005) for one in loaded)
    assert all(list(compat.strips(one.layers_meta)) == list(one.layers) for one in loaded)

    strips = compat.strips(scene.sequence_editor)
    loaded[-1].result.channel = 128  # as an artist may, to keep something on top
    assert sequencer.load_take(scene, shot, take).plate.channel == 125  # the highest gap
    while True:
        try:
            sequencer.load_take(scene, shot, take)
        except addon("ex4d_engine.errors").Ex4dError as error:
            assert error.code == "take_incomplete" and "channels" in error.message
            break
        assert len(strips) <= 128
    taken = [strip.channel for strip in strips]
    assert len(taken) == len(set(taken)) > 120


def test_layers_are_shown_where_the_meta_strip_is_not_muted(addon: Addon, finished_take: tuple[Any, Any]) -> None:
    """Rendered by the sequencer: frame n of the uppermost layer at frame n."""
    shot, take = finished_take
    scene = bpy.context.scene
    read = addon("ex4d_blender.pixel_files").read_rgba
    loaded = addon("ex4d_blender.sequencer").load_take(scene, shot, take)
    loaded.layers_meta.mute, loaded.result.mute = False, True
    scene.render.resolution_x, scene.render.resolution_y = take.width, take.height
    scene.view_settings.view_transform, scene.render.dither_intensity = "Standard", 0.0
    scene.render.filepath = str(shot.root / "look.png")
    scene.frame_set(1003)
    bpy.ops.render.render(write_still=True)
    shown = read(shot.root / "look.png")[..., :3].astype(int)
    assert abs(shown - read(take.file("composite", 1003))[..., :3]).max() <= 1
    assert abs(shown - read(take.file("composite", 1002))[..., :3]).max() > 20


def test_proxies_of_the_result_are_built(addon: Addon, finished_take: tuple[Any, Any]) -> None:
    shot, take = finished_take
    scene = addon("ex4d_blender.compat").sequencer_scene(bpy.context)
    result = addon("ex4d_blender.sequencer").load_take(scene, shot, take).result
    for strip in addon("ex4d_blender.compat").strips(scene.sequence_editor):
        strip.select = strip == result
    result.use_proxy = True
    result.proxy.build_25 = result.proxy.build_50 = True
    result.proxy.use_overwrite = True
    assert bpy.ops.sequencer.rebuild_proxy() == {"FINISHED"}
    built = sorted(path.name for path in take.root.rglob("*proxy*") if path.is_file())
    assert len(built) == 2 and "25" in built[0] and "50" in built[1], built


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
    take = addon("ex4d_engine.take").new_take(shot, path.frames, path.size, first=1001, fps=Fraction(25))
    with pytest.raises(addon("ex4d_engine.errors").Ex4dError) as caught:
        addon("ex4d_blender.sequencer").load_take(bpy.context.scene, shot, take)
    assert caught.value.code == "take_incomplete"
    editor = bpy.context.scene.sequence_editor
    assert editor is None or not addon("ex4d_blender.compat").strips(editor)
