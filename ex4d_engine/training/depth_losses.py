# SPDX-License-Identifier: GPL-3.0-or-later
"""What the depth network is taught: inverse depth up to one scale and one shift a clip, and steady over time.

One scale and shift for all frames of a clip, never one a frame: a network that flickers is punished for it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from ..depth.network import DepthMaps

_SOFTENING = 0.05
"""Of the clip's mean inverse depth, added before logarithms: beyond 20 times the mean distance all is far."""


@dataclass(frozen=True)
class LossWeights:
    """How much each part counts in the sum."""

    affine: float = 1.0
    gradient: float = 1.0
    ratio: float = 0.5
    temporal: float = 1.0
    error: float = 0.1
    sky: float = 0.2


class DepthTarget(NamedTuple):
    """The truth of B clips of F frames.

    inverse_depth: (B, F, H, W) float32, 1/z, 0 for sky.
    sky, known: (B, F, H, W) bool; sky is known.
    flow: (B, F−1, 2, H, W), pixels (x, y) from each frame to where its points are in the next.
    flow_valid: (B, F−1, H, W) bool.
    """

    inverse_depth: Tensor
    sky: Tensor
    known: Tensor
    flow: Tensor
    flow_valid: Tensor


class LossParts(NamedTuple):
    """Scalars, unweighted, in the order of `LossWeights`."""

    affine: Tensor
    gradient: Tensor
    ratio: Tensor
    temporal: Tensor
    error: Tensor
    sky: Tensor

    def total(self, weights: LossWeights) -> Tensor:
        return sum(
            (getattr(weights, name) * part for name, part in self._asdict().items()), torch.zeros(()).to(self[0])
        )


def depth_target(depth: Tensor, flow: Tensor, flow_valid: Tensor) -> DepthTarget:
    """The truth as it is compared. depth: (B, F, H, W), z, inf for sky; what is not positive is unknown."""
    known = depth > 0
    sky = torch.isposinf(depth)
    inverse = torch.where(known & ~sky, 1 / depth.clamp_min(1e-6), torch.zeros_like(depth))
    return DepthTarget(inverse, sky, known, torch.nan_to_num(flow), flow_valid)


def depth_losses(maps: DepthMaps, target: DepthTarget) -> LossParts:
    """How far the network's maps (B, F, H, W) are from the truth."""
    solid = target.known & ~target.sky
    said = normalised(maps.inverse_depth, solid)
    true = normalised(target.inverse_depth, solid)
    difference = (said - true) * target.known
    return LossParts(
        affine=_mean(difference.abs(), target.known),
        gradient=gradient_loss(difference, target.known),
        ratio=ratio_loss(maps.inverse_depth, target),
        temporal=temporal_loss(said, true, target),
        # Knowing its own error must not change the depth.
        error=_mean(difference.detach().abs() * torch.exp(-maps.log_error) + maps.log_error, target.known),
        sky=_mean(
            functional.binary_cross_entropy_with_logits(maps.sky, target.sky.to(maps.sky.dtype), reduction="none"),
            target.known,
        ),
    )


def normalised(values: Tensor, solid: Tensor) -> Tensor:
    """Values (B, F, H, W) of each clip with median 0 and mean absolute deviation 1 over its solid pixels (B, F, H, W).

    The normalisation of MiDaS (Ranftl et al. 2020), for a clip instead of a picture. Scale and shift fall out.
    """
    # A quarter of the pixels says the same of a clip.
    part, mask = values[..., ::2, ::2], solid[..., ::2, ::2]
    holed = torch.where(mask, part, torch.full_like(part, torch.nan))
    median = torch.nan_to_num(holed.flatten(1).nanmedian(dim=1).values)[:, None, None, None]
    deviation = _mean((part - median).abs(), mask, by_clip=True)[:, None, None, None]
    # A flat wall has no deviation to speak of: its noise is not to be blown up.
    floor = 1e-3 * median.abs() + 1e-6
    return (values - median) / torch.maximum(deviation, floor)


