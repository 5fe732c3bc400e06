# SPDX-License-Identifier: GPL-3.0-or-later
"""Files that are saved, saved elsewhere, moved and opened again: the add-on's own paths lead to the right folder."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

bpy = pytest.importorskip("bpy")

Addon = Callable[[str], Any]


def save(path: Path, **options: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    bpy.ops.wm.save_as_mainfile(filepath=str(path), **options)


def imported_shot(addon: Addon, root: Path) -> Any:
    """The shot in `root`, imported by the operator as a user does."""
    shot = addon("ex4d_engine.shot").load_shot(root)
    bpy.context.scene.ex4d.shot_folder = str(root)
    assert bpy.ops.ex4d.import_shot() == {"FINISHED"}
    return shot


def roots(addon: Addon) -> set[Path]:
    """Every shot folder that the open file leads to: the scene's own, and those of the imported data-blocks."""
    absolute = addon("ex4d_blender.compat").absolute_path
    name = addon("ex4d_blender.plate_material").SHOT_PROPERTY
    paths = {absolute(bpy.context.scene.ex4d.shot_folder).resolve()}
    for block in (*bpy.data.collections, *bpy.data.objects, *bpy.data.materials):
        if name in block:
            paths.add(absolute(block[name]).resolve())
            if not isinstance(block, bpy.types.Material):
                paths.add(addon("ex4d_blender.shot_paths").imported_root(block))
    return paths


@pytest.fixture
def root(new_shot: Callable[..., Any], tmp_path: Path) -> Path:
    """A shot's folder inside a project's folder."""
    folder = tmp_path / "project" / "shot ü"
    shutil.move(new_shot().root, folder.parent / "shot ü")
    return folder


def test_a_moved_copy_of_a_project_leads_to_the_copy(addon: Addon, root: Path, tmp_path: Path) -> None:
    imported_shot(addon, root)  # in an unsaved file: with absolute paths
    scene = bpy.context.scene
    scene.ex4d.clip_path, scene.ex4d.depth_path = str(root.parent / "clip.mov"), str(root.parent / "z" / "z.1.exr")
    save(root.parent / "work.blend")
    assert roots(addon) == {root.resolve()}
    copy = tmp_path / "copy of it" / "deeper"
    shutil.copytree(root.parent, copy)
    bpy.ops.wm.open_mainfile(filepath=str(copy / "work.blend"))
    settings, absolute = bpy.context.scene.ex4d, addon("ex4d_blender.compat").absolute_path
    assert roots(addon) == {(copy / root.name).resolve()}
    assert absolute(settings.clip_path) == copy / "clip.mov"
    assert absolute(settings.depth_path) == copy / "z" / "z.1.exr"


def test_saving_in_another_folder_keeps_the_shot_and_the_takes(addon: Addon, root: Path, tmp_path: Path) -> None:
    save(root.parent / "work.blend")
    shot = imported_shot(addon, root)
    trajectories, takes = addon("ex4d_engine.trajectories"), addon("ex4d_engine.take")
    path = trajectories.along(shot, trajectories.still(2))
    for _ in range(3):
        takes.new_take(shot, path.frames, path.size, first=1001, fps=shot.plate.fps)
    settings = bpy.context.scene.ex4d
    settings.shot_folder, settings.clip_path = f"//{root.name}", "//clip.mov"
    settings.active_take = 1
    elsewhere = tmp_path / "other" / "place" / "work.blend"
    save(elsewhere)
    assert roots(addon) == {root.resolve()}
    assert settings.shot_folder.startswith("//..") and settings.clip_path.startswith("//..")
    assert [take.name for take in settings.takes] == ["take_0001", "take_0002", "take_0003"]
    assert settings.active_take == 1
    bpy.ops.wm.open_mainfile(filepath=str(elsewhere))
    assert roots(addon) == {root.resolve()}
    assert bpy.ops.ex4d.import_shot.poll() and bpy.ops.ex4d.bake_mesh_cache.poll()


def test_a_saved_copy_and_a_failed_save_leave_the_open_file_alone(addon: Addon, root: Path, tmp_path: Path) -> None:
    save(root.parent / "work.blend")
    imported_shot(addon, root)
    settings = bpy.context.scene.ex4d
    settings.shot_folder, settings.clip_path = f"//{root.name}", str(tmp_path / "absolute.mov")
    copy = tmp_path / "copies" / "copy.blend"
    save(copy, copy=True)
    with pytest.raises(RuntimeError):
        bpy.ops.wm.save_as_mainfile(filepath=str(tmp_path / "no such folder" / "work.blend"))
    assert settings.shot_folder == f"//{root.name}" and roots(addon) == {root.resolve()}
    bpy.ops.wm.open_mainfile(filepath=str(copy))
    assert roots(addon) == {root.resolve()}
    assert bpy.context.scene.ex4d.clip_path == str(tmp_path / "absolute.mov")  # as the user chose it


def test_a_copy_of_an_unsaved_file_leaves_it_usable(addon: Addon, root: Path) -> None:
    imported_shot(addon, root)
    save(root.parent / "copy.blend", copy=True)
    assert not bpy.data.filepath and roots(addon) == {root.resolve()}


@pytest.mark.parametrize("original_stays", [True, False])
def test_a_file_saved_without_the_add_on_follows_its_images(
    addon: Addon, root: Path, tmp_path: Path, original_stays: bool
) -> None:
    handlers = addon("ex4d_blender.shot_paths")
    imported_shot(addon, root)
    handlers.unregister_handlers()
    try:
        save(root.parent / "work.blend")
    finally:
        handlers.register_handlers()
    assert bpy.context.scene.ex4d.shot_folder == str(root)  # nobody made it relative
    copy = tmp_path / "moved"
    shutil.copytree(root.parent, copy)
    if not original_stays:
        shutil.rmtree(root)
    bpy.ops.wm.open_mainfile(filepath=str(copy / "work.blend"))
    assert roots(addon) == {(copy / root.name).resolve()}


def test_a_collection_appended_to_another_file_is_found(addon: Addon, root: Path, tmp_path: Path) -> None:
    imported_shot(addon, root)
    name = next(collection.name for collection in bpy.data.collections)
    library = root.parent / "work.blend"
    save(library)
    bpy.ops.wm.read_homefile(use_empty=True, use_factory_startup=True)
    save(tmp_path / "elsewhere" / "other.blend")
    for link in (False, True):
        with bpy.data.libraries.load(str(library), link=link) as (_, wanted):
            wanted.collections = [name]
        collection = wanted.collections[0]
        bpy.context.scene.collection.children.link(collection)
        assert addon("ex4d_blender.shot_paths").imported_root(collection) == root.resolve()
        bpy.context.scene.collection.children.unlink(collection)
