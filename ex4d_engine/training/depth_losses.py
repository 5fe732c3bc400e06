# SPDX-License-Identifier: GPL-3.0-or-later
"""What the depth network is taught: inverse depth whose mean over the clip is 1, and steady over time.

A clip has no scale that could be seen, so the truth is brought to one that is a function of what is seen: 1 is the
mean over the clip's solid pixels. The network aims at it directly. To divide the network's answer by its own spread
instead, as MiDaS does, gives nearly flat answers, which every training begins with, gradients without bound: measured
here, they drowned all others and nothing was learnt. One scale for all frames of a clip, never one a frame: a network
that flickers is punished for it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from ..depth.network import DepthMaps

_SOFTENING = 0.1
"""Added to inverse depth, whose mean is 1, before logarithms: beyond 10 times the mean distance all is far."""

_MOST_STANDING_OUT = 2.0  # e-folds

_FLAT = 0.01
"""Where inverse depth bends by less than this share of itself in the truth, the surface is flat there: a plane's does
not bend at all, from whichever side it is seen."""

_SCALES_ALLOWED = (0.2, 5.0)
"""Of the fit that forgives scale and shift: an answer that says nothing is not blown up to one that does."""


@dataclass(frozen=True)
class LossWeights:
    """How much each part counts in the sum, and `standing_out` how much more what stands out of its row counts.

    Of most pictures the ground and the far wall are the largest part, and where a thing stands on them is a matter of
    few pixels: unweighted, a figure is drawn into the ground that it stands on, its head as far as what is behind it.
    `flatness` is against the opposite, steps that are not there: in a wall with a painted edge, or half in shade. Where
    the camera moves on, each would be torn open.
    """

    level: float = 1.0
    affine: float = 1.0
    gradient: float = 2.0
    temporal: float = 1.0
    error: float = 0.1
    sky: float = 0.2
    flatness: float = 0.0
    standing_out: float = 0.0


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
    """Scalars, each without its weight in the sum."""

    level: Tensor
    affine: Tensor
    gradient: Tensor
    temporal: Tensor
    error: Tensor
    sky: Tensor
    flatness: Tensor

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


def depth_losses(maps: DepthMaps, target: DepthTarget, standing_out: float = 0.0) -> LossParts:
    """How far the network's maps (B, F, H, W) are from the truth. standing_out: see `LossWeights`."""
    solid = target.known & ~target.sky
    true = canonical(target.inverse_depth, solid)
    said_level, true_level = torch.log(maps.inverse_depth + _SOFTENING), torch.log(true + _SOFTENING)
    difference = (said_level - true_level) * target.known
    counts = how_much_counts(true_level, target.known, standing_out) if standing_out > 0 else None
    return LossParts(
        level=_mean(difference.abs(), target.known, counts),
        affine=affine_loss(maps.inverse_depth, true, solid, counts),
        gradient=gradient_loss(difference, target.known, counts=counts),
        temporal=temporal_loss(said_level, true_level, target),
        # Knowing its own error must not change the depth.
        error=_mean(difference.detach().abs() * torch.exp(-maps.log_error) + maps.log_error, target.known),
        sky=_mean(
            functional.binary_cross_entropy_with_logits(maps.sky, target.sky.to(maps.sky.dtype), reduction="none"),
            target.known,
        ),
        flatness=flatness_loss(maps.inverse_depth, true, solid),
    )


def canonical(inverse_depth: Tensor, solid: Tensor) -> Tensor:
    """Inverse depth (B, F, H, W), each clip's mean over its solid pixels brought to 1. All sky stays 0."""
    mean = _mean(inverse_depth, solid, by_clip=True).clamp_min(1e-6)
    return inverse_depth / mean[:, None, None, None]


def how_much_counts(true_level: Tensor, known: Tensor, standing_out: float) -> Tensor:
    """(B, F, H, W), 1 or more: how much a pixel counts that is nearer than the middle of its row.

    Args:
        true_level: (B, F, H, W) logarithm of the true inverse depth.
        known: (B, F, H, W) bool.
        standing_out: what is added for each e-fold of nearness, to two e-folds.
    """
    with torch.no_grad():
        unknown = torch.full_like(true_level, torch.nan)
        middle = torch.where(known, true_level, unknown).nanmedian(dim=-1, keepdim=True).values
        return 1 + standing_out * torch.nan_to_num(true_level - middle).clamp(0, _MOST_STANDING_OUT)


