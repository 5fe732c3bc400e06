# SPDX-License-Identifier: GPL-3.0-or-later
"""A solved camera of the scene as the source camera of the clip, and a length measured in the scene."""

from __future__ import annotations

import math
import re
from fractions import Fraction
from pathlib import Path
from typing import Final

import bpy
import numpy as np

from ..ex4d_engine import cameras
from ..ex4d_engine.camera_frame import CameraFrame
from ..ex4d_engine.errors import Ex4dError
from ..ex4d_engine.files import prepare_folder
from ..ex4d_engine.trajectories import Trajectory, save_trajectory
from .camera_sampling import camera_intrinsics
from .compat import absolute_path
from .properties import scene_rate
from .scene_evaluation import depsgraph_of, frame_kept

FILE_NAME: Final = "source_camera.json"
NEGLIGIBLE_PX: Final = 0.5  # as the engine's, for COLMAP's lenses


def camera_to_use(context: bpy.types.Context) -> bpy.types.Object | None:
    """The active object if it is a camera, else the scene's camera."""
    active = context.active_object
    return active if active is not None and active.type == "CAMERA" else context.scene.camera


def write_tracked_camera(scene: bpy.types.Scene, camera: bpy.types.Object, folder: Path) -> tuple[Path, range]:
    """Samples a camera over the scene's frame range and writes it as the camera of the clip's frames.

    Args:
        folder: the shot folder; `source_camera.json` is written there.

    Returns:
        The file and the clip's frame numbers that it holds.

    Raises:
        Ex4dError: `camera_unsupported` for a camera that is not perspective or a lens with distortion;
            `camera_invalid` for one that is not in the scene; `read_only`, `disk_full`.
    """
    if camera.name not in scene.objects:
        raise Ex4dError(
            "camera_invalid", f"The camera {camera.name} is not in the scene {scene.name}.", "Choose one of the scene."
        )
    movie_clip = _tracked_clip(scene, camera)
    if movie_clip is not None:
        _refuse_distortion(movie_clip)
    offset = 0 if movie_clip is None else _first_number(movie_clip, scene) - movie_clip.frame_start
    render = scene.render
    size = (render.resolution_x, render.resolution_y)
    frames = []
    with frame_kept(scene):
        for number in range(max(scene.frame_start, -offset), scene.frame_end + 1):
            scene.frame_set(number)
            evaluated = camera.evaluated_get(depsgraph_of(scene))
            intrinsics = camera_intrinsics(scene, evaluated, size)
            pose = cameras.camera_to_world_from_blender(np.array(evaluated.matrix_world))
            frames.append(CameraFrame(number + offset, cameras.as_matrix(intrinsics), cameras.as_matrix(pose)))
    if not frames:
        raise Ex4dError("no_camera", "The scene's frame range holds no frame of the clip.", "Set the frame range.")
    prepare_folder(folder)
    path = folder / FILE_NAME
    save_trajectory(Trajectory(tuple(frames), size, Fraction(scene_rate(scene))), path)
    return path, range(frames[0].source, frames[-1].source + 1)


def _tracked_clip(scene: bpy.types.Scene, camera: bpy.types.Object) -> bpy.types.MovieClip | None:
    """The movie clip that the camera was solved on; the scene's where its track was baked to keys.

    None where the scene has another clip or none: a scene frame is then the clip's frame of that number.
    """
    for constraint in camera.constraints:
        if constraint.type == "CAMERA_SOLVER":
            found: bpy.types.MovieClip | None = scene.active_clip if constraint.use_active_clip else constraint.clip
            return found
    clip = scene.active_clip
    return clip if clip is not None and _is_same_footage(clip, scene) else None


def _is_same_footage(clip: bpy.types.MovieClip, scene: bpy.types.Scene) -> bool:
    chosen, tracked = absolute_path(scene.ex4d.clip_path), absolute_path(clip.filepath)
    if clip.source == "MOVIE":
        return chosen == tracked
    return chosen in (tracked, tracked.parent) or (
        chosen.parent == tracked.parent and chosen.suffix.lower() == tracked.suffix.lower()
    )


def _first_number(clip: bpy.types.MovieClip, scene: bpy.types.Scene) -> int:
    """The clip's own number of the frame that Blender shows at the movie clip's first scene frame."""
    digits = re.search(r"(\d+)(?!.*\d)", Path(clip.filepath).stem) if clip.source == "SEQUENCE" else None
    first = scene.ex4d.start_number if digits is None else int(digits[1])
    return int(first + clip.frame_offset)


def _refuse_distortion(clip: bpy.types.MovieClip) -> None:
    """Raises `camera_unsupported` where the solve knows a distortion that the footage still has, and that shows."""
    lens = clip.tracking.camera
    names = {"POLYNOMIAL": ("k1", "k2", "k3"), "DIVISION": ("division_k1", "division_k2"), "BROWN": ("brown_k1",)}
    factors = [float(getattr(lens, name)) for name in names.get(lens.distortion_model, ("nuke_k1", "nuke_k2"))]
    width, height = clip.size
    focal = float(lens.focal_length_pixels)
    if not (width and focal):
        return
    radius = math.hypot(width, height) / 2 / focal
    moved = focal * sum(abs(factor) * radius ** (2 * power + 1) for power, factor in enumerate(factors, 1))
    if moved > NEGLIGIBLE_PX:
        raise Ex4dError(
            "camera_unsupported",
            f"The track of {clip.name} has a distorted lens, which moves pixels by up to {moved:.0f}.",
            "Undistort the footage, use that as the clip, and track it or set the track's distortion to 0.",
        )


def measured_distance(context: bpy.types.Context) -> float:
    """The distance between the two selected vertices (Edit Mode) or objects, in the scene's units.

    Raises:
        Ex4dError: `bad_request` unless exactly two are selected, in two places.
    """
    if context.mode == "EDIT_MESH":
        places = _selected_vertices(context)
        what = "vertices"
    else:
        depsgraph = context.evaluated_depsgraph_get()
        places = [np.array(item.evaluated_get(depsgraph).matrix_world)[:3, 3] for item in context.selected_objects]
        what = "objects"
    if len(places) != 2:
        raise Ex4dError(
            "bad_request",
            f"{len(places)} {what} are selected; a length has two ends.",
            "Select two objects, such as empties snapped to the mesh, or two vertices in Edit Mode.",
        )
    distance = float(np.linalg.norm(places[0] - places[1]))
    if distance == 0:
        raise Ex4dError("bad_request", f"The two {what} are in one place.", "Move one of them.")
    return distance


def _selected_vertices(context: bpy.types.Context) -> list[np.ndarray]:
    """World places of the selected vertices where their modifiers put them: the mesh is a map of depth."""
    depsgraph = context.evaluated_depsgraph_get()
    places = []
    for item in context.objects_in_mode:
        item.update_from_editmode()
        selected = [vertex.index for vertex in item.data.vertices if vertex.select]
        evaluated = item.evaluated_get(depsgraph)
        mesh = evaluated.to_mesh()
        try:
            if len(mesh.vertices) != len(item.data.vertices):
                raise Ex4dError(
                    "bad_request",
                    f"A modifier changes the vertices of {item.name}: which ones are selected is not known.",
                    "Select two objects instead, such as empties snapped to the mesh.",
                )
            matrix = np.array(evaluated.matrix_world)
            places += [matrix[:3, :3] @ np.array(mesh.vertices[index].co) + matrix[:3, 3] for index in selected]
        finally:
            evaluated.to_mesh_clear()
    return places
