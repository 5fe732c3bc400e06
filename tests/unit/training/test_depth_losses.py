# SPDX-License-Identifier: GPL-3.0-or-later
"""The depth losses: what they ignore, what they punish, and values by hand."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ex4d_engine.depth.network import DepthMaps
from ex4d_engine.training.depth_losses import (
    DepthTarget,
    LossWeights,
    affine_loss,
    canonical,
    depth_losses,
    depth_target,
    flatness_loss,
    gradient_loss,
    how_much_counts,
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
    said = canonical(truth.inverse_depth, truth.known & ~truth.sky)
    parts = depth_losses(DepthMaps(said, torch.full_like(sky, -8.0), sky), truth)
    for name in ("level", "affine", "gradient", "temporal", "sky", "flatness"):
        assert getattr(parts, name) == pytest.approx(0, abs=1e-5), name
    assert parts.error == pytest.approx(-8, abs=1e-2)


@settings(max_examples=25, deadline=None)
@given(scale=st.floats(0.1, 20))
def test_the_truths_own_unit_does_not_matter(scale: float) -> None:
    truth = target()
    other = truth._replace(inverse_depth=scale * truth.inverse_depth)
    said = maps(truth.inverse_depth + 0.1 * torch.sin(50 * truth.inverse_depth))
    for one, same in zip(depth_losses(said, truth), depth_losses(said, other), strict=True):
        assert float(one) == pytest.approx(float(same), rel=1e-3, abs=1e-5)


@settings(max_examples=25, deadline=None)
@given(scale=st.floats(0.25, 4), shift=st.floats(-1, 1))
def test_one_scale_and_shift_a_clip_cost_the_affine_part_nothing(scale: float, shift: float) -> None:
    truth = target()
    solid = truth.known & ~truth.sky
    true = canonical(truth.inverse_depth, solid)
    assert float(affine_loss(scale * true + shift, true, solid)) == pytest.approx(0, abs=1e-4)


def test_a_flat_answer_has_gentle_gradients() -> None:
    """Divided by their own spread such answers had gradients of hundreds, which drowned all others."""
    truth = target()
    noise = 1e-4 * torch.randn(truth.inverse_depth.shape, generator=torch.Generator().manual_seed(1))
    said = (1 + noise).requires_grad_()
    total = depth_losses(maps(said), truth).total(LossWeights())
    (gradient,) = torch.autograd.grad(total, said)
    assert float(gradient.abs().sum()) < 30


def test_a_scale_a_frame_is_flicker() -> None:
    truth = target()
    steady = depth_losses(maps(truth.inverse_depth), truth)
    flicker = depth_losses(maps(truth.inverse_depth * torch.tensor([1.0, 1.5, 1.0]).view(1, 3, 1, 1)), truth)
    assert flicker.temporal > 0.1 and steady.temporal < 0.01
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


def test_the_canonical_scale_by_hand() -> None:
    values = torch.tensor([1.0, 2.0, 6.0, 99.0]).view(1, 1, 1, 4)
    solid = torch.tensor([True, True, True, False]).view(1, 1, 1, 4)
    assert canonical(values, solid).flatten().tolist() == pytest.approx([1 / 3, 2 / 3, 2, 33])


def test_the_affine_loss_by_hand() -> None:
    solid = torch.ones(1, 1, 1, 4).bool()
    said, true = torch.tensor([0.0, 1.0, 0.0, 1.0]), torch.tensor([0.0, 2.0, 1.0, 3.0])
    # best line 2 x + 0.5: errors of 0.5 everywhere; mean deviation of the truth (1.5 + 0.5 + 0.5 + 1.5) / 4 = 1
    assert float(affine_loss(said.view(1, 1, 1, 4), true.view(1, 1, 1, 4), solid)) == pytest.approx(0.5)


def test_the_gradient_loss_by_hand() -> None:
    ramp = torch.arange(4.0).view(1, 1, 1, 4).expand(1, 1, 4, 4)
    known = torch.ones(1, 1, 4, 4).bool()
    # one unit a pixel across, none down; at half size two units
    assert float(gradient_loss(ramp, known, scales=1)) == 1
    assert float(gradient_loss(ramp, known, scales=2)) == pytest.approx(1.5)


def slanted_wall(size: int = 16) -> torch.Tensor:
    """Inverse depth of a plane, which is linear in the picture whichever way it leans: (1, 1, size, size)."""
    rows, columns = torch.meshgrid(torch.arange(float(size)), torch.arange(float(size)), indexing="ij")
    return (0.2 + 0.01 * columns + 0.005 * rows).view(1, 1, size, size)


def test_any_plane_is_flat() -> None:
    solid = torch.ones(1, 1, 16, 16).bool()
    plane = slanted_wall()
    assert float(flatness_loss(plane, plane, solid)) == pytest.approx(0, abs=1e-5)
    assert float(flatness_loss(torch.full_like(plane, 0.3), plane, solid)) == pytest.approx(0, abs=1e-5)


def test_a_step_in_a_wall_costs_what_it_tears() -> None:
    """By hand, at one scale: the two bends at each of 16 rows' step of 0.1, in shares of a wall at 0.5."""
    wall = torch.full((1, 1, 16, 16), 0.5)
    stepped = wall.clone()
    stepped[..., 8:] += 0.1
    solid = torch.ones_like(wall).bool()
    assert float(flatness_loss(stepped, wall, solid, scales=1)) == pytest.approx(2 * (0.1 / 0.5) / 14)
    # twice as far away the same step of inverse depth is twice as deep
    assert float(flatness_loss(stepped - 0.25, wall - 0.25, solid, scales=1)) == pytest.approx(4 * (0.1 / 0.5) / 14)


