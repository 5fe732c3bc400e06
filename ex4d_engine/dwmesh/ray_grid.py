# SPDX-License-Identifier: GPL-3.0-or-later
"""Where the vertices of the DW-Mesh are: each on a fixed ray, at the depth of a pixel or at a pinned one.

The corrected mesh has one vertex a pixel, at the pixel's centre, and two rings around them:

- the *edge ring* carries each border pixel's surface half a pixel on, to the edge of the image, so that
  the source camera sees its own plate whole, last row and column included;
- the *far ring* lies on the same rays at the far surface: the skirt between the two is the wall between
  what the plate saw and what it did not, and the fan behind closes the mesh.

The reference instead moves the outermost pixels themselves to z = 100.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ..cameras import pixel_rays
from ..errors import Ex4dError
from ..files import atomic_path
from .topology import Topology, border_loop, closed_grid, reference_grid

RINGS = 2
APEX_SHARE = 1.25  # the fan's vertex lies behind the far surface, so that the fan is no flat sheet
REFERENCE_RING_Z = 100.0
_BAND_ROWS = 64


@dataclass(frozen=True)
class RayGrid:
    """The static half of the mesh; a frame adds only its depth map.

    rays: (V,3) float32, z = 1, in the source camera.
    pixels: (V,2) int32, (row, column) of the pixel whose depth a vertex takes and whose colour it has.
    pinned: (V,) float32: 0 where the pixel's depth counts, else the vertex's constant z.
    uv: (V,2) float32, its place in the plate, (0,0) the top-left corner, (1,1) the bottom-right.
    """

    topology: Topology
    rays: NDArray[np.float32]
    pixels: NDArray[np.int32]
    pinned: NDArray[np.float32]
    uv: NDArray[np.float32]
    plate_size: tuple[int, int]

    def vertices(self, depth: NDArray[np.float32]) -> NDArray[np.float32]:
        """Positions (V,3) in the source camera for depth (H,W); usable numbers only (see repair.py)."""
        z = np.where(self.pinned > 0, self.pinned, depth[self.pixels[:, 0], self.pixels[:, 1]])
        return self.rays * z[:, None]

    def plate_rays(self) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
        """Rays (3,), z = 1: of the plate's top left corner, and the steps to the next pixel and the next row.

        Only of a grid of `ray_grid`, whose edge ring lies on the plate's border.
        """
        columns, (width, height) = self.topology.columns, self.plate_size
        corner, right, below = (
            self.rays[row * columns + column].astype(np.float64)
            for row, column in ((1, 1), (1, width + RINGS), (height + RINGS, 1))
        )
        return corner, (right - corner) / width, (below - corner) / height


def ray_grid(width: int, height: int, intrinsics: NDArray[np.float64], far: float) -> RayGrid:
    """The corrected mesh's grid for a plate of this size and lens, closed at z = `far`."""
    rows, columns = height + 2 * RINGS, width + 2 * RINGS
    across, pixel_columns = _ringed(width)
    down, pixel_rows = _ringed(height)
    count = rows * columns + 1  # the last one closes the fan
    rays, pinned = np.empty((count, 3), np.float32), np.zeros(count, np.float32)
    pixels, uv = np.zeros((count, 2), np.int32), np.zeros((count, 2), np.float32)
    # filled in place, the rays by bands: in float64 those of an 8K plate alone would take 2 GB on the way
    for top in range(0, rows, _BAND_ROWS):
        band = slice(top, min(top + _BAND_ROWS, rows))
        rays[band.start * columns : band.stop * columns] = pixel_rays(
            intrinsics, across[None, :], down[band, None]
        ).reshape(-1, 3)
    rays[-1] = pixel_rays(intrinsics, np.array(width / 2), np.array(height / 2))
    ring = pinned[:-1].reshape(rows, columns)
    ring[[0, -1], :] = ring[:, [0, -1]] = far
    pinned[-1] = APEX_SHARE * far
    for plane, horizontal, vertical in (
        (uv[:-1].reshape(rows, columns, 2), across / width, down / height),
        (pixels[:-1].reshape(rows, columns, 2)[..., ::-1], pixel_columns, pixel_rows),
    ):
        plane[..., 0], plane[..., 1] = horizontal[None, :], vertical[:, None]
    return RayGrid(closed_grid(rows, columns), rays, pixels, pinned, uv, plate_size=(width, height))


