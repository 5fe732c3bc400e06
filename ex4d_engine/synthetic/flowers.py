# SPDX-License-Identifier: GPL-3.0-or-later
"""Flowers: a stem with leaves, a middle of granules, petals around it. In close-ups one of them is the subject."""

from __future__ import annotations

import math
from typing import Final

import torch

from .builder import SceneBuilder
from .materials import family
from .motion import along
from .plants import DOWN, leaf_form, swaying, unit
from .primitives import Kind
from .settings import Plan

FLOWERS: Final = 14
PETALS: Final = 18
GRANULES: Final = 26


def add_flowers(b: SceneBuilder, plan: Plan) -> None:
    """Adds flowers of three species a scene, most of them of one; in a close-up the first is the subject."""
    draw, many = b.draw, (b.batch, FLOWERS)
    there = torch.arange(FLOWERS) < plan.count(draw, "flowers")[:, None]
    close = plan.subject[:, 2] < 1.2
    base, height, head = _flower_places(b, plan, close)
    body = swaying(b, plan, base, height.clamp_min(0.1))
    stem = torch.nn.functional.normalize(
        torch.stack([draw.normal(many, 0.15), -torch.ones(many), draw.normal(many, 0.15)], -1), dim=-1
    )
    thin = head * draw.uniform(many, 0.035, 0.09)
    green = b.material(many, family("foliage"), height * 0.4)
    b.shape(
        Kind.LIMB, torch.stack([thin, height / 2, thin * 0.8], -1), green, there, body=body,
        centre=stem * (height / 2)[..., None], rotation=along(stem, torch.zeros(many)), form=(1.0,),
    )  # fmt: skip
    crown = stem * height[..., None]
    # a blossom looks up, and somewhat towards the camera or away
    facing = torch.nn.functional.normalize(stem + draw.normal((*many, 3), 0.5) + torch.tensor([0.0, 0.0, -0.6]), dim=-1)
    _blossom(b, there, body, crown, facing, head)
    leaves = (*many, 4)
    at = stem[:, :, None] * (height[..., None] * draw.uniform(leaves, 0.05, 0.8))[..., None]
    size = head[..., None] * draw.uniform(leaves, 0.3, 0.8)
    grow = unit(draw.normal((*leaves, 3)) * torch.tensor([1.0, 0.3, 1.0]) - DOWN * 0.5)
    b.shape(
        Kind.CARD, torch.stack([size * 0.3, size, size], -1), green[..., None], there[..., None], body=body[..., None],
        centre=at + grow * size[..., None], rotation=along(grow, draw.turn(leaves)),
        form=leaf_form(b, many, leaves, size),
    )  # fmt: skip


