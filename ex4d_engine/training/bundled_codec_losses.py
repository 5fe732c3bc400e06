# SPDX-License-Identifier: GPL-3.0-or-later
"""What the bundled codec is trained for: colours, edges at several scales, and steadiness over time."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Final, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

_SCALES: Final = 3
_BLOCK: Final = 8


@dataclass(frozen=True)
class CodecLossWeights:
    """How much each part of `CodecLossParts` counts."""

    absolute: float = 1.0
    squared: float = 20.0
    gradient: float = 0.5
    flicker: float = 0.25


class CodecLossParts(NamedTuple):
    """Scalars; with the difference of two videos:

    absolute, squared: its mean absolute value and mean square.
    gradient: mean absolute step of it from pixel to pixel, summed over three scales.
    flicker: mean absolute change of it from frame to frame.
    """

    absolute: Tensor
    squared: Tensor
    gradient: Tensor
    flicker: Tensor

    def total(self, weights: CodecLossWeights) -> Tensor:
        return torch.stack(self) @ self.absolute.new_tensor(dataclasses.astuple(weights))


def codec_losses(returned: Tensor, true: Tensor) -> CodecLossParts:
    """The parts for videos (B, 3, F, H, W) in [−1, 1]."""
    error = returned - true
    frames = error.transpose(1, 2).flatten(0, 1)
    gradient = error.new_zeros(())
    for scale in range(_SCALES):
        if scale:
            frames = functional.avg_pool2d(frames, 2)
        gradient = gradient + frames.diff(dim=-1).abs().mean() + frames.diff(dim=-2).abs().mean()
    flicker = error.diff(dim=2).abs().mean() if error.shape[2] > 1 else error.new_zeros(())
    return CodecLossParts(error.abs().mean(), error.square().mean(), gradient, flicker)


def block_edges(video: Tensor) -> float:
    """How much larger the steps between blocks of 8 columns are than all steps from column to column: 1 where none is
    to be seen, in a video (..., W)."""
    steps = video.detach().float().diff(dim=-1).abs()
    return float(steps[..., _BLOCK - 1 :: _BLOCK].mean() / steps.mean().clamp_min(1e-12))


def peak_signal_to_noise(returned: Tensor, true: Tensor) -> Tensor:
    """(B,) in dB, of videos (B, ...) in [−1, 1]."""
    error = (returned.float() - true.float()).square().flatten(1).mean(1)
    return 10 * torch.log10(4 / error.clamp_min(1e-12))
