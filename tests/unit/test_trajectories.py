# SPDX-License-Identifier: GPL-3.0-or-later
"""Camera moves: real degrees for any number of frames, from the source view; and camera files."""

from __future__ import annotations

import io
import json
import math
import zipfile
from collections.abc import Callable
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ex4d_engine import trajectories
from ex4d_engine.camera_frame import CameraFrame
from ex4d_engine.cameras import as_matrix, check_camera, intrinsics_from_fov, project, rotation_about
from ex4d_engine.errors import Ex4dError
from ex4d_engine.reference_paths import reference_path
from ex4d_engine.shot import Shot
from ex4d_engine.trajectories import (
    Trajectory,
    along,
    crane,
    dolly,
    ease,
    load_trajectory,
    orbit,
    preset,
    save_reference_npz,
    save_trajectory,
    spline,
    still,
    truck,
)
from tests.shot_material import FOLDER, FPS, make_shot

Array = trajectories.Array
counts = st.integers(1, 120)
movies = st.integers(2, 120)
depths = st.floats(0.01, 1e4)
degrees = st.floats(-90, 90)
MOVES = ("orbit", "dolly", "truck", "crane", "still")
quick = settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


def check_poses(poses: Array, count: int) -> None:
    assert poses.shape == (count, 4, 4)
    for pose in poses:
        check_camera(np.eye(3), pose)


# --------------------------------------------------------------------------------------------- moves


@given(counts, st.booleans())
def test_ease_rises_from_zero_to_one(count: int, smooth: bool) -> None:
    shares = ease(count, smooth)
    assert len(shares) == count and shares[0] == 0
    assert (np.diff(shares) > 0).all()
    if count > 1:
        assert shares[-1] == 1
        np.testing.assert_allclose(shares + shares[::-1], 1, atol=1e-12)


@given(counts, degrees, depths, st.floats(-80, 80), st.booleans())
def test_orbit_starts_at_the_source_keeps_its_distance_and_looks_at_the_pivot(
    count: int, angle: float, pivot_z: float, pitch_deg: float, smooth: bool
) -> None:
    poses = orbit(count, angle, pivot_z, pitch_deg=pitch_deg, smooth=smooth)
    check_poses(poses, count)
    np.testing.assert_allclose(poses[0], np.eye(4), atol=1e-9 * pivot_z)
    pivot = np.array([0, 0, pivot_z])
    for pose in poses:
        image, z = project(pivot, np.eye(3), pose)
        np.testing.assert_allclose(image, 0, atol=1e-9)
        assert z == pytest.approx(pivot_z)
        assert pose[1, 0] == pytest.approx(0, abs=1e-12)  # the horizon stays level


@given(movies, degrees, depths, st.booleans())
def test_the_lines_of_sight_at_the_ends_of_an_orbit_are_the_degrees_apart(
    count: int, angle: float, pivot_z: float, smooth: bool
) -> None:
    first, *_, last = orbit(count, angle, pivot_z, smooth=smooth)
    between = math.degrees(math.acos(float(np.clip(first[:3, 2] @ last[:3, 2], -1, 1))))
    assert between == pytest.approx(abs(angle), abs=1e-5)
    assert last[0, 3] == pytest.approx(math.sin(math.radians(angle)) * pivot_z, abs=1e-9 * pivot_z)


def test_orbit_goes_right_and_up_for_positive_angles() -> None:
    assert orbit(2, 30, 1.0)[-1, 0, 3] > 0.4
    assert orbit(2, 0, 1.0, pitch_deg=30)[-1, 1, 3] == pytest.approx(-0.5)  # y is down


@pytest.mark.parametrize(
    ("angle", "pivot_z", "pitch"),
    [(91, 1, 0), (-90.1, 1, 0), (math.nan, 1, 0), (30, 0, 0), (30, -1, 0), (30, math.nan, 0), (30, 1, 81)],
)
def test_impossible_orbits_are_refused(angle: float, pivot_z: float, pitch: float) -> None:
    with pytest.raises(Ex4dError) as caught:
        orbit(5, angle, pivot_z, pitch_deg=pitch)
    assert caught.value.code == "camera_invalid"