def affine_loss(said: Tensor, true: Tensor, solid: Tensor, counts: Tensor | None = None) -> Tensor:
    """Mean error of inverse depth (B, F, H, W) after the best scale and shift a clip, in mean deviations of the truth.

    No gradient goes through the fit: it says what an answer was worth, not how to please it.
    """
    with torch.no_grad():
        said_mean, true_mean = (_mean(values, solid, by_clip=True)[:, None, None, None] for values in (said, true))
        off = said - said_mean
        covariance = _mean(off * (true - true_mean), solid, by_clip=True)
        variance = _mean(off * off, solid, by_clip=True)
        scale = (covariance / variance.clamp_min(1e-4)).clamp(*_SCALES_ALLOWED)[:, None, None, None]
        deviation = _mean((true - true_mean).abs(), solid, by_clip=True).clamp_min(0.1)[:, None, None, None]
    return _mean((scale * (said - said_mean) + true_mean - true).abs() / deviation, solid, counts)


def gradient_loss(difference: Tensor, known: Tensor, scales: int = 4, counts: Tensor | None = None) -> Tensor:
    """Mean slope of the difference (B, F, H, W) at `scales` scales: steps stay steep and surfaces smooth."""
    total = difference.new_zeros(())
    for scale in range(scales):
        stride = 2**scale
        d, k = difference[..., ::stride, ::stride], known[..., ::stride, ::stride]
        if min(d.shape[-2:]) < 2:
            break
        # a slope counts as the nearer of its ends: a figure's outline with the figure
        c = None if counts is None else counts[..., ::stride, ::stride]
        across = None if c is None else torch.maximum(c[..., 1:], c[..., :-1])
        down = None if c is None else torch.maximum(c[..., 1:, :], c[..., :-1, :])
        total = total + _mean((d[..., 1:] - d[..., :-1]).abs(), k[..., 1:] & k[..., :-1], across)
        total = total + _mean((d[..., 1:, :] - d[..., :-1, :]).abs(), k[..., 1:, :] & k[..., :-1, :], down)
    return total / scales


def flatness_loss(said: Tensor, true: Tensor, solid: Tensor, scales: int = 4) -> Tensor:
    """Mean bend of inverse depth (B, F, H, W) where the truth has none, in shares of the truth, at `scales` scales."""
    total = said.new_zeros(())
    least = torch.where(solid, true, torch.ones_like(true)).clamp_min(1e-3)
    for scale in range(scales):
        stride = 2**scale
        s, t, k, unit = (values[..., ::stride, ::stride] for values in (said, true, solid, least))
        for axis in (-1, -2):
            size = s.shape[axis]
            if size < 3:
                continue
            middle = unit.narrow(axis, 1, size - 2)
            bend_said, bend_true = _bend(s, axis) / middle, _bend(t, axis) / middle
            all_solid = k.narrow(axis, 0, size - 2) & k.narrow(axis, 1, size - 2) & k.narrow(axis, 2, size - 2)
            total = total + _mean((bend_said - bend_true).abs(), all_solid & (bend_true.abs() < _FLAT))
    return total / scales


def _bend(values: Tensor, axis: int) -> Tensor:
    """Second differences along an axis, shorter by two."""
    inner = values.shape[axis] - 2
    return values.narrow(axis, 0, inner) - 2 * values.narrow(axis, 1, inner) + values.narrow(axis, 2, inner)


def temporal_loss(said: Tensor, true: Tensor, target: DepthTarget) -> Tensor:
    """How differently the logarithm (B, F, H, W) changes along the true flow from how it should."""
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


def _mean(values: Tensor, mask: Tensor, counts: Tensor | None = None, *, by_clip: bool = False) -> Tensor:
    """Mean where the mask holds, 0 where it holds nowhere: over everything, or for each clip (B,).

    counts: how much each value counts, None for all alike.
    """
    weight = mask.to(values.dtype) if counts is None else mask * counts
    kept = torch.where(mask, values * weight, torch.zeros_like(values))
    if by_clip:
        return kept.flatten(1).sum(1) / weight.flatten(1).sum(1).clamp_min(1)
    return kept.sum() / weight.sum().clamp_min(1)
