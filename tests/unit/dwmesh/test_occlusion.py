# SPDX-License-Identifier: GPL-3.0-or-later
"""Which faces count as seen: against steps made by hand, at every size and lens, and the reference's formulas."""

from __future__ import annotations

import math

import numpy as np
import pytest

from ex4d_engine.dwmesh.occlusion import reference_seen, seen_faces, seen_pixels
from ex4d_engine.dwmesh.ray_grid import reference_ray_grid
from ex4d_engine.reference_paths import reference_intrinsics


def cells(depth: np.ndarray) -> np.ndarray:
    """(H-1, W-1, 2) bool: the faces between four pixels."""
    height, width = depth.shape
    return (seen_faces(depth).reshape(height + 3, width + 3, 2) > 0)[2:-2, 2:-2]


def test_a_plane_facing_the_camera_is_seen_whole_and_the_skirt_is_not() -> None:
    depth = np.full((7, 9), 3, np.float32)
    seen = seen_faces(depth).reshape(10, 12, 2)
    assert (seen[1:-1, 1:-1] == 255).all()
    assert seen[[0, -1]].max() == 0
    assert seen[:, [0, -1]].max() == 0
    assert (seen_pixels(seen_faces(depth), 9, 7) == 255).all()


def test_a_step_occludes_exactly_the_faces_that_cross_it() -> None:
    depth = np.full((6, 8), 2, np.float32)
    depth[:, 5:] = 10
    expected = np.ones((5, 7, 2), bool)
    expected[:, 4] = False
    assert (cells(depth) == expected).all()


def test_a_single_pixel_in_front_occludes_its_six_faces() -> None:
    depth = np.full((5, 5), 10, np.float32)
    depth[2, 2] = 1
    occluded = {tuple(int(value) for value in place) for place in np.argwhere(~cells(depth))}
    assert occluded == {(1, 1, 1), (1, 2, 0), (1, 2, 1), (2, 1, 0), (2, 1, 1), (2, 2, 0)}


