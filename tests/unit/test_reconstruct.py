# SPDX-License-Identifier: GPL-3.0-or-later
"""The first stage: what a clip becomes, what an interrupted run leaves, and that a failure costs nothing."""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
import sys
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest

from ex4d_engine import files
from ex4d_engine.depth import DepthClip
from ex4d_engine.errors import Cancelled, Ex4dError
from ex4d_engine.image_files import read_exr, read_png, write_exr_depth, write_png
from ex4d_engine.progress import Silent
from ex4d_engine.shot import load_shot
from ex4d_engine.stages import ReconstructSettings, reconstruct, shot_renewal
from tests.tiny_shot import (
    FAR,
    NEAR,
    NTSC_FILM,
    Listener,
    contents,
    depth_map,
    picture,
    settings,
    times,
    write_clip,
    write_depth,
    write_sequence,
)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    path = tmp_path / "Ünï 作業 shot"
    path.mkdir()
    return path


def refused(code: str, wanted: ReconstructSettings, root: Path) -> Ex4dError:
    with pytest.raises(Ex4dError) as error:
        reconstruct(wanted, root, Silent())
    assert error.value.code == code
    assert error.value.message.endswith(".") and "\n" not in error.value.message
    return error.value


# ---------------------------------------------------------------------------------------- what comes out


def test_plate_depth_and_mesh_of_a_sequence(folder: Path) -> None:
    shot = reconstruct(settings(folder), folder / "shot", Silent())
    plate, geometry = shot.require_plate(), shot.require_geometry()
    assert (plate.first, plate.count, plate.width, plate.height) == (1001, 6, 64, 48)
    assert list(plate.numbers) == [1001, 1002, 1003, 1004, 1005, 1006]
    for index, number in enumerate(plate.numbers):
        assert (read_png(shot.plate_file(number)) == picture(index)).all()
        assert (read_exr(shot.depth_file(number)) == depth_map(index)).all()
        albedo = read_png(shot.albedo_file(number))
        assert (albedo[..., :3] == picture(index)).all()
        assert read_png(shot.seen_file(number)).shape == (51, 2 * 67)
    assert (geometry.near, geometry.subject) == (NEAR, NEAR)
    assert geometry.far > FAR
    assert load_shot(folder / "shot") == shot
    assert not [path for path in (folder / "shot").rglob("*") if path.name.startswith(".")]


def test_a_movie_keeps_its_rate_and_counts_from_the_number_given(folder: Path) -> None:
    clip = write_clip(folder / "clip.mp4")
    shot = reconstruct(ReconstructSettings(str(clip), first_number=0), folder / "shot", Silent())
    assert shot.require_plate().fps == NTSC_FILM
    assert shot.require_plate().numbers == range(6)


def test_range_and_stride(folder: Path) -> None:
    wanted = settings(folder, first=1002, last=2000, stride=2)
    shutil.rmtree(folder / "depth maps")
    write_depth(folder / "depth maps", 3)
    shot = reconstruct(wanted, folder / "shot", Silent())
    plate = shot.require_plate()
    assert (plate.first, plate.count, plate.source_first, plate.stride) == (1002, 3, 1002, 2)
    assert plate.fps == Fraction(24, 2)
    assert (read_png(shot.plate_file(1003)) == picture(3)).all()  # file numbers have no gaps


@pytest.mark.parametrize("size", [(1, 1), (1, 5), (2, 2), (3, 2), (65, 7)])
def test_tiny_clips(folder: Path, size: tuple[int, int]) -> None:
    shot = reconstruct(settings(folder, 2, *size), folder / "shot", Silent())
    assert (shot.require_plate().width, shot.require_plate().height) == size
    assert read_png(shot.albedo_file(1002)).shape == (size[1], size[0], 4)


def test_one_frame_with_estimated_depth(folder: Path) -> None:
    write_png(folder / "still.png", picture(0))
    shot = reconstruct(ReconstructSettings(str(folder / "still.png")), folder / "shot", Silent())
    depth = read_exr(shot.depth_file(1))
    assert shot.require_plate().count == 1
    assert np.isfinite(depth).all() and (depth > 0).all()


