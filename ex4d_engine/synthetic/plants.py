# SPDX-License-Identifier: GPL-3.0-or-later
"""Things that grow: trees and bushes of hundreds of leaves, grass, leaves close to the lens, woods far away."""

from __future__ import annotations

from typing import Final

import torch

from .builder import SceneBuilder
from .materials import family
from .motion import along, yaw
from .primitives import CutOut, Kind
from .settings import Plan

TREES: Final = 7
CROWNS: Final = 90  # screens of foliage or single leaves a tree
BOUGHS: Final = 9
BUSHES: Final = 7
BUSH_LEAVES: Final = 110
BLADES: Final = 900
LOOSE: Final = 160
THICKET: Final = 28
LITTER: Final = 140
DOWN: Final = torch.tensor([0.0, 1.0, 0.0])


def add_plants(b: SceneBuilder, plan: Plan) -> None:
    """Adds all of them; a scene uses those that its plan names."""
    _trees(b, plan)
    _bushes(b, plan)
    _grass(b, plan)
    _loose_leaves(b, plan)
    _thicket(b, plan)
    _litter(b, plan)


def unit(vectors: torch.Tensor) -> torch.Tensor:
    """Vectors (..., 3) of length one in the same directions."""
    return torch.nn.functional.normalize(vectors, dim=-1)


def swaying(b: SceneBuilder, plan: Plan, base: torch.Tensor, reach: torch.Tensor) -> torch.Tensor:
    """Bodies rooted at `base` (B, n, 3) that lean in the wind; `reach` (B, n) metres is the plant's height."""
    shape = base.shape[:-1]
    draw = b.draw
    wind = draw.log_uniform((b.batch, 1), 0.004, 0.12) * draw.coin((b.batch, 1), 0.8)
    rate = plan.pace[:, None] * draw.uniform(shape, 0.6, 1.6) / (24 * 1.6 * reach.clamp(0.1, 8).sqrt())
    level = torch.nn.functional.normalize(draw.normal((b.batch, 1, 3)) * torch.tensor([1.0, 0, 1.0]), dim=-1)
    return b.body(
        base, axis=level.expand(*shape, 3), swing=wind * draw.uniform(shape, 0.4, 1.5), swing_rate=rate,
        swing_phase=draw.turn(shape),
    )  # fmt: skip


def drifting(b: SceneBuilder, plan: Plan, shape: tuple[int, int], size: torch.Tensor) -> torch.Tensor:
    """Bodies that swing to and fro as a whole by a share of `size` (B, 1) metres: many small things rooted anywhere."""
    draw = b.draw
    breeze = size * draw.log_uniform((b.batch, 1), 0.01, 0.25) * draw.coin((b.batch, 1), 0.75)
    sway = draw.direction(shape) * torch.tensor([1.0, 0.15, 1.0]) * (breeze * draw.uniform(shape, 0.4, 1.5))[..., None]
    rate = plan.pace[:, None] * draw.uniform(shape, 0.5, 1.6) / 24
    return b.body(torch.zeros(*shape, 3), sway=sway, sway_rate=rate, sway_phase=draw.turn(shape))


