# SPDX-License-Identifier: GPL-3.0-or-later
"""Lens, shutter and codec do what they are named for; patterns tile and blur with distance."""

from __future__ import annotations

import pytest
import torch

from ex4d_engine.synthetic.draw import Draw
from ex4d_engine.synthetic.effects import (
    HIGHLIGHT,
    blur_radius,
    defocus,
    develop,
    encode_display,
    motion_blur,
    tame_highlights,
)
from ex4d_engine.synthetic.textures import COUNT, bank, look

from .small_scenes import CPU


def checks(height: int = 48, width: int = 64) -> torch.Tensor:
    y, x = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    return (((x // 2 + y // 2) % 2).float() * 0.8 + 0.1).expand(1, 3, height, width)


def test_defocus_spares_the_plane_in_focus_and_blurs_the_rest() -> None:
    light = checks()
    depth = torch.full((1, 48, 64), 2.0)
    depth[..., 32:] = torch.inf
    blurred = defocus(light, depth, torch.tensor([2.0]), torch.tensor([8.0]))
    torch.testing.assert_close(blurred[..., :20], light[..., :20], atol=1e-6, rtol=0)
    assert float(blurred[..., 8:-8, 48:56].std()) < 0.2 * float(light.std())
    sharp = defocus(light, depth, torch.tensor([2.0]), torch.tensor([0.0]))
    torch.testing.assert_close(sharp, light, atol=1e-5, rtol=0)


def test_defocus_keeps_a_flat_picture_flat() -> None:
    light = torch.full((1, 3, 48, 64), 0.5)
    depth = torch.linspace(0.5, 50, 64).expand(1, 48, 64)
    blurred = defocus(light, depth, torch.tensor([2.0]), torch.tensor([12.0]))
    torch.testing.assert_close(blurred, light, atol=1e-4, rtol=0)


def test_near_things_out_of_focus_spread_over_what_is_behind() -> None:
    light, depth = torch.zeros(1, 3, 48, 64), torch.full((1, 48, 64), 4.0)
    light[..., :32], depth[..., :32] = 1.0, 1.0
    blurred = defocus(light, depth, torch.tensor([4.0]), torch.tensor([2.0]))  # 6 px before the plane in focus
    assert float(blurred[0, 0, 24, 34]) > 0.1
    behind = defocus(light, depth.flip(-1), torch.tensor([1.0]), torch.tensor([4.0]))
    assert float(behind[0, 0, 24, 34]) < 0.02  # a sharp edge before a blurred background stays clean


@pytest.mark.parametrize("radius", [5.0, 11.0, 20.0, 30.0])
def test_a_point_of_light_becomes_one_even_disc(radius: float) -> None:
    light, depth = torch.zeros(1, 3, 96, 128), torch.full((1, 96, 128), torch.inf)
    light[..., 47:49, 63:65] = 1000.0
    blurred = defocus(light, depth, torch.tensor([1.0]), torch.tensor([radius]))[0, 0]
    assert abs(float(blurred.sum()) / 4000 - 1) < 0.02
    y, x = torch.meshgrid(torch.arange(96) - 47.5, torch.arange(128) - 63.5, indexing="ij")
    away = torch.hypot(x, y)
    inside = blurred[away < 0.6 * radius]
    assert float(inside.min()) > 0.85 * float(inside.max())  # no bright core in a pale ring
    assert float(blurred[away > 1.3 * radius + 3].max()) < 0.06 * float(inside.mean())


def test_only_what_is_blurred_may_be_much_brighter_than_white() -> None:
    light = torch.full((1, 3, 4, 8), 500.0)
    depth = torch.full((1, 4, 8), 2.0)
    depth[..., 4:] = torch.inf
    radius = blur_radius(depth, torch.tensor([2.0]), torch.tensor([9.0]))
    torch.testing.assert_close(radius[0, 0], torch.tensor([0.0, 0, 0, 0, 9, 9, 9, 9]))
    tamed = tame_highlights(light, radius)
    assert float(tamed[..., :4].max()) == HIGHLIGHT
    assert float(tamed[..., 4:].min()) == HIGHLIGHT * 82
    assert float(tame_highlights(light, 0.0).max()) == HIGHLIGHT


def test_motion_blur_follows_the_flow() -> None:
    light = torch.zeros(1, 3, 40, 60)
    light[..., 30] = 1.0
    flow = torch.zeros(1, 2, 40, 60)
    flow[:, 0] = 3.0
    streak = motion_blur(light, flow, torch.tensor([1.0]))[0, 0, 20]
    assert float(streak[29:32].min()) > 0.2 and abs(float(streak.sum()) - 1) < 0.02
    torch.testing.assert_close(motion_blur(light, flow * 0, torch.tensor([1.0])), light, atol=1e-5, rtol=0)


def test_developing_is_repeatable_and_stays_in_range() -> None:
    light = checks().repeat(4, 1, 1, 1) * 3
    first, second = (develop(light, Draw(4), 2, torch.Generator().manual_seed(1)) for _ in range(2))
    assert torch.equal(first, second)
    assert float(first.min()) >= 0 and float(first.max()) <= 1


def test_display_curve() -> None:
    values = encode_display(torch.tensor([0.0, 0.0031308, 0.18, 1.0, 7.0]))
    expected = torch.tensor([0.0, 0.04045, 0.46136, 1.0, 1.0])
    torch.testing.assert_close(values, expected, atol=1e-4, rtol=0)


@pytest.fixture(scope="module")
def patterns() -> torch.Tensor:
    return bank(0, CPU)


def test_patterns_tile(patterns: torch.Tensor) -> None:
    pattern = torch.arange(COUNT)
    here, sharp = torch.full((COUNT,), 0.3), torch.full((COUNT,), 1e-6)
    there = look(patterns, pattern, here + 5, here - 2, sharp)
    torch.testing.assert_close(look(patterns, pattern, here, here, sharp), there, atol=2e-3, rtol=0)


def test_a_pixel_as_large_as_a_pattern_sees_its_mean(patterns: torch.Tensor) -> None:
    pattern = torch.arange(COUNT)
    seen = look(patterns, pattern, torch.rand(COUNT), torch.rand(COUNT), torch.ones(COUNT))[:, 0]
    torch.testing.assert_close(seen, patterns[:, : 256 * 256, 0].float().mean(1), atol=5e-3, rtol=0)


def test_banks_differ(patterns: torch.Tensor) -> None:
    assert not torch.equal(patterns, bank(1, CPU))
