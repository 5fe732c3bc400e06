# SPDX-License-Identifier: GPL-3.0-or-later
"""Source cameras through the whole stage: poses, zoom, scale, cuts, and clips that are hard to use."""

from __future__ import annotations

import dataclasses
import json
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ex4d_engine import cli, methods
from ex4d_engine.camera_frame import CameraFrame
from ex4d_engine.cameras import as_matrix
from ex4d_engine.dwmesh.ray_grid import load_ray_grid
from ex4d_engine.errors import Cancelled, Ex4dError
from ex4d_engine.image_files import read_exr, read_png, write_exr_depth, write_png
from ex4d_engine.progress import Silent
from ex4d_engine.raster import make_raster
from ex4d_engine.shot import Shot, load_shot
from ex4d_engine.source_cameras.lens import zoomed
from ex4d_engine.stages import ReconstructSettings, reconstruct
from ex4d_engine.stages import reconstruct as reconstruct_function
from ex4d_engine.stages.render import MeshFrames
from ex4d_engine.trajectories import Trajectory, along, preset, save_trajectory
from tests.tiny_shot import Listener, contents, picture
from tests.unit.source_cameras.still_scene import lens, path, view
from tests.unit.source_cameras.test_cuts import COLD, WARM, pan
from tests.unit.source_cameras.test_dissolves import cross_faded
from tests.unit.source_cameras.test_poses import quaternion

SIZE, COUNT, FIRST = (200, 112), 14, 1001
LENS, POSES = lens(SIZE), path(COUNT, 1.2)


@pytest.fixture(scope="module")
def scene() -> list[tuple[np.ndarray, np.ndarray]]:
    return [view(LENS, pose, SIZE) for pose in POSES]


@pytest.fixture
def folder(tmp_path: Path, scene: list[tuple[np.ndarray, np.ndarray]]) -> Path:
    """A clip with its z depth, and its solved camera in our JSON."""
    made = tmp_path / "Ünï 作業 track"
    write_scene(made, scene)
    return made


def write_scene(folder: Path, scene: list[tuple[np.ndarray, np.ndarray]]) -> None:
    for name in ("clip", "depth"):
        (folder / name).mkdir(parents=True)
    for index, (image, depth) in enumerate(scene):
        write_png(folder / "clip" / f"plate.{FIRST + index:04d}.png", image)
        write_exr_depth(folder / "depth" / f"depth.{FIRST + index:04d}.exr", depth * np.float32(3))
    save_cameras(folder / "solved é.json", np.tile(LENS, (COUNT, 1, 1)))


def save_cameras(file: Path, lenses: np.ndarray, poses: np.ndarray = POSES) -> None:
    frames = tuple(
        CameraFrame(FIRST + index, as_matrix(k), as_matrix(pose))
        for index, (k, pose) in enumerate(zip(lenses, poses, strict=True))
    )
    save_trajectory(Trajectory(frames, SIZE, Fraction(24)), file)


def settings(folder: Path, **changes: Any) -> ReconstructSettings:
    """Depth in the files is three times too large."""
    given: dict[str, Any] = {
        "source": str(folder / "clip"),
        "depth": "file",
        "depth_options": {"path": str(folder / "depth")},
        "poses": str(folder / "solved é.json"),
    }
    return ReconstructSettings(**{**given, **changes})


def refused(code: str, wanted: ReconstructSettings, root: Path) -> Ex4dError:
    with pytest.raises(Ex4dError) as caught:
        reconstruct(wanted, root, Silent())
    assert caught.value.code == code, caught.value
    assert caught.value.message.endswith(".") and "\n" not in caught.value.message
    return caught.value


def depth_error(shot: Shot, scene: list[tuple[np.ndarray, np.ndarray]], factor: float = 1.0) -> float:
    numbers = shot.require_plate().numbers
    return max(
        float(np.median(np.abs(read_exr(shot.depth_file(number)) / (depth * factor) - 1)))
        for number, (_, depth) in zip(numbers, scene, strict=True)
    )


# -------------------------------------------------------------------------------------------- placement


def test_depth_is_placed_in_the_world_of_the_poses(folder: Path, scene: Any) -> None:
    listener = Listener()
    shot = reconstruct(settings(folder), folder / "shot", listener)
    geometry = shot.require_geometry()
    assert np.allclose(geometry.poses, POSES) and np.allclose(geometry.intrinsics, LENS) and not geometry.zoom
    assert depth_error(shot, scene) < 0.01
    placement = geometry.placement
    assert placement is not None and placement.alignment == "scale" and placement.flicker is not None
    assert placement.scale == pytest.approx(3, rel=0.01)
    assert geometry.lens_note in listener.logs and "camera file" in geometry.lens_note
    assert any("placed by" in line for line in listener.logs) and any("flickers" in line for line in listener.logs)
    assert not geometry.is_metric and geometry.scale == 1
    assert load_shot(folder / "shot") == shot
    assert not list((folder / "shot").rglob("unplaced*"))


