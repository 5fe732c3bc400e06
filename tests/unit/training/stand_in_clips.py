# SPDX-License-Identifier: GPL-3.0-or-later
"""Clips of flat cards before a wall or a sky, seen by a camera that slides sideways: exact truth in a few lines."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor


class StandInClips(NamedTuple):
    """As `ex4d_engine.synthetic.ClipBatch`, without what the training does not look at."""

    images: Tensor
    depth: Tensor
    flow: Tensor
    flow_valid: Tensor


def stand_in_clips(
    seed: int, batch: int, frames: int, height: int, width: int, device: torch.device | str
) -> StandInClips:
    """Three cards of one colour a clip, nearer ones brighter, shifting by one pixel a frame at depth 4."""
    rng = torch.Generator().manual_seed(seed)
    images = torch.zeros(batch, frames, 3, height, width)
    depth = torch.full((batch, frames, height, width), 20.0)
    for b in range(batch):
        images[b] = 0.1
        depth[b, :, : height // 4] = torch.inf
        images[b, :, 2, : height // 4] = 0.9
        for z in (8.0, 4.0, 2.0):
            top = int(torch.randint(0, height // 2, (1,), generator=rng))
            left = int(torch.randint(0, width // 2, (1,), generator=rng))
            colour = torch.rand(3, generator=rng) * 0.3 + 1.2 / z
            for f in range(frames):
                shift = round(f * 4 / z)
                rows, columns = slice(top, top + height // 3), slice(left + shift, left + shift + width // 3)
                depth[b, f, rows, columns] = z
                images[b, f, :, rows, columns] = colour[:, None, None].clamp(0, 1)
    flow = torch.zeros(batch, frames - 1, 2, height, width)
    flow[:, :, 0] = torch.where(depth[:, :-1].isinf(), 0.0, (4 / depth[:, :-1]).round())
    valid = torch.ones(batch, frames - 1, height, width, dtype=torch.bool)
    return StandInClips(*(part.to(device) for part in (images, depth, flow, valid)))
