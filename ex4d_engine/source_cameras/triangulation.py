# SPDX-License-Identifier: GPL-3.0-or-later
"""Where a tracked point is, once the cameras are known."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from ..cameras import project

Array = NDArray[np.float64]
NOISE_SHARE: Final = 0.3 / 960  # of a tracked point, as a share of the plate's longer side
MISSES_BY: Final = 4.0  # noises; a point that is off by more moves by itself or was lost
_PASSES: Final = 3


@dataclass(frozen=True)
class Triangulated:
    """depth: (N,) z of the point in each of its frames' cameras; uncertainty: of them, as a share of the depth."""

    depth: Array
    uncertainty: float


def triangulate(positions: Array, intrinsics: Array, camera_to_world: Array, long_side: int) -> Triangulated | None:
    """The point that its images agree on, or None where they do not, or say nothing about how far it is.

    The place nearest to all lines of sight, each weighed by its distance: then what is made least is, to first
    order, the error in the image.

    Args:
        positions: (N,2) in pixels from the corner; intrinsics: (N,3,3); camera_to_world: (N,4,4).
        long_side: of the plate, in pixels.
    """
    rays = np.einsum("nij,nj->ni", np.linalg.inv(intrinsics), np.c_[positions, np.ones(len(positions))])
    rays = np.einsum("nij,nj->ni", camera_to_world[:, :3, :3], rays)
    rays /= np.linalg.norm(rays, axis=1, keepdims=True)
    centres = camera_to_world[:, :3, 3]
    across = np.eye(3) - rays[:, :, None] * rays[:, None, :]
    distance = np.ones(len(rays))
    normal, point = np.eye(3), np.zeros(3)
    for _ in range(_PASSES):
        weighed = across / (distance**2)[:, None, None]
        normal = weighed.sum(axis=0)
        if np.linalg.eigvalsh(normal)[0] < 1e-9 * np.trace(normal):
            return None  # all lines of sight are one: the camera did not move
        point = np.linalg.solve(normal, np.einsum("nij,nj->i", weighed, centres))
        distance = np.maximum(np.linalg.norm(point - centres, axis=1), 1e-12)
    images, depths = np.empty_like(positions), np.empty(len(positions))
    for index, (lens, pose) in enumerate(zip(intrinsics, camera_to_world, strict=True)):
        images[index], depths[index] = project(point, lens, pose)
    noise = NOISE_SHARE * long_side
    if (depths <= 0).any() or np.sqrt(((images - positions) ** 2).sum(axis=1).mean()) > MISSES_BY * noise:
        return None
    angle = noise / float(intrinsics[:, 0, 0].mean())
    towards = rays[len(rays) // 2]
    spread = angle * float(np.sqrt(towards @ np.linalg.solve(normal, towards)))
    return Triangulated(depths, spread / float(np.median(depths)))
