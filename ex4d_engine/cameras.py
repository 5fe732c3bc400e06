# SPDX-License-Identifier: GPL-3.0-or-later
"""All axis and lens mathematics, in one place. Standard library and numpy: shared with the add-on.

Conventions: OpenCV axes (x right, y down, z forward); `camera_to_world` (4,4) float64; K in pixels with
(0,0) the image's top-left *corner* and pixel centres at +0.5, so that a camera is the same camera at
every resolution: K scales by the size and nothing else. Our world is the source camera at frame one
(when its pose is unknown). Blender's world has z up, its cameras look along −z with y up.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from .camera_frame import Matrix, intrinsics_from, pose_from
from .errors import Ex4dError

Array = NDArray[np.float64]

# our world (x right, y down, z forward) → Blender's (x right, y forward, z up); a rotation
WORLD_TO_BLENDER: Array = np.array([[1, 0, 0, 0], [0, 0, 1, 0], [0, -1, 0, 0], [0, 0, 0, 1]], dtype=np.float64)
# OpenCV camera axes ↔ OpenGL and Blender camera axes (its own inverse)
FLIP_YZ: Array = np.diag([1.0, -1.0, -1.0, 1.0])

NARROWEST_FOV_DEG, WIDEST_FOV_DEG = 0.1, 179.0  # a 20 m lens on full frame; beyond, focal lengths run out of range
DEFAULT_FIELD_OF_VIEW_DEG = 50.0  # of the longer side; a 28–35 mm lens on a phone or full frame


def intrinsics_from_fov(width: int, height: int, fov_deg: float = DEFAULT_FIELD_OF_VIEW_DEG) -> Array:
    """K (3,3) with square pixels and a centred axis; `fov_deg` is the angle of the longer side.

    Raises:
        Ex4dError: `camera_invalid` unless 0.1 <= fov_deg <= 179.
    """
    if not NARROWEST_FOV_DEG <= fov_deg <= WIDEST_FOV_DEG:
        raise Ex4dError("camera_invalid", f"A field of view of {fov_deg:g}° is impossible.", "Give 0.1° to 179°.")
    focal = 0.5 * max(width, height) / math.tan(math.radians(fov_deg) / 2)
    return np.array([[focal, 0, width / 2], [0, focal, height / 2], [0, 0, 1]], dtype=np.float64)


def scaled_intrinsics(intrinsics: Array, scale_x: float, scale_y: float) -> Array:
    """The same camera at another resolution: with (0,0) at the corner only a scale, no half-pixel terms."""
    return np.diag([scale_x, scale_y, 1.0]) @ np.asarray(intrinsics, dtype=np.float64)


def fitted_intrinsics(intrinsics: Array, source: tuple[int, int], target: tuple[int, int]) -> Array:
    """The same lens on a frame of another size and aspect, keeping the whole source in view.

    Args:
        source, target: (width, height). The pixel stays square: nothing is squashed.
    """
    scale = min(target[0] / source[0], target[1] / source[1])
    fitted = scaled_intrinsics(intrinsics, scale, scale)
    fitted[0, 2] += (target[0] - scale * source[0]) / 2
    fitted[1, 2] += (target[1] - scale * source[1]) / 2
    return fitted


def pixel_rays(intrinsics: Array, columns: ArrayLike, rows: ArrayLike) -> Array:
    """Rays (..., 3) with z = 1 through image positions (columns, rows) in pixels from the corner."""
    inverse = np.linalg.inv(intrinsics)
    positions = np.stack(np.broadcast_arrays(columns, rows, np.ones(())), axis=-1)
    rays: Array = positions @ inverse.T
    return rays / rays[..., 2:3]


def project(points: Array, intrinsics: Array, camera_to_world: Array) -> tuple[Array, Array]:
    """World points (..., 3) → image positions (..., 2) in pixels from the corner, and z depth (...).

    Points with z <= 0 are not in front of the camera: their image positions mean nothing.
    """
    world_to_camera = np.linalg.inv(camera_to_world)
    local = points @ world_to_camera[:3, :3].T + world_to_camera[:3, 3]
    image = local @ np.asarray(intrinsics).T
    return image[..., :2] / image[..., 2:3], local[..., 2]


def look_at(eye: Array, target: Array) -> Array:
    """camera_to_world (4,4) of a camera at `eye` that looks at `target`, upright: up is −y.

    Raises:
        Ex4dError: `camera_invalid` when eye and target coincide or the view is straight up or down.
    """
    forward = np.asarray(target, dtype=np.float64) - eye
    length = np.linalg.norm(forward)
    right = np.cross(forward, [0.0, -1.0, 0.0])
    if length == 0 or np.linalg.norm(right) < 1e-9 * length:
        raise Ex4dError("camera_invalid", "A camera cannot look at its own place or straight up.", "Move its target.")
    forward = forward / length
    right = right / np.linalg.norm(right)
    pose = np.eye(4)
    pose[:3, 0], pose[:3, 1], pose[:3, 2], pose[:3, 3] = right, np.cross(forward, right), forward, eye
    return pose


def as_matrix(array: Array) -> Matrix:
    """Nested tuples of floats, the form that the shot folder keeps."""
    return tuple(tuple(float(value) for value in row) for row in np.asarray(array))


def check_camera(intrinsics: Array, camera_to_world: Array) -> None:
    """Raises `camera_invalid` unless K (3,3) is a perspective camera and the pose (4,4) a rotation and a place."""
    try:
        intrinsics_from(as_matrix(intrinsics))
        pose_from(as_matrix(camera_to_world))
    except ValueError as error:
        raise Ex4dError("camera_invalid", f"A camera cannot be used: {error}.", "Check the camera.") from error


# ------------------------------------------------------------------------------------------- Blender


def blender_from_camera_to_world(camera_to_world: Array) -> Array:
    """Our camera_to_world → the `matrix_world` of a Blender camera in Blender's world."""
    result: Array = WORLD_TO_BLENDER @ camera_to_world @ FLIP_YZ
    return result


