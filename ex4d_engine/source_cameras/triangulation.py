# SPDX-License-Identifier: GPL-3.0-or-later
"""Where a tracked point is, once the cameras are known."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
NOISE_SHARE: Final = 0.3 / 960  # of a tracked point, as a share of the plate's longer side
MISSES_BY: Final = 4.0  # noises; a point that is off by more moves by itself or was lost
_STEPS: Final = 8
_BEFORE_THE_CAMERA: Final = 1e-6  # z for a ray whose own z is 1
_ONE_LINE_OF_SIGHT: Final = 1e-10  # smallest eigenvalue, below which the camera moved along its own ray, or not at all


@dataclass(frozen=True)
class Triangulated:
    """inverse_depth: (N,) 1/z of the point in each of its frames' cameras; below 0 where its images say that it lies
    beyond infinity, as noise makes half of what is very far.

    error_per_pixel: (N,) standard deviation of that, if each image is off by one pixel.
    squared_misses: px² of the plate, summed over the images. Of its 2 N numbers three are used up by the point.
    """

    inverse_depth: Array
    error_per_pixel: Array
    squared_misses: float


def triangulate(positions: Array, intrinsics: Array, camera_to_world: Array, long_side: int) -> Triangulated | None:
    """The point that its images agree on, or None where they do not, or say nothing about how far it is.

    What is made least is the error in the images, over a ray of the middle frame and 1/z along it. In these the images
    are nearly linear, so noise moves 1/z to either side alike. The place nearest to all lines of sight, which is
    simpler, takes noise for parallax and comes out too near.

    Args:
        positions: (N,2) in pixels from the corner; intrinsics: (N,3,3); camera_to_world: (N,4,4).
        long_side: of the plate, in pixels.
    """
    middle = len(positions) // 2
    rotation, centres = camera_to_world[:, :3, :3], camera_to_world[:, :3, 3]
    # image ~ turned · (x, y, 1) + moved · 1/z
    turned = intrinsics @ (rotation.transpose(0, 2, 1) @ rotation[middle])
    moved = np.einsum("nij,nj->ni", intrinsics, np.einsum("nji,nj->ni", rotation, centres[middle] - centres))
    columns = np.concatenate([turned[:, :, :2], moved[:, :, None]], axis=2)
    ray = np.linalg.solve(intrinsics[middle], np.append(positions[middle], 1.0))
    point = np.array([*(ray[:2] / ray[2]), 0.0])
    for _ in range(_STEPS):
        image = columns @ point + turned[:, :, 2]
        if not (image[:, 2] > _BEFORE_THE_CAMERA).all():
            return None
        z = image[:, 2]  # the last row of every intrinsics is (0, 0, 1)
        image = image / z[:, None]
        slopes = (columns[:, :2] - image[:, :2, None] * columns[:, 2:]) / z[:, None, None]
        slopes = slopes.reshape(-1, 3)
        misses = image[:, :2] - positions
        normal = slopes.T @ slopes
        size = np.sqrt(normal.diagonal())
        if not size.all() or np.linalg.eigvalsh(normal / np.outer(size, size))[0] < _ONE_LINE_OF_SIGHT:
            return None
        step = np.linalg.solve(normal, slopes.T @ misses.ravel())
        point = point - step
    squared = float((misses**2).sum())
    if not squared <= (MISSES_BY * NOISE_SHARE * long_side) ** 2 * len(positions):
        return None
    error = float(np.sqrt(np.linalg.inv(normal)[2, 2]))
    inverse = point[2] / z
    # 1/z of another frame by 1/z of the middle one, along the ray
    along = (z - columns[:, 2, 2] * point[2]) / z**2
    return Triangulated(inverse, error * np.abs(along), squared)
