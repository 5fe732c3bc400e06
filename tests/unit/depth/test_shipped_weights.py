# SPDX-License-Identifier: GPL-3.0-or-later
"""The weights that come with the engine: small enough to ship, and worth more than knowing nothing."""

from __future__ import annotations

import numpy as np
import torch
from safetensors import safe_open

from ex4d_engine.depth import depth_source
from ex4d_engine.depth.bundled import WEIGHTS
from ex4d_engine.depth.network import NetworkShape
from ex4d_engine.depth.network_weights import load_weights
from ex4d_engine.evaluation.depth_metrics import DepthScores, depth_scores, mean_scores
from ex4d_engine.progress import Silent
from ex4d_engine.synthetic import random_clips
from ex4d_engine.training.depth_clips import HELD_OUT_SEED


def inverse_depth(name: str, images: np.ndarray) -> np.ndarray:
    height, width = images.shape[1:3]
    made = depth_source(name).estimate(lambda: iter(images), len(images), (width, height), Silent())
    return np.stack([1 / frame.depth for frame in made.frames])


def test_they_are_small_and_say_their_licence() -> None:
    assert WEIGHTS.stat().st_size < 20e6
    with safe_open(WEIGHTS, framework="pt") as file:
        assert file.metadata()["licence"] == "GPL-3.0-or-later"
    network = load_weights(WEIGHTS)
    assert network.shape == NetworkShape()
    assert all(torch.isfinite(parameter).all() for parameter in network.parameters())


def test_they_know_more_than_a_wall_and_than_the_guess_on_clips_they_never_saw() -> None:
    scores: dict[str, list[DepthScores]] = {}
    for index in range(3):
        clip = random_clips(HELD_OUT_SEED + index, 1, 2, 144, 192, torch.device("cpu"))
        images = (clip.images[0].permute(0, 2, 3, 1).numpy() * 255).round().astype(np.uint8)
        true = 1 / clip.depth[0].numpy()
        for name in ("bundled", "rough-pictorial", "a wall"):
            said = np.ones_like(true) if name == "a wall" else inverse_depth(name, images)
            scores.setdefault(name, []).append(depth_scores(said, true))
    bundled, guess, wall = (mean_scores(clips) for clips in scores.values())
    assert bundled.abs_rel < min(guess.abs_rel, wall.abs_rel)
    assert bundled.delta1 > max(guess.delta1, wall.delta1)
    assert bundled.edge_f1 > 0.2
