# SPDX-License-Identifier: GPL-3.0-or-later
"""Depth and a path that were estimated for one lens, in a shot whose lens is known to be another."""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ex4d_engine.camera_frame import CameraFrame
from ex4d_engine.cameras import as_matrix, intrinsics_from_fov, project, rotation_about
from ex4d_engine.depth import DepthClip, DepthFrame
from ex4d_engine.image_files import read_exr, write_png
from ex4d_engine.progress import Silent
from ex4d_engine.shot import Shot
from ex4d_engine.source_cameras.lens import SourceLens, zoomed
from ex4d_engine.stages import ReconstructSettings, reconstruct
from ex4d_engine.stages.known_lens import through_lens
from ex4d_engine.trajectories import Trajectory, save_trajectory
from tests.tiny_shot import Listener
from tests.unit.source_cameras.still_scene import path, view
from tests.unit.source_cameras.test_poses import quaternion

SIZE, COUNT = (200, 112), 14
TRUE_FOV, SAID_FOV = 40.0, 60.0
TRUE, SAID = (intrinsics_from_fov(*SIZE, fov) for fov in (TRUE_FOV, SAID_FOV))
POSES = path(COUNT, 1.2)


class Metric:
    """A source that, like Depth Pro, knows z / f and gives metres by a lens of its own."""

    def __init__(self, depths: list[np.ndarray], lenses: np.ndarray) -> None:
        self._frames = [z * np.float32(SAID[0, 0] / lens[0, 0]) for z, lens in zip(depths, lenses, strict=True)]

    def estimate(self, *_: Any) -> DepthClip:
        frames = (DepthFrame(z) for z in self._frames)
        return DepthClip(frames, SAID, None, "metric", "Depth is a test's, in metres.", lens_is_estimate=True)


def shot_of(folder: Path, monkeypatch: pytest.MonkeyPatch, lenses: np.ndarray, **changes: Any) -> tuple[Shot, Any]:
    """The shot of the still scene seen through `lenses` (F,3,3), with its true depth and the lines it was told."""
    clip = folder / "clip"
    clip.mkdir(parents=True, exist_ok=True)
    views = [view(lens, pose, SIZE) for lens, pose in zip(lenses, POSES, strict=True)]
    for number, (image, _) in enumerate(views, 1):
        write_png(clip / f"plate.{number:04d}.png", image)
    depths = [depth for _, depth in views]
    stage = sys.modules[reconstruct.__module__]  # the package's own `reconstruct` is the function
    monkeypatch.setattr(stage, "depth_source", lambda *_: Metric(depths, lenses))
    listener = Listener()
    wanted = ReconstructSettings(str(clip), depth="depth-pro", cuts="ignore", **changes)
    return reconstruct(wanted, folder / "shot", listener), (depths, listener.logs)


def worst(shot: Shot, depths: list[np.ndarray]) -> float:
    numbers = shot.require_plate().numbers
    return max(
        float(np.median(np.abs(read_exr(shot.depth_file(number)) / depth - 1)))
        for number, depth in zip(numbers, depths, strict=True)
    )


