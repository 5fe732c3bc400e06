# SPDX-License-Identifier: GPL-3.0-or-later
"""A computed camera move as a keyed Blender camera, to be refined by hand; and a camera put at the source view."""

from __future__ import annotations

import bpy
import numpy as np

from ..ex4d_engine import cameras
from ..ex4d_engine.errors import Ex4dError
from ..ex4d_engine.shot import Shot
from .camera_sampling import check_frozen
from .mesh_import import ImportedShot, key_lens, key_poses


def add_camera_move(
    scene: bpy.types.Scene,
    shot: Shot,
    imported: ImportedShot,
    poses: cameras.Array,
    name: str,
    *,
    frozen: int | None = None,
) -> bpy.types.Object:
    """Adds a camera to the shot's collection, keyed at every frame from the shot's first on.

    Args:
        poses: (F,4,4) relative to the source view at the first frame, as trajectories.py makes them.
        frozen: a shot frame that is seen all the time: its source view is where the move starts.

    Returns:
        The camera, which is not made the scene's camera.

    Raises:
        Ex4dError: `camera_invalid` for a frozen frame that the shot does not hold.
    """
    check_frozen(shot, frozen)
    plate = shot.require_plate()
    data = bpy.data.cameras.new(name)
    camera = bpy.data.objects.new(name, data)
    data.clip_start, data.clip_end = imported.camera_object.data.clip_start, imported.camera_object.data.clip_end
    begin = plate.first if frozen is None else frozen
    key_lens(data, shot, begin, plate.first)
    start = np.array(shot.source_pose(begin))
    numbers = range(plate.first, plate.first + len(poses))
    key_poses(camera, numbers, [cameras.blender_from_camera_to_world(start @ pose) for pose in poses])
    imported.collection.objects.link(camera)
    return camera


def depth_from_source(place: cameras.Array, shot: Shot, frame: int) -> float:
    """Depth of a place (3,) in Blender's world along the source camera's axis at a shot frame; behind it is < 0."""
    in_world = cameras.WORLD_TO_BLENDER[:3, :3].T @ place
    pose = np.array(shot.source_pose(frame))
    return float(pose[:3, 2] @ (in_world - pose[:3, 3]))


def cursor_pivot(scene: bpy.types.Scene, shot: Shot, frame: int) -> float:
    """How deep in the source view of a shot frame the 3D cursor is: a move turns about the axis at that depth.

    Raises:
        Ex4dError: `camera_invalid` for a cursor that is not in front of the source camera.
    """
    depth = depth_from_source(np.array(scene.cursor.location, dtype=np.float64), shot, frame)
    if depth <= 0:
        raise Ex4dError(
            "camera_invalid",
            "The 3D cursor is not in front of the source camera, so no camera can turn about it.",
            "Move the cursor to what the camera shall turn about, or choose another pivot.",
        )
    return depth


def snap_camera_to_source(
    camera: bpy.types.Object, imported: ImportedShot, shot: Shot, frame: int, *, frozen: int | None = None
) -> None:
    """Puts a camera's place, direction and lens at the source view of a scene frame, and keys them there.

    A path that starts like this is what the diffusion is anchored on. Constraints and parents of the camera
    act as before: with them it may still end up elsewhere.

    Args:
        frozen: the shot frame whose source view it is instead, where that is seen all the time.

    Raises:
        Ex4dError: `camera_invalid` for a frozen frame that the shot does not hold.
    """
    from mathutils import Matrix

    check_frozen(shot, frozen)
    numbers = shot.require_plate().numbers
    seen = min(max(frame, numbers[0]), numbers[-1]) if frozen is None else frozen
    pose = np.array(shot.source_pose(seen))
    camera.matrix_world = Matrix(cameras.blender_from_camera_to_world(pose).tolist())
    rotation = {"QUATERNION": "rotation_quaternion", "AXIS_ANGLE": "rotation_axis_angle"}
    camera.keyframe_insert("location", frame=frame)
    camera.keyframe_insert(rotation.get(camera.rotation_mode, "rotation_euler"), frame=frame)
    source, data = imported.camera_object.data, camera.data
    assert isinstance(data, bpy.types.Camera)
    data.type = "PERSP"
    if shot.require_geometry().zoom:  # the source camera's present lens is another frame's
        key_lens(data, shot, seen, frame)
        return
    for name in ("sensor_fit", "sensor_width", "sensor_height", "lens", "shift_x", "shift_y"):
        setattr(data, name, getattr(source, name))
    for path in ("lens", "shift_x", "shift_y"):
        data.keyframe_insert(path, frame=frame)