def _flower_places(b: SceneBuilder, plan: Plan, close: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Roots (B, n, 3), heights and blossoms' sizes (B, n) in metres.

    Close to the lens they crowd around the subject.
    """
    draw, many = b.draw, (b.batch, FLOWERS)
    x, z = plan.spots(draw, FLOWERS, nearest=1.0, farthest=0.25)
    crowd, side = plan.subject[:, 2:] * draw.log_uniform(many, 0.75, 2.6), draw.normal(many, 0.28) * plan.fov[:, None]
    x = torch.where(close[:, None], crowd * torch.sin(side), x)
    z = torch.where(close[:, None], crowd * torch.cos(side), z)
    first = (torch.arange(FLOWERS) == 0) & close[:, None]
    x, z = torch.where(first, plan.subject[:, :1], x), torch.where(first, plan.subject[:, 2:], z)
    height = torch.where(close, -plan.subject[:, 1], 0.35)[:, None] * draw.uniform(many, 0.7, 1.25)
    height = torch.where(first, -plan.subject[:, 1:2], height).clamp_min(0.03)
    common = torch.where(close, plan.subject[:, 2] * 0.14, 0.05)[:, None] * draw.log_uniform((b.batch, 1), 0.5, 1.8)
    return plan.standing(x, z), height, common * draw.log_uniform(many, 0.75, 1.35)


def _blossom(
    b: SceneBuilder,
    there: torch.Tensor,
    body: torch.Tensor,
    crown: torch.Tensor,
    facing: torch.Tensor,
    head: torch.Tensor,
) -> None:
    """A middle of granules and one or two rows of petals around it, as the flower's species has them."""
    draw, many = b.draw, tuple(head.shape)
    which = draw.pick(many, (0.7, 0.2, 0.1))
    kinds = (b.batch, 3)

    def species(values: torch.Tensor) -> torch.Tensor:
        return values.gather(1, which)

    def of_species(low: float, high: float) -> torch.Tensor:
        return species(draw.uniform(kinds, low, high))

    middle = head * of_species(0.12, 0.4)
    upward = along(facing, draw.turn(many))
    core = species(b.material(kinds, family("petal", "autumn", "autumn", "bark"), 0.02))
    rise = of_species(0.3, 0.9)
    b.shape(
        Kind.ELLIPSOID, torch.stack([middle, middle * rise, middle], -1), core, there, body=body, centre=crown,
        rotation=upward,
    )  # fmt: skip
    granules = (*many, GRANULES)
    number = torch.arange(GRANULES)
    radius, angle = ((number + 0.5) / GRANULES).sqrt(), number * 2.39996
    flat_x, flat_z = (radius * torch.cos(angle)).expand(granules), (radius * torch.sin(angle)).expand(granules)
    dome = torch.stack([flat_x, rise[..., None] * (1 - 0.7 * radius * radius), flat_z], -1)
    seed = (middle * of_species(0.08, 0.2))[..., None] * draw.uniform(granules, 0.7, 1.3)
    b.shape(
        Kind.ELLIPSOID, torch.stack([seed, seed * 2, seed], -1), core[..., None], there[..., None],
        body=body[..., None],
        centre=crown[:, :, None] + (upward[:, :, None] @ (dome * middle[..., None, None])[..., None])[..., 0],
        rotation=upward[:, :, None],
    )  # fmt: skip
    petals = (*many, PETALS)
    number = torch.arange(PETALS)
    count = torch.floor(of_species(4, PETALS + 1))[..., None]
    rows = torch.where(count > 10, 2.0, 1.0)
    around = number * (2 * math.pi) / count * rows + draw.normal(petals, 0.06)
    opening = of_species(0.05, 1.0)[..., None] + (number * rows >= count) * 0.25 + draw.normal(petals, 0.08)
    level = torch.stack([torch.cos(around), torch.zeros(petals), torch.sin(around)], -1)
    outward, up = torch.cos(opening)[..., None], torch.sin(opening)[..., None]
    axis = torch.tensor([0.0, 1.0, 0.0])
    y = (upward[:, :, None] @ (level * outward + axis * up)[..., None])[..., 0]
    normal = (upward[:, :, None] @ (axis * outward - level * up)[..., None])[..., 0]
    length = head[..., None] * draw.uniform(petals, 0.42, 0.55)
    slim = (of_species(0.6, 1.4)[..., None] * 2.6 / count * rows).clamp(0.12, 0.9)
    colour = species(b.material(kinds, family("petal"), 0.06))
    b.shape(
        Kind.CARD, torch.stack([length * slim, length, length], -1), colour[..., None],
        there[..., None] & (number < count),
        body=body[..., None], centre=crown[:, :, None] + y * (length + middle[..., None] * 0.4)[..., None],
        rotation=torch.stack([torch.linalg.cross(y, normal), y, normal], -1),
        form=(of_species(-0.2, 0.8)[..., None] / length, (of_species(-0.5, 0.5)[..., None] + draw.normal(petals,
        0.12)) / length,
              of_species(0.25, 0.8)[..., None], of_species(-0.7, 0.1)[..., None], of_species(0, 0.2)[..., None],
              of_species(4, 12)[..., None], draw.normal(petals, 0.1), draw.turn(petals)),
    )  # fmt: skip
