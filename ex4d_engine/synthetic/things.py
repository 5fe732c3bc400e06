# SPDX-License-Identifier: GPL-3.0-or-later
"""Things that people made: loose objects of every shape, furniture, vehicles, balls in flight."""

from __future__ import annotations

import math
from typing import Final

import torch

from .builder import SceneBuilder
from .materials import family
from .motion import along, yaw
from .primitives import Kind
from .settings import NAMES, SETTINGS, Plan

CLUTTER: Final = 26
FURNITURE: Final = 8
VEHICLES: Final = 4
FLYING: Final = 3
ANYTHING: Final = family(
    "paint", "paint", "metal", "wood", "fabric", "stone", "poster", "plaster", "brick", "petal", "soil"
)


def add_things(b: SceneBuilder, plan: Plan) -> None:
    """Adds all of them; a scene uses those that its plan names."""
    _clutter(b, plan)
    _furniture(b, plan)
    _vehicles(b, plan)
    _flying(b, plan)


def _clutter(b: SceneBuilder, plan: Plan) -> None:
    """Objects of one to three shapes, standing on the ground or the table; a few hang in the air or move."""
    draw, many = b.draw, (b.batch, CLUTTER)
    there = torch.arange(CLUTTER) < plan.count(draw, "clutter")[:, None]
    low, high = torch.tensor([SETTINGS[name].clutter_size for name in NAMES])[plan.setting].unbind(-1)
    size = draw.log_uniform(many, low[:, None], high[:, None])
    farthest = torch.where(plan.table[:, None], plan.subject[:, 2:] * 1.9, plan.reach[:, None] * 0.8)
    away = draw.log_uniform(
        many, plan.nearest[:, None] + size, torch.maximum(farthest, plan.nearest[:, None] * 1.6 + size)
    )
    side = draw.uniform(many, -0.6, 0.6) * plan.fov[:, None]
    x, z = away * torch.sin(side), away * torch.cos(side)
    aspect = draw.log_uniform((*many, 3), 0.4, 1.6)
    half = size[..., None] / 2 * aspect
    hanging = draw.coin(many, 0.08) | (~plan.ground & ~plan.indoor & ~plan.table)[:, None]
    up = torch.where(hanging, plan.eye_height[:, None] * draw.uniform(many, 0.1, 1.8), half[..., 1])
    moving = draw.coin(many, 0.18)[..., None]
    drift = (
        draw.direction(many)
        * torch.tensor([1.0, 0.0, 1.0])
        * (size * draw.log_uniform(many, 0.01, 0.3) * plan.pace[:, None])[..., None]
    )
    turning = draw.coin(many, 0.12)
    body = b.body(
        plan.standing(x, z, up), rest=yaw(draw.turn(many)), velocity=torch.where(moving, drift, 0.0),
        axis=torch.where(hanging[..., None], draw.direction(many), torch.tensor([0.0, 1.0, 0.0])),
        spin=torch.where(turning, draw.normal(many, 0.06) * plan.pace[:, None], 0.0),
    )  # fmt: skip
    material = b.material(many, ANYTHING, size)
    other = b.material(many, ANYTHING, size)
    which = draw.pick(many, (1.3, 1.3, 1.3, 0.8, 0.8))
    tilt = torch.where(hanging[..., None, None], along(draw.direction(many), draw.turn(many)), torch.eye(3))
    b.shape(Kind.ELLIPSOID, half, material, there & (which == 0), body=body, rotation=tilt)
    b.shape(Kind.BOX, half, material, there & (which == 1), body=body, rotation=tilt)
    # limbs stand upright: bottles, cups, columns, cones; half their length and their round ends make up the height
    wide, narrow = half[..., 0], half[..., 0] * draw.uniform(many, 0.15, 1.0)
    roundness = torch.where(draw.coin(many, 0.5), 0.06, 0.6)
    upper = torch.where(draw.coin(many, 0.5), wide, narrow)
    limb = torch.stack(
        [torch.where(upper == wide, narrow, wide), (half[..., 1] - wide * roundness).clamp_min(0.02 * size), upper], -1
    )
    b.shape(Kind.LIMB, limb, material, there & (which >= 2), body=body, rotation=tilt, form=(roundness,))
    # a neck, a lid, a handle: a second shape on the first
    b.shape(
        Kind.LIMB, torch.stack([narrow * 0.5, half[..., 1] * 0.4, narrow * 0.4], -1), other,
        there & (which == 2) & draw.coin(many, 0.7),
        body=body, centre=torch.stack([torch.zeros(many), -half[..., 1] * 1.1, torch.zeros(many)], -1), form=(0.1,),
    )  # fmt: skip
    b.shape(
        Kind.BOX, half * draw.uniform((*many, 3), 0.3, 0.9), other, there & (which == 1) & draw.coin(many, 0.5),
        body=body,
        centre=torch.stack([torch.zeros(many), -half[..., 1] * 1.2, torch.zeros(many)], -1),
        rotation=yaw(draw.turn(many)),
    )  # fmt: skip
    b.shape(
        Kind.ELLIPSOID, half * draw.uniform((*many, 3), 0.25, 0.6), other, there & (which == 0) & draw.coin(many, 0.5),
        body=body,
        centre=draw.direction(many) * half * torch.tensor([1.0, -1.0, 1.0]),
    )  # fmt: skip