def _trees(b: SceneBuilder, plan: Plan) -> None:
    draw, many = b.draw, (b.batch, TREES)
    there = torch.arange(TREES) < plan.count(draw, "trees")[:, None]
    x, z = plan.spots(draw, TREES, nearest=1.4, farthest=0.9, spread=1.3)
    # never so close that a trunk is all there is to see
    z = z + draw.uniform(many, 0.0, 3.0) + torch.where(plan.subject[:, 2] < 1.2, 1.5, 0.0)[:, None]
    height = draw.log_uniform(many, 2.5, 9.0)
    base = plan.standing(x, z)
    body = swaying(b, plan, base, height)
    girth = height * draw.uniform(many, 0.015, 0.05)
    bark = b.material(many, family("bark"), height * 0.15)
    trunk = height * draw.uniform(many, 0.25, 0.6)
    upright = along(
        torch.cat([draw.normal((*many, 1), 0.06), -torch.ones(*many, 1), draw.normal((*many, 1), 0.06)], -1),
        torch.zeros(many),
    )
    b.shape(
        Kind.LIMB, torch.stack([girth, (trunk + height * 0.2) / 2, girth * 0.55], -1), bark, there, body=body,
        centre=-DOWN * ((trunk + height * 0.2) / 2 - girth)[..., None], rotation=upright, form=(1.0,),
    )  # fmt: skip
    boughs = (*many, BOUGHS)
    direction = draw.direction(boughs) * torch.tensor([1.0, 0.6, 1.0]) - DOWN * 0.5
    start = -DOWN * (trunk[..., None] * draw.uniform(boughs, 0.6, 1.25))[..., None]
    length = height[..., None] * draw.uniform(boughs, 0.12, 0.3)
    thin = girth[..., None] * draw.uniform(boughs, 0.15, 0.45)
    direction = torch.nn.functional.normalize(direction, dim=-1)
    b.shape(
        Kind.LIMB, torch.stack([thin, length / 2, thin * 0.4], -1), bark[..., None], there[..., None],
        body=body[..., None],
        centre=start + direction * (length / 2)[..., None], rotation=along(direction, torch.zeros(boughs)), form=(1.0,),
    )  # fmt: skip
    leaves = (*many, CROWNS)
    crown = height * draw.uniform(many, 0.2, 0.42)
    shell = draw.direction(leaves) * (draw.uniform(leaves) ** 0.45)[..., None]
    squash = torch.stack([torch.ones(many), draw.uniform(many, 0.6, 1.6), torch.ones(many)], -1)
    centre = shell * (crown[..., None] * squash)[:, :, None] - DOWN * (trunk + crown * 0.75)[..., None, None]
    size = crown[..., None] * draw.uniform(leaves, 0.16, 0.34)
    bare = draw.coin(many, 0.12)
    colour = b.material(many, family("foliage", "foliage", "foliage", "foliage", "autumn", "petal"), crown * 0.4)
    across = draw.uniform(many, 3.0, 6.0)[..., None]
    b.shape(
        Kind.SCREEN, torch.stack([size, size, size], -1), colour[..., None], (there & ~bare)[..., None],
        body=body[..., None],
        centre=centre, rotation=along(draw.direction(leaves), draw.turn(leaves)),
        form=(draw.normal(leaves, 0.3) / size, draw.normal(leaves, 0.3) / size, 0.5, float(CutOut.FOLIAGE), across,
        across,
              draw.uniform(many, 0.6, 1.6)[..., None], draw.uniform(leaves, 0, 9)),
    )  # fmt: skip


def _bushes(b: SceneBuilder, plan: Plan) -> None:
    """Single leaves around a point: a bush, a potted plant, a hedge close by."""
    draw, many = b.draw, (b.batch, BUSHES)
    there = torch.arange(BUSHES) < plan.count(draw, "bushes")[:, None]
    x, z = plan.spots(draw, BUSHES, nearest=1.1, farthest=0.5)
    scale = torch.where(
        plan.table,
        0.08,
        torch.where(plan.subject[:, 2] < 1.0, plan.subject[:, 2] * 0.4, torch.where(plan.eye_height > 6, 2.5, 0.6)),
    )
    radius = scale[:, None] * draw.log_uniform(many, 0.5, 1.8)
    z = z + radius
    body = swaying(b, plan, plan.standing(x, z), radius)
    leaves = (*many, BUSH_LEAVES)
    shell = draw.direction(leaves) * (draw.uniform(leaves) ** 0.4)[..., None]
    tall = draw.uniform(many, 0.5, 1.6)[..., None]
    centre = shell * radius[..., None, None] * torch.stack([torch.ones_like(tall), tall, torch.ones_like(tall)], -1)
    centre = centre - DOWN * (radius[..., None] * tall)[..., None]
    size = radius[..., None] * draw.log_uniform(many, 0.1, 0.35)[..., None] * draw.uniform(leaves, 0.6, 1.3)
    slim = draw.uniform(many, 0.12, 0.7)[..., None]
    material = b.material(many, family("foliage", "foliage", "foliage", "autumn", "petal"), radius * 0.2)
    outward = torch.nn.functional.normalize(shell + draw.normal((*leaves, 3), 0.5), dim=-1)
    form = leaf_form(b, many, leaves, size)
    b.shape(
        Kind.CARD, torch.stack([size * slim, size, size], -1), material[..., None], there[..., None],
        body=body[..., None],
        centre=centre, rotation=along(outward, draw.turn(leaves)), form=form,
    )  # fmt: skip
    twigs = (*many, 8)
    toward = torch.nn.functional.normalize(draw.normal((*twigs, 3)) * torch.tensor([0.7, 0.3, 0.7]) - DOWN, dim=-1)
    length = radius[..., None] * draw.uniform(twigs, 0.8, 1.6)
    thin = radius[..., None] * draw.uniform(twigs, 0.01, 0.03)
    b.shape(
        Kind.LIMB, torch.stack([thin, length / 2, thin * 0.4], -1),
        b.material(many, family("bark", "foliage"), radius * 0.3)[..., None],
        there[..., None], body=body[..., None], centre=toward * (length / 2)[..., None],
        rotation=along(toward, torch.zeros(twigs)), form=(1.0,),
    )  # fmt: skip