def test_what_the_plate_leaves_transparent_is_not_seen(folder: Path) -> None:
    wanted = settings(folder, 1)
    alpha = np.full((48, 64), 255, np.uint8)
    alpha[:, 40:] = 0
    write_png(folder / "clip" / "plate.1001.png", np.dstack([picture(0), alpha]))
    shot = reconstruct(wanted, folder / "shot", Silent())
    albedo = read_png(shot.albedo_file(1001))
    assert (albedo[:, 41:, 3] == 0).all()
    assert (albedo[:10, :39, 3] == 255).all()


def test_sky_and_unknown_depth_are_put_right_and_counted(folder: Path) -> None:
    wanted, listener = settings(folder), Listener()
    for index in range(6):
        depth = depth_map(index)
        depth[:4] = np.inf
        depth[-1, 0] = np.nan
        write_exr_depth(folder / "depth maps" / f"depth.{index + 1:04d}.exr", depth)
    shot = reconstruct(wanted, folder / "shot", listener)
    depth = read_exr(shot.depth_file(1003))
    assert np.isfinite(depth).all()
    assert depth[0, 0] > FAR and depth[-1, 0] == FAR
    assert shot.require_geometry().repaired == 6
    assert shot.require_geometry().far > depth.max()
    assert any("6 frames hold sky" in line for line in listener.logs)


def test_one_frame_of_sky_and_one_value_are_said_as_one(folder: Path) -> None:
    wanted, listener = settings(folder), Listener()
    depth = depth_map(0)
    depth[:4], depth[-1, 0] = np.inf, np.nan
    write_exr_depth(folder / "depth maps" / "depth.0001.exr", depth)
    reconstruct(wanted, folder / "shot", listener)
    assert any("1 frame holds sky" in line for line in listener.logs)
    assert any("1 depth value was no usable number" in line for line in listener.logs)


def test_the_reference_s_geometry(folder: Path) -> None:
    shot = reconstruct(settings(folder, compat="reference"), folder / "shot", Silent())
    intrinsics = np.array(shot.require_geometry().intrinsics)
    assert intrinsics.tolist() == [[500, 0, 32], [0, 500, 24], [0, 0, 1]]
    albedo = read_png(shot.albedo_file(1001))
    assert (albedo[albedo[..., 3] == 0] == 0).all()  # flagged vertices are black
    assert read_png(shot.seen_file(1001)).shape == (47, 2 * 63)


# ------------------------------------------------------------------------------------ interrupted and again


@pytest.mark.parametrize(("stage", "after"), [("decode", 3), ("depth", 2), ("mesh", 0), ("mesh", 4)])
def test_a_cancelled_run_goes_on_where_it_stopped(folder: Path, stage: str, after: int) -> None:
    wanted = settings(folder)
    with pytest.raises(Cancelled):
        reconstruct(wanted, folder / "shot", Listener(stop_in=stage, after=after))
    before = times(folder / "shot")
    assert before or stage == "decode"
    assert not [name for name in before if Path(name).name.startswith(".")]  # nothing half-written
    resumed = reconstruct(wanted, folder / "shot", Silent())
    whole = reconstruct(wanted, folder / "whole", Silent())
    assert contents(folder / "shot") == contents(folder / "whole")
    assert resumed == dataclasses.replace(whole, root=folder / "shot")
    after_resume = times(folder / "shot")
    assert {name: after_resume[name] for name in before} == before


def test_sky_survives_an_interruption(folder: Path) -> None:
    wanted = settings(folder)
    for index in range(6):
        depth = depth_map(index)
        depth[:4] = np.inf
        write_exr_depth(folder / "depth maps" / f"depth.{index + 1:04d}.exr", depth)
    for after in (3, 8, 10):  # in the depth itself, and where the sky's depth is put in
        with pytest.raises(Cancelled):
            reconstruct(wanted, folder / "shot", Listener(stop_in="depth", after=after))
    reconstruct(wanted, folder / "shot", Silent())
    reconstruct(wanted, folder / "whole", Silent())
    assert contents(folder / "shot") == contents(folder / "whole")