def test_disparity_of_unknown_scale_and_shift(folder: Path, scene: Any) -> None:
    inverse = np.stack([1 / depth for _, depth in scene])
    low, high = inverse.min() * 0.7, inverse.max() * 1.2
    np.savez(folder / "disparity.npz", depth=((inverse - low) / (high - low)).astype(np.float32))
    options = {"path": str(folder / "disparity.npz"), "meaning": "normalised_disparity", "near": 1.0, "far": 50.0}
    shot = reconstruct(settings(folder, depth_options=options), folder / "shot", Silent())
    placement = shot.require_geometry().placement
    assert placement is not None and placement.alignment == "affine"
    assert depth_error(shot, scene) < 0.01


def test_a_metric_depth_gives_a_solvers_path_its_size(folder: Path, scene: Any) -> None:
    colmap = folder / "sparse 0"
    colmap.mkdir()
    (colmap / "cameras.txt").write_text(f"1 SIMPLE_PINHOLE {SIZE[0]} {SIZE[1]} {LENS[0, 0]} 100 56\n", "utf-8")
    with (colmap / "images.txt").open("w", encoding="utf-8") as file:
        for index, pose in enumerate(POSES):
            back = np.linalg.inv(pose)
            numbers = " ".join(f"{value:.17g}" for value in [*quaternion(back[:3, :3]), *back[:3, 3]])
            file.write(f"{index + 1} {numbers} 1 plate.{FIRST + index}.png\n\n")
    options = {"path": str(folder / "depth"), "metric": True}
    shot = reconstruct(settings(folder, depth_options=options, poses=str(colmap)), folder / "shot", Silent())
    geometry = shot.require_geometry()
    assert geometry.is_metric and geometry.scale == pytest.approx(3, rel=0.01)
    assert depth_error(shot, scene, 3) < 1e-5
    assert np.allclose(np.array(geometry.poses)[:, :3, 3], POSES[:, :3, 3] * geometry.scale)
    # in a world that somebody works in, the depth yields
    other = reconstruct(settings(folder, depth_options=options), folder / "other", Silent())
    assert not other.require_geometry().is_metric and depth_error(other, scene) < 0.01


@pytest.mark.parametrize("stage, after", [("depth", 0), ("depth", 5), ("mesh", 2)])
def test_an_interrupted_run_goes_on_to_the_same_shot(folder: Path, stage: str, after: int) -> None:
    whole = reconstruct(settings(folder), folder / "whole", Silent())
    with pytest.raises(Cancelled):
        reconstruct(settings(folder), folder / "shot", Listener(stage, after))
    shot = reconstruct(settings(folder), folder / "shot", Silent())
    assert shot.geometry == whole.geometry
    assert contents(folder / "shot") == contents(folder / "whole")


def test_a_pose_file_that_changed_makes_the_shot_anew_and_a_bad_one_costs_nothing(folder: Path) -> None:
    reconstruct(settings(folder), folder / "shot", Silent())
    file = folder / "solved é.json"
    moved = np.array(POSES)
    moved[:, 0, 3] *= 2
    save_cameras(file, np.tile(LENS, (COUNT, 1, 1)), moved)
    shot = reconstruct(settings(folder), folder / "shot", Silent())
    assert np.allclose(shot.require_geometry().poses, moved)
    file.write_text("{", "utf-8")
    before = contents(folder / "shot")
    refused("camera_invalid", settings(folder), folder / "shot")
    assert contents(folder / "shot") == before
    refused("no_such_file", settings(folder, poses=str(folder / "gone.json")), folder / "new")
    assert not (folder / "new").exists()
    refused("bad_request", settings(folder, compat="reference"), folder / "new")


def test_a_stride_takes_the_cameras_of_the_frames_it_takes(folder: Path) -> None:
    depth = folder / "some"
    depth.mkdir()
    for number in range(0, COUNT, 3):
        (folder / "depth" / f"depth.{FIRST + number:04d}.exr").rename(depth / f"depth.{number:04d}.exr")
    shot = reconstruct(settings(folder, stride=3, depth_options={"path": str(depth)}), folder / "shot", Silent())
    assert np.allclose(shot.require_geometry().poses, POSES[::3])