@pytest.mark.parametrize("axis", [0, 1])
@pytest.mark.parametrize("size", [(16, 16), (31, 64), (512, 512), (9, 400)])
@pytest.mark.parametrize("scale", [1e-3, 1.0, 1e4])
def test_the_rule_means_the_same_jump_at_every_size_and_scale(axis: int, size: tuple[int, int], scale: float) -> None:
    """4.6 % passes or fails at the same place, wherever the step is and however large the frame."""
    height, width = size
    for jump, kept in ((1.040, True), (1.044, True), (1.049, False), (1.06, False), (8.0, False)):
        for place in (2, (height, width)[axis] // 2, (height, width)[axis] - 3):
            depth = np.full((height, width), scale, np.float32)
            far = (slice(place, None), slice(None)) if axis == 0 else (slice(None), slice(place, None))
            depth[far] *= np.float32(jump)
            assert cells(depth).all() == kept, (jump, place)


def test_the_jump_is_the_reference_angle_at_its_focal_length() -> None:
    """On the axis of a 500 px camera the rule is the reference's 2.5° itself."""
    limit = 1 / (500 * math.tan(math.radians(2.5)))
    for jump, kept in ((1 + 0.97 * limit, True), (1 + 1.05 * limit, False)):
        depth = np.full((4, 4), 5, np.float32)
        depth[:, 2:] *= jump
        assert cells(depth).all() == kept


def test_transparent_pixels_of_the_plate_are_not_seen() -> None:
    depth = np.full((6, 6), 4, np.float32)
    cover = np.full((6, 6), 255, np.uint8)
    cover[:, :3] = 0
    seen = seen_faces(depth, cover)
    inner = seen.reshape(9, 9, 2)[2:-2, 2:-2]
    assert inner[:, :3].max() == 0
    assert inner[:, 3:].min() == 255
    assert (seen_pixels(seen, 6, 6)[:, :3] == 0).all()


def naive_reference(depth: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The published formulas, face by face: f = 500, whole-pixel rays, ring at z = 100, 2.5°."""
    height, width = depth.shape
    z = depth.astype(np.float64).copy()
    z[[0, -1]] = z[:, [0, -1]] = 100
    points = np.array(
        [
            [((j - width / 2) / 500 * z[i, j], (i - height / 2) / 500 * z[i, j], z[i, j]) for j in range(width)]
            for i in range(height)
        ]
    )
    passed = np.zeros((height - 1, width - 1, 2), bool)
    alpha = np.full((height, width), 255, np.uint8)
    for i in range(height - 1):
        for j in range(width - 1):
            for k, corners in enumerate((((i, j), (i + 1, j), (i, j + 1)), ((i + 1, j), (i + 1, j + 1), (i, j + 1)))):
                triangle = [points[corner] for corner in corners]
                angles = []
                for n in range(3):
                    one, two = triangle[n - 1] - triangle[n], triangle[n - 2] - triangle[n]
                    cosine = one @ two / np.linalg.norm(one) / np.linalg.norm(two)
                    angles.append(math.degrees(math.acos(max(-1.0, min(1.0, cosine)))))
                passed[i, j, k] = min(angles) >= 2.5
                if not passed[i, j, k]:
                    for corner in corners:
                        alpha[corner] = 0
    return passed, alpha


@pytest.mark.parametrize("seed", range(4))
def test_compat_equals_the_published_formulas(seed: int) -> None:
    rng = np.random.default_rng(seed)
    height, width = 13, 17
    smooth = np.cumsum(rng.normal(0, 0.05, (height, width)), axis=1) + 6
    depth = np.where(rng.random((height, width)) < 0.1, smooth * 3, smooth).astype(np.float32)
    grid = reference_ray_grid(width, height, reference_intrinsics(width, height))
    seen, alpha = reference_seen(grid, depth)
    passed, flags = naive_reference(depth)
    assert (seen.reshape(height - 1, width - 1, 2) > 0).tolist() == passed.tolist()
    assert (alpha == flags).all()
    assert not passed.all()
    assert passed.any()


def test_compat_vertices_are_whole_pixel_rays_with_the_ring_at_100() -> None:
    grid = reference_ray_grid(5, 4, reference_intrinsics(5, 4))
    points = grid.vertices(np.full((4, 5), 3, np.float32)).reshape(4, 5, 3)
    np.testing.assert_allclose(points[1, 2], [(2 - 2.5) / 500 * 3, (1 - 2) / 500 * 3, 3], rtol=1e-6)
    assert (points[[0, -1], :, 2] == 100).all()
    assert (points[:, [0, -1], 2] == 100).all()
    assert len(grid.topology.faces) == 2 * 3 * 4 + 2  # and its two cap triangles


@pytest.mark.parametrize("scale", [1e-8, 1.0, 1e9])
def test_the_rule_written_out_is_the_angle_itself(scale: float) -> None:
    """Against interior angles by arc cosine, face by face, in a 500 px camera through each cell's middle."""
    rng = np.random.default_rng(7)
    depth = (np.cumsum(rng.normal(0, 0.1, (40, 50)), axis=1) + 8).astype(np.float32)
    depth[rng.random(depth.shape) < 0.1] *= 1.5
    z = depth.astype(np.float64)
    h = 0.5 / 500
    a, b, c, d = (
        np.stack([x * corner, y * corner, corner], -1)
        for corner, x, y in ((z[:-1, :-1], -h, -h), (z[1:, :-1], -h, h), (z[:-1, 1:], h, -h), (z[1:, 1:], h, h))
    )
    smallest = np.stack([smallest_angles(a, b, c), smallest_angles(b, d, c)], -1)
    clear = np.abs(smallest - 2.5) > 1e-3  # float32 may fall either way on the very limit
    assert (cells(depth * np.float32(scale)) == (smallest >= 2.5))[clear].all()
    assert clear.mean() > 0.99


def smallest_angles(*corners: np.ndarray) -> np.ndarray:
    """Degrees, for stacks of triangles (..., 3)."""
    angles = []
    for index in range(3):
        one, two = corners[index - 1] - corners[index], corners[index - 2] - corners[index]
        cosine = (one * two).sum(-1) / np.linalg.norm(one, axis=-1) / np.linalg.norm(two, axis=-1)
        angles.append(np.degrees(np.arccos(np.clip(cosine, -1, 1))))
    return np.minimum.reduce(angles)