def camera_to_world_from_blender(matrix_world: Array) -> Array:
    """`matrix_world` of a Blender camera → ours. A scale of the camera object means nothing and is dropped.

    Raises:
        Ex4dError: `camera_unsupported` for a scale of zero, and for a mirrored or sheared camera, whose
            image no turned camera gives.
    """
    matrix = np.array(matrix_world, dtype=np.float64)
    lengths = np.linalg.norm(matrix[:3, :3], axis=0)
    if not (lengths > 0).all():
        raise Ex4dError("camera_unsupported", "The camera's scale is zero.", "Set the camera's scale to 1.")
    matrix[:3, :3] /= lengths
    result: Array = WORLD_TO_BLENDER.T @ matrix @ FLIP_YZ
    try:
        pose_from(as_matrix(result))
    except ValueError as error:
        raise Ex4dError(
            "camera_unsupported",
            f"The camera's place in Blender cannot be used: {error}.",
            "Apply the scale of the camera and its parents, and make it positive.",
        ) from error
    return result


def blender_lens_from_intrinsics(
    intrinsics: Array, width: int, height: int, sensor_width_mm: float = 36.0
) -> tuple[float, float, float]:
    """(lens mm, shift_x, shift_y) of a Blender camera with sensor_fit HORIZONTAL and square pixels."""
    focal = float(intrinsics[0, 0])
    shift_x = (width / 2 - float(intrinsics[0, 2])) / width
    shift_y = (float(intrinsics[1, 2]) - height / 2) / width
    return focal / width * sensor_width_mm, shift_x, shift_y