def gradient_loss(difference: Tensor, known: Tensor, scales: int = 4) -> Tensor:
    """Mean slope of the difference (B, F, H, W) at `scales` scales: steps stay steep and surfaces smooth."""
    total = difference.new_zeros(())
    for scale in range(scales):
        stride = 2**scale
        d, k = difference[..., ::stride, ::stride], known[..., ::stride, ::stride]
        if min(d.shape[-2:]) < 2:
            break
        total = total + _mean((d[..., 1:] - d[..., :-1]).abs(), k[..., 1:] & k[..., :-1])
        total = total + _mean((d[..., 1:, :] - d[..., :-1, :]).abs(), k[..., 1:, :] & k[..., :-1, :])
    return total / scales


def ratio_loss(inverse_depth: Tensor, target: DepthTarget) -> Tensor:
    """Error of the logarithm up to one scale and no shift: ties the network's 0 to infinity, and far things down.

    Without it a z could not be told from the network's answer. The scale itself is drawn, weakly, to where the mean
    is 1.
    """
    solid = target.known & ~target.sky
    said_mean = _mean(inverse_depth, solid, by_clip=True).clamp_min(1e-6)
    true_mean = _mean(target.inverse_depth, solid, by_clip=True).clamp_min(1e-6)
    said = inverse_depth / said_mean[:, None, None, None]
    true = target.inverse_depth / true_mean[:, None, None, None]
    off = (torch.log(said + _SOFTENING) - torch.log(true + _SOFTENING)).abs()
    # A clip of sky alone has no mean.
    some = solid.flatten(1).any(1)
    return _mean(off, target.known & some[:, None, None, None]) + 0.01 * _mean(said_mean.log() ** 2, some)


def temporal_loss(said: Tensor, true: Tensor, target: DepthTarget) -> Tensor:
    """How differently normalised depth (B, F, H, W) changes along the true flow from how it should."""
    if said.shape[1] < 2:
        return said.new_zeros(())
    height, width = said.shape[-2:]
    grid, inside = _flow_grid(target.flow)
    moved = functional.grid_sample(
        torch.stack([said[:, 1:].flatten(0, 1), true[:, 1:].flatten(0, 1)], 1),
        grid,
        padding_mode="border",
        align_corners=False,
    ).view(said.shape[0], -1, 2, height, width)
    change_said = moved[:, :, 0] - said[:, :-1]
    change_true = moved[:, :, 1] - true[:, :-1]
    return _mean((change_said - change_true).abs(), target.flow_valid & inside & target.known[:, :-1])


def _flow_grid(flow: Tensor) -> tuple[Tensor, Tensor]:
    """Where the flow (B, F, 2, H, W) leads, for `grid_sample`, and whether that is inside the frame (B, F, H, W)."""
    height, width = flow.shape[-2:]
    y = torch.arange(height, device=flow.device, dtype=flow.dtype)[:, None] + flow[:, :, 1]
    x = torch.arange(width, device=flow.device, dtype=flow.dtype) + flow[:, :, 0]
    inside = (x >= 0) & (y >= 0) & (x <= width - 1) & (y <= height - 1)
    grid = torch.stack([(2 * x + 1) / width - 1, (2 * y + 1) / height - 1], dim=-1)
    return grid.flatten(0, 1), inside


def _mean(values: Tensor, mask: Tensor, *, by_clip: bool = False) -> Tensor:
    """Mean where the mask holds, 0 where it holds nowhere: over everything, or for each clip (B,)."""
    weight = mask.to(values.dtype)
    kept = torch.where(mask, values, torch.zeros_like(values))
    if by_clip:
        return kept.flatten(1).sum(1) / weight.flatten(1).sum(1).clamp_min(1)
    return kept.sum() / weight.sum().clamp_min(1)
