# SPDX-License-Identifier: GPL-3.0-or-later
"""Axes, lenses and rotations: every conversion is undone by its inverse and keeps what a camera sees."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from ex4d_engine import cameras
from ex4d_engine.camera_frame import IDENTITY, intrinsics_from, pose_from
from ex4d_engine.errors import Ex4dError

Array = cameras.Array

sides = st.integers(1, 8192)
sizes = st.tuples(sides, sides)
reals = st.floats(-100, 100)
vectors = st.tuples(reals, reals, reals)
axes = vectors.filter(lambda v: math.hypot(*v) > 1e-3)
angles = st.floats(-math.pi, math.pi)
rotations = st.builds(cameras.rotation_about, axes, angles)


def pose_of(rotation: Array, place: tuple[float, float, float]) -> Array:
    pose = np.eye(4)
    pose[:3, :3], pose[:3, 3] = rotation, place
    return pose


poses = st.builds(pose_of, rotations, vectors)


@st.composite
def lenses(draw: st.DrawFn) -> tuple[Array, tuple[int, int]]:
    width, height = draw(sizes)
    focal_x, focal_y = draw(st.floats(0.2, 10)) * width, draw(st.floats(0.2, 10)) * height
    centre = draw(st.floats(-1, 2)) * width, draw(st.floats(-1, 2)) * height
    return np.array([[focal_x, 0, centre[0]], [0, focal_y, centre[1]], [0, 0, 1]]), (width, height)


def turned_by(one: Array, two: Array) -> float:
    """The angle between two rotations in radians, exact for small ones."""
    relative = one.T @ two
    sine = np.linalg.norm(relative - relative.T) / math.sqrt(8)
    return math.atan2(float(sine), float(np.trace(relative) - 1) / 2)


# ---------------------------------------------------------------------------------------------- lens


@given(lenses(), poses, st.floats(0, 1), st.floats(0, 1), st.floats(0.1, 100))
def test_project_and_pixel_rays_undo_each_other(
    lens: tuple[Array, tuple[int, int]], pose: Array, across: float, down: float, depth: float
) -> None:
    intrinsics, (width, height) = lens
    position = np.array([across * width, down * height])
    ray = cameras.pixel_rays(intrinsics, position[0], position[1])
    assert ray[2] == 1
    point = pose[:3, :3] @ (ray * depth) + pose[:3, 3]
    image, z = cameras.project(point, intrinsics, pose)
    np.testing.assert_allclose(image, position, atol=1e-6 * max(width, height))
    np.testing.assert_allclose(z, depth, rtol=1e-9)


def test_pixel_rays_broadcast_a_grid_and_its_middle_looks_straight_ahead() -> None:
    intrinsics = cameras.intrinsics_from_fov(5, 3)
    rays = cameras.pixel_rays(intrinsics, np.arange(5)[None, :] + 0.5, np.arange(3)[:, None] + 0.5)
    assert rays.shape == (3, 5, 3)
    np.testing.assert_allclose(rays[1, 2], [0, 0, 1], atol=1e-15)
    assert rays[1, 4, 0] > 0 and rays[2, 2, 1] > 0  # x to the right, y down


@given(sizes, st.floats(0.1, 179))
def test_field_of_view_is_that_of_the_longer_side(size: tuple[int, int], fov_deg: float) -> None:
    intrinsics = cameras.intrinsics_from_fov(*size, fov_deg)
    assert intrinsics[0, 0] == intrinsics[1, 1]
    longer = max(size)
    corners = np.array([[0.0, longer], [longer / 2, longer / 2]])
    along = corners if size[0] >= size[1] else corners[::-1]
    centre_across = size[1] / 2 if size[0] >= size[1] else size[0] / 2
    along[along[:, 0] == longer / 2] = centre_across
    first, last = cameras.pixel_rays(intrinsics, along[0], along[1])
    angle = math.degrees(math.acos(float(first @ last / np.linalg.norm(first) / np.linalg.norm(last))))
    assert angle == pytest.approx(fov_deg, rel=1e-4, abs=1e-5)


@pytest.mark.parametrize("fov_deg", [0, -1, 1e-300, 180, 179.5, math.nan, math.inf])
def test_impossible_fields_of_view_are_refused(fov_deg: float) -> None:
    with pytest.raises(Ex4dError, match="field of view") as caught:
        cameras.intrinsics_from_fov(16, 9, fov_deg)
    assert caught.value.code == "camera_invalid"


@given(lenses(), st.floats(0.1, 8), st.floats(0.1, 8), st.floats(0, 1), st.floats(0, 1))
def test_scaled_intrinsics_see_the_same_through_the_same_share_of_the_image(
    lens: tuple[Array, tuple[int, int]], scale_x: float, scale_y: float, across: float, down: float
) -> None:
    intrinsics, (width, height) = lens
    scaled = cameras.scaled_intrinsics(intrinsics, scale_x, scale_y)
    before = cameras.pixel_rays(intrinsics, np.float64(across * width), np.float64(down * height))
    after = cameras.pixel_rays(scaled, np.float64(across * width * scale_x), np.float64(down * height * scale_y))
    np.testing.assert_allclose(after, before, atol=1e-9)


@given(lenses(), sizes)
def test_fitted_intrinsics_keep_the_whole_view_in_the_middle_and_the_pixel_square(
    lens: tuple[Array, tuple[int, int]], target: tuple[int, int]
) -> None:
    intrinsics, source = lens
    fitted = cameras.fitted_intrinsics(intrinsics, source, target)
    assert fitted[0, 0] / fitted[1, 1] == pytest.approx(intrinsics[0, 0] / intrinsics[1, 1])
    corners = cameras.pixel_rays(intrinsics, np.array([0.0, source[0]]), np.array([0.0, source[1]]))
    (left, top), (right, bottom) = cameras.project(corners, fitted, np.eye(4))[0]
    slack = 1e-6 * max(*target, *source)
    assert left >= -slack and top >= -slack and right <= target[0] + slack and bottom <= target[1] + slack
    assert left == pytest.approx(target[0] - right, abs=slack) and top == pytest.approx(target[1] - bottom, abs=slack)
    # as large as it can be: it touches the frame on one pair of sides
    assert min(abs(left), abs(top)) <= slack


@given(lenses())
def test_fitting_to_the_same_size_changes_nothing(lens: tuple[Array, tuple[int, int]]) -> None:
    np.testing.assert_allclose(cameras.fitted_intrinsics(lens[0], lens[1], lens[1]), lens[0], rtol=1e-12)


# ------------------------------------------------------------------------------------------- look_at


@given(vectors, vectors)
def test_look_at_is_a_rotation_that_sees_its_target_upright_in_the_middle(
    eye: tuple[float, float, float], target: tuple[float, float, float]
) -> None:
    offset = np.subtract(target, eye)
    assume(math.hypot(offset[0], offset[2]) > 1e-3 and np.linalg.norm(offset) < 1e3 * math.hypot(offset[0], offset[2]))
    pose = cameras.look_at(np.array(eye), np.array(target))
    cameras.check_camera(np.eye(3), pose)
    image, z = cameras.project(np.array(target), np.eye(3), pose)
    np.testing.assert_allclose(image, 0, atol=1e-9)
    assert z == pytest.approx(np.linalg.norm(offset))
    assert pose[1, 0] == pytest.approx(0, abs=1e-9) and pose[1, 1] > 0  # x level, y down


@pytest.mark.parametrize("target", [(0, 0, 0), (0, 5, 0), (0, -5, 0)])
def test_look_at_refuses_its_own_place_and_the_zenith(target: tuple[float, float, float]) -> None:
    with pytest.raises(Ex4dError, match="cannot look"):
        cameras.look_at(np.zeros(3), np.array(target, dtype=np.float64))


# ------------------------------------------------------------------------------------------- checks


def test_a_usable_camera_passes() -> None:
    cameras.check_camera(cameras.intrinsics_from_fov(640, 480), np.array(IDENTITY))


@given(poses)
def test_every_rotation_and_place_passes_also_in_float32(pose: Array) -> None:
    assert np.array(pose_from(cameras.as_matrix(pose.astype(np.float32)))).shape == (4, 4)


def changed(matrix: Array, row: int, column: int, value: float) -> Array:
    result = matrix.copy()
    result[row, column] = value
    return result


@pytest.mark.parametrize(
    "pose",
    [
        np.zeros((4, 4)),
        np.diag([2.0, 2, 2, 1]),
        np.diag([-1.0, 1, 1, 1]),
        np.diag([1.0, 1, 1, 0]),
        changed(np.eye(4), 0, 1, 0.1),
        changed(np.eye(4), 3, 2, 0.5),
        changed(np.eye(4), 0, 3, math.nan),
        changed(np.eye(4), 0, 0, math.inf),
        np.eye(3),
    ],
)
def test_what_is_no_rotation_and_place_is_refused(pose: Array) -> None:
    with pytest.raises(Ex4dError) as caught:
        cameras.check_camera(np.eye(3), pose)
    assert caught.value.code == "camera_invalid"


@pytest.mark.parametrize(
    "intrinsics",
    [
        np.zeros((3, 3)),
        np.diag([0.0, 1, 1]),
        np.diag([1.0, -1, 1]),
        np.diag([1.0, 1, 2]),
        changed(np.eye(3), 2, 0, 0.1),
        changed(np.eye(3), 1, 0, 0.1),
        changed(np.eye(3), 0, 2, math.nan),
        np.eye(4),
    ],
)
def test_what_is_no_perspective_camera_is_refused(intrinsics: Array) -> None:
    with pytest.raises(Ex4dError) as caught:
        cameras.check_camera(intrinsics, np.eye(4))
    assert caught.value.code == "camera_invalid"


def test_skew_is_a_perspective_camera() -> None:
    assert intrinsics_from([[2, 0.5, 1], [0, 2, 1], [0, 0, 1]])[0][1] == 0.5


# ------------------------------------------------------------------------------------------- Blender


@given(poses)
def test_blender_matrix_round_trip(pose: Array) -> None:
    matrix_world = cameras.blender_from_camera_to_world(pose)
    np.testing.assert_allclose(cameras.camera_to_world_from_blender(matrix_world), pose, atol=1e-9)


@given(poses, st.tuples(st.floats(0.01, 100), st.floats(0.01, 100), st.floats(0.01, 100)))
def test_the_scale_of_a_blender_camera_means_nothing(pose: Array, scale: tuple[float, float, float]) -> None:
    matrix_world = cameras.blender_from_camera_to_world(pose)
    np.testing.assert_allclose(
        cameras.camera_to_world_from_blender(matrix_world @ np.diag([*scale, 1.0])), pose, atol=1e-9
    )


def test_the_source_camera_looks_along_blenders_y_with_z_up() -> None:
    matrix = cameras.blender_from_camera_to_world(np.eye(4))
    np.testing.assert_array_equal(matrix[:3, 0], [1, 0, 0])
    np.testing.assert_array_equal(matrix[:3, 1], [0, 0, 1])  # a Blender camera's y is up
    np.testing.assert_array_equal(-matrix[:3, 2], [0, 1, 0])  # and it looks along −z
    assert np.linalg.det(cameras.WORLD_TO_BLENDER) == 1


@pytest.mark.parametrize("matrix", [np.diag([0.0, 1, 1, 1]), np.diag([-1.0, 1, 1, 1]), changed(np.eye(4), 0, 1, 0.5)])
def test_flat_mirrored_and_sheared_blender_cameras_are_refused(matrix: Array) -> None:
    with pytest.raises(Ex4dError) as caught:
        cameras.camera_to_world_from_blender(matrix)
    assert caught.value.code == "camera_unsupported"


@given(
    sizes,
    st.floats(10, 1000),
    st.tuples(st.floats(-1, 1), st.floats(-1, 1)),
    st.floats(8, 70),
)
def test_blender_lens_round_trip(
    size: tuple[int, int], lens_mm: float, shift: tuple[float, float], sensor_mm: float
) -> None:
    intrinsics = cameras.intrinsics_from_blender(
        size=size,
        pixel_aspect=(1, 1),
        sensor_fit="HORIZONTAL",
        sensor_mm=(sensor_mm, 24),
        lens_mm=lens_mm,
        shift=shift,
    )
    found = cameras.blender_lens_from_intrinsics(intrinsics, *size, sensor_mm)
    np.testing.assert_allclose(found, (lens_mm, *shift), atol=1e-9, rtol=1e-9)


@pytest.mark.parametrize(
    ("size", "aspect", "fit", "focal", "view"),
    [
        ((1920, 1080), (1, 1), "AUTO", (1920.0, 1920.0), 1920),
        ((1080, 1920), (1, 1), "AUTO", (1920.0, 1920.0), 1920),
        ((1920, 1080), (1, 1), "VERTICAL", (1620.0, 1620.0), 1080),
        ((1440, 1080), (2, 1), "AUTO", (1440.0, 2880.0), 2880),
    ],
)
def test_blender_sensor_fit_and_pixel_aspect(
    size: tuple[int, int], aspect: tuple[float, float], fit: str, focal: tuple[float, float], view: float
) -> None:
    # the formula of shared/facts/blender.md §9 with a 36 x 24 mm sensor and a 36 mm lens
    found = cameras.intrinsics_from_blender(
        size=size, pixel_aspect=aspect, sensor_fit=fit, sensor_mm=(36, 24), lens_mm=36, shift=(0.1, 0.2)
    )
    assert (found[0, 0], found[1, 1]) == pytest.approx(focal)
    assert found[0, 2] == pytest.approx(size[0] / 2 - 0.1 * view / aspect[0])
    assert found[1, 2] == pytest.approx(size[1] / 2 + 0.2 * view / aspect[1])


# ----------------------------------------------------------------------------- the reference's camera


@given(poses)
def test_reference_extrinsics_round_trip(pose: Array) -> None:
    np.testing.assert_allclose(
        cameras.camera_to_world_from_reference(cameras.reference_extrinsics(pose)), pose, atol=1e-9
    )


def test_reference_extrinsics_of_the_source_view() -> None:
    np.testing.assert_array_equal(cameras.reference_extrinsics(np.eye(4)), np.diag([1, -1, -1, 1]))


@pytest.mark.parametrize(
    "matrix",
    [
        np.zeros((4, 4)),
        np.diag([1.0, 1, -1, 1]),  # mirrored
        np.diag([2.0, -2, -2, 1]),
        np.diag([1.0, -1, -1, 0]),
        np.full((4, 4), np.nan),
    ],
)
def test_reference_extrinsics_that_are_no_camera_are_refused(matrix: Array) -> None:
    with pytest.raises(Ex4dError) as caught:
        cameras.camera_to_world_from_reference(matrix)
    assert caught.value.code == "camera_invalid"


# ---------------------------------------------------------------------------------------- rotations


@given(rotations, rotations)
def test_slerp_ends_at_its_ends(first: Array, second: Array) -> None:
    np.testing.assert_allclose(cameras.slerp_rotations(first, second, 0), first, atol=1e-12)
    np.testing.assert_allclose(cameras.slerp_rotations(first, second, 1), second, atol=1e-7)


@given(rotations, rotations, st.floats(0, 1))
def test_slerp_turns_at_a_constant_speed_by_the_shorter_arc(first: Array, second: Array, weight: float) -> None:
    middle = cameras.slerp_rotations(first, second, weight)
    np.testing.assert_allclose(middle @ middle.T, np.eye(3), atol=1e-9)
    whole = turned_by(first, second)
    assert turned_by(first, middle) == pytest.approx(weight * whole, abs=1e-6)
    assert turned_by(middle, second) == pytest.approx((1 - weight) * whole, abs=1e-6)


@pytest.mark.parametrize("short_of", [0.0, 1e-9, 2e-7, 4e-7, 1e-6, 1e-5])
@pytest.mark.parametrize("sign", [1, -1])
@given(axes)
def test_slerp_over_half_a_turn_and_just_short_of_it(short_of: float, sign: int, axis: tuple[float, ...]) -> None:
    second = cameras.rotation_about(axis, sign * (math.pi - short_of))
    np.testing.assert_allclose(cameras.slerp_rotations(np.eye(3), second, 1), second, atol=1e-8)
    middle = cameras.slerp_rotations(np.eye(3), second, 0.5)
    assert turned_by(np.eye(3), middle) == pytest.approx(math.pi / 2, abs=1e-5)


@pytest.mark.parametrize("angle", [1e-3, 1e-6, 1e-9])
def test_slerp_is_exact_for_small_angles(angle: float) -> None:
    second = cameras.rotation_about([0, 1, 0], angle)
    half = cameras.slerp_rotations(np.eye(3), second, 0.5)
    assert half[0, 2] == pytest.approx(math.sin(angle / 2), rel=1e-9)


def test_rotation_about_follows_the_right_hand_rule() -> None:
    np.testing.assert_allclose(cameras.rotation_about([0, 0, 2], math.pi / 2) @ [1, 0, 0], [0, 1, 0], atol=1e-15)
