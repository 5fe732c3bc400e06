# SPDX-License-Identifier: GPL-3.0-or-later
"""A Blender camera, as it really moves, as one `CameraFrame` a frame; and a `CameraFrame` as a Blender camera."""

from __future__ import annotations

from collections.abc import Iterable

import bpy
import numpy as np

from ..ex4d_engine import cameras
from ..ex4d_engine.camera_frame import CameraFrame
from ..ex4d_engine.errors import Ex4dError
from ..ex4d_engine.shot import Shot
from .scene_evaluation import depsgraph_of, frame_kept


def camera_frames(
    scene: bpy.types.Scene,
    camera: bpy.types.Object,
    shot: Shot,
    frames: Iterable[int],
    size: tuple[int, int],
    *,
    frozen: int | None = None,
) -> tuple[CameraFrame, ...]:
    """Evaluates a camera at scene frames, with constraints, parents, drivers, animated lens and shift.

    Args:
        frames: scene frame numbers. Scene frame n sees shot frame n, or the nearest that the shot has.
        size: (width, height) of the output in pixels.
        frozen: a shot frame that is seen all the time (bullet time), while the camera moves on.

    Raises:
        Ex4dError: `camera_unsupported` for a camera that is not perspective, or not in the scene;
            `camera_invalid` for a frozen frame that the shot does not hold.
    """
    if camera.name not in scene.objects:
        raise Ex4dError(
            "camera_unsupported",
            f"The camera {camera.name} is not in the scene {scene.name}.",
            "Choose a camera of this scene.",
        )
    check_frozen(shot, frozen)
    numbers = shot.require_plate().numbers
    result = []
    with frame_kept(scene):
        for frame in frames:
            scene.frame_set(frame)
            evaluated = camera.evaluated_get(depsgraph_of(scene))
            intrinsics = camera_intrinsics(scene, evaluated, size)
            pose = cameras.camera_to_world_from_blender(np.array(evaluated.matrix_world))
            source = min(max(frame, numbers[0]), numbers[-1]) if frozen is None else frozen
            result.append(CameraFrame(source, cameras.as_matrix(intrinsics), cameras.as_matrix(pose)))
    return tuple(result)


def check_frozen(shot: Shot, frozen: int | None) -> None:
    """Raises Ex4dError `camera_invalid` for a frozen frame that the shot does not hold."""
    numbers = shot.require_plate().numbers
    if frozen is not None and frozen not in numbers:
        raise Ex4dError(
            "camera_invalid",
            f"Frame {frozen} cannot be frozen: the shot holds {numbers[0]} to {numbers[-1]}.",
            "Choose a frame of the shot as Freeze Frame.",
        )


def camera_intrinsics(scene: bpy.types.Scene, camera: bpy.types.Object, size: tuple[int, int]) -> cameras.Array:
    """K (3,3) of a camera object for an output of `size` (width, height) pixels.

    Raises:
        Ex4dError: `camera_unsupported`.
    """
    data = camera.data
    if data.type != "PERSP":
        kind = {"ORTHO": "orthographic", "PANO": "panoramic"}.get(data.type, data.type.lower())
        raise Ex4dError(
            "camera_unsupported",
            f"The camera {camera.name} is {kind}: EX-4D's rays go through one point, as in a perspective camera.",
            "Set the camera's type to Perspective.",
        )
    return cameras.intrinsics_from_blender(
        size=size,
        pixel_aspect=(scene.render.pixel_aspect_x, scene.render.pixel_aspect_y),
        sensor_fit=data.sensor_fit,
        sensor_mm=(data.sensor_width, data.sensor_height),
        lens_mm=data.lens,
        shift=(data.shift_x, data.shift_y),
    )


def set_camera(scene: bpy.types.Scene, camera: bpy.types.Object, frame: CameraFrame, size: tuple[int, int]) -> None:
    """Makes `camera` and the pixel aspect of `scene` be `frame`, for a render of `size` (width, height) pixels."""
    from mathutils import Matrix

    intrinsics = np.array(frame.intrinsics)
    # Blender has one focal length: where ours are two, the pixel is not square; its aspects are 1 or more
    stretch = intrinsics[1, 1] / intrinsics[0, 0]
    scene.render.pixel_aspect_x, scene.render.pixel_aspect_y = max(stretch, 1.0), max(1 / stretch, 1.0)
    lens, shift_x, shift_y = cameras.blender_lens_from_intrinsics(intrinsics, *size, camera.data.sensor_width)
    camera.data.type, camera.data.sensor_fit = "PERSP", "HORIZONTAL"
    camera.data.lens, camera.data.shift_x, camera.data.shift_y = lens, shift_x, shift_y / stretch
    camera.matrix_world = Matrix(cameras.blender_from_camera_to_world(np.array(frame.camera_to_world)).tolist())


def is_animated(camera: bpy.types.Object) -> bool:
    """Whether anything could move the camera: keys, drivers, constraints, or the same of its parents."""
    item: bpy.types.Object | None = camera
    while item is not None:
        data = item.animation_data
        if data is not None and (data.action is not None or data.drivers or data.nla_tracks):
            return True
        if item.constraints:
            return True
        item = item.parent
    return False
