# SPDX-License-Identifier: GPL-3.0-or-later
"""Depth Anything 3: its network against numbers of its authors' own, and its chunks in one world."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.spatial.transform import Rotation

from ex4d_engine.depth.networks.multi_view_network import load_multi_view, reference_first
from ex4d_engine.depth.sources.camera_chunks import Chunk, Similarity, chain, find_similarity, moved
from ex4d_engine.depth.sources.depth_anything_3 import camera_to_world
from tests.tiny_depth_models import multi_view_tensors


def test_the_numbers_of_the_authors_own_package() -> None:
    """From depth-anything-3 0.1.1 with the same weights and frames: four, so that a reference is chosen."""
    n = torch.arange(4 * 3 * 42 * 56, dtype=torch.float64)
    frames = (1.5 * torch.sin(n * 0.37) + torch.cos(n * n * 1e-4)).float().reshape(4, 3, 42, 56)
    with torch.inference_mode():
        views = load_multi_view(multi_view_tensors(), Path("model.safetensors"), "Depth Anything 3")(frames)
    depth = [[0.7832067, 0.3201004, 0.5118490], [0.6043328, 0.3869185, 0.5502398]]
    np.testing.assert_allclose(views.depth[:2, [3, 20, 39], [5, 30, 50]], depth, rtol=2e-5)
    np.testing.assert_allclose(views.depth.mean((1, 2)), [0.6116483, 0.4995663, 0.5655938, 0.5629960], rtol=2e-5)
    np.testing.assert_allclose(views.confidence[:, 20, 30], [1.4771613, 1.8836839, 1.5693042, 1.7333022], rtol=2e-5)
    pose = camera_to_world(views.rotation.double().numpy(), views.position.double().numpy())
    row = [-0.27087435, 0.94500238, -0.18329653, -0.10754769]
    np.testing.assert_allclose(pose[1, 1], row, rtol=1e-4)
    np.testing.assert_allclose(pose[3, :3, 3], [0.19364159, -0.17388660, 0.39996111], rtol=1e-4)
    focal = np.array([21, 28]) / np.tan(views.fov[2].numpy() / 2)
    np.testing.assert_allclose(focal, [46.6013714, 35.8294678], rtol=1e-4)


def test_the_reference_is_the_frame_in_the_middle() -> None:
    tokens = torch.tensor([[1.0, 0.0, 0.2], [3.0, 0.5, 0.1], [2.0, 0.2, 0.15], [1.5, 2.0, 0.0]])
    order = reference_first(tokens)
    assert sorted(order.tolist()) == [0, 1, 2, 3]
    assert order[1:].tolist() == sorted(order[1:].tolist())


# ------------------------------------------------------------------------------------------- chunks


def random_world(count: int, seed: int = 0) -> Chunk:
    random = np.random.default_rng(seed)
    poses = np.tile(np.eye(4), (count, 1, 1))
    poses[:, :3, :3] = Rotation.from_rotvec(random.normal(0, 0.3, (count, 3))).as_matrix()
    poses[:, :3, 3] = random.normal(0, 1, (count, 3))
    inverse = random.uniform(0.1, 1, (count, 5, 6)).astype(np.float32)
    confidence = random.uniform(0.2, 0.9, (count, 5, 6)).astype(np.float32)
    return Chunk(inverse, confidence, poses, random.uniform(0.6, 0.9, (count, 2)))


def similarity(seed: int) -> Similarity:
    random = np.random.default_rng(seed)
    return Similarity(
        float(random.uniform(0.3, 3)),
        Rotation.from_rotvec(random.normal(0, 1, 3)).as_matrix(),
        random.normal(0, 2, 3),
    )


def test_a_similarity_is_found_and_moves_points_and_cameras_together() -> None:
    world, by = random_world(4), similarity(7)
    found = find_similarity(moved(world, by), world)
    assert found.scale == pytest.approx(by.scale, rel=1e-5)
    np.testing.assert_allclose(found.rotation, by.rotation, atol=1e-9)
    np.testing.assert_allclose(found.translation, by.translation, atol=1e-4)

    def point(chunk: Chunk) -> np.ndarray:
        """Where a pixel of the second frame lies in the world."""
        return chunk.camera_to_world[1] @ [*(np.array([0.3, -0.2, 1.0]) / chunk.inverse_z[1, 2, 3]), 1.0]

    expected = by.scale * by.rotation @ point(world)[:3] + by.translation
    np.testing.assert_allclose(point(moved(world, by))[:3], expected, rtol=1e-5)


def test_what_moved_and_what_is_unsure_does_not_change_the_scale() -> None:
    world = random_world(4)
    reference = moved(world, Similarity(2.0, np.eye(3), np.zeros(3)))
    world.inverse_z[:, :2] *= 5
    world.confidence[:, :2] = 0.1
    world.inverse_z[0, 3, 3] = np.nan
    assert find_similarity(reference, world).scale == pytest.approx(2.0, rel=1e-5)


@pytest.mark.parametrize("count", [1, 2, 5, 7, 8, 9, 13, 14, 20, 21])
def test_every_frame_comes_once_in_the_first_chunk_s_world(count: int) -> None:
    world = random_world(count)
    calls: list[int] = []

    def predict(images: list[np.ndarray], first: int) -> Chunk:
        numbers = [int(image[0, 0, 0]) for image in images]
        assert numbers == list(range(first, first + len(numbers)))
        calls.append(len(numbers))
        part = Chunk(*(values[numbers] for values in vars(world).values()))
        return part if first == 0 else moved(part, similarity(first))

    images = iter([np.full((2, 2, 3), number, np.uint8) for number in range(count)])
    views = list(chain(images, predict, window=8, overlap=3))
    assert len(views) == count
    np.testing.assert_allclose([v.inverse_z for v in views], world.inverse_z, rtol=1e-4)
    np.testing.assert_allclose([v.camera_to_world for v in views], world.camera_to_world, atol=1e-4)
    np.testing.assert_allclose([v.fov for v in views], world.fov)
    assert max(calls) <= 8 and all(call > 3 for call in calls[1:])


def test_quaternions_of_any_length_and_of_none() -> None:
    poses = camera_to_world(np.array([[0, 0, 2.0, 2.0], [0, 0, 0, 0]]), np.array([[1.0, 2, 3], [4, 5, 6]]))
    np.testing.assert_allclose(poses[0], [[0, -1, 0, 1], [1, 0, 0, 2], [0, 0, 1, 3], [0, 0, 0, 1]], atol=1e-12)
    np.testing.assert_allclose(poses[1, :3, :3], np.eye(3))
