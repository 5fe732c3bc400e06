# SPDX-License-Identifier: GPL-3.0-or-later
"""Rendering masks: the pixels of a clip that a new camera would still see.

The clip's own frames stand for what the new camera ought to show; its pixels that a camera on a random path cannot
see play the part of the holes. Every frame's DW-Mesh is drawn from that frame's camera by the project's own raster,
and each source pixel asks whether the surface seen at its place is its own.

Whether a face counts as occluded does not matter to that: its corners are points that the source saw. Asking also
for a seen face would take every surface that the source sees at a grazing angle, the ground above all.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from ..cameras import check_camera
from ..dwmesh.occlusion import seen_faces
from ..dwmesh.ray_grid import ray_grid
from ..dwmesh.repair import far_surface, repair, sky_depth
from ..dwmesh.walls import WALL_SHARE
from ..errors import Ex4dError
from ..raster import make_raster
from .visibility import visible_pixels


def rendering_masks(
    depth: NDArray[np.float32],
    intrinsics: NDArray[np.float64],
    path: NDArray[np.float64],
    source_poses: NDArray[np.float64] | None = None,
    *,
    wall_share: float = WALL_SHARE,
    raster: str = "opengl",
) -> NDArray[np.uint8]:
    """Keep-masks of a clip, in its own pixels.

    Args:
        depth: (F,H,W) float32 z; unknown values and infinite sky are repaired as in reconstruction.
        intrinsics: (3,3) of the clip's camera, which is the path's too.
        path: (F,4,4) poses relative to the source camera at the first frame, as from `random_path`.
        source_poses: (F,4,4) camera_to_world of the source; left out, the source camera holds still.
        wall_share: how deep the walls behind outlines are, see dwmesh/walls.py.
        raster: as in raster/__init__.py.

    Returns:
        (F,H,W) uint8, 255 where a pixel is kept. The first frame is whole: there the path is at the source.

    Raises:
        Ex4dError: `depth_mismatch` for shapes that do not fit each other, `depth_invalid`, `camera_invalid`,
            `bad_request` for the wall share, `no_opengl`.
    """
    if depth.ndim != 3 or path.shape != (len(depth), 4, 4):
        raise Ex4dError(
            "depth_mismatch",
            f"Depth of shape {depth.shape} and a path of shape {path.shape} are not of one clip.",
            "Give one depth map and one pose a frame.",
        )
    if not wall_share > 0:
        raise Ex4dError("bad_request", f"A wall share of {wall_share:g} is impossible.", "Give a positive number.")
    if source_poses is not None and source_poses.shape != path.shape:
        raise Ex4dError(
            "depth_mismatch",
            f"Source poses of shape {source_poses.shape} do not fit a path of {len(path)} frames.",
            "Give one pose a frame, or none.",
        )
    depth = usable_depth(depth)
    keep = np.full(depth.shape, 255, np.uint8)
    poses = {index: _source_to_path(index, path, source_poses) for index in range(1, len(depth))}
    for index, drawn in _drawings(depth, intrinsics, poses, wall_share, raster):
        visible = visible_pixels(depth[index], intrinsics, poses[index], intrinsics, drawn)
        keep[index][~visible] = 0
    return keep


def usable_depth(depth: NDArray[np.float32]) -> NDArray[np.float32]:
    """(F,H,W) with unknown values filled and the sky at one finite depth for the whole clip.

    Raises:
        Ex4dError: `depth_invalid` naming a frame without any usable value.
    """
    repaired = np.stack([repair(frame, number).depth for number, frame in enumerate(depth)])
    sky = np.isposinf(repaired)
    if sky.any():
        repaired[sky] = sky_depth(float(repaired[~sky].max(initial=0.0)))
    return repaired


def _source_to_path(
    index: int, path: NDArray[np.float64], source_poses: NDArray[np.float64] | None
) -> NDArray[np.float64]:
    """(4,4) from the source camera's space at a frame to that of the path's camera at the same frame."""
    if source_poses is None:
        return np.linalg.inv(path[index])
    result: NDArray[np.float64] = np.linalg.inv(source_poses[0] @ path[index]) @ source_poses[index]
    return result


def _drawings(
    depth: NDArray[np.float32],
    intrinsics: NDArray[np.float64],
    poses: dict[int, NDArray[np.float64]],
    wall_share: float,
    raster: str,
) -> Iterator[tuple[int, NDArray[np.float32]]]:
    """What the path's camera sees of each frame's mesh, (H,W) z; `poses` holds source_to_camera (4,4) by frame."""
    height, width = depth.shape[1:]
    grid = ray_grid(width, height, intrinsics, far_surface(float(depth.max())))
    albedo = np.zeros((height, width, 4), np.uint8)  # only depth is asked for
    with make_raster(raster, grid, nearest=float(depth.min()), wall_share=wall_share) as drawing:
        for index, pose in poses.items():
            check_camera(intrinsics, pose)
            seen = seen_faces(depth[index])
            drawing.set_frame(depth[index], albedo, seen)
            yield index, drawing.draw(intrinsics, pose, (width, height)).depth
