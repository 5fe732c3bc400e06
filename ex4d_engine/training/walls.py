# SPDX-License-Identifier: GPL-3.0-or-later
"""The DW-Mesh of one frame with walls of limited depth: what hides behind an outline is thick, not endless.

An occluded face of the DW-Mesh reaches from the surface in front to the one behind, as if everything in front went
on to the horizon along the lines of sight. That is the right caution where a picture is to be made, as it never
shows what it does not know; as a guess at what a new camera cannot see it takes too much at small angles. Cards
without any thickness take too little at large ones. Between them lie objects about as thick as their distance times
a share, and one share fits at every angle: tools/benchmarks/simulated_masks.py has the figures.
"""

from __future__ import annotations

import dataclasses
from typing import Final

import numpy as np
from numpy.typing import NDArray

from ..dwmesh.ray_grid import RayGrid
from ..dwmesh.topology import Topology

WALL_SHARE: Final = 0.25
"""The wall's depth as a share of its near edge's that fits the holes of generated scenes best."""


def walled_grid(grid: RayGrid, depth: NDArray[np.float32], seen: NDArray[np.uint8], wall_share: float) -> RayGrid:
    """One frame's grid in which no occluded face reaches further back than its nearest corner's depth allows.

    The grid's faces keep their numbers, so that `seen` stays true: an occluded one shrinks to a point, and its wall,
    which has corners of its own, follows behind the closing faces.

    Args:
        grid, depth, seen: of a frame, as a raster takes them.
        wall_share: a wall ends at (1 + wall_share) times the depth where it begins.
    """
    topology = grid.topology
    occluded = np.flatnonzero(seen.reshape(-1) == 0)
    corners = topology.faces[occluded]
    z = np.where(grid.pinned > 0, grid.pinned, depth[grid.pixels[:, 0], grid.pixels[:, 1]])[corners]
    first = np.arange(len(corners)), z.argmin(axis=1)  # the corner where each wall begins
    near_z, near = z[first][:, None], (grid.rays[corners[first]] * z[first][:, None])[:, None]
    # corners further back come forward along the face, not along their rays: the wall stays part of the face
    ends = np.minimum(z, (1 + wall_share) * near_z)
    share = (ends - near_z) / np.maximum(z - near_z, np.finfo(np.float32).tiny)
    places = near + share[..., None] * (grid.rays[corners] * z[..., None] - near)
    faces = topology.faces.copy()
    faces[occluded] = corners[:, :1]
    added = len(grid.rays)
    walls = np.arange(added, added + corners.size, dtype=np.int32).reshape(-1, 3)
    from_corner = corners.reshape(-1)
    return dataclasses.replace(
        grid,
        topology=Topology(topology.rows, topology.columns, np.concatenate([faces, walls])),
        rays=np.concatenate([grid.rays, (places / ends[..., None]).reshape(-1, 3).astype(np.float32)]),
        pixels=np.concatenate([grid.pixels, grid.pixels[from_corner]]),
        pinned=np.concatenate([grid.pinned, ends.reshape(-1).astype(np.float32)]),
        uv=np.concatenate([grid.uv, grid.uv[from_corner]]),
    )