def leaf_form(
    b: SceneBuilder, group: tuple[int, ...], each: tuple[int, ...], size: torch.Tensor
) -> tuple[torch.Tensor, ...]:
    """The form of leaf cards: one outline a plant, a bend a leaf."""
    draw = b.draw

    def shared(low: float, high: float) -> torch.Tensor:
        return draw.uniform(group, low, high)[..., None]

    notched = draw.coin(group, 0.35)[..., None]
    return (
        draw.normal(each, 0.35) / size, draw.normal(each, 0.3) / size, shared(0.45, 1.3), shared(-0.6, 0.6),
        notched * shared(0.1, 0.5), shared(4, 14), draw.uniform(each, -0.25, 0.25), draw.turn(each),
    )  # fmt: skip


def _grass(b: SceneBuilder, plan: Plan) -> None:
    draw, many = b.draw, (b.batch, BLADES)
    there = plan.chance(draw, "grass")[:, None] & ~plan.table[:, None] & ~plan.indoor[:, None]
    x, z = plan.spots(draw, BLADES, nearest=0.9, farthest=0.15, spread=1.2)
    tall = draw.log_uniform((b.batch, 1), 0.06, 0.4) * torch.where(plan.subject[:, 2:] < 1.0, 0.6, 1.0)
    size = tall * draw.uniform(many, 0.5, 1.3) / 2
    clumps = (b.batch, 12)
    body = drifting(b, plan, clumps, tall)[:, torch.arange(BLADES) % 12]
    grow = torch.nn.functional.normalize(
        torch.stack([draw.normal(many, 0.35), -torch.ones(many), draw.normal(many, 0.35)], -1), dim=-1
    )
    material = b.material(clumps, family("foliage", "foliage", "foliage", "autumn"), tall)[:, torch.arange(BLADES) % 12]
    b.shape(
        Kind.CARD, torch.stack([size * draw.log_uniform((b.batch, 1), 0.015, 0.08), size, size], -1), material, there,
        body=body,
        centre=plan.standing(x, z) + grow * size[..., None], rotation=along(grow, draw.turn(many)),
        form=(0.0, draw.normal(many, 0.35) / size, 0.6, draw.uniform(many, 0.3, 0.9), 0.0, 0.0,
        draw.uniform(many, -1.5, 1.5), draw.turn(many)),
    )  # fmt: skip


def _loose_leaves(b: SceneBuilder, plan: Plan) -> None:
    """A cloud of leaves around the subject of a close-up, before it and behind."""
    draw, many = b.draw, (b.batch, LOOSE)
    there = plan.chance(draw, "leaves")[:, None] & (torch.arange(LOOSE) < draw.uniform((b.batch, 1), 10, LOOSE))
    away = plan.subject[:, 2:] * draw.log_uniform(many, 0.7, 4.0)
    side, up = draw.normal(many, 0.4) * plan.fov[:, None], draw.normal(many, 0.3) * plan.fov[:, None]
    centre = torch.stack(
        [away * torch.sin(side), -plan.eye_height[:, None] - away * (up - 0.15), away * torch.cos(side)], -1
    )
    clumps = (b.batch, 8)
    body = drifting(b, plan, clumps, plan.subject[:, 2:] * 0.3)[:, torch.arange(LOOSE) % 8]
    size = plan.subject[:, 2:] * draw.log_uniform((b.batch, 1), 0.04, 0.16) * draw.uniform(many, 0.5, 1.6)
    material = b.material(clumps, family("foliage", "foliage", "foliage", "autumn"), plan.subject[:, 2:] * 0.1)[
        :, torch.arange(LOOSE) % 8
    ]
    b.shape(
        Kind.CARD, torch.stack([size * draw.uniform((b.batch, 1), 0.2, 0.7), size, size], -1), material, there,
        body=body,
        centre=centre, rotation=along(draw.direction(many), draw.turn(many)),
        form=leaf_form(b, (b.batch,), many, size),
    )  # fmt: skip


