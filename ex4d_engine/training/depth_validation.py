# SPDX-License-Identifier: GPL-3.0-or-later
"""How good the depth network is while it trains: on clips of seeds that it never sees."""

from __future__ import annotations

import contextlib

import numpy as np
import torch

from ..depth.network import DepthNetwork
from ..evaluation.depth_metrics import DepthScores, depth_scores, mean_scores
from .depth_clips import HELD_OUT_SEED, Clips, ClipSource


class HeldOut:
    """Clips drawn once, and kept."""

    def __init__(
        self, source: ClipSource, count: int, frames: int, height: int, width: int, device: torch.device
    ) -> None:
        self._device = device
        self._clips: list[Clips] = [
            source(HELD_OUT_SEED + index, 1, frames, height, width, device) for index in range(count)
        ]

    @torch.no_grad()
    def scores(self, network: DepthNetwork) -> DepthScores:
        """The network's mean scores, at the size that it works at. The network is in evaluation mode."""
        return mean_scores([self._score(network, clips) for clips in self._clips])

    def _score(self, network: DepthNetwork, clips: Clips) -> DepthScores:
        with autocast(self._device):
            maps = network(torch.nan_to_num(clips.images).clamp(0, 1))
        sky = torch.sigmoid(maps.sky[0]) > 0.5
        said = torch.where(sky, torch.zeros_like(maps.inverse_depth[0]), maps.inverse_depth[0].clamp_min(1e-6))
        depth = clips.depth[0].float().cpu().numpy()
        with np.errstate(divide="ignore", invalid="ignore"):
            true = np.where(depth > 0, 1 / depth, np.nan)
        return depth_scores(
            said.float().cpu().numpy(), true, clips.flow[0].cpu().numpy(), clips.flow_valid[0].cpu().numpy()
        )


def autocast(device: torch.device) -> contextlib.AbstractContextManager[object]:
    """Half precision's range on a graphics card. On the CPU single precision: that run can be repeated bit by bit."""
    return torch.autocast("cuda", torch.bfloat16) if device.type == "cuda" else contextlib.nullcontext()
