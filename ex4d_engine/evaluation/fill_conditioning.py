# SPDX-License-Identifier: GPL-3.0-or-later
"""What the source clip shows of a new camera's view: the DW-Mesh, and what it is held against.

mesh     the DW-Mesh as preset `draft` is shown it: an occluded face hides what lies behind it, its walls are short
closed   the DW-Mesh with walls that reach the surface behind
warp     the same surface without occluded faces: through the gap that a step in depth leaves, the background shows
splats   a point a pixel, two pixels wide: as most video models with camera control are conditioned
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Final

import numpy as np
from numpy.typing import NDArray

from ..cameras import pixel_rays
from ..dwmesh.edges import edge_alpha, wall_widths
from ..dwmesh.occlusion import seen_faces
from ..dwmesh.ray_grid import RayGrid, ray_grid
from ..dwmesh.repair import far_surface
from ..dwmesh.topology import Topology
from ..dwmesh.walls import CLOSED, WALL_SHARE
from ..errors import Ex4dError
from ..raster import Raster, Rendering, make_raster
from ..training.visibility import JUMP_SHARE
from .fill_cases import FillCase

LEAST_SHARE: Final = 1e-3  # of a point, that a pixel gets: less is a rounding error of where it falls


@dataclass(frozen=True)
class FillConditioning:
    """color: (F,H,W,3) uint8, black where unseen; mask: (F,H,W) uint8, 255 = seen; depth: (F,H,W) float32 z of
    whatever was hit, 0 where nothing was.
    """

    color: NDArray[np.uint8]
    mask: NDArray[np.uint8]
    depth: NDArray[np.float32]

    @property
    def holes(self) -> NDArray[np.bool_]:
        return self.mask == 0


def conditioning(case: FillCase, kind: str) -> FillConditioning:
    """The conditioning of a case's every frame. The first one is the source's own picture, whole, in every kind.

    Raises:
        Ex4dError: `bad_request` for an unknown kind; `no_opengl`.
    """
    if kind not in KINDS:
        raise Ex4dError("bad_request", f"There is no conditioning {kind!r}.", f"Choose one of {', '.join(KINDS)}.")
    return _from_the_source(case, KINDS[kind](case))


def walled_conditioning(case: FillCase, wall_share: float) -> FillConditioning:
    """`conditioning` by the DW-Mesh with walls as deep as is asked for (dwmesh/walls.py).

    Raises:
        Ex4dError: `no_opengl`.
    """
    return _from_the_source(case, _mesh(wall_share, case))


def _from_the_source(case: FillCase, views: Iterator[Rendering]) -> FillConditioning:
    drawn = list(views)
    drawn[0] = Rendering(case.source[0], np.full(case.depth.shape[1:], 255, np.uint8), case.depth[0])
    return FillConditioning(*(np.stack([getattr(view, part) for view in drawn]) for part in ("color", "mask", "depth")))


class CaseMesh:
    """The case's frames on a raster, as the render stage draws them."""

    def __init__(self, case: FillCase, raster: Raster) -> None:
        self._case, self._raster = case, raster
        self._shown: int | None = None

    def draw(self, moment: int, view: int) -> Rendering:
        """Source frame `moment` from the new camera at frame `view`."""
        case = self._case
        if moment != self._shown:
            self.show(moment, seen_faces(case.depth[moment]))
        width, height = case.depth.shape[:0:-1]
        return self._raster.draw(case.intrinsics, np.linalg.inv(case.path[view]), (width, height))

    def show(self, moment: int, seen: NDArray[np.uint8]) -> None:
        """Sets the frame to draw; `draw` does it by itself."""
        depth = self._case.depth[moment]
        alpha = edge_alpha(seen, depth.shape[1], depth.shape[0], None)
        widths = wall_widths(depth, seen, float(self._case.intrinsics[0, 0]))
        self._raster.set_frame(depth, np.dstack([self._case.source[moment], alpha]), seen, widths)
        self._shown = moment


@contextmanager
def case_raster(case: FillCase, wall_share: float = CLOSED) -> Iterator[tuple[RayGrid, Raster]]:
    """The case's grid, and a raster that holds it.

    Raises:
        Ex4dError: `no_opengl`.
    """
    height, width = case.depth.shape[1:]
    grid = ray_grid(width, height, case.intrinsics, far_surface(float(case.depth.max())))
    with make_raster("opengl", grid, nearest=float(case.depth.min()), wall_share=wall_share) as raster:
        yield grid, raster


