# SPDX-License-Identifier: GPL-3.0-or-later
"""Branches that reach into the picture without a trunk in sight, with leaves, blossoms and berries; before the lens
as well, where they are nothing but soft patches of colour."""

from __future__ import annotations

from typing import Final

import torch

from .builder import SceneBuilder
from .materials import family
from .motion import along
from .plants import DOWN, leaf_form, swaying, unit
from .primitives import Kind
from .settings import Plan

BRANCHES: Final = 6
LEAVES: Final = 26
BERRIES: Final = 12
SIDE_TWIGS: Final = 4
LENS_LEAVES: Final = 14
BEFORE_THE_LENS: Final = 0.14  # share of close-ups that have leaves between the subject and the lens


def add_branches(b: SceneBuilder, plan: Plan) -> None:
    """Adds branches around the subject, most of one kind, and leaves close to the lens in some close-ups."""
    _branches(b, plan)
    _before_the_lens(b, plan)


def _branches(b: SceneBuilder, plan: Plan) -> None:
    draw, many = b.draw, (b.batch, BRANCHES)
    there = torch.arange(BRANCHES) < plan.count(draw, "branches")[:, None]
    first = torch.arange(BRANCHES) == 0
    away = plan.subject[:, 2:] * torch.where(first, 1.0, draw.log_uniform(many, 0.7, 4.0))
    wide = away * plan.fov[:, None]  # of the picture, at the branch
    level = torch.where(first[:, None], plan.subject[:, None], plan.eye()[:, None])
    offset = draw.normal((*many, 3)) * torch.tensor([0.3, 0.25, 0.0]) * torch.where(first, 0.3, 1.0)[:, None]
    middle = level + offset * wide[..., None]
    middle[..., 2] = away
    # mostly sideways, hanging or rising a little, seldom towards the lens
    heading = unit(draw.normal((*many, 3)) * torch.tensor([1.0, 0.5, 0.35]))
    half = wide * draw.uniform(many, 0.35, 0.9)
    body = swaying(b, plan, middle, half)
    thin = wide * draw.log_uniform((b.batch, 1), 0.004, 0.02) * draw.uniform(many, 0.7, 1.4)
    bark = b.material((b.batch, 1), family("bark", "bark", "foliage"), wide[:, :1] * 0.1)
    bud = b.material((b.batch, 1), family("petal", "petal", "autumn"), wide[:, :1] * 0.05)
    b.shape(
        Kind.LIMB, torch.stack([thin, half, thin * 0.5], -1), bark, there, body=body,
        rotation=along(heading, torch.zeros(many)), form=(1.0,),
    )  # fmt: skip

    twigs = (*many, SIDE_TWIGS)
    fork = heading[:, :, None] * (half[..., None] * draw.uniform(twigs, -0.8, 0.8))[..., None]
    aside = unit(heading[:, :, None] * 0.7 + draw.normal((*twigs, 3), 0.6))
    long = half[..., None] * draw.uniform(twigs, 0.12, 0.35)
    slim = (thin * 0.4)[..., None].expand(twigs)
    b.shape(
        Kind.LIMB, torch.stack([slim, long, slim * 0.5], -1), bark[..., None], there[..., None], body=body[..., None],
        centre=fork + aside * long[..., None], rotation=along(aside, torch.zeros(twigs)), form=(1.0,),
    )  # fmt: skip

    def along_the_wood(count: int) -> torch.Tensor:
        """(B, n, count, 3): every second one on the branch itself, the others on its side twigs."""
        share = draw.uniform((*many, count), -1.0, 1.0)
        twig = torch.arange(count) % SIDE_TWIGS
        main = heading[:, :, None] * (half[..., None] * share)[..., None]
        other = fork[:, :, twig] + aside[:, :, twig] * (long[..., twig] * (share + 1))[..., None]
        return torch.where((torch.arange(count) % 2 == 0)[:, None], main, other)

    leaves = (*many, LEAVES)
    bare = draw.uniform((b.batch, 1, 1))
    size = (wide * draw.log_uniform((b.batch, 1), 0.03, 0.15))[..., None] * draw.uniform(leaves, 0.6, 1.3)
    grow = unit(heading[:, :, None] * 0.5 + draw.normal((*leaves, 3), 0.7) + DOWN * draw.normal((b.batch, 1, 1, 1)))
    green = b.material(many, family("foliage", "foliage", "foliage", "autumn", "petal"), wide * 0.1)
    b.shape(
        Kind.CARD, torch.stack([size * draw.uniform((b.batch, 1, 1), 0.1, 0.7), size, size], -1), green[..., None],
        there[..., None] & (draw.uniform(leaves) > bare - 0.3), body=body[..., None],
        centre=along_the_wood(LEAVES) + grow * size[..., None], rotation=along(grow, draw.turn(leaves)),
        form=leaf_form(b, many, leaves, size),
    )  # fmt: skip

    berries = (*many, BERRIES)
    ball = (wide * draw.log_uniform((b.batch, 1), 0.006, 0.04))[..., None] * draw.uniform(berries, 0.7, 1.3)
    hang = draw.uniform((b.batch, 1, 1), 0.5, 2.0)
    b.shape(
        Kind.ELLIPSOID, torch.stack([ball, ball * draw.uniform((b.batch, 1, 1), 0.8, 1.5), ball], -1), bud[..., None],
        there[..., None] & draw.coin((b.batch, 1, 1), 0.35) & draw.coin(berries, 0.7), body=body[..., None],
        centre=along_the_wood(BERRIES) + DOWN * (ball * hang)[..., None],
    )  # fmt: skip


def _before_the_lens(b: SceneBuilder, plan: Plan) -> None:
    """Leaves nearer than the subject, most of them towards the edges of the picture."""
    draw, many = b.draw, (b.batch, LENS_LEAVES)
    wanted = draw.coin((b.batch, 1), torch.where(plan.defocus > 0.5, 1.6, 0.25)[:, None] * BEFORE_THE_LENS)
    there = wanted & (torch.arange(LENS_LEAVES) < draw.uniform((b.batch, 1), 2, LENS_LEAVES))
    away = torch.maximum(plan.nearest[:, None] * 0.7, plan.subject[:, 2:] * 0.45) * draw.log_uniform(many, 0.8, 1.5)
    edge = draw.turn((b.batch, 1)) + draw.normal(many, 0.7)
    out = away * plan.fov[:, None] * draw.uniform(many, 0.25, 0.6)
    forward = unit(plan.subject - plan.eye())[:, None]
    centre = plan.eye()[:, None] + forward * away[..., None]
    centre = centre + torch.stack([torch.cos(edge), torch.sin(edge), torch.zeros(many)], -1) * out[..., None]
    size = away * plan.fov[:, None] * draw.log_uniform(many, 0.06, 0.3)
    colours = b.material((b.batch, 3), family("foliage", "foliage", "autumn", "petal"), 0.1)
    b.shape(
        Kind.CARD, torch.stack([size * draw.uniform((b.batch, 1), 0.1, 0.6), size, size], -1),
        colours[:, torch.arange(LENS_LEAVES) % 3], there, centre=centre,
        rotation=along(draw.direction(many), draw.turn(many)), form=leaf_form(b, (b.batch,), many, size),
    )  # fmt: skip