def _thicket(b: SceneBuilder, plan: Plan) -> None:
    """What grows behind all else outdoors: an edge of a wood far away, or, in close-ups, the green just behind."""
    draw, many = b.draw, (b.batch, THICKET)
    close = (plan.subject[:, 2] < 2.7)[:, None] & draw.coin((b.batch, 1), 0.7)
    chance = torch.where(close, 0.75, 0.5)
    there = draw.coin((b.batch, 1), chance) & (torch.arange(THICKET) < draw.uniform((b.batch, 1), 6, THICKET))
    there = there & ~plan.indoor[:, None] & ~plan.table[:, None]
    low = torch.where(close, plan.subject[:, 2:] * 2.2, plan.reach[:, None] * 0.6)
    away = draw.log_uniform(many, low, low * torch.where(close, 5.0, 2.2))
    side = draw.uniform(many, -0.75, 0.75) * plan.fov[:, None]
    size = away * draw.log_uniform(many, 0.08, 0.32)
    x, z = away * torch.sin(side), away * torch.cos(side)
    material = b.material((b.batch, 5), family("foliage", "foliage", "foliage", "turf", "autumn"), 1.0)[
        :, torch.arange(THICKET) % 5
    ]
    cells = draw.log_uniform(many, torch.where(close, 6.0, 12.0), torch.where(close, 20.0, 40.0))
    b.shape(
        Kind.SCREEN, torch.stack([size * draw.uniform(many, 0.6, 1.5), size, size], -1), material, there,
        body=drifting(b, plan, (b.batch, 4), low * 0.02)[:, torch.arange(THICKET) % 4],
        centre=plan.standing(x, z, size * draw.uniform(many, 0.3, 1.0)),
        rotation=along(-DOWN + draw.normal((*many, 3), 0.25), draw.normal(many, 0.7)),
        form=(draw.normal(many, 0.2) / size, draw.normal(many, 0.2) / size, 0.5, float(CutOut.FOLIAGE), cells, cells,
              draw.uniform((b.batch, 1), 0.8, 2.4), draw.uniform(many, 0, 9)),
    )  # fmt: skip


def _litter(b: SceneBuilder, plan: Plan) -> None:
    """Fallen leaves and stones on the ground."""
    draw, many = b.draw, (b.batch, LITTER)
    there = draw.coin((b.batch, 1), 0.55) & (torch.arange(LITTER) < draw.uniform((b.batch, 1), 10, LITTER))
    there = there & ~plan.indoor[:, None] & ~plan.table[:, None]
    x, z = plan.spots(draw, LITTER, nearest=0.7, farthest=0.25, spread=1.3)
    size = (0.012 + 0.006 * plan.subject[:, 2:]) * draw.log_uniform((b.batch, 1), 0.4, 2.5)
    size = size * draw.log_uniform(many, 0.5, 2.0)
    leaf, stone = (torch.arange(LITTER) % 3 > 0).nonzero()[:, 0], torch.arange(0, LITTER, 3)
    place = plan.standing(x, z, size * 0.1)
    lying = along(draw.normal((b.batch, len(leaf), 3)) * torch.tensor([1.0, 0.15, 1.0]), draw.normal(leaf.shape, 0.4))
    colours = b.material((b.batch, 6), family("autumn", "autumn", "foliage", "petal"), 0.05)[:, leaf % 6]
    small = size[:, leaf]
    b.shape(
        Kind.CARD, torch.stack([small * 0.5, small, small], -1), colours, there[:, leaf],
        centre=place[:, leaf], rotation=lying, form=leaf_form(b, (b.batch,), tuple(small.shape), small),
    )  # fmt: skip
    small = size[:, stone]
    flat = small[..., None] * torch.cat(
        [torch.ones(*small.shape, 1), draw.uniform((*small.shape, 2), 0.3, 1.0)], -1
    )  # fmt: skip
    stones = b.material((b.batch, 4), family("stone", "soil"), 0.1)[:, stone % 4]
    b.shape(
        Kind.ELLIPSOID, flat, stones, there[:, stone], centre=place[:, stone], rotation=yaw(draw.turn(small.shape)),
    )  # fmt: skip