@given(counts, st.floats(-100, 100), st.booleans())
def test_dolly_and_truck_go_straight_without_turning(count: int, distance: float, smooth: bool) -> None:
    for move, axis in ((dolly, 2), (truck, 0)):
        poses = move(count, distance, smooth=smooth)
        check_poses(poses, count)
        np.testing.assert_array_equal(poses[:, :3, :3], np.tile(np.eye(3), (count, 1, 1)))
        assert poses[0, axis, 3] == 0
        assert poses[-1, axis, 3] == (distance if count > 1 else 0)
        assert not np.delete(poses[:, :3, 3], axis, axis=1).any()


@given(counts, st.floats(-10, 10), st.floats(0.1, 100), st.booleans())
def test_crane_rises_and_looks_at_the_pivot(count: int, height: float, pivot_z: float, smooth: bool) -> None:
    poses = crane(count, height, pivot_z, smooth=smooth)
    check_poses(poses, count)
    np.testing.assert_allclose(poses[0], np.eye(4), atol=1e-12)
    assert poses[-1, 1, 3] == (-height if count > 1 else 0)  # y is down
    for pose in poses:
        np.testing.assert_allclose(project(np.array([0, 0, pivot_z]), np.eye(3), pose)[0], 0, atol=1e-9)


@pytest.mark.parametrize("name", MOVES)
@pytest.mark.parametrize("count", [1, 2, 49])
def test_every_preset_starts_at_the_source_for_any_length(name: str, count: int) -> None:
    poses = preset(name, 0.3, count, 2.0)
    check_poses(poses, count)
    np.testing.assert_allclose(poses[0], np.eye(4), atol=1e-12)


def test_presets_measure_in_shares_of_the_subject_s_distance() -> None:
    assert preset("dolly", 0.5, 3, 8.0)[-1, 2, 3] == 4
    assert preset("truck", -0.5, 3, 8.0)[-1, 0, 3] == -4
    assert preset("crane", 0.25, 3, 8.0)[-1, 1, 3] == -2
    np.testing.assert_array_equal(preset("orbit", 40, 5, 8.0), orbit(5, 40, 8.0))
    np.testing.assert_array_equal(preset("still", 1, 5, 8.0), still(5))


@pytest.mark.parametrize("count", [0, -1])
@pytest.mark.parametrize("name", MOVES)
def test_a_path_of_no_frames_is_refused(name: str, count: int) -> None:
    with pytest.raises(Ex4dError, match=f"path of {count} frames"):
        preset(name, 1, count, 1.0)


@pytest.mark.parametrize("amount", [math.nan, math.inf])
@pytest.mark.parametrize("name", [name for name in MOVES if name != "still"])
def test_an_endless_move_is_refused(name: str, amount: float) -> None:
    with pytest.raises(Ex4dError) as caught:
        preset(name, amount, 5, 1.0)
    assert caught.value.code == "camera_invalid"


def test_an_unknown_preset_names_those_that_are_known() -> None:
    with pytest.raises(Ex4dError, match="orbit, dolly, truck, crane, still"):
        preset("teleport", 1, 5, 1.0)


# -------------------------------------------------------------------------------------------- spline


def key(time: float, place: tuple[float, ...], axis: tuple[float, ...], angle: float) -> tuple[float, Array]:
    pose = np.eye(4)
    pose[:3, :3], pose[:3, 3] = rotation_about(axis, angle), place
    return time, pose


reals = st.floats(-50, 50)
points = st.tuples(reals, reals, reals)
axes = points.filter(lambda axis: math.hypot(*axis) > 1e-2)


@given(st.lists(st.builds(key, st.just(0), points, axes, st.floats(-3, 3)), min_size=2, max_size=6), st.integers(1, 8))
def test_a_spline_passes_its_keys_at_their_times(keys: list[tuple[float, Array]], between: int) -> None:
    keys = [(10.0 + 2 * index, pose) for index, (_, pose) in enumerate(keys)]
    poses = spline(keys, (len(keys) - 1) * between + 1)
    check_poses(poses, len(poses))
    np.testing.assert_allclose(poses[::between], [pose for _, pose in keys], atol=1e-6)


