# SPDX-License-Identifier: GPL-3.0-or-later
"""The DW-Mesh drawn by nvdiffrast on a CUDA device: the reference's own raster, optional.

nvdiffrast's licence (its §3.3) limits it to research and evaluation; it is never installed or bundled by us.
"""

from __future__ import annotations

import importlib
import logging
import math
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from ..dwmesh.edges import card_pixels, wall_ends
from ..dwmesh.ray_grid import RayGrid
from ..dwmesh.topology import corner_classes
from ..dwmesh.walls import CARD_PIXELS, CARD_SETBACK, WIDE
from ..errors import Ex4dError
from . import AT_VERTEX, Rendering

FAR_SHARE = 1e3
DEVICE = "cuda"
_CARD_CORNERS = CARD_PIXELS * np.array([[-0.5, -0.5], [-0.5, 0.5], [0.5, -0.5], [0.5, 0.5]])  # right, down
_CARD_FACES = np.array([[0, 1, 2], [1, 3, 2]], np.int32)  # wound as the grid's: the front faces the source camera


@dataclass(frozen=True)
class _Cards:
    """Tensors of N cards. points: (4N,3) in the source camera; offsets: (1,4N,2) float32, a corner's from its pixel's
    centre, in pixels; faces: (2N,3) int32; colours: (N,3) float32, of 1.
    """

    points: Any
    offsets: Any
    faces: Any
    colours: Any


