# SPDX-License-Identifier: GPL-3.0-or-later
"""The nvdiffrast backend's own half: what it hands over and what it makes of the answer.

nvdiffrast itself cannot be installed here (a CUDA build under a research licence), so a small rasteriser in
numpy stands in for it, with its documented conventions: clip-space positions, row 0 at y = −1, face numbers
from 1, barycentric coordinates of a face's first two vertices.
"""

from __future__ import annotations

import sys
import types

import cv2
import numpy as np
import pytest
import torch

from ex4d_engine.cameras import intrinsics_from_fov, rotation_about
from ex4d_engine.dwmesh.edges import edge_alpha, wall_widths
from ex4d_engine.dwmesh.occlusion import seen_faces, seen_pixels
from ex4d_engine.dwmesh.ray_grid import ray_grid
from ex4d_engine.dwmesh.walls import CLOSED
from ex4d_engine.raster import Rendering, make_raster, nvdiffrast
from ex4d_engine.trajectories import orbit


def rasterize(
    context: object, positions: torch.Tensor, faces: torch.Tensor, resolution: tuple[int, int], floor=-np.inf
):
    height, width = resolution
    clip = positions[0].double().numpy()
    depth = np.full((height, width), np.inf)
    hit = np.zeros((height, width, 4), np.float32)
    rows, columns = np.mgrid[:height, :width]
    points = np.stack([(columns + 0.5) / width * 2 - 1, (rows + 0.5) / height * 2 - 1], -1)
    for number, face in enumerate(faces.numpy()):
        corner = clip[face]
        if (corner[:, 3] <= 0).any():
            continue  # no clipping: the test's cameras keep the mesh in front
        screen = corner[:, :2] / corner[:, 3:]
        low = np.floor((screen.min(0) + 1) / 2 * [width, height]).astype(int) - 1
        high = np.ceil((screen.max(0) + 1) / 2 * [width, height]).astype(int) + 1
        x0, y0 = np.clip(low, 0, [width, height])
        x1, y1 = np.clip(high, 0, [width, height])
        if x0 >= x1 or y0 >= y1:
            continue
        at = points[y0:y1, x0:x1]
        a, b, c = screen
        area = (b - a)[0] * (c - a)[1] - (b - a)[1] * (c - a)[0]
        if abs(area) < 1e-15:
            continue
        wa = ((b - at)[..., 0] * (c - at)[..., 1] - (b - at)[..., 1] * (c - at)[..., 0]) / area
        wb = ((c - at)[..., 0] * (a - at)[..., 1] - (c - at)[..., 1] * (a - at)[..., 0]) / area
        wc = 1 - wa - wb
        z = wa * corner[0, 2] / corner[0, 3] + wb * corner[1, 2] / corner[1, 3] + wc * corner[2, 2] / corner[2, 3]
        inside = (wa >= -1e-9) & (wb >= -1e-9) & (wc >= -1e-9) & (z >= -1) & (z <= 1) & (z < depth[y0:y1, x0:x1])
        inside &= z > np.broadcast_to(floor, depth.shape)[y0:y1, x0:x1] + 1e-7
        total = wa / corner[0, 3] + wb / corner[1, 3] + wc / corner[2, 3]
        new = np.stack([wa / corner[0, 3] / total, wb / corner[1, 3] / total, z, np.full_like(z, number + 1)], -1)
        depth[y0:y1, x0:x1][inside] = z[inside]
        hit[y0:y1, x0:x1][inside] = new[inside]
    return torch.from_numpy(hit)[None], None


class DepthPeeler:
    """Every layer by leaving out, pixel by pixel, the faces of the layers before."""

    def __init__(self, context: object, positions: torch.Tensor, faces: torch.Tensor, resolution: tuple[int, int]):
        self._all = context, positions, faces, resolution
        self._floor = np.full(resolution, -np.inf)

    def __enter__(self):
        return self

    def __exit__(self, *error: object) -> None:
        pass

    def rasterize_next_layer(self):
        hit, _ = rasterize(*self._all, floor=self._floor)
        there = hit[0, ..., 3].numpy() > 0
        self._floor[there] = hit[0, ..., 2].double().numpy()[there]
        return hit, None


def interpolate(values: torch.Tensor, hit: torch.Tensor, faces: torch.Tensor):
    face = hit[..., 3].long() - 1
    corners = values[0][faces.long()[face.clamp_min(0)]]
    u, v = hit[..., 0:1], hit[..., 1:2]
    result = u * corners[..., 0, :] + v * corners[..., 1, :] + (1 - u - v) * corners[..., 2, :]
    return torch.where((face >= 0)[..., None], result, torch.zeros(())), None


def texture(image: torch.Tensor, places: torch.Tensor, filter_mode: str, boundary_mode: str) -> torch.Tensor:
    assert (filter_mode, boundary_mode) == ("linear", "clamp")
    sampled = torch.nn.functional.grid_sample(
        image.permute(0, 3, 1, 2), places * 2 - 1, mode="bilinear", padding_mode="border", align_corners=False
    )
    return sampled.permute(0, 2, 3, 1)