# ------------------------------------------------------------------------------------------------- zoom


def test_a_rolling_zoom_gives_the_source_camera_its_plate_back(tmp_path: Path) -> None:
    zoom = np.linspace(1.0, 1.8, COUNT)
    lenses = np.array([zoomed(LENS, factor) for factor in zoom])
    frames = [view(k, pose, SIZE) for k, pose in zip(lenses, POSES, strict=True)]
    write_scene(tmp_path / "zoom", frames)
    save_cameras(tmp_path / "zoom" / "solved é.json", lenses)
    shot = reconstruct(settings(tmp_path / "zoom"), tmp_path / "shot", Silent())
    geometry = shot.require_geometry()
    assert geometry.zoom == pytest.approx(zoom)
    assert depth_error(shot, frames) < 0.01
    last = shot.require_plate().numbers[-1]
    assert np.allclose(shot.source_intrinsics(last), lenses[-1])
    camera = CameraFrame(last, shot.source_intrinsics(last), shot.source_pose(last))
    with make_raster("opengl", load_ray_grid(shot.rays_file), nearest=geometry.near, reference=False) as raster:
        drawn = MeshFrames(shot, raster).draw(last, camera, SIZE)
        frozen = along(shot, preset("still", 0, 1, 1.0), frozen=last).frames[0]
        assert np.allclose(frozen.intrinsics, lenses[-1])
    plate = read_png(shot.plate_file(last))
    assert np.abs(drawn.color.astype(int) - plate)[drawn.mask == 255].max() <= 1
    assert (drawn.mask == 255).mean() > 0.9
    assert np.allclose(drawn.depth, read_exr(shot.depth_file(last)), rtol=1e-3)


def test_a_solved_camera_on_a_tripod_zooms_and_leaves_the_depth_as_it_is(tmp_path: Path) -> None:
    """Nothing moves, so nothing places the depth: the maps are taken as they came."""
    zoom = np.linspace(1.0, 1.5, COUNT)
    lenses = np.array([zoomed(LENS, factor) for factor in zoom])
    still = np.tile(POSES[0], (COUNT, 1, 1))
    frames = [view(k, pose, SIZE) for k, pose in zip(lenses, still, strict=True)]
    write_scene(tmp_path / "tripod", frames)
    save_cameras(tmp_path / "tripod" / "solved é.json", lenses, still)
    shot = reconstruct(settings(tmp_path / "tripod"), tmp_path / "shot", Silent())
    placement = shot.require_geometry().placement
    assert placement is not None and placement.alignment == "none"
    assert shot.require_geometry().zoom == pytest.approx(zoom)
    assert depth_error(shot, frames, 3) < 0.01
    assert not list((tmp_path / "shot" / "depth").glob("unplaced*"))


# ------------------------------------------------------------------------------------------------ scale


def test_a_scale_multiplies_depth_and_poses(folder: Path, scene: Any) -> None:
    plain = reconstruct(settings(folder), folder / "plain", Silent()).require_geometry()
    shot = reconstruct(settings(folder, scene_scale=2.5), folder / "shot", Silent())
    geometry = shot.require_geometry()
    assert geometry.is_metric and geometry.scale == 2.5
    assert depth_error(shot, scene, 2.5) < 0.01
    assert np.allclose(np.array(geometry.poses)[:, :3, 3], np.array(plain.poses)[:, :3, 3] * 2.5)
    assert (geometry.near, geometry.far, geometry.subject) == pytest.approx(
        (plain.near * 2.5, plain.far * 2.5, plain.subject * 2.5)
    )


@pytest.mark.parametrize("poses", [True, False])
def test_a_measured_length_is_that_long_in_the_shot(folder: Path, poses: bool) -> None:
    changes: dict[str, Any] = {} if poses else {"poses": None, "fov_deg": 60.0}
    measured = [FIRST + 3, 40.5, 90.5, 150.5, 100.5, 1.7]
    shot = reconstruct(settings(folder, measured=measured, **changes), folder / "shot", Silent())
    depth = read_exr(shot.depth_file(FIRST + 3))
    ends = [
        np.linalg.inv(np.array(shot.source_intrinsics(FIRST + 3))) @ [x, y, 1] * depth[int(y), int(x)]
        for x, y in ((40.5, 90.5), (150.5, 100.5))
    ]
    assert np.linalg.norm(ends[0] - ends[1]) == pytest.approx(1.7, rel=1e-5)
    assert shot.require_geometry().is_metric and not list((folder / "shot").rglob("unplaced*"))


