# SPDX-License-Identifier: GPL-3.0-or-later
"""The depth losses: what they ignore, what they punish, and values by hand."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ex4d_engine.depth.network import DepthMaps
from ex4d_engine.training.depth_losses import (
    DepthTarget,
    LossWeights,
    depth_losses,
    depth_target,
    gradient_loss,
    normalised,
    ratio_loss,
)


def target(batch: int = 2, frames: int = 3, size: int = 16) -> DepthTarget:
    """Random depth with a strip of sky, everything standing still."""
    generator = torch.Generator().manual_seed(0)
    depth = 1 + 9 * torch.rand(batch, 1, size, size, generator=generator).expand(batch, frames, size, size).clone()
    depth[..., :3, :] = torch.inf
    return depth_target(
        depth, torch.zeros(batch, frames - 1, 2, size, size), torch.ones(batch, frames - 1, size, size).bool()
    )


def maps(inverse_depth: torch.Tensor) -> DepthMaps:
    return DepthMaps(inverse_depth, torch.zeros_like(inverse_depth), torch.zeros_like(inverse_depth))


def test_the_target_knows_sky_from_rubbish() -> None:
    depth = torch.tensor([2.0, torch.inf, torch.nan, 0.0, -1.0]).view(1, 1, 1, 5)
    truth = depth_target(depth, torch.full((1, 0, 2, 1, 5), torch.nan), torch.ones(1, 0, 1, 5).bool())
    assert truth.inverse_depth.flatten().tolist() == [0.5, 0, 0, 0, 0]
    assert truth.known.flatten().tolist() == [True, True, False, False, False]
    assert truth.sky.flatten().tolist() == [False, True, False, False, False]


def test_the_truth_costs_nothing_but_doubt() -> None:
    truth = target()
    sky = torch.where(truth.sky, 50.0, -50.0)
    parts = depth_losses(DepthMaps(truth.inverse_depth, torch.full_like(sky, -8.0), sky), truth)
    for name in ("affine", "gradient", "temporal", "sky"):
        assert getattr(parts, name) == pytest.approx(0, abs=1e-5), name
    assert parts.error == pytest.approx(-8, abs=1e-2)


@settings(max_examples=25, deadline=None)
@given(scale=st.floats(0.1, 20), shift=st.floats(-1, 1))
def test_one_scale_and_shift_a_clip_cost_nothing(scale: float, shift: float) -> None:
    truth = target()
    said = truth.inverse_depth + 0.1 * torch.sin(50 * truth.inverse_depth)
    scales = torch.tensor([scale, 1.0]).view(2, 1, 1, 1)
    one, other = depth_losses(maps(said), truth), depth_losses(maps(scales * said + shift), truth)
    for name in ("affine", "gradient", "temporal"):
        assert float(getattr(one, name)) == pytest.approx(float(getattr(other, name)), rel=1e-2, abs=1e-4), name


def test_a_scale_a_frame_is_flicker() -> None:
    truth = target()
    steady = depth_losses(maps(truth.inverse_depth), truth)
    flicker = depth_losses(maps(truth.inverse_depth * torch.tensor([1.0, 1.5, 1.0]).view(1, 3, 1, 1)), truth)
    assert flicker.temporal > 0.1 and steady.temporal < 1e-4
    assert flicker.affine > 0.05


def test_motion_along_the_flow_is_no_flicker() -> None:
    generator = torch.Generator().manual_seed(3)
    wide = 1 + torch.rand(1, 1, 16, 18, generator=generator)
    depth = torch.cat([wide[..., 1:17], wide[..., :16]], 1)  # everything goes right by a pixel
    flow = torch.zeros(1, 1, 2, 16, 16)
    flow[:, :, 0] = 1
    valid = torch.ones(1, 1, 16, 16).bool()
    moving = depth_losses(maps(depth.flip(1)), depth_target(depth, flow, valid))
    true = depth_losses(maps(1 / depth), depth_target(depth, flow, valid))
    assert float(true.temporal) == pytest.approx(0, abs=1e-5)
    assert moving.temporal > 0.1


def test_the_ratio_loss_takes_a_scale_and_no_shift() -> None:
    truth = target()
    at_mean_one = truth.inverse_depth / truth.inverse_depth[truth.known & ~truth.sky].mean()
    exact = float(ratio_loss(at_mean_one, truth))
    assert exact < 0.01
    assert float(ratio_loss(2 * at_mean_one, truth)) == pytest.approx(0.01 * math.log(2) ** 2, abs=0.005)
    assert float(ratio_loss(at_mean_one + 1, truth)) > 0.2


def test_normalising_by_hand() -> None:
    values = torch.tensor([1.0, 2.0, 6.0]).repeat_interleave(2).view(1, 1, 1, 6)
    solid = torch.ones(1, 1, 1, 6).bool()
    # median 2, mean absolute deviation (1 + 0 + 4) / 3
    assert normalised(values, solid).flatten()[::2].tolist() == pytest.approx([-0.6, 0, 2.4])


def test_the_gradient_loss_by_hand() -> None:
    ramp = torch.arange(4.0).view(1, 1, 1, 4).expand(1, 1, 4, 4)
    known = torch.ones(1, 1, 4, 4).bool()
    # one unit a pixel across, none down; at half size two units
    assert float(gradient_loss(ramp, known, scales=1)) == 1
    assert float(gradient_loss(ramp, known, scales=2)) == pytest.approx(1.5)


def test_confidence_pays_where_the_error_is_and_moves_no_depth() -> None:
    truth = target()
    said = (truth.inverse_depth + 0.2 * torch.rand(truth.inverse_depth.shape)).requires_grad_()
    log_error = torch.zeros_like(said, requires_grad=True)
    parts = depth_losses(DepthMaps(said, log_error, torch.zeros_like(said)), truth)
    inverse_grad, error_grad = torch.autograd.grad(parts.error, (said, log_error), allow_unused=True)
    assert inverse_grad is None
    assert error_grad is not None and error_grad.abs().sum() > 0


@pytest.mark.parametrize("case", ["all sky", "all unknown", "flat"])
def test_strange_clips_give_finite_numbers_and_gradients(case: str) -> None:
    value = {"all sky": torch.inf, "all unknown": torch.nan, "flat": 3.0}[case]
    depth = torch.full((1, 2, 8, 8), value)
    truth = depth_target(depth, torch.zeros(1, 1, 2, 8, 8), torch.ones(1, 1, 8, 8).bool())
    said = torch.rand(1, 2, 8, 8).requires_grad_()
    total = depth_losses(maps(said), truth).total(LossWeights())
    total.backward()  # type: ignore[no-untyped-call]
    assert total.isfinite()
    assert said.grad is not None and said.grad.isfinite().all()