def test_a_spline_takes_a_step_that_is_nothing_beside_the_next() -> None:
    keys = [key(index, (0, 0, depth), (0, 0, 1), 0) for index, depth in enumerate((1.0, 0.0, 1e-104, 1e-300))]
    places = spline(keys, 7)[:, :3, 3]
    np.testing.assert_allclose(places[::2], [pose[:3, 3] for _, pose in keys], atol=1e-12)
    assert np.isfinite(places).all()


@given(st.lists(st.floats(0.1, 5), min_size=1, max_size=5), axes, counts)
def test_a_spline_through_a_straight_even_path_is_straight_and_even(
    steps: list[float], direction: tuple[float, ...], count: int
) -> None:
    times = np.concatenate([[0.0], np.cumsum(np.full(len(steps), steps[0]))])
    keys = [key(time, tuple(np.multiply(direction, time)), (0, 1, 0), 0) for time in times]
    places = spline(keys, count)[:, :3, 3]
    np.testing.assert_allclose(places, np.linspace(0, times[-1], count)[:, None] * direction, atol=1e-6)


def test_a_held_key_holds_and_the_move_after_it_starts_at_rest() -> None:
    places = [(0.0, 0, 0), (1.0, 0, 0), (1.0, 0, 0), (2.0, 1, 0)]
    keys = [key(time, place, (0, 1, 0), 0) for time, place in enumerate(places)]
    found = spline(keys, 301)[:, :3, 3]
    np.testing.assert_array_equal(found[100:201], np.tile([1, 0, 0], (101, 1)))
    assert np.linalg.norm(found[201] - found[200]) < 2e-3  # at an even speed it would be 1.4e-2
    assert np.linalg.norm(np.diff(found, axis=0), axis=1).max() < 0.05  # no jump anywhere


def test_a_spline_of_one_frame_is_its_first_key() -> None:
    keys = [key(0, (1, 2, 3), (0, 1, 0), 1), key(1, (3, 2, 1), (1, 0, 0), 1)]
    np.testing.assert_allclose(spline(keys, 1)[0], keys[0][1], atol=1e-12)


@pytest.mark.parametrize("times", [(), (0,), (0, 0), (1, 0), (0, math.nan), (0, math.inf)])
def test_times_that_do_not_rise_are_refused(times: tuple[float, ...]) -> None:
    with pytest.raises(Ex4dError) as caught:
        spline([(time, np.eye(4)) for time in times], 5)
    assert caught.value.code == "no_camera"


def test_a_key_that_is_no_camera_is_refused() -> None:
    with pytest.raises(Ex4dError, match="key at 2"):
        spline([(0, np.eye(4)), (2, np.zeros((4, 4)))], 5)


# ------------------------------------------------------------------------------------------- on a shot


@pytest.fixture
def shot(tmp_path: Path) -> Shot:
    return make_shot(tmp_path / FOLDER)


@pytest.fixture
def moving(tmp_path: Path) -> Shot:
    return make_shot(tmp_path / FOLDER, poses=True)


def test_a_path_sees_each_frame_and_then_the_last_one(shot: Shot) -> None:
    path = along(shot, orbit(8, 20, 2.0))
    assert [frame.source for frame in path.frames] == [7, 8, 9, 10, 11, 11, 11, 11]
    assert path.size == (64, 48) and path.fps == FPS
    assert all(frame.intrinsics == shot.require_geometry().intrinsics for frame in path.frames)


def test_bullet_time_holds_the_frame_while_the_camera_moves(moving: Shot) -> None:
    poses = orbit(6, 20, 2.0)
    path = along(moving, poses, frozen=9)
    assert {frame.source for frame in path.frames} == {9}
    start = np.array(moving.source_pose(9))
    np.testing.assert_allclose([frame.camera_to_world for frame in path.frames], start @ poses, atol=1e-12)


