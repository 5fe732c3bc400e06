# SPDX-License-Identifier: GPL-3.0-or-later
"""Hands in close-up: forearm, palm, five jointed fingers, at rest, pointing or around an object."""

from __future__ import annotations

import math
from typing import Final

import torch

from .builder import SceneBuilder
from .materials import family
from .motion import about, along, yaw
from .plants import unit
from .primitives import Kind
from .settings import NAMES, SETTINGS, Plan
from .things import ANYTHING

HANDS: Final = 2
FINGERS: Final = 5
# where a finger leaves the palm (x across, y from the wrist), how far it spreads (radians), and its length
ROOTS: Final = (
    (-0.036, 0.035, -0.75, 0.062), (-0.028, 0.092, -0.12, 0.075), (-0.009, 0.098, -0.02, 0.084),
    (0.011, 0.094, 0.08, 0.077), (0.030, 0.083, 0.2, 0.06),
)  # fmt: skip
JOINTS: Final = (0.46, 0.3, 0.24)  # lengths of a finger's three parts


def add_hands(b: SceneBuilder, plan: Plan) -> None:
    """Adds two hands, the first one at the subject, the second beside it in some scenes.

    A hand's axes: y from the wrist to the fingertips, x across the palm, z out of its back; metres of an adult's.
    """
    draw, many = b.draw, (b.batch, HANDS)
    wanted = draw.coin((b.batch,), torch.tensor([SETTINGS[name].subject_hand for name in NAMES])[plan.setting])
    there = wanted[:, None] & torch.stack([torch.ones(b.batch, dtype=torch.bool), draw.coin((b.batch,), 0.45)], -1)
    grown = draw.uniform((b.batch, 1), 0.8, 1.15).expand(many)
    mirrored = torch.tensor([1.0, -1.0])
    beside = torch.tensor([[0.0, 0.0, 0.0], [0.14, 0.0, 0.03]]) * torch.where(draw.coin((b.batch, 1, 1)), 1.0, -1.0)
    place = plan.subject[:, None] + beside + draw.normal((*many, 3), 0.015)
    # arms come from below, from the sides, from behind the camera
    pointing = unit(draw.normal((*many, 3)) * torch.tensor([1.0, 0.5, 0.6]) + torch.tensor([0.0, -0.35, 0.3]))
    turn = along(pointing, draw.turn(many))
    rate = plan.pace[:, None] * draw.uniform(many, 0.3, 1.2) / 24
    wrist = b.body(
        place - (turn @ torch.tensor([0.0, 0.08, 0.0]).expand(*many, 3)[..., None])[..., 0], rest=turn,
        axis=draw.direction(many), swing=draw.uniform(many, 0.0, 0.3), swing_rate=rate, swing_phase=draw.turn(many),
        sway=draw.direction(many) * draw.uniform((*many, 1), 0.0, 0.03), sway_rate=rate * 0.7,
        sway_phase=draw.turn(many),
    )  # fmt: skip
    skin = b.material((b.batch, 1), family("skin"), 0.2).expand(many)
    nail = b.material((b.batch, 1), family("skin", "petal", "paint"), 0.05)
    cloth = b.material((b.batch, 1), family("fabric", "fabric", "skin"), 0.3)
    _palm(b, wrist, grown, skin, cloth, there)
    _fingers(b, wrist, grown, mirrored, rate, skin, nail, there)
    _held(b, wrist, grown, there)


def _local(grown: torch.Tensor, x: float, y: float, z: float) -> torch.Tensor:
    return torch.stack([grown * x, grown * y, grown * z], -1)


def _palm(
    b: SceneBuilder, wrist: torch.Tensor, grown: torch.Tensor, skin: torch.Tensor, cloth: torch.Tensor,
    there: torch.Tensor,
) -> None:  # fmt: skip
    zero = torch.zeros_like(grown)
    parts = [  # centre, half sizes
        ((0.0, 0.055, 0.0), (0.042, 0.052, 0.0155)),
        ((0.018, 0.05, -0.006), (0.02, 0.045, 0.014)),
        ((-0.024, 0.035, -0.007), (0.018, 0.034, 0.016)),
    ]
    for centre, half in parts:
        b.shape(Kind.ELLIPSOID, _local(grown, *half), skin, there, body=wrist, centre=_local(grown, *centre))
    b.shape(
        Kind.LIMB, _local(grown, 0.036, 0.12, 0.026), skin, there, body=wrist, centre=_local(grown, 0, -0.115, 0),
        form=(0.5,),
    )  # fmt: skip
    cuff = b.draw.uniform(tuple(grown.shape), 0.05, 0.25)
    b.shape(
        Kind.LIMB, torch.stack([grown * 0.055, grown * 0.15, grown * 0.042], -1), cloth.expand_as(skin),
        there & b.draw.coin(tuple(grown.shape), 0.7), body=wrist,
        centre=torch.stack([zero, -grown * 0.15 - cuff * grown, zero], -1), form=(0.1,),
    )  # fmt: skip


