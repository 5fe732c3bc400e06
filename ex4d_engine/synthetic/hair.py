# SPDX-License-Identifier: GPL-3.0-or-later
"""Hair: a cap, sometimes a bun, strands of any length that fall from it, and single hairs that stand off; or a hat."""

from __future__ import annotations

import math
from typing import Final

import torch

from .builder import SceneBuilder
from .plants import unit
from .primitives import Kind

STRANDS: Final = 130
LOOSE_HAIRS: Final = 110  # of the first figure only, the one that may fill the picture


def add_hair(
    b: SceneBuilder, head: torch.Tensor, size: torch.Tensor, hair: torch.Tensor, top: torch.Tensor, there: torch.Tensor
) -> None:
    """Adds the hair of figures (B, n).

    Args:
        head: their heads' bodies, whose origin is the top of the neck.
        size: metres, the figures' heights.
        hair, top: materials, of the hair and of a hat.
        there: which of them exist.
    """
    draw, many = b.draw, tuple(size.shape)
    bald, hat = draw.coin(many, 0.1), draw.coin(many, 0.15)
    cap = torch.stack([size * 0.048, size * 0.053, size * 0.055], -1) * draw.uniform((*many, 1), 0.97, 1.1)
    b.shape(
        Kind.ELLIPSOID, cap, torch.where(hat, top, hair), there & ~bald, body=head,
        centre=_above(size, 0, 0.079, -0.012),
    )  # fmt: skip
    b.shape(
        Kind.ELLIPSOID, torch.stack([size * 0.085, size * 0.006, size * 0.09], -1), top,
        there & hat & draw.coin(many, 0.6),
        body=head, centre=_above(size, 0, 0.092, 0.005),
    )  # fmt: skip
    b.shape(
        Kind.ELLIPSOID, (size * draw.uniform(many, 0.015, 0.035))[..., None].expand(*many, 3), hair,
        there & ~bald & draw.coin(many, 0.25),
        body=head, centre=_above(size, 0, 0.09, -0.065),
    )  # fmt: skip
    strands = (*many, STRANDS)
    around_head = draw.uniform(strands, 0.85, 2 * math.pi - 0.85)  # all but the face
    lift = draw.uniform(strands, 0.02, 0.1)
    ring = torch.sqrt((1 - ((lift - 0.075) / 0.06).square()).clamp_min(0.15))
    start = (
        torch.stack([torch.sin(around_head) * 0.047 * ring, -lift, torch.cos(around_head) * 0.053 * ring - 0.01], -1)
        * size[..., None, None]
    )
    length = size[..., None] * (draw.log_uniform(many, 0.012, 0.16)[..., None] * draw.uniform(strands, 0.6, 1.2))
    outward = torch.nn.functional.normalize(start * torch.tensor([1.0, 0.0, 1.0]), dim=-1)
    fall = torch.nn.functional.normalize(
        torch.tensor([0.0, 1.0, 0.0])
        + outward * draw.log_uniform(many, 0.03, 0.5)[..., None, None]
        + draw.normal((*strands, 3), 0.07),
        dim=-1,
    )
    sideways = torch.nn.functional.normalize(torch.linalg.cross(fall, outward), dim=-1)
    rotation = torch.stack([sideways, fall, torch.linalg.cross(sideways, fall)], -1)
    b.shape(
        Kind.CARD, torch.stack([size[..., None] * draw.log_uniform(strands, 0.0012, 0.008), length, length], -1),
        hair[..., None], (there & ~bald & ~(hat & draw.coin(many, 0.5)))[..., None], body=head[..., None],
        centre=start + fall * length[..., None], rotation=rotation,
        form=(0.0, -draw.uniform(many, 0.0, 0.5)[..., None] / length, 0.35, draw.uniform(strands, -0.2, 0.7), 0.0, 0.0,
              draw.uniform(strands, -1.0, 1.0), draw.turn(strands)),
    )  # fmt: skip
    _loose_hairs(b, head[:, :1], size[:, :1], hair[:, :1], (there & ~bald & ~hat)[:, :1])


def _loose_hairs(
    b: SceneBuilder, head: torch.Tensor, size: torch.Tensor, hair: torch.Tensor, there: torch.Tensor
) -> None:
    """Hairs thinner than a pixel mostly, all over the cap's outline: straight, curled or on end."""
    draw, many = b.draw, (*size.shape, LOOSE_HAIRS)
    one = (b.batch, 1, 1)
    out = draw.direction(many)
    out = unit(torch.stack([out[..., 0], -out[..., 1].abs() + 0.3, out[..., 2] - 0.25], -1))
    start = _above(size, 0.0, 0.079, -0.012)[:, :, None] + out * (size * 0.05)[..., None, None]
    grow = unit(
        out * draw.log_uniform((*one, 1), 0.2, 2.0) + draw.normal((*many, 3), 0.45)
        + torch.tensor([0.0, 1.0, -0.2]) * draw.uniform((*one, 1), 0.0, 1.5)
    )  # fmt: skip
    length = size[..., None] * draw.log_uniform(one, 0.006, 0.03) * draw.uniform(many, 0.4, 1.5)
    thin = size[..., None] * draw.log_uniform(one, 0.0003, 0.0015)
    sideways = unit(torch.linalg.cross(grow, out + 0.01))
    curl = draw.normal(many, 0.5) + draw.uniform(one, -0.6, 0.6)
    b.shape(
        Kind.CARD, torch.stack([thin.expand(many), length, length], -1), hair[..., None],
        there[..., None] & (torch.arange(LOOSE_HAIRS) < draw.log_uniform(one, 4, LOOSE_HAIRS)), body=head[..., None],
        centre=start + grow * length[..., None],
        rotation=torch.stack([sideways, grow, torch.linalg.cross(sideways, grow)], -1),
        form=(0.0, curl / length, 0.2, 0.3, 0.0, 0.0, draw.normal(many, 2.0), draw.turn(many)),
    )  # fmt: skip


def _above(size: torch.Tensor, x: float, y: float, z: float) -> torch.Tensor:
    """A point of the head as shares of the figure's height: y up from the top of the neck, z forward."""
    return torch.stack([size * x, -size * y, size * z], -1)
