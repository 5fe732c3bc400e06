# SPDX-License-Identifier: GPL-3.0-or-later
"""A still scene drawn ray by ray: a floor, a wall and two boxes, with exact depth from any camera."""

from __future__ import annotations

import cv2
import numpy as np

from ex4d_engine.cameras import intrinsics_from_fov, pixel_rays, rotation_about

FLOOR_Y, WALL_Z = 1.2, 9.0
BOXES = (((-1.4, 0.1, 4.0), (-0.4, 1.2, 5.0)), ((0.5, 0.4, 3.2), (1.3, 1.2, 4.0)))


def texture(seed: int = 3, side: int = 1024) -> np.ndarray:
    """(side, side) uint8 noise at several scales."""
    random = np.random.default_rng(seed)
    total = np.zeros((side, side), np.float32)
    for cells in (16, 48, 128, 256):
        coarse = random.uniform(-1, 1, (cells, cells)).astype(np.float32)
        total += cv2.resize(coarse, (side, side), interpolation=cv2.INTER_CUBIC)
    return np.clip(128 + 55 * total, 0, 255).astype(np.uint8)


TEXTURE = texture()


def view(lens: np.ndarray, pose: np.ndarray, size: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    """Picture (H,W,3) uint8 and z depth (H,W) float32 of the scene."""
    width, height = size
    rays = pixel_rays(lens, np.arange(width)[None] + 0.5, np.arange(height)[:, None] + 0.5)
    directions, eye = rays @ pose[:3, :3].T, pose[:3, 3]
    depth = np.full((height, width), np.inf)
    across, down = np.zeros((height, width)), np.zeros((height, width))

    def hit(axis: int, place: float, low: tuple[float, ...], high: tuple[float, ...], offset: float) -> None:
        nonlocal depth, across, down
        with np.errstate(divide="ignore", invalid="ignore"):
            z = (place - eye[axis]) / directions[..., axis]
            points = eye + directions * z[..., None]
        one, two = (other for other in range(3) if other != axis)
        inside = (z > 0) & (z < depth)
        for other in (one, two):
            inside &= (points[..., other] >= low[other]) & (points[..., other] <= high[other])
        depth = np.where(inside, z, depth)
        across = np.where(inside, points[..., one] + offset, across)
        down = np.where(inside, points[..., two] + 2 * offset, down)

    wide = 60.0
    hit(1, FLOOR_Y, (-wide, 0, -wide), (wide, 0, WALL_Z), 0.0)
    hit(2, WALL_Z, (-wide, -wide, 0), (wide, FLOOR_Y, 0), 3.0)
    for number, (low, high) in enumerate(BOXES):
        for axis in range(3):
            for side in (low, high):
                hit(axis, side[axis], low, high, 5.0 + number)
    scale = TEXTURE.shape[0] / 9.0  # the texture repeats every nine units
    shade = cv2.remap(
        TEXTURE,
        np.mod(across * scale, TEXTURE.shape[1]).astype(np.float32),
        np.mod(down * scale, TEXTURE.shape[0]).astype(np.float32),
        cv2.INTER_LINEAR,
        borderMode=cv2.BORDER_WRAP,
    )
    return np.repeat(shade[..., None], 3, axis=2), depth.astype(np.float32)


def path(count: int, length: float = 2.0) -> np.ndarray:
    """(count,4,4) a camera that trucks, rises a little and pans."""
    poses = np.tile(np.eye(4), (count, 1, 1))
    for index, share in enumerate(np.linspace(0, 1, count)):
        poses[index, :3, :3] = rotation_about([0.1, 1, 0], -0.18 * share)
        poses[index, :3, 3] = (length * (share - 0.5), -0.2 * np.sin(3 * share), 0.3 * share)
    return poses


def lens(size: tuple[int, int], fov_deg: float = 60.0) -> np.ndarray:
    return intrinsics_from_fov(*size, fov_deg)