def intrinsics_from_blender(
    *,
    size: tuple[int, int],
    pixel_aspect: tuple[float, float],
    sensor_fit: str,
    sensor_mm: tuple[float, float],
    lens_mm: float,
    shift: tuple[float, float],
) -> Array:
    """K of a Blender perspective camera; within 0.004 px of `calc_matrix_camera` on Blender 4.2–5.2.

    Args:
        size: rendered (width, height) in pixels, after the resolution percentage.
    """
    width, height = size
    aspect_x, aspect_y = pixel_aspect
    if sensor_fit == "AUTO":
        horizontal, sensor = width * aspect_x >= height * aspect_y, sensor_mm[0]
    else:
        horizontal = sensor_fit == "HORIZONTAL"
        sensor = sensor_mm[0] if horizontal else sensor_mm[1]
    view = width * aspect_x if horizontal else height * aspect_y
    focal = lens_mm / sensor * view
    return np.array(
        [
            [focal / aspect_x, 0, width / 2 - shift[0] * view / aspect_x],
            [0, focal / aspect_y, height / 2 + shift[1] * view / aspect_y],
            [0, 0, 1],
        ],
        dtype=np.float64,
    )


# ----------------------------------------------------------------------------- the reference's camera


def reference_extrinsics(camera_to_world: Array) -> Array:
    """camera_to_world → the reference's `extrinsics`: world-to-camera with OpenGL camera axes.

    Only the camera's y and z (rows 1 and 2) are negated; its world is ours: x right, y down, z forward.
    """
    result: Array = FLIP_YZ @ np.linalg.inv(camera_to_world)
    return result


def camera_to_world_from_reference(extrinsics: Array) -> Array:
    """The inverse of `reference_extrinsics`; rows are re-orthonormalised as the file holds float32.

    Raises:
        Ex4dError: `camera_invalid` for a matrix that is no rotation and place, to 1e-3.
    """
    world_to_camera = FLIP_YZ @ np.asarray(extrinsics, dtype=np.float64)
    rotation = world_to_camera[:3, :3]
    if not (
        np.isfinite(world_to_camera).all()
        and np.allclose(rotation @ rotation.T, np.eye(3), atol=1e-3)
        and np.linalg.det(rotation) > 0
        and np.allclose(world_to_camera[3], [0, 0, 0, 1], atol=1e-6)
    ):
        raise Ex4dError(
            "camera_invalid", "The extrinsics hold a matrix that is no rotation and place.", "Export the camera again."
        )
    left, _, right = np.linalg.svd(rotation)
    camera_to_world = np.eye(4)
    camera_to_world[:3, :3] = (left @ right).T
    camera_to_world[:3, 3] = -camera_to_world[:3, :3] @ world_to_camera[:3, 3]
    return camera_to_world


# ---------------------------------------------------------------------------------------- rotations


def slerp_rotations(first: Array, second: Array, weight: float) -> Array:
    """The rotation (3,3) a share `weight` of the way from `first` to `second`, by the shorter arc."""
    relative = first.T @ second
    axis = np.array([relative[2, 1] - relative[1, 2], relative[0, 2] - relative[2, 0], relative[1, 0] - relative[0, 1]])
    sine, cosine = float(np.linalg.norm(axis)), float(np.trace(relative)) - 1  # both times two
    angle = math.atan2(sine, cosine)  # exact for small angles too, where acos of the trace is not
    if angle < 1e-12:
        return first
    if sine < 1e-6 and cosine < 0:
        # near half a turn this axis vanishes; R + Rᵀ + 2I is four times its outer product there
        outer = relative + relative.T + 2 * np.eye(3)
        column = outer[:, int(np.argmax(np.diag(outer)))]
        axis = -column if float(column @ axis) < 0 else column
    return first @ rotation_about(axis, angle * weight)


def rotation_about(axis: Sequence[float] | Array, angle_rad: float) -> Array:
    """Rotation (3,3) by the right-hand rule about `axis` (Rodrigues)."""
    x, y, z = np.asarray(axis, dtype=np.float64) / np.linalg.norm(axis)
    cross = np.array([[0, -z, y], [z, 0, -x], [-y, x, 0]])
    result: Array = np.eye(3) + math.sin(angle_rad) * cross + (1 - math.cos(angle_rad)) * (cross @ cross)
    return result