def _mesh(wall_share: float, case: FillCase) -> Iterator[Rendering]:
    with case_raster(case, wall_share) as (_, raster):
        mesh = CaseMesh(case, raster)
        for index in range(len(case.path)):
            yield mesh.draw(index, index)


def _warp(case: FillCase) -> Iterator[Rendering]:
    with case_raster(case) as (grid, raster):
        mesh = CaseMesh(case, raster)
        for index in range(len(case.path)):
            seen = seen_faces(case.depth[index])
            raster.set_grid(open_grid(grid, seen))
            mesh.show(index, seen)
            yield mesh.draw(index, index)


def open_grid(grid: RayGrid, seen: NDArray[np.uint8]) -> RayGrid:
    """One frame's grid without the faces that the plate did not see, and without those that close it.

    Faces keep their numbers, so that `seen` stays true: one that goes shrinks to a point.
    """
    topology = grid.topology
    faces = topology.faces.copy()
    hidden = np.append(seen.reshape(-1) == 0, np.ones(len(faces) - topology.grid_faces, np.bool_))
    faces[hidden] = faces[hidden][:, 2:]
    return dataclasses.replace(grid, topology=Topology(topology.rows, topology.columns, faces))


def _splats(case: FillCase) -> Iterator[Rendering]:
    for image, depth, pose in zip(case.source, case.depth, case.path, strict=True):
        yield splatted(image, depth, case.intrinsics, np.linalg.inv(pose))


def splatted(
    image: NDArray[np.uint8],
    depth: NDArray[np.float32],
    intrinsics: NDArray[np.float64],
    source_to_camera: NDArray[np.float64],
) -> Rendering:
    """A frame's pixels as points, each shared out bilinearly among the four pixels around where it falls.

    In every pixel the nearest point counts, and those of the same surface: as near but for `JUMP_SHARE` of it. From
    the source's own camera this gives the frame back.

    Args:
        image: (H,W,3) uint8; depth: (H,W) float32 z, positive and finite.
        intrinsics: (3,3) of both cameras; source_to_camera: (4,4).
    """
    height, width = depth.shape
    rays = pixel_rays(intrinsics, np.arange(width)[None, :] + 0.5, np.arange(height)[:, None] + 0.5).reshape(-1, 3)
    x, y, z = source_to_camera[:3, :3] @ (rays * depth.reshape(-1, 1)).T + source_to_camera[:3, 3:4]
    point = np.flatnonzero(z > 0)
    x, y, z = x[point], y[point], z[point]
    columns = (intrinsics[0, 0] * x + intrinsics[0, 1] * y) / z + intrinsics[0, 2] - 0.5
    rows = intrinsics[1, 1] * y / z + intrinsics[1, 2] - 0.5
    left, top = np.floor(columns), np.floor(rows)
    column = np.concatenate([left, left + 1, left, left + 1])
    row = np.concatenate([top, top, top + 1, top + 1])
    share = (1 - np.abs(np.tile(columns, 4) - column)) * (1 - np.abs(np.tile(rows, 4) - row))
    kept = (column >= 0) & (column < width) & (row >= 0) & (row < height) & (share > LEAST_SHARE)
    cell = (row[kept] * width + column[kept]).astype(np.int64)
    share, z, point = share[kept], np.tile(z, 4)[kept], np.tile(point, 4)[kept]
    front = np.full(height * width, np.inf)
    np.minimum.at(front, cell, z)
    share = share * (z <= (1 + JUMP_SHARE) * front[cell])
    total = np.bincount(cell, share, height * width)
    colours = image.reshape(-1, 3)[point]
    sums = np.stack([np.bincount(cell, share * colours[:, channel], height * width) for channel in range(3)], axis=-1)
    color = np.rint(sums / np.maximum(total, 1e-12)[:, None]).astype(np.uint8)
    seen = total > 0
    return Rendering(
        color.reshape(height, width, 3),
        np.where(seen, 255, 0).astype(np.uint8).reshape(height, width),
        np.where(seen, front, 0).astype(np.float32).reshape(height, width),
    )


KINDS: Final[dict[str, Callable[[FillCase], Iterator[Rendering]]]] = {
    "mesh": partial(_mesh, WALL_SHARE),
    "closed": partial(_mesh, CLOSED),
    "warp": _warp,
    "splats": _splats,
}