def _furniture(b: SceneBuilder, plan: Plan) -> None:
    """Tables, chairs and benches on four legs, shelves with boards and books, sofas: all of boxes."""
    draw, many = b.draw, (b.batch, FURNITURE)
    there = torch.arange(FURNITURE) < plan.count(draw, "furniture")[:, None]
    x, z = plan.spots(draw, FURNITURE, nearest=1.5, farthest=0.9, spread=1.3)
    x = x * 1.1
    z = z + 0.3
    turn = yaw(draw.normal((b.batch, 1), 0.3) + draw.integer(many, 0, 4) * (math.pi / 2) + draw.normal(many, 0.1))
    kind = draw.pick(many, (1.0, 1.0, 1.0, 0.9))  # table or bench, chair, shelf, sofa
    wide, deep = draw.uniform(many, 0.35, 0.9), draw.uniform(many, 0.22, 0.5)
    high = torch.where(kind == 0, draw.uniform(many, 0.4, 0.78), 0.45)
    chair = kind == 1
    wide, deep = torch.where(chair, 0.22, wide), torch.where(chair, 0.22, deep)
    material = b.material(many, family("wood", "wood", "paint", "metal", "plaster"), 0.8)
    second = b.material(many, family("fabric", "fabric", "wood"), 0.6)
    base = plan.standing(x, z)

    def board(
        centre: tuple[torch.Tensor, ...], half: tuple[torch.Tensor, ...], paint: torch.Tensor, wanted: torch.Tensor
    ) -> None:
        shape = wanted.shape
        local = torch.stack([c.expand(shape) for c in centre], -1)
        extra = (None,) * (len(shape) - 2)
        rotation = turn[(slice(None), slice(None), *extra)]
        place = base[(slice(None), slice(None), *extra)] + (rotation @ local[..., None])[..., 0]
        b.shape(
            Kind.BOX, torch.stack([h.expand(shape) for h in half], -1), paint, wanted, centre=place, rotation=rotation
        )

    zero = torch.zeros(many)
    legged = there & (kind <= 1)
    board((zero, -high, zero), (wide, zero + 0.018, deep), torch.where(chair, second, material), legged)
    board((zero, -high - 0.25, deep), (wide, zero + 0.25, zero + 0.015), material, legged & chair)
    corner_x, corner_z = torch.tensor([-1.0, 1.0, -1.0, 1.0]), torch.tensor([-1.0, -1.0, 1.0, 1.0])
    inset = 0.93
    four = torch.ones(4)
    board(
        (wide[..., None] * corner_x * inset, -high[..., None] / 2 * four, deep[..., None] * corner_z * inset),
        (zero[..., None] + 0.018 * four, high[..., None] / 2 * four, zero[..., None] + 0.018 * four),
        material[..., None], (legged[..., None] & (four > 0)),
    )  # fmt: skip
    shelf = there & (kind == 2)
    tall = draw.uniform(many, 0.8, 2.0)
    six = torch.linspace(0.02, 1.0, 6)
    board(
        (zero[..., None] * six, -tall[..., None] * six, zero[..., None] * six),
        (wide[..., None] + 0 * six, zero[..., None] + 0.012 + 0 * six, deep[..., None] * 0.6 + 0 * six),
        material[..., None], shelf[..., None] & (six > 0),
    )  # fmt: skip
    for end in (-1.0, 1.0):
        board((end * wide, -tall / 2, zero), (zero + 0.012, tall / 2, deep * 0.6), material, shelf)
    board((zero, -tall / 2, deep * 0.58), (wide, tall / 2, zero + 0.01), material, shelf & draw.coin(many, 0.6))
    books = (*many, 20)
    row = torch.arange(20) % 5
    position = draw.uniform(books, -0.92, 0.92) * wide[..., None]
    taller = tall[..., None] * draw.uniform(books, 0.05, 0.088)
    lower = tall[..., None] * six[row]
    board(
        (position, -(lower + taller + 0.01), zero[..., None] - 0.02),
        (draw.uniform(books, 0.008, 0.06), taller, deep[..., None] * draw.uniform(books, 0.25, 0.5)),
        b.material((*many, 20), family("paint", "poster", "fabric"), 0.3), shelf[..., None] & draw.coin(books, 0.9),
    )  # fmt: skip
    sofa = there & (kind == 3)
    board((zero, zero - 0.22, zero), (wide * 1.2, zero + 0.2, deep), second, sofa)
    board((zero, zero - 0.5, deep), (wide * 1.2, zero + 0.35, zero + 0.1), second, sofa)
    for end in (-1.2, 1.2):
        board((end * wide, zero - 0.32, zero), (zero + 0.09, zero + 0.3, deep), second, sofa)