def test_metres_are_those_of_the_lens_that_the_user_gives(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shot, (depths, logs) = shot_of(tmp_path, monkeypatch, np.tile(TRUE, (COUNT, 1, 1)), fov_deg=TRUE_FOV)
    geometry = shot.require_geometry()
    assert geometry.is_metric and np.allclose(geometry.intrinsics, TRUE)
    assert worst(shot, depths) < 1e-5
    (line,) = [line for line in logs if "another lens" in line]
    assert "60° across" in line and "1.586" in line and line in geometry.depth_note


@pytest.mark.parametrize("changes", [{}, {"fov_deg": SAID_FOV}, {"fov_deg": SAID_FOV, "compat": "reference"}])
def test_its_own_lens_changes_nothing(changes: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shot, (depths, logs) = shot_of(tmp_path, monkeypatch, np.tile(SAID, (COUNT, 1, 1)), **changes)
    assert worst(shot, depths) < 1e-6
    assert not any("another lens" in line for line in logs)


def test_a_solver_s_path_becomes_as_long_as_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    colmap, size = tmp_path / "sparse 0", 0.25
    colmap.mkdir()
    focal = f"{TRUE[0, 0]} {SIZE[0] / 2} {SIZE[1] / 2}"
    (colmap / "cameras.txt").write_text(f"1 SIMPLE_PINHOLE {SIZE[0]} {SIZE[1]} {focal}\n", "utf-8")
    with (colmap / "images.txt").open("w", encoding="utf-8") as file:
        for number, pose in enumerate(POSES, 1):
            back = np.linalg.inv(pose)
            numbers = " ".join(f"{value:.17g}" for value in [*quaternion(back[:3, :3]), *(back[:3, 3] * size)])
            file.write(f"{number} {numbers} 1 plate.{number}.png\n\n")
    lenses = np.tile(TRUE, (COUNT, 1, 1))
    shot, (depths, _) = shot_of(tmp_path, monkeypatch, lenses, poses=str(colmap))
    geometry = shot.require_geometry()
    assert geometry.is_metric and geometry.scale == pytest.approx(1 / size, rel=0.01)
    assert worst(shot, depths) < 1e-5
    assert np.allclose(np.array(geometry.poses)[:, :3, 3], POSES[:, :3, 3] * size * geometry.scale)


def test_a_solved_zoom_gives_every_frame_its_own_metres(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lenses = np.array([zoomed(TRUE, factor) for factor in np.linspace(1.0, 1.6, COUNT)])
    cameras = tuple(
        CameraFrame(number, as_matrix(lens), as_matrix(pose))
        for number, (lens, pose) in enumerate(zip(lenses, POSES, strict=True), 1)
    )
    save_trajectory(Trajectory(cameras, SIZE, Fraction(24)), tmp_path / "solved.json")
    shot, (depths, logs) = shot_of(tmp_path, monkeypatch, lenses, poses=str(tmp_path / "solved.json"))
    placement = shot.require_geometry().placement
    assert placement is not None and placement.scale == pytest.approx(1, rel=0.01)
    assert worst(shot, depths) < 0.01
    assert any("1.586 to 2.538" in line for line in logs)


# ------------------------------------------------------------------------------- depth that has a path


def with_path(poses: np.ndarray, said: np.ndarray = SAID) -> tuple[DepthClip, list[np.ndarray]]:
    """What a source says that has depth, lens and path from the pictures, all in accord; its depth."""
    depths = [view(said, pose, SIZE)[1] for pose in poses]
    frames: Iterator[DepthFrame] = (DepthFrame(depth) for depth in depths)
    return DepthClip(frames, said, poses, "relative", "Depth is a test's.", lens_is_estimate=True), depths


def followed(lens: np.ndarray, poses: np.ndarray, depths: list[np.ndarray], one: int, two: int) -> np.ndarray:
    """(N,2) pixels of frame `two` at which a grid of pixels of frame `one` lies."""
    rows, columns = (grid.ravel() for grid in np.mgrid[8 : SIZE[1] : 12, 8 : SIZE[0] : 12])
    rays = np.c_[columns + 0.5, rows + 0.5, np.ones(len(rows))] @ np.linalg.inv(lens).T
    points = rays * depths[one][rows, columns][:, None] @ poses[one][:3, :3].T + poses[one][:3, 3]
    return np.asarray(project(points, lens, poses[two])[0])


def apart(poses: np.ndarray, user: np.ndarray, one: int, two: int, reporter: Silent | None = None) -> tuple[float, ...]:
    """How far, in pixels, points of one frame end from where the source put them in the other, at the middle of the
    frame in the median: in the new geometry, and with nothing but the lens exchanged."""
    clip, depths = with_path(poses)
    made = through_lens(clip, SourceLens(user, None, ""), SIZE, len(poses), False, reporter or Silent())
    new = [frame.depth for frame in made.frames]
    assert made.camera_to_world is not None
    wanted = followed(SAID, poses, depths, one, two)
    found = (followed(user, made.camera_to_world, new, one, two), followed(user, poses, depths, one, two))
    return tuple(float(np.median(np.linalg.norm(places - wanted, axis=1))) for places in found)


def test_a_path_that_only_moves_shows_the_same_pictures_through_another_lens() -> None:
    poses = np.array(POSES)
    poses[:, :3, :3] = rotation_about([0.3, 1, 0.1], 0.4)
    mended, exchanged = apart(poses, TRUE, 0, COUNT - 1)
    assert mended < 1e-4 < 5 < exchanged


@pytest.mark.parametrize("axis", [(1, 0, 0), (0, 1, 0), (0, 0, 1)])
def test_a_turn_is_the_one_that_moves_the_picture_as_far(axis: tuple[float, ...]) -> None:
    poses = np.tile(np.eye(4), (COUNT, 1, 1))
    for index, pose in enumerate(poses):
        pose[:3, :3] = rotation_about(axis, 0.02 * index)
    mended, exchanged = apart(poses, TRUE, 0, 1)
    assert mended < 0.25
    assert axis == (0, 0, 1) or exchanged > 4 * mended
    mended, exchanged = apart(poses, TRUE, 0, COUNT - 1)
    assert mended < 3.5
    assert axis == (0, 0, 1) or exchanged > 4 * mended


def test_moving_and_turning_at_once() -> None:
    reporter = Listener()
    mended, exchanged = apart(POSES, TRUE, 0, COUNT - 1, reporter)
    assert mended < 2 and exchanged > 2 * mended  # what is left is of second order in the turn
    (line,) = reporter.logs
    assert "60° across" in line and "camera's path" in line


def test_pixels_that_were_not_square_in_the_estimate() -> None:
    said = np.array(SAID)
    said[1, 1] *= 0.8
    poses = np.tile(np.eye(4), (2, 1, 1))
    poses[1, :3, 3] = (0.2, -0.3, 0.4)
    clip, depths = with_path(poses, said)
    made = through_lens(clip, SourceLens(TRUE, None, ""), SIZE, 2, False, Silent())
    assert made.camera_to_world is not None
    new = [frame.depth for frame in made.frames]
    found = followed(TRUE, made.camera_to_world, new, 0, 1)
    np.testing.assert_allclose(found, followed(said, poses, depths, 0, 1), atol=1e-3)


def test_a_small_difference_is_not_worth_a_word() -> None:
    reporter = Listener()
    near = zoomed(SAID, 1.005)
    assert apart(POSES, near, 0, COUNT - 1, reporter)[0] < 0.1
    assert not reporter.logs


def test_a_solved_path_takes_depth_that_has_a_path_as_it_is() -> None:
    """It is placed by one scale anyway, and its frames agree about their zoom among themselves."""
    clip, _ = with_path(POSES)
    assert through_lens(clip, SourceLens(TRUE, None, ""), SIZE, COUNT, True, Silent()) is clip


def test_depth_of_a_source_that_estimates_no_lens_stays() -> None:
    clip, _ = with_path(POSES)
    plain = dataclasses.replace(clip, lens_is_estimate=False)
    assert through_lens(plain, SourceLens(TRUE, None, ""), SIZE, COUNT, False, Silent()) is plain


def test_frames_are_asked_for_one_at_a_time() -> None:
    asked = 0

    def frames() -> Iterator[DepthFrame]:
        nonlocal asked
        for _ in range(COUNT):
            asked += 1
            yield DepthFrame(np.array([[2.0, np.inf, np.nan]], np.float32), np.ones((1, 3), np.float32))

    clip = DepthClip(frames(), SAID, None, "metric", "Depth is a test's.", lens_is_estimate=True)
    made = through_lens(clip, SourceLens(zoomed(SAID, 1.5), None, ""), SIZE, COUNT, False, Silent())
    assert asked == 0
    frame = next(made.frames)
    assert asked == 1
    np.testing.assert_array_equal(frame.depth, np.array([[3.0, np.inf, np.nan]], np.float32))
    assert frame.depth.dtype == np.float32 and frame.confidence is not None