def test_a_path_is_laid_out_from_the_source_camera_of_the_first_frame(moving: Shot) -> None:
    poses = orbit(5, 20, 2.0)
    start = np.array(moving.source_pose(7))
    assert not np.allclose(start, np.eye(4))
    path = along(moving, poses)
    np.testing.assert_allclose([frame.camera_to_world for frame in path.frames], start @ poses, atol=1e-12)
    # the shot's pivot, two units in front of the first source camera, stays in the middle of the image
    pivot = start[:3, :3] @ [0, 0, 2.0] + start[:3, 3]
    for frame in path.frames:
        image, _ = project(pivot, np.array(frame.intrinsics), np.array(frame.camera_to_world))
        np.testing.assert_allclose(image, [32, 24], atol=1e-9)


@pytest.mark.parametrize("frozen", [6, 12, -1, 0])
def test_a_frame_that_the_shot_does_not_hold_cannot_be_frozen(shot: Shot, frozen: int) -> None:
    with pytest.raises(Ex4dError, match="the shot holds 7 to 11"):
        along(shot, still(2), frozen=frozen)


def test_another_output_size_keeps_the_view(shot: Shot) -> None:
    path = along(shot, still(1), size=(128, 48))
    assert path.size == (128, 48)
    before, after = np.array(shot.require_geometry().intrinsics), np.array(path.frames[0].intrinsics)
    assert after[0, 0] == pytest.approx(before[0, 0])  # the height has not changed, so the scale has not
    assert (after[0, 2], after[1, 2]) == pytest.approx((64, 24))
    assert path.resized((64, 48)).resized((128, 48)).size == (128, 48)


def test_a_shot_without_geometry_has_no_paths(shot: Shot) -> None:
    with pytest.raises(Ex4dError, match="not reconstructed"):
        along(replace(shot, geometry=None), still(1))


# --------------------------------------------------------------------------------------- camera files


@quick
@given(
    angle=degrees,
    sources=st.lists(st.integers(7, 11), min_size=1, max_size=12),
    size=st.tuples(st.integers(1, 9999), st.integers(1, 9999)),
    fps=st.fractions(min_value=Fraction(1, 100), max_value=1000, max_denominator=10**6),
    fov=st.floats(1, 170),
)
def test_our_camera_file_round_trip(
    shot: Shot, angle: float, sources: list[int], size: tuple[int, int], fps: Fraction, fov: float
) -> None:
    lens = as_matrix(intrinsics_from_fov(*size, fov))
    poses = orbit(len(sources), angle, 3.0)
    frames = tuple(CameraFrame(n, lens, as_matrix(pose)) for n, pose in zip(sources, poses, strict=True))
    trajectory = Trajectory(frames, size, fps)
    path = shot.root / "Kamera 軌道.json"
    path.parent.mkdir(exist_ok=True)
    save_trajectory(trajectory, path)
    assert load_trajectory(path, shot=shot) == trajectory


@quick
@given(angle=degrees, count=st.integers(1, 5))
def test_the_reference_s_camera_file_round_trip(moving: Shot, angle: float, count: int) -> None:
    trajectory = along(moving, orbit(count, angle, 3.0))
    path = moving.root / "Kamera 軌道.NPZ"
    path.parent.mkdir(exist_ok=True)
    save_reference_npz(trajectory, path)
    assert [entry.name for entry in path.parent.iterdir()] == [path.name]
    found = load_trajectory(path, shot=moving)
    assert found.size == trajectory.size and found.fps == trajectory.fps
    assert [frame.source for frame in found.frames] == [frame.source for frame in trajectory.frames]
    for one, two in zip(found.frames, trajectory.frames, strict=True):
        np.testing.assert_allclose(one.camera_to_world, two.camera_to_world, atol=1e-5)
        np.testing.assert_allclose(one.intrinsics, two.intrinsics, rtol=1e-6)


