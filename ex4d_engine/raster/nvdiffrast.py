# SPDX-License-Identifier: GPL-3.0-or-later
"""The DW-Mesh drawn by nvdiffrast on a CUDA device: the reference's own raster, optional.

nvdiffrast's licence (its §3.3) limits it to research and evaluation; it is never installed or bundled by us.
"""

from __future__ import annotations

import importlib
import logging
import math
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from ..dwmesh.ray_grid import RayGrid
from ..dwmesh.topology import corner_classes
from ..errors import Ex4dError
from . import AT_VERTEX, Rendering

FAR_SHARE = 1e3
DEVICE = "cuda"


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

    def set_frame(self, depth: NDArray[np.float32], albedo: NDArray[np.uint8], seen: NDArray[np.uint8]) -> None:
        """See `raster.Raster.set_frame`."""
        torch = self._torch
        z = self._tensor(depth)[self._pixels[:, 0], self._pixels[:, 1]]
        self._source_z = torch.where(self._pinned > 0, self._pinned, z)[None, :, None].contiguous()
        self._points = self._rays * self._source_z[0]
        # of each cell the nearest of its four pixels; of those half beyond the border, of two or one
        ringed = torch.nn.functional.pad(-self._tensor(depth)[None, None], (1, 1, 1, 1), mode="replicate")
        self._wall_begins = -torch.nn.functional.max_pool2d(ringed, 2, stride=1)[0, 0]
        self._albedo = self._tensor(albedo).float()[None] / 255
        behind = len(self._grid.topology.faces) - self._grid.topology.grid_faces
        self._seen = torch.cat(
            [self._tensor(seen.reshape(-1)) > 127, torch.zeros(behind, dtype=torch.bool, device=DEVICE)]
        )
        self._colours = (self._tensor(albedo)[self._pixels[:, 0], self._pixels[:, 1]].float() / 255)[None]

    def draw(
        self, intrinsics: NDArray[np.float64], source_to_camera: NDArray[np.float64], size: tuple[int, int]
    ) -> Rendering:
        """See `raster.Raster.draw`."""
        torch, dr = self._torch, self._dr
        width, height = size
        view = self._tensor(source_to_camera.astype(np.float32))
        points = self._points @ view[:3, :3].T + view[:3, 3]
        x, y, z = points.unbind(-1)
        k = intrinsics
        # z/w is linear in 1/z, so that a triangle's inside is ordered right as well as its corners
        near = self._near
        far = FAR_SHARE * (float(self._grid.pinned.max()) + float(np.linalg.norm(source_to_camera[:3, 3])))
        clip = torch.stack(
            [
                2 / width * (k[0, 0] * x + k[0, 1] * y) + (2 * k[0, 2] / width - 1) * z,
                2 / height * k[1, 1] * y + (2 * k[1, 2] / height - 1) * z,
                (far + near) / (far - near) * z - 2 * far * near / (far - near),
                z,
            ],
            dim=-1,
        )[None].contiguous()
        is_short = not self._reference and math.isfinite(self._wall_share)
        if is_short:
            hit = self._short_walled(clip, (height, width))
        else:
            hit, _ = dr.rasterize(self._context, clip, self._faces, resolution=(height, width))
        face = hit[0, ..., 3].long() - 1
        z_map = dr.interpolate(z[None, :, None].contiguous(), hit, self._faces)[0][0, ..., 0]
        if self._reference:
            colour = dr.interpolate(self._colours, hit, self._faces)[0][0]
            seen = (face >= 0) & (colour[..., 3] > 125 / 255)
            colour = colour[..., :3]
        else:
            places, _ = dr.interpolate(self._places, hit, self._faces)
            colour = dr.texture(self._albedo, places, filter_mode="linear", boundary_mode="clamp")[0, ..., :3]
            seen = self._is_seen(hit)
            if is_short:
                seen &= self._faces_camera(points)[face.clamp_min(0)] | self._at_vertex(hit)
        colour = torch.where(seen[..., None], (colour * 255).round().clamp(0, 255), 0).to(torch.uint8)
        mask = seen.to(torch.uint8) * 255
        return Rendering(
            colour.cpu().numpy(), mask.cpu().numpy(), torch.where(face >= 0, z_map, 0).float().cpu().numpy()
        )

    def _is_seen(self, hit: Any) -> Any:
        """(H,W) bool: where a seen face was hit, or a vertex, which is a pixel that the plate saw."""
        face = hit[0, ..., 3].long() - 1
        return (face >= 0) & (self._seen[face.clamp_min(0)] | self._at_vertex(hit))

    def _at_vertex(self, hit: Any) -> Any:
        """(H,W) bool: where a vertex of the grid was hit."""
        corners = self._dr.interpolate(self._corners, hit, self._faces)[0][0]
        return (corners.amax(-1) > 1 - AT_VERTEX) & (hit[0, ..., 3] <= self._grid.topology.grid_faces)

    def _faces_camera(self, points: Any) -> Any:
        """(N,) bool for each face: whether a camera in whose space its corners are `points` (V,3) sees its front."""
        a, b, c = (points[self._faces[:, corner].long()] for corner in range(3))
        return ((b - a).cross(c - a, dim=-1) * a).sum(-1) < 0

    def _short_walled(self, clip: Any, resolution: tuple[int, int]) -> Any:
        """What is hit, (1,H,W,4) as `rasterize` gives it, where walls end (mesh.frag.glsl): layer behind layer."""
        torch, dr = self._torch, self._dr
        height, width = self._wall_begins.shape
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
                beyond = (
                    is_grid & ~self._is_seen(result) & (z > (1 + self._wall_share) * self._wall_begins[row, column])
                )
                if not bool(beyond.any()):
                    return result
                layer, _ = peeler.rasterize_next_layer()
                result = torch.where(beyond[None, ..., None], layer, result)

    def _tensor(self, array: NDArray[Any]) -> Any:
        return self._torch.as_tensor(np.ascontiguousarray(array)).to(DEVICE)