class NvdiffrastRaster:
    """See `raster.Raster`."""

    def __init__(self, grid: RayGrid, *, near: float, wall_share: float, reference: bool) -> None:
        try:
            self._torch: Any = importlib.import_module("torch")
            self._dr: Any = importlib.import_module("nvdiffrast.torch")
        except ImportError as error:
            raise Ex4dError(
                "missing_package",
                f"nvdiffrast is not installed ({error}).",
                "Use the opengl raster. nvdiffrast may be installed by hand for research and evaluation only.",
            ) from error
        if DEVICE == "cuda" and not self._torch.cuda.is_available():
            raise Ex4dError("missing_package", "nvdiffrast needs a CUDA device.", "Use the opengl raster.")
        logging.getLogger(__name__).warning("nvdiffrast: licensed for research and evaluation only (its section 3.3).")
        self._near, self._wall_share, self._reference = near, wall_share, reference
        self._is_short = not reference and math.isfinite(wall_share)
        self._context = self._dr.RasterizeCudaContext()
        self.set_grid(grid)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self._context = None

    def set_grid(self, grid: RayGrid) -> None:
        """See `raster.Raster.set_grid`."""
        self._grid = grid
        self._rays = self._tensor(grid.rays)
        self._pixels = self._tensor(grid.pixels.astype(np.int64))
        self._pinned = self._tensor(grid.pinned)
        self._faces = self._tensor(grid.topology.faces)
        self._places = self._tensor(grid.uv)[None]
        self._corners = self._tensor(np.eye(3, dtype=np.float32)[corner_classes(grid.topology)])[None]

    def set_frame(
        self,
        depth: NDArray[np.float32],
        albedo: NDArray[np.uint8],
        seen: NDArray[np.uint8],
        widths: NDArray[np.uint16] | None = None,
    ) -> None:
        """See `raster.Raster.set_frame`."""
        torch = self._torch
        z = self._tensor(depth)[self._pixels[:, 0], self._pixels[:, 1]]
        self._source_z = torch.where(self._pinned > 0, self._pinned, z)[None, :, None].contiguous()
        self._points = self._rays * self._source_z[0]
        self._albedo = self._tensor(albedo).float()[None] / 255
        behind = len(self._grid.topology.faces) - self._grid.topology.grid_faces
        self._seen = torch.cat(
            [self._tensor(seen.reshape(-1)) > 127, torch.zeros(behind, dtype=torch.bool, device=DEVICE)]
        )
        self._colours = (self._tensor(albedo)[self._pixels[:, 0], self._pixels[:, 1]].float() / 255)[None]
        if self._is_short:
            if widths is None:
                widths = np.full((depth.shape[0] + 1, depth.shape[1] + 1), WIDE, np.uint16)
            focal_px = 1 / float(self._grid.plate_rays()[1][0])
            self._wall_ends = self._tensor(wall_ends(depth, widths, self._wall_share, focal_px))
            self._cards = self._make_cards(depth, albedo)

    def draw(
        self, intrinsics: NDArray[np.float64], source_to_camera: NDArray[np.float64], size: tuple[int, int]
    ) -> Rendering:
        """See `raster.Raster.draw`."""
        torch, dr = self._torch, self._dr
        width, height = size
        points, clip = self._seen_from(self._points, intrinsics, source_to_camera, size)
        if self._is_short:
            hit = self._short_walled(clip, (height, width))
        else:
            hit, _ = dr.rasterize(self._context, clip, self._faces, resolution=(height, width))
        face = hit[0, ..., 3].long() - 1
        z = torch.where(face >= 0, self._depth(points, hit, self._faces), 0)
        if self._reference:
            colour = dr.interpolate(self._colours, hit, self._faces)[0][0]
            seen = (face >= 0) & (colour[..., 3] > 125 / 255)
            colour = colour[..., :3]
        else:
            places, _ = dr.interpolate(self._places, hit, self._faces)
            colour = dr.texture(self._albedo, places, filter_mode="linear", boundary_mode="clamp")[0, ..., :3]
            seen = self._is_seen(hit)
        if self._is_short:
            seen &= _fronts(points, self._faces)[face.clamp_min(0)] | self._at_vertex(hit)
            colour, seen, z = self._with_cards(colour, seen, z, intrinsics, source_to_camera)
        colour = torch.where(seen[..., None], (colour * 255).round().clamp(0, 255), 0).to(torch.uint8)
        mask = seen.to(torch.uint8) * 255
        return Rendering(colour.cpu().numpy(), mask.cpu().numpy(), z.float().cpu().numpy())

    def _make_cards(self, depth: NDArray[np.float32], albedo: NDArray[np.uint8]) -> list[_Cards]:
        """The frame's cards in up to four lots, in each of which no two are neighbours.

        Neighbours overlap, often at one depth, where nvdiffrast's own test is too coarse for `CARD_SETBACK`.
        """
        corner, right, down = self._grid.plate_rays()
        result = []
        pixels = np.argwhere(card_pixels(albedo[..., 3]))
        for parity in range(4):
            row, column = pixels[(pixels[:, 0] % 2) + 2 * (pixels[:, 1] % 2) == parity].T
            if not len(row):
                continue
            places = np.stack([column, row], -1)[:, None] + 0.5 + _CARD_CORNERS
            rays = corner + places[..., :1] * right + places[..., 1:] * down
            points = rays * depth[row, column, None, None]
            faces = 4 * np.arange(len(row), dtype=np.int32)[:, None, None] + _CARD_FACES
            offsets = np.tile(_CARD_CORNERS, (len(row), 1))
            result.append(
                _Cards(
                    self._tensor(points.reshape(-1, 3).astype(np.float32)),
                    self._tensor(offsets.astype(np.float32))[None],
                    self._tensor(faces.reshape(-1, 3)),
                    self._tensor(albedo[row, column, :3]).float() / 255,
                )
            )
        return result

    def _with_cards(
        self, colour: Any, seen: Any, z: Any, intrinsics: NDArray[np.float64], source_to_camera: NDArray[np.float64]
    ) -> tuple[Any, Any, Any]:
        """Draws the cards over (H,W,3) colour, (H,W) bool seen and (H,W) z, which is 0 where nothing is.

        Apart from the grid, whose faces alone are at 4K nearly as many as nvdiffrast takes (2 to the 24th).
        """
        torch, dr, (height, width) = self._torch, self._dr, z.shape
        nearest = torch.where(z > 0, z, math.inf)
        for cards in self._cards:
            points, clip = self._seen_from(cards.points, intrinsics, source_to_camera, (width, height))
            hit, _ = dr.rasterize(self._context, clip, cards.faces, resolution=(height, width))
            card_z = self._depth(points, hit, cards.faces)
            offset = dr.interpolate(cards.offsets, hit, cards.faces)[0][0]
            set_back = card_z * (1 + CARD_SETBACK * offset.square().sum(-1))
            face = hit[0, ..., 3].long() - 1
            is_card = (face >= 0) & (set_back < nearest)
            face = face.clamp_min(0)
            nearest, z = torch.where(is_card, set_back, nearest), torch.where(is_card, card_z, z)
            colour = torch.where(is_card[..., None], cards.colours[face // 2], colour)
            seen = torch.where(is_card, _fronts(points, cards.faces)[face], seen)  # a card's back hides
        return colour, seen, z

    def _seen_from(
        self,
        points: Any,
        intrinsics: NDArray[np.float64],
        source_to_camera: NDArray[np.float64],
        size: tuple[int, int],
    ) -> tuple[Any, Any]:
        """Points (V,3) of the source camera in the new one's space, and in its clip space (1,V,4)."""
        view = self._tensor(source_to_camera.astype(np.float32))
        points = points @ view[:3, :3].T + view[:3, 3]
        x, y, z = points.unbind(-1)
        k, (width, height) = intrinsics, size
        # z/w is linear in 1/z, so that a triangle's inside is ordered right as well as its corners
        near = self._near
        far = FAR_SHARE * (float(self._grid.pinned.max()) + float(np.linalg.norm(source_to_camera[:3, 3])))
        clip = self._torch.stack(
            [
                2 / width * (k[0, 0] * x + k[0, 1] * y) + (2 * k[0, 2] / width - 1) * z,
                2 / height * k[1, 1] * y + (2 * k[1, 2] / height - 1) * z,
                (far + near) / (far - near) * z - 2 * far * near / (far - near),
                z,
            ],
            dim=-1,
        )
        return points, clip[None].contiguous()

    def _depth(self, points: Any, hit: Any, faces: Any) -> Any:
        """(H,W) z of what was hit; points (V,3) in the camera's space."""
        return self._dr.interpolate(points[None, :, 2:].contiguous(), hit, faces)[0][0, ..., 0]

    def _is_seen(self, hit: Any) -> Any:
        """(H,W) bool: where a seen face was hit, or a vertex, which is a pixel that the plate saw."""
        face = hit[0, ..., 3].long() - 1
        return (face >= 0) & (self._seen[face.clamp_min(0)] | self._at_vertex(hit))

    def _at_vertex(self, hit: Any) -> Any:
        """(H,W) bool: where a vertex of the grid was hit."""
        corners = self._dr.interpolate(self._corners, hit, self._faces)[0][0]
        return (corners.amax(-1) > 1 - AT_VERTEX) & (hit[0, ..., 3] <= self._grid.topology.grid_faces)

    def _short_walled(self, clip: Any, resolution: tuple[int, int]) -> Any:
        """What is hit, (1,H,W,4) as `rasterize` gives it, where walls end (mesh.frag.glsl): layer behind layer."""
        torch, dr = self._torch, self._dr
        height, width = self._wall_ends.shape
        with dr.DepthPeeler(self._context, clip, self._faces, resolution) as peeler:
            result, _ = peeler.rasterize_next_layer()
            while True:
                place = dr.interpolate(self._places, result, self._faces)[0][0]
                column, row = (
                    (place[..., axis] * (count - 1) + 0.5).floor().long().clamp(0, count - 1)
                    for axis, count in enumerate((width, height))
                )
                z = dr.interpolate(self._source_z, result, self._faces)[0][0, ..., 0]
                is_grid = (result[0, ..., 3] > 0) & (result[0, ..., 3] <= self._grid.topology.grid_faces)
                beyond = is_grid & ~self._is_seen(result) & (z > self._wall_ends[row, column])
                if not bool(beyond.any()):
                    return result
                layer, _ = peeler.rasterize_next_layer()
                result = torch.where(beyond[None, ..., None], layer, result)

    def _tensor(self, array: NDArray[Any]) -> Any:
        return self._torch.as_tensor(np.ascontiguousarray(array)).to(DEVICE)


def _fronts(points: Any, faces: Any) -> Any:
    """(N,) bool for each face: whether a camera in whose space its corners are `points` (V,3) sees its front."""
    a, b, c = (points[faces[:, corner].long()] for corner in range(3))
    return ((b - a).cross(c - a, dim=-1) * a).sum(-1) < 0
