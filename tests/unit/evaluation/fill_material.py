# SPDX-License-Identifier: GPL-3.0-or-later
"""Cases whose fills can be worked out by hand, and generated scenes in flat colours, which are drawn at once."""

from __future__ import annotations

import numpy as np
import torch

from ex4d_engine.cameras import intrinsics_from_fov
from ex4d_engine.evaluation.fill_cases import FillCase
from ex4d_engine.synthetic import Scenes, Views
from ex4d_engine.synthetic.surfaces import cameras_at, see

WIDTH, HEIGHT = 48, 32


def case_of(depth: np.ndarray, source: np.ndarray, path: np.ndarray, truth: np.ndarray | None = None) -> FillCase:
    """A case of the swing 0-30; without a truth it is black."""
    truth = np.zeros_like(source) if truth is None else truth
    height, width = depth.shape[1:]
    everywhere = np.ones(depth.shape, bool)
    lens = intrinsics_from_fov(width, height)
    return FillCase("0-30", 7, source, depth.astype(np.float32), lens, path, truth, everywhere)


def textured(frames: int, height: int = HEIGHT, width: int = WIDTH, seed: int = 0) -> np.ndarray:
    """(F,H,W,3) uint8: the same soft picture in every frame."""
    coarse = torch.rand(1, 3, height // 8, width // 8, generator=torch.Generator().manual_seed(seed))
    image = torch.nn.functional.interpolate(coarse, (height, width), mode="bilinear")[0].permute(1, 2, 0)
    return np.repeat((image * 200 + 20).byte().numpy()[None], frames, axis=0)


def moved(frames: int, x: float = 0.0, z: float = 0.0) -> np.ndarray:
    """(F,4,4) a straight path that ends at (x, 0, z)."""
    poses = np.tile(np.eye(4), (frames, 1, 1))
    share = np.linspace(0, 1, frames)
    poses[:, 0, 3], poses[:, 2, 3] = x * share, z * share
    return poses


def flat_views(
    scenes: Scenes,
    intrinsics: torch.Tensor,
    camera_to_world: torch.Tensor,
    frame_times: torch.Tensor,
    height: int,
    width: int,
    *,
    effects: bool,
) -> Views:
    """As `synthetic.render_views`, each shape in a colour of its own, without light and pattern."""
    assert not effects
    cameras = cameras_at(scenes, intrinsics, camera_to_world, frame_times)
    sight = see(scenes, cameras, height, width)
    colours = torch.rand(1000, 3, generator=torch.Generator().manual_seed(1))
    images = colours[sight.slot % 1000].permute(0, 3, 1, 2)
    return Views(images[None], sight.depth[None], sight.slot[None])