@pytest.fixture
def stand_in(monkeypatch: pytest.MonkeyPatch) -> None:
    module = types.ModuleType("nvdiffrast.torch")
    module.RasterizeCudaContext = object  # type: ignore[attr-defined]
    module.rasterize, module.interpolate, module.texture = rasterize, interpolate, texture  # type: ignore[attr-defined]
    module.DepthPeeler = DepthPeeler  # type: ignore[attr-defined]
    package = types.ModuleType("nvdiffrast")
    package.torch = module  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "nvdiffrast", package)
    monkeypatch.setitem(sys.modules, "nvdiffrast.torch", module)
    monkeypatch.setattr(nvdiffrast, "DEVICE", "cpu")


def drawn_by_both(
    depth: np.ndarray, image: np.ndarray, pose: np.ndarray, wall_share: float, edges: bool
) -> tuple[Rendering, Rendering]:
    """By OpenGL and by nvdiffrast; edges: with cards and widths."""
    height, width = depth.shape
    seen = seen_faces(depth)
    K = intrinsics_from_fov(width, height)
    alpha = edge_alpha(seen, width, height, None) if edges else seen_pixels(seen, width, height)
    widths = wall_widths(depth, seen, float(K[0, 0])) if edges else None
    drawn = []
    for name in ("opengl", "nvdiffrast"):
        grid = ray_grid(width, height, K, 4 / 3 * float(depth.max()))
        with make_raster(name, grid, nearest=float(depth.min()), wall_share=wall_share) as raster:
            raster.set_frame(depth, np.dstack([image, alpha]), seen, widths)
            drawn.append(raster.draw(K, np.linalg.inv(pose), (width, height)))
    return drawn[0], drawn[1]


def assert_alike(one: Rendering, two: Rendering) -> None:
    both = (one.mask > 0) & (two.mask > 0)
    assert both.sum() / ((one.mask > 0) | (two.mask > 0)).sum() >= 0.985  # edges of 48 × 32 pixels are many
    error = (one.color[both].astype(float) - two.color[both]) ** 2
    assert 10 * np.log10(255**2 / max(error.mean(), 1e-9)) >= 40
    np.testing.assert_allclose(two.depth[both], one.depth[both], rtol=2e-3)


def colours(width: int, height: int, step: int = 4, smooth: bool = False) -> np.ndarray:
    """Random colours in blocks; smooth where cards are drawn: at the line where two meet, rounding chooses."""
    image = np.random.default_rng(5).integers(0, 256, (height // step, width // step, 3), dtype=np.uint8)
    return cv2.resize(image, (width, height), interpolation=cv2.INTER_LINEAR if smooth else cv2.INTER_NEAREST)


@pytest.mark.parametrize(("wall_share", "edges"), [(CLOSED, False), (CLOSED, True), (0.25, False), (0.25, True)])
@pytest.mark.parametrize("degrees", [0, 8, -25, 70])
def test_it_draws_what_opengl_draws(stand_in: None, degrees: float, wall_share: float, edges: bool) -> None:
    width, height = 48, 32
    depth = np.full((height, width), 9, np.float32)
    depth[16:] = np.linspace(9, 4, 16, dtype=np.float32)[:, None]
    depth[8:24, 18:28] = 3
    image = colours(width, height, smooth=edges)
    assert_alike(*drawn_by_both(depth, image, orbit(2, degrees, 3.0)[-1], wall_share, edges))


@pytest.mark.parametrize("degrees", [0, 12, -25, 170])
def test_thin_things_and_their_backs_are_drawn_as_opengl_draws_them(stand_in: None, degrees: float) -> None:
    """Twigs of one to four pixels, of which most are cards, in front of a wall; at 170° seen from behind."""
    width, height = 48, 32
    depth = np.full((height, width), 9, np.float32)
    for column, across in ((4, 1), (12, 2), (22, 3), (34, 4)):
        depth[4:28, column : column + across] = 3
    pose, back = np.eye(4), np.eye(4)
    pose[:3, :3], pose[2, 3], back[2, 3] = rotation_about([0, 1, 0], -np.radians(degrees)), 3, -3
    one, two = drawn_by_both(depth, colours(width, height, smooth=True), pose @ back, 0.25, edges=True)
    if degrees == 170:
        for drawn in (one, two):
            twigs = (drawn.depth > 0) & (drawn.depth < 4)
            assert twigs.mean() > 0.1 and (drawn.mask[twigs] > 0).mean() < 0.02  # backs are there, and unknown
    else:
        assert_alike(one, two)
    assert ((one.depth > 0) == (two.depth > 0)).mean() >= 0.985


def test_a_frame_without_cards_may_follow_one_that_has_some(stand_in: None) -> None:
    width, height = 24, 16
    depth = np.full((height, width), 9, np.float32)
    depth[:, 10] = 3
    K, image = intrinsics_from_fov(width, height), colours(width, height, smooth=True)
    pictures = []
    for name in ("opengl", "nvdiffrast"):
        with make_raster(name, ray_grid(width, height, K, 12.0), nearest=3.0, wall_share=0.25) as raster:
            for frame in (depth, np.full_like(depth, 9)):
                seen = seen_faces(frame)
                albedo = np.dstack([image, edge_alpha(seen, width, height, None)])
                raster.set_frame(frame, albedo, seen, wall_widths(frame, seen, float(K[0, 0])))
                pictures.append(raster.draw(K, np.eye(4), (width, height)))
    for one, two in zip(pictures[:2], pictures[2:], strict=True):
        assert_alike(one, two)
        assert np.abs(two.color.astype(int) - image).max() <= 1  # the plate, whole