def _vehicles(b: SceneBuilder, plan: Plan) -> None:
    draw, many = b.draw, (b.batch, VEHICLES)
    there = torch.arange(VEHICLES) < plan.count(draw, "vehicles")[:, None]
    x, z = plan.spots(draw, VEHICLES, nearest=1.8, farthest=0.6)
    z = z + 3.0
    heading = torch.where(draw.coin(many, 0.7), draw.integer(many, 0, 2) * math.pi, draw.turn(many)) + draw.normal(
        many, 0.12
    )
    driving = draw.coin(many, 0.45)
    speed = torch.where(driving, draw.uniform(many, 1.0, 9.0), 0.0) * plan.pace[:, None] / 24
    ahead = torch.stack([torch.sin(heading), torch.zeros(many), torch.cos(heading)], -1)
    body = b.body(plan.standing(x, z), rest=yaw(heading), velocity=ahead * speed[..., None])
    long, wide = draw.uniform(many, 1.8, 2.6), draw.uniform(many, 0.8, 1.0)
    tall = draw.uniform(many, 0.28, 0.5)
    cabin = draw.uniform(many, 0.25, 0.75)
    colour = b.material(many, family("paint", "paint", "metal"), 4.0)
    glass = b.material(many, family("metal"), 2.0)
    zero = torch.zeros(many)
    b.shape(
        Kind.BOX,
        torch.stack([wide, tall, long], -1),
        colour,
        there,
        body=body,
        centre=torch.stack([zero, -tall - 0.3, zero], -1),
    )
    share = draw.uniform(many, 0.45, 0.95)
    up = -2 * tall - 0.3 - cabin
    b.shape(
        Kind.BOX,
        torch.stack([wide * 0.9, cabin, long * share], -1),
        glass,
        there,
        body=body,
        centre=torch.stack([zero, up, -long * 0.1], -1),
    )
    b.shape(
        Kind.BOX, torch.stack([wide * 0.92, cabin * 0.12, long * share * 0.95], -1), colour, there, body=body,
        centre=torch.stack([zero, up - cabin, -long * 0.1], -1),
    )  # fmt: skip
    wheels = (*many, 4)
    sx, sz = torch.tensor([-1.0, 1.0, -1.0, 1.0]), torch.tensor([-1.0, -1.0, 1.0, 1.0])
    radius = draw.uniform(many, 0.28, 0.38)[..., None].expand(wheels)
    across = along(torch.tensor([1.0, 0.0, 0.0]).expand(*wheels, 3), torch.zeros(wheels))
    b.shape(
        Kind.LIMB, torch.stack([radius, torch.full(wheels, 0.1), radius], -1),
        b.material((*many, 1), family("hair", "metal"), 0.5), there[..., None],
        body=body[..., None], centre=torch.stack([sx * wide[..., None], -radius, sz * long[..., None] * 0.62], -1),
        rotation=across, form=(0.15,),
    )  # fmt: skip


def _flying(b: SceneBuilder, plan: Plan) -> None:
    """Balls and the like in flight through the view."""
    draw, many = b.draw, (b.batch, FLYING)
    there = draw.coin(many, 0.15) & ~plan.table[:, None]
    x, z = plan.spots(draw, FLYING, nearest=1.2, farthest=0.3, spread=0.8)
    size = 0.05 + 0.06 * draw.log_uniform(many, 0.3, 3.0) * torch.where(plan.eye_height > 6, 8.0, 1.0)[:, None]
    size = torch.minimum(size, plan.subject[:, 2:] * plan.fov[:, None].clamp_max(1.0) * 0.15)
    way = draw.direction(many) * (z * draw.log_uniform(many, 0.003, 0.06) * plan.pace[:, None])[..., None]
    body = b.body(
        torch.stack([x, -plan.eye_height[:, None] - z * draw.normal(many, 0.15), z], -1), velocity=way,
        axis=draw.direction(many), spin=draw.normal(many, 0.3),
    )  # fmt: skip
    b.shape(
        Kind.ELLIPSOID, size[..., None] * torch.where(draw.coin((*many, 1), 0.6), 1.0,
        draw.uniform((*many, 3), 0.5, 1.6)),
        b.material(many, ANYTHING, size * 2), there, body=body,
    )  # fmt: skip