def reference_ray_grid(width: int, height: int, intrinsics: NDArray[np.float64]) -> RayGrid:
    """The reference's grid: rays through whole pixel numbers, the outermost pixels at z = 100."""
    across, down = np.arange(width, dtype=np.float64), np.arange(height, dtype=np.float64)
    pinned = np.zeros((height, width), dtype=np.float32)
    pinned[[0, -1], :] = pinned[:, [0, -1]] = REFERENCE_RING_Z
    centres = np.broadcast_arrays((across[None, :] + 0.5) / width, (down[:, None] + 0.5) / height)
    return RayGrid(
        topology=reference_grid(height, width),
        rays=pixel_rays(intrinsics, across[None, :], down[:, None]).reshape(-1, 3).astype(np.float32),
        pixels=np.stack(np.divmod(np.arange(width * height, dtype=np.int32), width), axis=-1),
        pinned=pinned.reshape(-1),
        uv=np.stack(centres, axis=-1).reshape(-1, 2).astype(np.float32),
        plate_size=(width, height),
    )


def closed_reference(grid: RayGrid) -> RayGrid:
    """The reference's grid closed by a fan instead of its two cap triangles, for a file that must be closed."""
    topology = closed_grid(grid.topology.rows, grid.topology.columns)
    middle = grid.rays[border_loop(topology.rows, topology.columns)].mean(axis=0, keepdims=True)
    return RayGrid(
        topology=topology,
        rays=np.concatenate([grid.rays, middle]),
        pixels=np.concatenate([grid.pixels, np.zeros((1, 2), np.int32)]),
        pinned=np.append(grid.pinned, np.float32(APEX_SHARE * REFERENCE_RING_Z)),
        uv=np.concatenate([grid.uv, np.zeros((1, 2), np.float32)]),
        plate_size=grid.plate_size,
    )


def save_ray_grid(grid: RayGrid, path: Path) -> None:
    """Writes `mesh/rays.npz`: everything Blender needs to build the mesh once."""
    with atomic_path(path) as temporary, temporary.open("wb") as file:
        np.savez(
            file,
            rays=grid.rays,
            pixels=grid.pixels,
            pinned=grid.pinned,
            uv=grid.uv,
            faces=grid.topology.faces,
            grid=np.array([grid.topology.rows, grid.topology.columns], dtype=np.int32),
            plate_size=np.array(grid.plate_size, dtype=np.int32),
        )


def load_ray_grid(path: Path) -> RayGrid:
    """Reads what `save_ray_grid` wrote; `shot_missing` or `shot_invalid` when it is not that."""
    try:
        with np.load(path, allow_pickle=False) as data:
            rows, columns = (int(value) for value in data["grid"])
            width, height = (int(value) for value in data["plate_size"])
            return RayGrid(
                Topology(rows, columns, data["faces"]),
                data["rays"],
                data["pixels"],
                data["pinned"],
                data["uv"],
                (width, height),
            )
    except FileNotFoundError as error:
        raise Ex4dError("shot_missing", f"{path} does not exist.", "Reconstruct the clip again.") from error
    except (OSError, ValueError, KeyError, EOFError) as error:
        raise Ex4dError("shot_invalid", f"{path} is damaged: {error}.", "Reconstruct the clip again.") from error


def _ringed(count: int) -> tuple[NDArray[np.float64], NDArray[np.int32]]:
    """Positions along one axis with both rings, in pixels from the corner, and the pixel each belongs to."""
    centres = np.arange(count) + 0.5
    positions = np.concatenate([[0.0, 0.0], centres, [count, count]])
    pixels = np.clip(np.arange(count + 2 * RINGS) - RINGS, 0, count - 1)
    return positions, pixels.astype(np.int32)