def _fingers(
    b: SceneBuilder, wrist: torch.Tensor, grown: torch.Tensor, mirrored: torch.Tensor, rate: torch.Tensor,
    skin: torch.Tensor, nail: torch.Tensor, there: torch.Tensor,
) -> None:  # fmt: skip
    draw, many = b.draw, (*grown.shape, FINGERS)
    x, y, spread, length = (values * grown[..., None] for values in torch.tensor(ROOTS).unbind(-1))
    spread = torch.tensor(ROOTS)[:, 2] * draw.uniform((*grown.shape, 1), 0.2, 1.6) * mirrored[:, None]
    root = torch.stack([x * mirrored[:, None], y, torch.zeros(many)], -1)
    across, outward = torch.tensor([1.0, 0.0, 0.0]).expand(*many, 3), torch.tensor([0.0, 0.0, 1.0]).expand(*many, 3)
    # a fist, an open hand or anything between; now and then one finger differs
    bent = draw.uniform((*grown.shape, 1), 0.0, 1.3) + draw.normal(many, 0.12)
    bent = torch.where(draw.coin(many, 0.15), draw.uniform(many, 0.0, 1.2), bent)
    body = b.body(
        root, parent=wrist[..., None], rest=about(outward, -spread) @ about(across, -0.7 * bent), axis=across,
        swing=draw.uniform((*grown.shape, 1), 0.0, 0.25) * torch.ones(many), swing_rate=rate[..., None].expand(many),
        swing_phase=draw.turn(many),
    )  # fmt: skip
    thick = grown[..., None] * torch.tensor([0.0105, 0.0088, 0.0092, 0.0086, 0.0075])
    angle, start = torch.zeros(many), torch.zeros(*many, 3)
    for number, share in enumerate(JOINTS):
        direction = torch.stack([torch.zeros(many), torch.cos(angle), -torch.sin(angle)], -1)
        half = length * share / 2
        middle = start + direction * half[..., None]
        narrow = thick * (1 - 0.1 * number)
        turn = about(across, -angle)
        b.shape(
            Kind.LIMB, torch.stack([narrow, half, narrow * 0.9], -1), skin[..., None], there[..., None], body=body,
            centre=middle, rotation=turn, form=(1.0,),
        )  # fmt: skip
        start, angle = start + direction * (2 * half)[..., None], angle + bent.clamp_min(0)
    b.shape(
        Kind.ELLIPSOID, torch.stack([narrow * 0.75, half * 0.7, narrow * 0.35], -1), nail[..., None],
        there[..., None], body=body, rotation=turn,
        centre=middle + (turn @ torch.tensor([0.0, 0.0, 1.0])) * (narrow * 0.75)[..., None]
        + direction * (half * 0.45)[..., None],
    )  # fmt: skip


def _held(b: SceneBuilder, wrist: torch.Tensor, grown: torch.Tensor, there: torch.Tensor) -> None:
    """What the hand holds: a ball, a stick, a card."""
    draw, many = b.draw, tuple(grown.shape)
    kind = draw.pick(many, (1.6, 1.0, 1.0, 1.0))
    size = draw.log_uniform(many, 0.012, 0.05)
    paint = b.material(many, ANYTHING, size * 2)
    centre = torch.stack([draw.normal(many, 0.01), grown * 0.1, -grown * 0.012 - size], -1)
    turn = yaw(draw.turn(many)) @ along(draw.direction(many), draw.turn(many))
    aspect = draw.log_uniform((*many, 3), 0.6, 1.5)
    b.shape(Kind.ELLIPSOID, size[..., None] * aspect, paint, there & (kind == 1), body=wrist, centre=centre)
    stick = torch.stack([size * 0.25, size * math.pi, size * 0.2], -1)
    b.shape(Kind.LIMB, stick, paint, there & (kind == 2), body=wrist, centre=centre, rotation=turn, form=(0.3,))
    board = torch.stack([size * aspect[..., 0] * 1.5, size * aspect[..., 1] * 2.2, size * 0.15], -1)
    b.shape(Kind.BOX, board, paint, there & (kind == 3), body=wrist, centre=centre, rotation=turn)
