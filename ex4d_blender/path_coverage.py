# SPDX-License-Identifier: GPL-3.0-or-later
"""Coverage along a Blender camera's path: the imported mesh as it is at some frames, given to coverage.py."""

from __future__ import annotations

import math
from typing import Final

import bpy
import numpy as np
from numpy.typing import NDArray

from ..ex4d_engine import cameras
from ..ex4d_engine.errors import Ex4dError
from ..ex4d_engine.shot import Shot
from ..ex4d_engine.take import walls_for
from .camera_sampling import camera_frames
from .coverage import Edges, coarse_size, coverage
from .depth_nodes import PIXEL_ATTRIBUTE, SOURCE_Z_ATTRIBUTE
from .frame_images import read_widths
from .mesh_import import ImportedShot
from .pixel_files import read_rgba
from .scene_evaluation import depsgraph_of, frame_kept

SAMPLED_FRAMES: Final = 7


def path_coverage(
    scene: bpy.types.Scene,
    shot: Shot,
    imported: ImportedShot,
    camera: bpy.types.Object,
    *,
    wall_share: float,
    frozen: int | None = None,
) -> dict[int, float]:
    """Share 0…1 of the view that the plate has seen, at some frames spread over the shot.

    Args:
        wall_share: how far a take will draw unseen faces, as `properties.wall_share` gives it.
        frozen: a shot frame that is seen all the time, as in `camera_frames`.

    Raises:
        Ex4dError: `camera_unsupported`; `camera_invalid`; `take_incomplete` for a mesh with other vertices than
            were imported.
    """
    plate = shot.require_plate()
    wall_share = walls_for(shot, wall_share)
    size = coarse_size(plate.width, plate.height)
    picked = np.linspace(plate.numbers[0], plate.numbers[-1], min(SAMPLED_FRAMES, plate.count))
    numbers = sorted({round(float(number)) for number in picked})
    views = camera_frames(scene, camera, shot, numbers, size, frozen=frozen)
    shares: dict[int, float] = {}
    with frame_kept(scene):
        for number, view in zip(numbers, views, strict=True):
            scene.frame_set(view.source)
            seen = read_rgba(shot.seen_file(view.source))[..., 0] > 127
            edges = _edges(scene, shot, imported.mesh_object, view.source) if math.isfinite(wall_share) else None
            points, source_z = _grid_points(scene, imported.mesh_object, seen.shape[0] + 1, seen.shape[1] // 2 + 1)
            intrinsics, pose = np.array(view.intrinsics), np.array(view.camera_to_world)
            shares[number] = coverage(points, source_z, seen, intrinsics, pose, size, wall_share, edges)
    return shares


def _edges(scene: bpy.types.Scene, shot: Shot, item: bpy.types.Object, number: int) -> Edges:
    """The edges of shot frame `number`; without cards where the conditioning has none either (card_nodes.py)."""
    evaluated = item.evaluated_get(depsgraph_of(scene))
    alpha = read_rgba(shot.albedo_file(number))[..., 3]
    if PIXEL_ATTRIBUTE not in evaluated.data.attributes:
        alpha = np.full_like(alpha, 255)
    widths = read_widths(shot.width_file(number)) if shot.width_file(number).is_file() else None
    intrinsics = shot.require_geometry().intrinsics
    to_world = cameras.WORLD_TO_BLENDER.T @ np.array(evaluated.matrix_world)
    return Edges(alpha, widths, (intrinsics[0][0], intrinsics[1][1]), to_world)


def _grid_points(
    scene: bpy.types.Scene, item: bpy.types.Object, rows: int, columns: int
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """The mesh's vertices at the scene's present frame, modifiers and all.

    Returns:
        (rows, columns, 3) in our world; (rows, columns) their depth in the source camera, as it was
        before anybody moved them where the mesh still knows it.
    """
    evaluated = item.evaluated_get(depsgraph_of(scene))
    count = len(evaluated.data.vertices)
    # the grid's vertices come first; a closing one or none follows
    if not rows * columns <= count <= rows * columns + 1:
        raise Ex4dError(
            "take_incomplete",
            f"{item.name} has {count} vertices, the imported mesh had {rows * columns}: its coverage is unknown.",
            "Render the take instead: its mask shows the coverage.",
        )
    points = np.empty(count * 3, np.float32)
    evaluated.data.vertices.foreach_get("co", points)
    to_world = cameras.WORLD_TO_BLENDER.T @ np.array(evaluated.matrix_world)
    local = points.reshape(-1, 3)[: rows * columns]
    placed = local @ to_world[:3, :3].T + to_world[:3, 3]
    source_z, kept = local[:, 2].copy(), evaluated.data.attributes.get(SOURCE_Z_ATTRIBUTE)
    if kept is not None:
        everywhere = np.empty(count, np.float32)
        kept.data.foreach_get("value", everywhere)
        source_z = everywhere[: rows * columns]
    return placed.astype(np.float32).reshape(rows, columns, 3), source_z.reshape(rows, columns)