def test_the_reference_s_camera_file_is_as_the_reference_writes_it(shot: Shot, tmp_path: Path) -> None:
    path = tmp_path / "camera_30.npz"
    save_reference_npz(along(shot, reference_path("30", 5, 2.0)), path)
    with np.load(path) as data:
        assert set(data) == {"extrinsics", "intrinsics"}
        assert data["extrinsics"].dtype == data["intrinsics"].dtype == np.float32
        assert data["extrinsics"].shape == (5, 4, 4) and data["intrinsics"].shape == (3, 3)
        np.testing.assert_array_equal(data["extrinsics"][0], np.diag([1, -1, -1, 1]))


def test_a_longer_reference_path_than_the_shot_holds_the_last_frame(shot: Shot, tmp_path: Path) -> None:
    path = tmp_path / "camera.npz"
    save_reference_npz(along(shot, still(9)), path)
    found = load_trajectory(path, shot=make_shot(tmp_path, count=3))
    assert [frame.source for frame in found.frames] == [7, 8, 9, 9, 9, 9, 9, 9, 9]


def test_a_zoom_cannot_be_saved_in_the_reference_s_file(shot: Shot, tmp_path: Path) -> None:
    path = along(shot, still(2))
    frames = (path.frames[0], replace(path.frames[1], intrinsics=as_matrix(intrinsics_from_fov(64, 48, 20))))
    with pytest.raises(Ex4dError, match="lens changes"):
        save_reference_npz(Trajectory(frames, path.size, path.fps), tmp_path / "zoom.npz")
    with pytest.raises(Ex4dError) as caught:
        save_reference_npz(Trajectory((), path.size, path.fps), tmp_path / "none.npz")
    assert caught.value.code == "no_camera"
    assert list(tmp_path.iterdir()) == []


# ---------------------------------------------------------------------------------- damaged camera files


def document(shot: Shot, **changes: Any) -> bytes:
    frame = {"source": 7, "intrinsics": [[50, 0, 32], [0, 50, 24], [0, 0, 1]], "camera_to_world": np.eye(4).tolist()}
    entries = {"schema": "ex4d.trajectory/1", "size": [64, 48], "fps": "25", "frames": [frame], **changes}
    return json.dumps(entries).encode()


BAD_JSON: dict[str, Callable[[Shot], bytes]] = {
    "empty": lambda shot: b"",
    "binary": lambda shot: b"\xff\x00\x13",
    "deep": lambda shot: b"[" * 100_000,
    "list": lambda shot: b"[]",
    "schema": lambda shot: document(shot, schema="ex4d.trajectory/9"),
    "size": lambda shot: document(shot, size=["64", 48]),
    "huge": lambda shot: document(shot, size=[64, 10**30]),
    "fps": lambda shot: document(shot, fps="1e999999999"),
    "fps zero": lambda shot: document(shot, fps="1/0"),
    "frames": lambda shot: document(shot, frames={}),
    "frame": lambda shot: document(shot, frames=[5]),
    "nan": lambda shot: document(shot).replace(b"50", b"NaN"),
    "singular": lambda shot: document(shot).replace(b"1.0", b"0.0"),
    "beyond": lambda shot: document(shot).replace(b"50", b"1" + b"0" * 400),
    "source": lambda shot: document(shot).replace(b'"source": 7', b'"source": 99'),
}


@pytest.mark.parametrize("name", BAD_JSON)
def test_a_damaged_camera_file_is_refused(shot: Shot, tmp_path: Path, name: str) -> None:
    path = tmp_path / "camera.json"
    path.write_bytes(BAD_JSON[name](shot))
    with pytest.raises(Ex4dError, match="camera") as caught:
        load_trajectory(path, shot=shot)
    assert caught.value.code == "camera_invalid" and caught.value.hint


def npz(**arrays: Any) -> bytes:
    file = io.BytesIO()
    np.savez(file, **arrays)
    return file.getvalue()


def npy(array: Any) -> bytes:
    file = io.BytesIO()
    np.save(file, array)
    return file.getvalue()