def test_the_same_again_touches_nothing(folder: Path) -> None:
    wanted = settings(folder)
    shot = reconstruct(wanted, folder / "shot", Silent())
    before = times(folder / "shot")
    listener = Listener()
    assert reconstruct(wanted, folder / "shot", listener) == shot
    assert times(folder / "shot") == before
    assert "decode" not in listener.stages and "depth" not in listener.stages


def test_a_relative_path_means_the_same_clip_from_elsewhere(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clip = write_clip(folder / "clip.mp4", 2)
    monkeypatch.chdir(folder)
    reconstruct(ReconstructSettings("clip.mp4"), Path("shot"), Silent())
    before = times(folder / "shot")
    monkeypatch.chdir(folder / "shot")
    reconstruct(ReconstructSettings("../clip.mp4"), Path(), Silent())
    assert times(folder / "shot") == before
    assert load_shot(folder / "shot").require_plate().path == str(clip)


def test_lost_files_are_made_again_and_no_others(folder: Path) -> None:
    wanted = settings(folder)
    shot = reconstruct(wanted, folder / "shot", Silent())
    whole, before = contents(folder / "shot"), times(folder / "shot")
    lost = [shot.plate_file(1002), shot.depth_file(1004), shot.albedo_file(1005), shot.rays_file]
    for file in lost:
        file.unlink()
    reconstruct(wanted, folder / "shot", Silent())
    after = times(folder / "shot")
    assert contents(folder / "shot") == whole
    made = {name for name in after if after[name] != before[name]}
    lost += [shot.seen_file(1005), shot.width_file(1005)]  # a frame's mesh is made as a whole
    assert made == {file.relative_to(folder / "shot").as_posix() for file in lost}


# ---------------------------------------------------------------------------------------- made anew, safely


def test_other_settings_make_it_anew_and_keep_takes_and_plate(folder: Path) -> None:
    wanted = settings(folder)
    reconstruct(wanted, folder / "shot", Silent())
    (folder / "shot" / "takes" / "take_0001").mkdir(parents=True)
    (folder / "shot" / "takes" / "take_0001" / "take.json").write_text("{}")
    before = times(folder / "shot" / "plate")
    listener = Listener()
    shot = reconstruct(dataclasses.replace(wanted, fov_deg=70.0), folder / "shot", listener)
    assert (folder / "shot" / "takes" / "take_0001" / "take.json").is_file()
    assert "decode" not in listener.stages  # the plate is the same
    assert times(folder / "shot" / "plate") == before
    assert shot == load_shot(folder / "shot")
    reconstruct(dataclasses.replace(wanted, fov_deg=70.0), folder / "whole", Silent())
    shutil.rmtree(folder / "shot" / "takes")
    assert contents(folder / "shot") == contents(folder / "whole")


def test_a_clip_or_depth_written_again_is_read_again(folder: Path) -> None:
    wanted = settings(folder)
    reconstruct(wanted, folder / "shot", Silent())
    write_png(folder / "clip" / "plate.1003.png", picture(40))
    shot = reconstruct(wanted, folder / "shot", Silent())
    assert (read_png(shot.plate_file(1003)) == picture(40)).all()
    write_exr_depth(folder / "depth maps" / "depth.0003.exr", 2 * depth_map(40))
    shot = reconstruct(wanted, folder / "shot", Silent())
    assert read_exr(shot.depth_file(1003)).max() == 2 * FAR


def bad_depth(folder: Path) -> dict[str, Path]:
    """Depth that turns out unusable: at once, by its count, in the middle, by its cameras."""
    short = write_depth(folder / "short", 5)
    broken = write_depth(folder / "broken")
    write_exr_depth(broken / "depth.0004.exr", np.full((48, 64), np.nan, np.float32))
    poses = np.tile(np.diag([2.0, 1.0, 1.0, 1.0]), (6, 1, 1))
    stack = np.stack([depth_map(index) for index in range(6)])
    np.savez(folder / "skewed.npz", depth=stack, camera_to_world=poses)
    return {
        "no_such_file": folder / "nowhere.####.exr",
        "depth_mismatch": short,
        "depth_invalid": broken,
        "camera_invalid": folder / "skewed.npz",
    }


@pytest.mark.parametrize("code", ["no_such_file", "depth_mismatch", "depth_invalid", "camera_invalid"])
def test_depth_that_fails_costs_nothing_of_a_finished_shot(folder: Path, code: str) -> None:
    wanted = settings(folder)
    reconstruct(wanted, folder / "shot", Silent())
    shot, before = load_shot(folder / "shot"), times(folder / "shot")
    path = bad_depth(folder)[code]
    refused(code, dataclasses.replace(wanted, depth_options={"path": str(path)}), folder / "shot")
    assert load_shot(folder / "shot") == shot
    after = times(folder / "shot")
    assert {name: after.get(name) for name in before} == before
    assert reconstruct(wanted, folder / "shot", Silent()) == shot  # and what was begun aside goes
    assert times(folder / "shot") == before


def test_a_new_shot_that_was_cancelled_goes_on_aside(folder: Path) -> None:
    wanted = settings(folder)
    reconstruct(wanted, folder / "shot", Silent())
    before = times(folder / "shot")
    other = dataclasses.replace(wanted, fov_deg=30.0)
    with pytest.raises(Cancelled):
        reconstruct(other, folder / "shot", Listener(stop_in="mesh", after=3))
    after = times(folder / "shot")
    assert {name: after[name] for name in before} == before
    begun = {Path(name).name: when for name, when in after.items() if name.startswith(".renewal/")}
    reconstruct(other, folder / "shot", Silent())
    final = {Path(name).name: when for name, when in times(folder / "shot").items()}
    assert {name: final[name] for name in begun} == begun
    assert not (folder / "shot" / ".renewal").exists()


@pytest.mark.parametrize("step", range(8))
def test_a_process_killed_while_replacing_loses_neither_shot(
    folder: Path, step: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    wanted = settings(folder)
    before = contents(reconstruct(wanted, folder / "shot", Silent()).root)
    other = dataclasses.replace(wanted, fov_deg=30.0)
    calls = 0

    class Killed(BaseException):
        pass

    def replace(source: Path, target: Path) -> None:
        nonlocal calls
        if calls == step:
            raise Killed
        calls += 1
        Path(source).rename(target)

    with monkeypatch.context() as patch:
        patch.setattr(shot_renewal.os, "replace", ours_only(replace, os.replace))
        with pytest.raises(Killed):
            reconstruct(other, folder / "shot", Silent())
    if (folder / "shot" / "shot.json").is_file():  # it describes what lies beside it, or it is not there
        assert load_shot(folder / "shot").require_geometry().intrinsics[0][0] > 60  # the old shot's lens
        assert before.items() <= contents(folder / "shot").items()
    shot = reconstruct(other, folder / "shot", Silent())
    assert shot == load_shot(folder / "shot")
    reconstruct(other, folder / "whole", Silent())
    assert contents(folder / "shot") == contents(folder / "whole")
    assert not (folder / "shot" / ".replaced").exists()


def ours_only(ours: object, theirs: object):  # type: ignore[no-untyped-def]
    """`os.replace` for the renames of a replacement, and the usual one for files."""

    def replace(source: Path, target: Path) -> None:
        folders = {Path(source).parent.name, Path(target).parent.name, Path(target).name}
        (ours if ".replaced" in folders else theirs)(source, target)  # type: ignore[operator]

    return replace


# ------------------------------------------------------------------------------------------- refused


@pytest.mark.parametrize(
    ("code", "changes"),
    [
        ("no_such_file", {"source": "nowhere.mp4"}),
        ("bad_request", {"stride": 0}),
        ("bad_request", {"compat": "both"}),
        ("bad_request", {"first_number": -1}),
        ("camera_invalid", {"fov_deg": 180.0}),
        ("camera_invalid", {"fov_deg": float("nan")}),
        ("no_frames", {"first": 2000}),
        ("no_frames", {"last": 3}),
        ("no_frames", {"first": 1004, "last": 1002}),
        ("unknown_depth_source", {"depth": "magic"}),
        ("unknown_depth_source", {"depth": "file", "depth_options": {"paht": "x"}}),
    ],
)
def test_what_cannot_be_is_refused_before_anything_is_written(
    folder: Path, code: str, changes: dict[str, object]
) -> None:
    refused(code, dataclasses.replace(settings(folder), **changes), folder / "shot")  # type: ignore[arg-type]
    assert not (folder / "shot").exists()


def test_a_folder_of_somebody_else_is_left_alone(folder: Path) -> None:
    wanted = settings(folder)
    write_sequence(folder / "project" / "plate")
    before = times(folder / "project")
    assert "plate" in refused("bad_request", wanted, folder / "project").message
    assert times(folder / "project") == before


@pytest.mark.parametrize("part", ["plate", "depth"])
def test_the_shot_is_not_made_from_its_own_files(folder: Path, part: str) -> None:
    wanted = settings(folder)
    root = folder / "shot"
    reconstruct(wanted, root, Silent())
    before = times(root)
    changes = {"plate": {"source": str(root / "plate")}, "depth": {"depth_options": {"path": str(root / "depth")}}}
    refused("bad_request", dataclasses.replace(wanted, **changes[part]), root)  # type: ignore[arg-type]
    assert times(root) == before


def test_a_newer_or_damaged_shot_is_left_alone(folder: Path) -> None:
    wanted = settings(folder)
    reconstruct(wanted, folder / "shot", Silent())
    document = json.loads((folder / "shot" / "shot.json").read_text(encoding="utf-8"))
    before = times(folder / "shot")
    for code, text in (("shot_newer", json.dumps({**document, "schema": 99})), ("shot_invalid", "{")):
        (folder / "shot" / "shot.json").write_text(text, encoding="utf-8")
        refused(code, wanted, folder / "shot")
        assert (folder / "shot" / "shot.json").read_text(encoding="utf-8") == text
    assert times(folder / "shot") == before


def test_a_full_disk_is_noticed_before_work_starts(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wanted = settings(folder)
    usage = shutil.disk_usage(folder)._replace(free=6 * 64 * 48 * 20 - 1)
    monkeypatch.setattr(files.shutil, "disk_usage", lambda _: usage)
    listener = Listener()
    with pytest.raises(Ex4dError) as error:
        reconstruct(wanted, folder / "shot", listener)
    assert error.value.code == "disk_full"
    assert not listener.stages and contents(folder / "shot") == {}
    # half the clip fits
    shutil.rmtree(folder / "depth maps")
    write_depth(folder / "depth maps", 3)
    assert reconstruct(dataclasses.replace(wanted, first=1004), folder / "shot", listener).require_plate().count == 3


def test_a_folder_that_cannot_be_written_is_noticed_before_work_starts(folder: Path) -> None:
    (folder / "file").write_bytes(b"")
    refused("read_only", settings(folder), folder / "file" / "shot")


def test_a_clip_that_is_cut_off_gives_its_readable_frames_and_says_so(folder: Path) -> None:
    clip = write_clip(folder / "clip.mkv", 30)
    (folder / "cut.mkv").write_bytes(clip.read_bytes()[: clip.stat().st_size // 2])
    listener = Listener()
    shot = reconstruct(ReconstructSettings(str(folder / "cut.mkv")), folder / "shot", listener)
    assert 0 < shot.require_plate().count < 30
    assert any("cut off" in line for line in listener.logs)
    assert any("cut off" in note for note in shot.require_plate().notes)


class FewPoses:
    """A depth source that gives fewer poses than frames."""

    def estimate(self, plate, frame_count, size, reporter) -> DepthClip:  # type: ignore[no-untyped-def]
        return DepthClip(iter(()), None, np.tile(np.eye(4), (frame_count - 1, 1, 1)), "metric", "Few.")


def test_a_pose_a_frame_or_none(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys.modules["ex4d_engine.stages.reconstruct"], "depth_source", lambda *_, **__: FewPoses())
    refused("depth_mismatch", settings(folder), folder / "shot")
