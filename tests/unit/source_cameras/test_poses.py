# SPDX-License-Identifier: GPL-3.0-or-later
"""A solved camera read from our JSON and from COLMAP's text, and the frames it lacks."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest

from ex4d_engine.camera_frame import CameraFrame
from ex4d_engine.cameras import as_matrix, intrinsics_from_fov, project, rotation_about, scaled_intrinsics
from ex4d_engine.errors import Ex4dError
from ex4d_engine.source_cameras.poses import read_poses
from ex4d_engine.trajectories import Trajectory, save_trajectory
from tests.unit.source_cameras.still_scene import path as camera_path

SIZE = (320, 180)
POSES = camera_path(6)
LENS = intrinsics_from_fov(*SIZE, 60)
NUMBERS = range(1001, 1007)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = tmp_path / "Ünï 作業 track"
    made.mkdir()
    return made


def write_json(path: Path, numbers: range | list[int] = NUMBERS, size: tuple[int, int] = SIZE) -> Path:
    frames = tuple(CameraFrame(number, as_matrix(LENS), as_matrix(POSES[number - NUMBERS[0]])) for number in numbers)
    save_trajectory(Trajectory(frames, size, Fraction(24)), path)
    return path


def quaternion(rotation: np.ndarray) -> tuple[float, float, float, float]:
    w = np.sqrt(max(0.0, 1 + np.trace(rotation))) / 2
    x, y, z = rotation[2, 1] - rotation[1, 2], rotation[0, 2] - rotation[2, 0], rotation[1, 0] - rotation[0, 1]
    return float(w), float(x / (4 * w)), float(y / (4 * w)), float(z / (4 * w))


def write_colmap(
    folder: Path,
    camera: str = f"PINHOLE 320 180 {LENS[0, 0]} {LENS[1, 1]} 160 90",
    name: str = "left/plate_v02.{:04d}.png",
    points: str = "12.5 20.25 -1",
) -> Path:
    (folder / "cameras.txt").write_text(f"# Camera list\n7 {camera}\n", "utf-8")
    lines = ["# Image list with two lines of data per image:"]
    for order, index in enumerate(reversed(range(6)), 1):  # in no order
        world_to_camera = np.linalg.inv(POSES[index])
        numbers = [*quaternion(world_to_camera[:3, :3]), *world_to_camera[:3, 3]]
        values = " ".join(f"{value:.17g}" for value in numbers)
        lines += [f"{order} {values} 7 {name.format(1001 + index)}", points]
    (folder / "images.txt").write_text("\n".join(lines) + "\n", "utf-8")
    return folder


def refused(code: str, path: Path, numbers: range = NUMBERS, size: tuple[int, int] = SIZE) -> str:
    with pytest.raises(Ex4dError) as caught:
        read_poses(path, numbers, size)
    assert caught.value.code == code, caught.value
    assert caught.value.message.endswith(".") and "\n" not in caught.value.message and caught.value.hint
    return caught.value.message


def test_our_json_at_its_own_size_and_at_a_proxys(folder: Path) -> None:
    path = write_json(folder / "camera é.json")
    found = read_poses(path, NUMBERS, SIZE)
    assert np.allclose(found.camera_to_world, POSES) and np.allclose(found.intrinsics, LENS)
    assert found.unit == "scene" and found.notes == ()
    larger = read_poses(path, NUMBERS, (1280, 720))
    assert np.allclose(larger.intrinsics[0], scaled_intrinsics(LENS, 4, 4)) and "scaled" in larger.notes[0]
    some = read_poses(path, range(1002, 1007, 2), SIZE)
    assert np.allclose(some.camera_to_world, POSES[1:6:2])


@pytest.mark.parametrize("points", ["12.5 20.25 -1", ""])
def test_colmap_projects_as_its_documentation_says(folder: Path, points: str) -> None:
    found = read_poses(write_colmap(folder, points=points), NUMBERS, SIZE)
    assert np.allclose(found.camera_to_world, POSES, atol=1e-9) and found.unit == "arbitrary"
    point = np.array([0.3, -0.2, 4.0])
    for index in range(6):
        local = np.linalg.inv(POSES[index]) @ np.append(point, 1)
        wanted = LENS @ local[:3] / local[2]
        image, _ = project(point, found.intrinsics[index], found.camera_to_world[index])
        assert np.allclose(image, wanted[:2])
    assert np.allclose(read_poses(folder / "images.txt", NUMBERS, SIZE).camera_to_world, found.camera_to_world)


def test_missing_frames_are_filled_in_between_and_never_beyond(folder: Path) -> None:
    path = write_json(folder / "gaps.json", [1001, 1002, 1005, 1006])
    found = read_poses(path, NUMBERS, SIZE)
    assert "2 frames (1003 to 1004)" in found.notes[0]
    third = POSES[1][:3, 3] + (POSES[4][:3, 3] - POSES[1][:3, 3]) / 3
    assert np.allclose(found.camera_to_world[2][:3, 3], third)
    rotation = found.camera_to_world[2][:3, :3]
    assert np.allclose(rotation @ rotation.T, np.eye(3))
    message = refused("no_camera", path, range(1000, 1006))
    assert "1000" in message and "1001 to 1002, 1005 to 1006" in message
    refused("no_camera", write_json(folder / "early.json", [1001, 1002]), NUMBERS)


def test_a_long_gap_is_refused(folder: Path) -> None:
    frames = tuple(CameraFrame(number, as_matrix(LENS), as_matrix(np.eye(4))) for number in (1, 30))
    save_trajectory(Trajectory(frames, SIZE, Fraction(24)), folder / "far.json")
    refused("no_camera", folder / "far.json", range(1, 31))


def test_a_frame_of_another_shape_is_refused(folder: Path) -> None:
    assert "differ in shape" in refused("camera_invalid", write_json(folder / "a.json"), size=(180, 320))


@pytest.mark.parametrize(
    "camera",
    [
        "SIMPLE_RADIAL 320 180 277 160 90 0.08",
        "OPENCV 320 180 277 277 160 90 -0.2 0.05 0 0",
        "RADIAL 320 180 277 160 90 0.1 0",
    ],
)
def test_a_distorted_lens_is_refused_with_what_to_do(folder: Path, camera: str) -> None:
    with pytest.raises(Ex4dError, match="distorted") as caught:
        read_poses(write_colmap(folder, camera), NUMBERS, SIZE)
    assert caught.value.code == "camera_unsupported" and "image_undistorter" in caught.value.hint


def test_a_distortion_that_does_not_show_is_left_aside(folder: Path) -> None:
    found = read_poses(write_colmap(folder, "SIMPLE_RADIAL 320 180 277 160 90 0.001"), NUMBERS, SIZE)
    assert "left aside" in found.notes[0]


@pytest.mark.parametrize(
    ("camera", "code"),
    [
        ("FISHEYE 320 180 1 2 3 4", "camera_unsupported"),
        ("PINHOLE 320 180 277 277 160", "camera_invalid"),
        ("PINHOLE 320 180 277 nan 160 90", "camera_invalid"),
        ("PINHOLE 320 180 -277 277 160 90", "camera_invalid"),
        ("PINHOLE 320.5 180 277 277 160 90", "camera_invalid"),
        ("PINHOLE", "camera_invalid"),
    ],
)
def test_colmap_cameras_that_cannot_be_used(folder: Path, camera: str, code: str) -> None:
    refused(code, write_colmap(folder, camera))


def test_colmap_images_that_cannot_be_used(folder: Path) -> None:
    assert "no frame number" in refused("camera_invalid", write_colmap(folder, name="plate.png"))
    assert "both frame" in refused("camera_invalid", write_colmap(folder, name="{:04d}/plate.0001.png"))
    write_colmap(folder)
    images = folder / "images.txt"
    images.write_text("1 1 0 0 0 0 0 0 99 a.0001.png\n\n", "utf-8")
    assert "line 1" in refused("camera_invalid", folder)
    images.write_text("1 0 0 0 0 0 0 0 7 a.0001.png\n\n", "utf-8")
    refused("camera_invalid", folder)
    images.write_bytes(b"\xff\xfe\x00")
    refused("camera_invalid", folder)
    images.write_text("# nothing\n", "utf-8")
    refused("no_camera", folder)


def test_a_binary_model_and_no_model(folder: Path) -> None:
    refused("no_such_file", folder)
    (folder / "images.bin").write_bytes(b"\0")
    with pytest.raises(Ex4dError, match="binary") as caught:
        read_poses(folder, NUMBERS, SIZE)
    assert "model_converter" in caught.value.hint


@pytest.mark.parametrize("text", ["", "{", "[]", '{"schema": "ex4d.keys/1"}', '{"schema": "ex4d.trajectory/1"}'])
def test_json_that_is_no_camera(folder: Path, text: str) -> None:
    path = folder / "bad.json"
    path.write_text(text, "utf-8")
    refused("camera_invalid", path)
    refused("no_such_file", folder / "gone.json")


def test_a_frame_that_is_there_twice(folder: Path) -> None:
    frame = CameraFrame(1, as_matrix(LENS), as_matrix(np.eye(4)))
    save_trajectory(Trajectory((frame, frame), SIZE, Fraction(24)), folder / "frozen.json")
    assert "twice" in refused("camera_invalid", folder / "frozen.json", range(1, 2))


def test_half_turns_between_two_frames_stay_rotations(folder: Path) -> None:
    turned = np.eye(4)
    turned[:3, :3] = rotation_about([0, 1, 0], 3.1)
    frames = tuple(
        CameraFrame(number, as_matrix(LENS), as_matrix(pose)) for number, pose in ((1, np.eye(4)), (3, turned))
    )
    save_trajectory(Trajectory(frames, SIZE, Fraction(24)), folder / "turn.json")
    middle = read_poses(folder / "turn.json", range(1, 4), SIZE).camera_to_world[1][:3, :3]
    assert np.allclose(middle, rotation_about([0, 1, 0], 1.55))