def text_zip() -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("extrinsics.npy", "no array")
        archive.writestr("intrinsics.npy", "no array")
    return file.getvalue()


K = np.array([[50.0, 0, 32], [0, 50, 24], [0, 0, 1]])
E = np.tile(np.diag([1.0, -1, -1, 1]), (3, 1, 1))
BAD_NPZ: dict[str, bytes] = {
    "empty": b"",
    "no zip": b"PK\x03\x04 and no more",
    "text": b"hello",
    "cut": npz(extrinsics=E, intrinsics=K)[:300],
    "an npy": npy(E),
    "no arrays inside": text_zip(),
    "no intrinsics": npz(extrinsics=E),
    "shapes": npz(extrinsics=E[0], intrinsics=K),
    "objects": npz(extrinsics=np.array([{}], dtype=object), intrinsics=K),
    "texts": npz(extrinsics=E, intrinsics=np.array([["a"] * 3] * 3)),
    "nan pose": npz(extrinsics=E * np.nan, intrinsics=K),
    "zero pose": npz(extrinsics=E * 0, intrinsics=K),
    "mirrored": npz(extrinsics=np.tile(np.diag([1.0, 1, -1, 1]), (3, 1, 1)), intrinsics=K),
    "nan lens": npz(extrinsics=E, intrinsics=K * np.nan),
    "inf lens": npz(extrinsics=E, intrinsics=np.full((3, 3), np.inf)),
    "zero lens": npz(extrinsics=E, intrinsics=K * 0),
    "far principal point": npz(extrinsics=E, intrinsics=np.array([[50, 0, 1e30], [0, 50, 24], [0, 0, 1]])),
}


@pytest.mark.parametrize("name", BAD_NPZ)
def test_a_damaged_reference_camera_file_is_refused(shot: Shot, tmp_path: Path, name: str) -> None:
    path = tmp_path / "camera.npz"
    path.write_bytes(BAD_NPZ[name])
    with pytest.raises(Ex4dError) as caught:
        load_trajectory(path, shot=shot)
    assert caught.value.code == "camera_invalid" and caught.value.hint


@quick
@given(data=st.data())
def test_a_reference_camera_file_with_damaged_bytes_is_read_or_refused(shot: Shot, data: st.DataObject) -> None:
    content = bytearray(npz(extrinsics=E, intrinsics=K))
    for place in data.draw(st.lists(st.integers(0, len(content) - 1), min_size=1, max_size=8)):
        content[place] = data.draw(st.integers(0, 255))
    shot.root.mkdir(exist_ok=True)
    path = shot.root / "camera.npz"
    path.write_bytes(content[: data.draw(st.integers(1, len(content)))])
    try:
        found = load_trajectory(path, shot=shot)
    except Ex4dError:
        return
    for frame in found.frames:
        check_camera(np.array(frame.intrinsics), np.array(frame.camera_to_world))


@pytest.mark.parametrize("name", ["camera.json", "camera.npz"])
def test_a_camera_file_that_is_not_there_or_is_a_folder(shot: Shot, tmp_path: Path, name: str) -> None:
    with pytest.raises(Ex4dError, match=name) as caught:
        load_trajectory(tmp_path / name, shot=shot)
    assert caught.value.code == "no_such_file"
    (tmp_path / name).mkdir()
    with pytest.raises(Ex4dError, match=name):
        load_trajectory(tmp_path / name, shot=shot)


def test_a_camera_file_without_cameras(shot: Shot, tmp_path: Path) -> None:
    path = tmp_path / "camera.json"
    path.write_bytes(document(shot, frames=[]))
    with pytest.raises(Ex4dError) as caught:
        load_trajectory(path, shot=shot)
    assert caught.value.code == "no_camera"
    (tmp_path / "camera.npz").write_bytes(npz(extrinsics=np.zeros((0, 4, 4)), intrinsics=K))
    with pytest.raises(Ex4dError) as caught:
        load_trajectory(tmp_path / "camera.npz", shot=shot)
    assert caught.value.code == "no_camera"
