# SPDX-License-Identifier: GPL-3.0-or-later
"""How much of a new view the plate has seen, in a fraction of a second and without the engine. No bpy.

A small z-buffer: every face is sampled at half a pixel's distance or closer, the nearest sample of a pixel
decides, and a pixel is covered when that lies on a seen face. With short walls an unseen face is not there past their
end, the back of a seen one covers nothing, and pixels at edges have cards (ex4d_engine/dwmesh/{walls,edges}.py). The
pictures are about a hundred pixels wide, so the share is good to a few per cent, and between the posts of a fence too
high; the take's mask is the exact answer.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from ..ex4d_engine.dwmesh.walls import CARD_PIXELS, EDGE, WIDE

COARSE_WIDTH: Final = 96
SAMPLES_PER_PIXEL: Final = 2.0
MOST_SAMPLES: Final = 256  # along one side of a face: a skirt across the whole picture
GRID_LINES: Final = 256  # more than the coarse picture can tell apart
CROSSING_SAMPLES: Final = 8  # along the shorter side of a face that reaches behind the camera
NEAREST: Final = 1e-6


@dataclass(frozen=True)
class Edges:
    """A frame's surfaces where they end, for short walls.

    alpha: (H,W) uint8, the albedo's: where it is `EDGE` a pixel has a card.
    widths: (H+1,W+1) uint16, `Shot.width_file`; None: all walls are as deep as their share says.
    focal_px: (2,) of the plate, across and down.
    mesh_to_world: (3,3) or larger, of the mesh's axes in our world: cards lie along its x and y.
    """

    alpha: NDArray[np.uint8]
    widths: NDArray[np.uint16] | None
    focal_px: tuple[float, float]
    mesh_to_world: NDArray[np.float64]


def coarse_size(width: int, height: int) -> tuple[int, int]:
    """(width, height) of the coarse picture with the aspect of the real one."""
    return COARSE_WIDTH, max(1, round(COARSE_WIDTH * height / width))


def coverage(
    points: NDArray[np.float32],
    source_z: NDArray[np.float32],
    seen: NDArray[np.bool_],
    intrinsics: NDArray[np.float64],
    camera_to_world: NDArray[np.float64],
    size: tuple[int, int],
    wall_share: float,
    edges: Edges | None = None,
) -> float:
    """Share 0…1 of the picture's pixels that show a seen face.

    Args:
        points: (rows, columns, 3) vertices of the grid in our world.
        source_z: (rows, columns) their depth in the source camera.
        seen: (rows - 1, 2 * (columns - 1)), two triangles a cell; see ex4d_engine/dwmesh/topology.py.
        intrinsics: (3,3) for `size`.
        camera_to_world: (4,4), OpenCV axes.
        size: (width, height); small, see `coarse_size`.
        wall_share: how far unseen faces reach, as a share of the depth where they begin.
        edges: of a mesh with two rings around the plate's pixels. Closed walls ignore it.
    """
    world_to_camera = np.linalg.inv(camera_to_world)
    placed = points @ world_to_camera[:3, :3].T + world_to_camera[:3, 3]
    placed = np.concatenate([placed, source_z[..., None]], axis=-1)
    local, flags = _thinned(placed, seen)
    corners = np.stack([local[:-1, :-1], local[:-1, 1:], local[1:, :-1], local[1:, 1:]], axis=2).reshape(-1, 4, 4)
    is_seen = flags.reshape(-1, 2)
    covers, ends = is_seen, np.full(len(corners), np.inf)
    if math.isfinite(wall_share):
        ends = _thinned_ends(source_z, wall_share, edges)
        if edges is not None:
            cards = _cards(placed, edges, world_to_camera[:3, :3])
            corners = np.concatenate([corners, cards])
            is_seen = np.concatenate([is_seen, np.ones((len(cards), 2), bool)])
            ends = np.concatenate([ends, np.full(len(cards), np.inf)])
        covers = is_seen & _faces_camera(corners[..., :3])
    states = np.stack([covers, is_seen], axis=-1)
    in_view, across, down = _samples_needed(corners[..., :3], intrinsics, size)

    width, height = size
    pixels: list[NDArray[np.int64]] = []
    depths: list[NDArray[np.float64]] = []
    covered: list[NDArray[np.bool_]] = []
    for columns, rows in sorted({(int(a), int(d)) for a, d in zip(across[in_view], down[in_view], strict=True)}):
        chosen = in_view & (across == columns) & (down == rows)
        samples, sample_states = _sampled(corners[chosen], states[chosen], columns, rows)
        z = samples[:, 2]
        image = samples[:, :3] @ intrinsics.T
        is_there = sample_states[:, 1] | (samples[:, 3] <= np.repeat(ends[chosen], columns * rows))
        with np.errstate(divide="ignore", invalid="ignore"):
            x, y = np.floor(image[:, 0] / z), np.floor(image[:, 1] / z)
        inside = is_there & (z > NEAREST) & (x >= 0) & (x < width) & (y >= 0) & (y < height)
        pixels.append((y[inside] * width + x[inside]).astype(np.int64))
        depths.append(z[inside])
        covered.append(sample_states[inside, 0])
    picture = np.zeros(width * height, dtype=bool)
    if pixels:
        # of several writes to one pixel the last one stays: the nearest
        order = np.argsort(-np.concatenate(depths), kind="stable")
        picture[np.concatenate(pixels)[order]] = np.concatenate(covered)[order]
    return float(picture.mean())


def _thinned(points: NDArray[np.float64], seen: NDArray[np.bool_]) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """A grid of about `GRID_LINES` lines or fewer, and its cells' flags (rows, columns, 2): all seen, or unseen.

    The two outermost lines on each side stay: they are the edge and the far surface, not neighbours.
    """
    rows, columns = (_kept_lines(count) for count in points.shape[:2])
    flags = seen.reshape(seen.shape[0], -1, 2)
    flags = np.logical_and.reduceat(np.logical_and.reduceat(flags, rows[:-1], axis=0), columns[:-1], axis=1)
    return points[rows][:, columns], flags


def _thinned_ends(source_z: NDArray[np.float32], wall_share: float, edges: Edges | None) -> NDArray[np.float64]:
    """(N,) the depth at which the walls end of each cell that `_thinned` leaves: of the nearest thing in it."""
    begins = np.minimum(source_z[:-1], source_z[1:])
    begins = np.minimum(begins[:, :-1], begins[:, 1:]).astype(np.float64)
    ends = begins * (1 + wall_share)
    if edges is not None and edges.widths is not None:
        # the outermost cells, between the edge and the far surface, have the widths of the border's
        widths = np.pad(edges.widths, 1, mode="edge")
        limits = np.where(widths == WIDE, np.inf, widths / edges.focal_px[0])
        ends = begins * (1 + np.minimum(limits, wall_share))
    rows, columns = (_kept_lines(count) for count in source_z.shape)
    nearest = np.minimum.reduceat(np.minimum.reduceat(ends, rows[:-1], axis=0), columns[:-1], axis=1)
    return nearest.ravel()


def _cards(placed: NDArray[np.float64], edges: Edges, world_to_camera: NDArray[Any]) -> NDArray[np.float64]:
    """(N,4,4) the cards' corners like cells' ones: in the camera's space, and their depth in the source camera."""
    centres = placed[2:-2, 2:-2][edges.alpha == EDGE]
    mesh_to_camera = world_to_camera @ edges.mesh_to_world[:3, :3]
    across, down = (
        CARD_PIXELS / 2 / edges.focal_px[axis] * centres[:, 3:] * mesh_to_camera[:, axis] for axis in (0, 1)
    )
    corners = np.repeat(centres[:, None], 4, axis=1)
    for corner, (right, below) in enumerate(((-1, -1), (1, -1), (-1, 1), (1, 1))):
        corners[:, corner, :3] += right * across + below * down
    return corners


