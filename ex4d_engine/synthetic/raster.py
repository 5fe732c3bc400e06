# SPDX-License-Identifier: GPL-3.0-or-later
"""Which shape every pixel sees, and how far away: rays against the shapes whose outline may cover their tile.

Work grows with the area that shapes cover on screen, not with their number: a meadow of blades costs a few
layers of pixels. There is no loop over scenes, frames or shapes; the loops run over the five kinds and over
chunks of a fixed size, which bound the memory.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import torch

from .motion import turned, unturned
from .primitives import Kind, Primitives, bounds, hit

TILE: Final = 8  # pixels; small, as most shapes are leaves
# tiles × shapes tested at once: on a GPU 4 M rays, some 0.6 GB while it lasts; on a CPU what its cache holds
PAIRS_A_CHUNK: Final = {"cuda": 1 << 16, "cpu": 1 << 10}
NEAR_M: Final = 0.01
NOTHING: Final = -1


@dataclass(frozen=True)
class Placed:
    """Shapes in the axes of I cameras (one a scene and frame).

    Attributes:
        rotation: (I, N, 3, 3), a shape's axes as columns.
        centre: (I, N, 3) metres.
    """

    rotation: torch.Tensor
    centre: torch.Tensor


def first_hits(
    shapes: Primitives,
    placed: Placed,
    scene: torch.Tensor,
    intrinsics: torch.Tensor,
    height: int,
    width: int,
    *,
    compiled: bool = False,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Casts one ray through every pixel centre of every camera.

    Args:
        shapes: B scenes of N shapes.
        placed: the shapes before each of the I cameras.
        scene: (I,) int64, which of the B scenes a camera looks at.
        intrinsics: (I, 3, 3) pixels.
        compiled: whether the arithmetic is fused by torch.compile: pays on a GPU from the second batch on.

    Returns:
        depth (I, H, W) float32, z in metres, inf where nothing is hit; and the shape's slot (I, H, W) int64, −1 there.
    """
    cameras, device = placed.centre.shape[0], placed.centre.device
    rows, columns = -(-height // TILE), -(-width // TILE)
    counts, first, across = _tiles_covered(shapes, placed, scene, intrinsics, rows, columns)
    # a depth's bits order like the depth itself while it is positive, so one integer minimum keeps depth and slot
    empty = (torch.tensor(torch.inf).view(torch.int32).to(torch.int64) << 32) | 0x7FFFFFFF
    nearest = torch.full((cameras * rows * columns, TILE * TILE), int(empty), dtype=torch.int64, device=device)
    lane = torch.arange(TILE * TILE, device=device)
    step = PAIRS_A_CHUNK.get(device.type, PAIRS_A_CHUNK["cpu"])
    lane_x, lane_y = (lane % TILE + 0.5).float(), (lane // TILE + 0.5).float()
    half, form = shapes.half.clamp_min(1e-6), shapes.form
    depth_of = _compiled_depth() if compiled else _depth_of
    focal = torch.stack([intrinsics[:, 0, 0], intrinsics[:, 1, 1]], -1)
    axis = intrinsics[:, :2, 2]
    for kind in Kind:
        start, stop = shapes.ranges[kind]
        of_kind = counts[:, start:stop].reshape(-1)
        covering = of_kind.nonzero().squeeze(1)
        of_kind = of_kind[covering]
        ends = of_kind.cumsum(0)
        total = int(ends[-1]) if len(ends) else 0
        for begin in range(0, total, step):
            pair = torch.arange(begin, min(begin + step, total), device=device)
            entry = torch.searchsorted(ends, pair, right=True)
            within = pair - (ends[entry] - of_kind[entry])
            camera = covering[entry] // max(stop - start, 1)
            slot = covering[entry] % max(stop - start, 1) + start
            wide = across[camera, slot]
            column = first[camera, slot, 0] + within % wide
            row = first[camera, slot, 1] + within // wide
            x = ((column * TILE)[:, None] + lane_x - axis[camera, 0:1]) / focal[camera, 0:1]
            y = ((row * TILE)[:, None] + lane_y - axis[camera, 1:2]) / focal[camera, 1:2]
            depth = depth_of(
                kind,
                x,
                y,
                placed.rotation[camera, slot],
                placed.centre[camera, slot],
                half[scene[camera], slot],
                form[scene[camera], slot],
            )
            depth = torch.where(depth > NEAR_M, depth, torch.inf)  # a NaN's sign bit would win the minimum
            key = (depth.view(torch.int32).to(torch.int64) << 32) | slot[:, None]
            tile = (camera * rows + row) * columns + column
            nearest.scatter_reduce_(0, tile[:, None].expand_as(key), key, "amin")
    image = nearest.view(cameras, rows, columns, TILE, TILE).transpose(2, 3).reshape(cameras, rows * TILE, -1)
    image = image[:, :height, :width]
    depth = (image >> 32).to(torch.int32).view(torch.float32)
    slot = torch.where(torch.isfinite(depth), image & 0x7FFFFFFF, NOTHING)
    return depth, slot


@functools.cache
def _compiled_depth() -> Callable[..., torch.Tensor]:
    """`_depth_of` as one kernel a kind, for any number of tiles."""
    fused: Callable[..., torch.Tensor] = torch.compile(_depth_of, dynamic=True)
    return fused


def _depth_of(
    kind: Kind,
    x: torch.Tensor,
    y: torch.Tensor,
    rotation: torch.Tensor,
    centre: torch.Tensor,
    half: torch.Tensor,
    form: torch.Tensor,
) -> torch.Tensor:
    """z of the first hit on rays (x, y, 1) from the camera, (P, L); inf where they miss."""
    near_centre = (x * centre[:, 0:1] + y * centre[:, 1:2] + centre[:, 2:3]) / (x * x + y * y + 1)
    towards = unturned(rotation, centre)
    ray = tuple(
        rotation[:, 0, k : k + 1] * x + rotation[:, 1, k : k + 1] * y + rotation[:, 2, k : k + 1] for k in range(3)
    )
    origin = tuple(near_centre * ray[k] - towards[:, k : k + 1] for k in range(3))
    sizes = (half[:, 0:1], half[:, 1:2], half[:, 2:3])
    return near_centre + hit(
        kind, (origin[0], origin[1], origin[2]), (ray[0], ray[1], ray[2]), NEAR_M - near_centre, sizes, form
    )


def _tiles_covered(
    shapes: Primitives, placed: Placed, scene: torch.Tensor, intrinsics: torch.Tensor, rows: int, columns: int
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """How many tiles each shape may cover (I, N), the first one (I, N, 2) as column and row, and how many a row."""
    device = placed.centre.device
    sign = torch.tensor([[x, y, z] for x in (-1.0, 1.0) for y in (-1.0, 1.0) for z in (-1.0, 1.0)], device=device)
    reach = bounds(shapes)[scene]  # (I, N, 3)
    offsets = turned(placed.rotation[:, :, None], reach[:, :, None] * sign)
    corners = placed.centre[:, :, None] + offsets  # (I, N, 8, 3)
    z = corners[..., 2]
    in_front, crossing = (z > NEAR_M).any(-1), (z <= NEAR_M).any(-1)
    focal = torch.stack([intrinsics[:, 0, 0], intrinsics[:, 1, 1]], -1)[:, None]
    axis = intrinsics[:, :2, 2][:, None]
    on_screen = corners[..., :2] / z.clamp_min(NEAR_M)[..., None] * focal[:, :, None] + axis[:, :, None]
    limit = torch.tensor([columns, rows], device=device)
    low = torch.floor((on_screen.amin(2) / TILE).clamp(-1e6, 1e6)).long()
    high = torch.floor((on_screen.amax(2) / TILE).clamp(-1e6, 1e6)).long()
    low = torch.where(crossing[..., None], 0, low).clamp_min(0)
    high = torch.where(crossing[..., None], limit - 1, high)
    high = torch.minimum(high, limit - 1)
    extent = (high - low + 1).clamp_min(0)
    wanted = shapes.active[scene] & in_front & ~_beside_the_view(corners, intrinsics, rows * TILE, columns * TILE)
    counts = extent[..., 0] * extent[..., 1] * wanted
    return counts, low, extent[..., 0]


def _beside_the_view(corners: torch.Tensor, intrinsics: torch.Tensor, height: int, width: int) -> torch.Tensor:
    """(I, N): all corners lie outside one and the same side of the view; holds for corners behind the camera too."""
    x, y, z = corners.unbind(-1)
    fx, fy = intrinsics[:, 0, 0, None, None], intrinsics[:, 1, 1, None, None]
    cx, cy = intrinsics[:, 0, 2, None, None], intrinsics[:, 1, 2, None, None]
    left, right = x * fx + cx * z < 0, x * fx + (cx - width) * z > 0
    above, below = y * fy + cy * z < 0, y * fy + (cy - height) * z > 0
    return left.all(-1) | right.all(-1) | above.all(-1) | below.all(-1)