def test_another_scale_estimates_no_depth_again(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fresh = reconstruct(settings(folder, scene_scale=4.0), folder / "fresh", Silent())
    reconstruct(settings(folder), folder / "shot", Silent())

    def forbidden(*_: object) -> None:
        raise AssertionError("depth is estimated again")

    monkeypatch.setattr("ex4d_engine.depth.sources.from_files.DepthFromFiles.estimate", forbidden)
    shot = reconstruct(settings(folder, scene_scale=4.0), folder / "shot", Silent())
    assert shot.require_geometry().scale == 4.0
    one, other = shot.require_geometry(), fresh.require_geometry()
    assert (one.near, one.far, one.subject) == pytest.approx((other.near, other.far, other.subject))
    assert np.allclose(one.poses, other.poses)
    for number in shot.require_plate().numbers:
        assert np.allclose(read_exr(shot.depth_file(number)), read_exr(fresh.depth_file(number)), rtol=1e-5)
    half = reconstruct(settings(folder, scene_scale=2.0), folder / "shot", Silent())
    assert half.require_geometry().near == pytest.approx(one.near / 2)
    assert np.allclose(load_ray_grid(half.rays_file).pinned.max(), load_ray_grid(fresh.rays_file).pinned.max() / 2)


def test_scales_that_cannot_be(folder: Path) -> None:
    refused("bad_request", settings(folder, scene_scale=0.0), folder / "new")
    refused("bad_request", settings(folder, scene_scale=2.0, measured=[1001, 1, 1, 2, 2, 1]), folder / "new")
    assert "1001 to 1014" in str(refused("bad_request", settings(folder, measured=[1, 1, 1, 2, 2, 1]), folder / "new"))
    assert not (folder / "new").exists()


# ------------------------------------------------------------------------------------------------- cuts


def edited_clip(folder: Path) -> Path:
    folder.mkdir()
    random = np.random.default_rng(6)
    tints = [np.array(tint) for tint in ((180, 90, 60), (50, 90, 170))]
    grounds = [np.clip(random.normal(0, 30, (16, 24, 3)) + tint, 0, 255).astype(np.uint8) for tint in tints]
    for index in range(14):
        image = np.kron(grounds[index >= 8], np.ones((4, 4, 1), np.uint8))
        write_png(folder / f"edit.{index + 1:04d}.png", np.roll(image, index, axis=1))
    return folder


def test_an_edited_clip_is_refused_with_its_shots_and_taken_whole_when_told(tmp_path: Path) -> None:
    clip = edited_clip(tmp_path / "clip")
    wanted = ReconstructSettings(str(clip))
    error = refused("has_cuts", wanted, tmp_path / "shot")
    assert "2 shots: frames 1 to 8, 9 to 14" in error.message and "--first 1 --last 8" in error.hint
    assert error.action == "ex4d.next_shot_of_clip"
    assert load_shot(tmp_path / "shot").require_plate().cuts == (9,)
    first = reconstruct(dataclasses.replace(wanted, first=1, last=8), tmp_path / "first", Silent())
    assert first.require_plate().cuts == ()

    stages = Listener()
    refused("has_cuts", wanted, tmp_path / "shot")
    shot = reconstruct(dataclasses.replace(wanted, cuts="ignore"), tmp_path / "shot", stages)
    assert "decode" not in stages.stages, "the plate is kept"
    assert shot.require_plate().count == 14
    refused("bad_request", dataclasses.replace(wanted, cuts="split"), tmp_path / "shot")


def test_the_shots_of_a_clip_by_command_and_by_pipe(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    clip = edited_clip(tmp_path / "clip")
    assert cli.main(["cuts", str(clip)]) == 0
    assert json.loads(capsys.readouterr().out)["shots"] == [[1, 8], [9, 14]]
    params = methods.check_params("find_shots", {"source": str(clip), "first_number": None})
    assert methods.run_method("find_shots", params, Silent()) == {"shots": [(1, 8), (9, 14)], "dissolves": []}
    assert cli.main(["reconstruct", str(clip), "--shot", str(tmp_path / "shot")]) == 1
    assert "edited from 2 shots" in capsys.readouterr().err
    assert cli.main(["cuts", str(tmp_path / "gone.mp4")]) == 1


def test_the_frames_of_a_dissolve_are_of_no_shot(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    clip = tmp_path / "clip"
    clip.mkdir()
    for number, image in enumerate(cross_faded(pan(WARM, 32, 0.4), pan(COLD, 32, 0.4), 12), 1):
        write_png(clip / f"edit.{number:04d}.png", image)
    assert cli.main(["cuts", str(clip)]) == 0
    told = json.loads(capsys.readouterr().out)
    ((first, last),), shots = told["dissolves"], told["shots"]
    assert first <= 23 and last >= 30
    assert shots == [[1, first - 1], [last + 1, 52]]
    wanted = ReconstructSettings(str(clip))
    error = refused("has_cuts", wanted, tmp_path / "shot")
    assert f"2 shots: frames 1 to {first - 1}, {last + 1} to 52 ({first} to {last} dissolve)" in error.message
    assert load_shot(tmp_path / "shot").require_plate().dissolves == ((first, last),)
    alone = reconstruct(dataclasses.replace(wanted, first=last + 1), tmp_path / "second", Silent())
    assert alone.require_plate().cuts == alone.require_plate().dissolves == ()


# ------------------------------------------------------------------------------------------ hard clips


def write_frames(folder: Path, frames: list[np.ndarray]) -> Path:
    folder.mkdir()
    for index, frame in enumerate(frames, 1):
        write_png(folder / f"frame.{index:04d}.png", frame)
    return folder


@pytest.mark.parametrize("kind", ["black", "one black", "portrait", "two", "one"])
def test_hard_clips_become_shots(kind: str, tmp_path: Path) -> None:
    frames = [picture(index) for index in range(5)]
    black = np.zeros_like(frames[0])
    clips = {
        "black": [black] * 3,
        "one black": [*frames[:2], black, *frames[3:]],
        "portrait": [np.ascontiguousarray(frame.transpose(1, 0, 2)) for frame in frames],
        "two": frames[:2],
        "one": frames[:1],
    }
    clip = write_frames(tmp_path / "clip", clips[kind])
    shot = reconstruct(ReconstructSettings(str(clip)), tmp_path / "shot", Silent())
    plate, geometry = shot.require_plate(), shot.require_geometry()
    assert plate.count == len(clips[kind]) and plate.cuts == ()
    for number in plate.numbers:
        depth = read_exr(shot.depth_file(number))
        assert np.isfinite(depth).all() and (depth > 0).all()
    # the assumed field of view is the longer side's, upright or not
    assert geometry.intrinsics[0][0] == pytest.approx(32 / np.tan(np.radians(25)))


def test_two_frames_with_poses(folder: Path, scene: Any) -> None:
    depth = folder / "two"
    depth.mkdir()
    for number in (FIRST, FIRST + 13):
        (folder / "depth" / f"depth.{number:04d}.exr").rename(depth / f"depth.{number:04d}.exr")
    (depth / f"depth.{FIRST + 13:04d}.exr").rename(depth / f"depth.{FIRST + 1:04d}.exr")
    wanted = settings(folder, stride=13, depth_options={"path": str(depth)})
    geometry = reconstruct(wanted, folder / "shot", Silent()).require_geometry()
    assert len(geometry.poses) == 2
    assert geometry.placement is not None and geometry.placement.alignment == "none", "two views make no track"


# ------------------------------------------------------------------------------------- command and schema


def test_the_commands_options_reach_the_shot(folder: Path) -> None:
    arguments = ["reconstruct", str(folder / "clip"), "--shot", str(folder / "shot")]
    arguments += ["--depth-file", str(folder / "depth"), "--poses", str(folder / "solved é.json")]
    arguments += ["--focal", "18", "--sensor", "24", "--measure", "1002", "40", "90", "150", "100", "1.7"]
    assert cli.main(arguments) == 0
    shot = load_shot(folder / "shot")
    assert shot.require_geometry().intrinsics[0][0] == pytest.approx(18 / 24 * SIZE[0])
    assert shot.settings["measured"] == [1002, 40, 90, 150, 100, 1.7]
    assert cli.main([*arguments[:4], "--scale", "0"]) == 1


def test_a_shot_of_the_version_before_is_read_and_not_made_anew(folder: Path) -> None:
    wanted = settings(folder, poses=None)
    shot = reconstruct(wanted, folder / "shot", Silent())
    file = folder / "shot" / "shot.json"
    document = json.loads(file.read_text("utf-8"))
    document["schema"] = 1
    for name in ("focal_mm", "sensor_mm", "poses", "poses_stamp", "scene_scale", "measured", "cuts"):
        del document["settings"][name]
    for name in ("zoom", "lens_note", "placement", "scale", "is_metric"):
        del document["geometry"][name]
    del document["plate"]["cuts"]
    file.write_text(json.dumps(document), "utf-8")
    old = load_shot(folder / "shot")
    assert old.settings == shot.settings and old.require_geometry().placement is None
    stages = Listener()
    reconstruct_function(wanted, folder / "shot", stages)
    assert not {"decode", "depth"} & set(stages.stages)
