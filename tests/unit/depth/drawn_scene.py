# SPDX-License-Identifier: GPL-3.0-or-later
"""A drawn outdoor shot with known depth: sky, textured ground, a wall, two crates, a camera that tracks right."""

from __future__ import annotations

import numpy as np

WIDTH, HEIGHT = 256, 160
_FOCAL = 256.0
_EYE_HEIGHT = 1.6
_HORIZON = 0.42 * HEIGHT
# x from, x to, height (m), z, colour
_UPRIGHT = (
    (-30.0, 30.0, 3.6, 16.0, (140, 100, 80)),
    (-2.2, -1.1, 1.2, 6.0, (190, 50, 40)),
    (0.9, 1.7, 1.0, 4.0, (50, 70, 160)),
)


def draw(frame: int, step: float = 0.06) -> tuple[np.ndarray, np.ndarray]:
    """Frame (H, W, 3) uint8 and its z (H, W) float32, inf in the sky. step: metres the camera moves a frame."""
    rows, columns = np.mgrid[:HEIGHT, :WIDTH].astype(np.float64) + 0.5
    x, y = (columns - WIDTH / 2) / _FOCAL, (rows - _HORIZON) / _FOCAL
    eye = frame * step
    z = np.full((HEIGHT, WIDTH), np.inf)
    colour = np.broadcast_to(np.array([150.0, 185.0, 235.0]), (HEIGHT, WIDTH, 3)).copy()
    ground = y > _EYE_HEIGHT / 60
    z[ground] = _EYE_HEIGHT / y[ground]
    depth = np.where(ground, z, 1.0)
    colour[ground] = (np.array([105, 120, 70]) + 14 * _bumps(x * depth + eye, depth)[..., None])[ground]
    for left, right, top, at, paint in _UPRIGHT:
        across, up = x * at + eye, _EYE_HEIGHT - y * at
        hit = (across > left) & (across < right) & (up > 0) & (up < top) & (at < z)
        z[hit] = at
        colour[hit] = (np.array(paint) + 12 * _bumps(across, up * 2)[..., None])[hit]
    return np.clip(colour, 0, 255).astype(np.uint8), z.astype(np.float32)


def _bumps(u: np.ndarray, v: np.ndarray) -> np.ndarray:
    """A texture of unit size that repeats nowhere near: sums of waves."""
    return np.sin(5 * u + 2 * v) * np.cos(3 * v - 1.3 * u) + 0.6 * np.sin(11 * u + 0.5) * np.sin(7 * v)