def test_a_true_step_may_be_as_it_likes() -> None:
    wall = torch.full((1, 1, 16, 16), 0.5)
    wall[..., 8:] += 0.1
    softened = wall.clone()
    softened[..., 7:9] = 0.55
    solid = torch.ones_like(wall).bool()
    assert float(flatness_loss(wall * 1.5 - 0.2, wall, solid, scales=1)) == pytest.approx(0, abs=1e-5)
    assert float(flatness_loss(softened, wall, solid, scales=1)) > 0.0


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


def test_what_stands_out_of_its_row_counts_more_and_what_lies_behind_it_as_before() -> None:
    level = torch.zeros(1, 1, 3, 5)
    level[..., 0, :] = torch.tensor([0.0, 0.0, 1.0, -3.0, 0.0])
    level[..., 1, 2] = 9.0  # no more than two e-folds are counted
    known = torch.ones(1, 1, 3, 5, dtype=torch.bool)
    known[..., 2, :] = False
    counts = how_much_counts(level, known, 1.5)
    assert counts[0, 0].tolist() == [[1, 1, 2.5, 1, 1], [1, 1, 4, 1, 1], [1] * 5]


def test_a_figure_lost_in_its_ground_costs_more_when_it_counts_more() -> None:
    depth = torch.full((1, 1, 16, 16), 10.0)
    depth[..., 4:12, 7:9] = 2.0
    truth = depth_target(depth, torch.zeros(1, 0, 2, 16, 16), torch.ones(1, 0, 16, 16).bool())
    lost = maps(torch.ones(1, 1, 16, 16))
    plain, weighted = depth_losses(lost, truth), depth_losses(lost, truth, 2.0)
    for name in ("level", "affine", "gradient"):
        assert getattr(weighted, name) > 1.5 * getattr(plain, name), name
    # by hand: 16 of 256 pixels are figure, log 5 and a little less of it nearer than the rest
    away = torch.log((canonical(truth.inverse_depth, truth.known) + 0.1) / 1.1)
    weight = 1 + 2 * (away - away.min()).clamp(0, 2)
    assert weighted.level == pytest.approx(float((away.abs() * weight).sum() / weight.sum()), rel=1e-4)