def _kept_lines(count: int) -> NDArray[np.int64]:
    step = max(1, count // GRID_LINES)
    return np.unique(np.concatenate([[0, 1], np.arange(1, count - 1, step), [count - 2, count - 1]]).clip(0, count - 1))


def _samples_needed(
    corners: NDArray[np.float64], intrinsics: NDArray[np.float64], size: tuple[int, int]
) -> tuple[NDArray[np.bool_], NDArray[np.int64], NDArray[np.int64]]:
    """For each cell (N,4,3): whether it can be in view, and how many samples along its rows and columns.

    Numbers are powers of two, so that the cells fall into few groups.
    """
    z = corners[..., 2]
    behind = z <= NEAREST
    image = corners @ intrinsics.T
    place = image[..., :2] / np.maximum(z, NEAREST)[..., None]
    across = SAMPLES_PER_PIXEL * _longest(place, (0, 1), (2, 3))
    down = SAMPLES_PER_PIXEL * _longest(place, (0, 2), (1, 3))
    low, high = place.min(axis=1), place.max(axis=1)
    outside = (high < 0).any(axis=1) | (low[:, 0] > size[0]) | (low[:, 1] > size[1])
    # a cell that reaches behind the camera has no projected size: its longer side is sampled as finely as any
    crossing = behind.any(axis=1)
    in_view = ~behind.all(axis=1) & (crossing | ~outside)
    lies = _longest(corners, (0, 1), (2, 3)) >= _longest(corners, (0, 2), (1, 3))
    across[crossing] = np.where(lies, MOST_SAMPLES, CROSSING_SAMPLES)[crossing]
    down[crossing] = np.where(lies, CROSSING_SAMPLES, MOST_SAMPLES)[crossing]
    return in_view, _power_of_two(across), _power_of_two(down)


def _longest(place: NDArray[np.float64], *edges: tuple[int, int]) -> NDArray[np.float64]:
    lengths = [np.linalg.norm(place[:, one] - place[:, two], axis=1) for one, two in edges]
    longest: NDArray[np.float64] = np.max(lengths, axis=0)
    return longest


def _power_of_two(wanted: NDArray[np.float64]) -> NDArray[np.int64]:
    result: NDArray[np.int64] = (2 ** np.ceil(np.log2(np.clip(wanted, 1, MOST_SAMPLES)))).astype(np.int64)
    return result


def _faces_camera(corners: NDArray[np.float64]) -> NDArray[np.bool_]:
    """(N,2) whether the camera sees the front of the cells' two triangles. corners: (N,4,3) in its space."""
    top_left, top_right, bottom_left, bottom_right = np.moveaxis(corners, 1, 0)
    sides = [
        np.einsum("nc,nc->n", np.cross(two - one, three - one), one) < 0
        for one, two, three in ((top_left, bottom_left, top_right), (bottom_left, bottom_right, top_right))
    ]
    return np.stack(sides, axis=-1)


def _sampled(
    corners: NDArray[np.float64], states: NDArray[np.bool_], columns: int, rows: int
) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """Points (N * columns * rows, C) evenly spread over two triangles a cell (N,4,C), and what `states` (N,2,S) says
    of each one's triangle.
    """
    u = (np.arange(columns) + 0.5) / columns
    v = (np.arange(rows) + 0.5) / rows
    u, v = (grid.ravel() for grid in np.meshgrid(u, v))
    first = u + v <= 1  # the triangle at the top left; the other one is at the bottom right
    weights = np.where(
        first,
        np.stack([1 - u - v, u, v, np.zeros_like(u)]),
        np.stack([np.zeros_like(u), 1 - v, 1 - u, u + v - 1]),
    )
    samples = np.einsum("ks,nkc->nsc", weights, corners).reshape(-1, corners.shape[-1])
    return samples, np.where(first[None, :, None], states[:, :1], states[:, 1:]).reshape(-1, states.shape[-1])
