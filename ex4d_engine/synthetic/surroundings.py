# SPDX-License-Identifier: GPL-3.0-or-later
"""What stands around: the ground, rooms, tables, houses, hills, poles, wires and fences."""

from __future__ import annotations

import math
from typing import Final

import torch

from .builder import SceneBuilder
from .materials import family
from .motion import about, along, yaw
from .primitives import CutOut, Kind
from .settings import NAMES, SETTINGS, Plan

HOUSES: Final = 12
POLES: Final = 7
WIRES: Final = 6
HILLS: Final = 6
RAILS: Final = 24


def add_surroundings(b: SceneBuilder, plan: Plan) -> None:
    """Adds all of them; a scene uses those that its plan names."""
    _ground(b, plan)
    _room(b, plan)
    _table(b, plan)
    _houses(b, plan)
    _hills(b, plan)
    _poles_and_wires(b, plan)
    _fence(b, plan)


def _ground(b: SceneBuilder, plan: Plan) -> None:
    batch = (b.batch, 1)
    size = b.draw.log_uniform(batch, 0.7, 4.0) * (0.4 + 0.3 * plan.subject[:, 2:])
    paved = b.material(batch, family("stone", "stone", "stone", "brick", "soil"), size)
    grown = b.material(batch, family("soil", "soil", "turf", "turf", "turf"), size)
    water = b.material(batch, family("water"), size)
    wild = torch.tensor([SETTINGS[name].grass for name in NAMES])[plan.setting]
    material = torch.where(b.draw.coin(batch, 0.15 + 0.8 * wild[:, None]), grown, paved)
    # a pond, the sea, a wet street
    material = torch.where(b.draw.coin(batch, 0.07), water, material)
    lying = torch.tensor([[1.0, 0, 0], [0, 0, -1], [0, 1, 0]])  # x right, y away, z up
    a, c, x0, z0, height = plan.ground_form.unbind(-1)
    far = plan.reach * 6 + 60
    b.shape(
        Kind.CARD,
        torch.stack([far, far, far], -1)[:, None],
        material,
        (plan.ground & ~plan.indoor & ~plan.table)[:, None],
        centre=torch.stack([x0, -height, z0], -1)[:, None],
        rotation=lying,
        form=(a[:, None], c[:, None]),
    )


def _room(b: SceneBuilder, plan: Plan) -> None:
    """Floor, ceiling and three walls as thick boards, so that each has its own material; pictures and a window."""
    draw, one = b.draw, (b.batch, 1)
    depth = plan.reach[:, None] * draw.uniform(one, 0.95, 1.25)
    behind = draw.uniform(one, 1.0, 3.0)
    left, right = (
        draw.log_uniform(one, 0.8, 1.8) * torch.maximum(plan.reach[:, None] * 0.4, torch.tensor(0.9)) for _ in "lr"
    )
    floor = torch.where(plan.table[:, None], draw.uniform(one, 0.6, 0.9), 0.0)  # below the table's top
    height = draw.uniform(one, 2.2, 3.4)
    there = plan.indoor[:, None]
    turn = yaw(draw.normal(one, 0.22))
    thick = 0.05
    middle_x, middle_z = (right - left) / 2, (depth - behind) / 2
    half_x, half_z = (right + left) / 2, (depth + behind) / 2
    middle_y = floor - height / 2
    zero = torch.zeros_like(depth)
    boards = [  # centre, half
        ((middle_x, floor + thick, middle_z), (half_x, zero + thick, half_z)),
        ((middle_x, floor - height - thick, middle_z), (half_x, zero + thick, half_z)),
        ((middle_x, middle_y, depth + thick), (half_x, height / 2, zero + thick)),
        ((-left - thick, middle_y, middle_z), (zero + thick, height / 2, half_z)),
        ((right + thick, middle_y, middle_z), (zero + thick, height / 2, half_z)),
        ((middle_x, middle_y, -behind - thick), (half_x, height / 2, zero + thick)),
    ]
    floor_paint = b.material(one, family("wood", "wood", "stone", "fabric", "stone"), draw.uniform(one, 0.6, 2.0))
    ceiling_paint = b.material(one, family("plaster"), 2.0)
    walls = family("plaster", "plaster", "plaster", "brick", "wood", "fabric")
    back_paint, side_paint = b.material(one, walls, draw.uniform(one, 0.5, 2.5)), b.material(one, walls, 1.5)
    paints = (
        floor_paint,
        ceiling_paint,
        back_paint,
        side_paint,
        torch.where(draw.coin(one), side_paint, back_paint),
        side_paint,
    )
    for (centre, half), material in zip(boards, paints, strict=True):
        place = turn @ torch.stack(centre, -1)[..., None]
        b.shape(Kind.BOX, torch.stack(half, -1), material, there, centre=place[..., 0], rotation=turn)
    # skirting board, pictures, a window with its frame: flat boxes on the back wall
    pictures = (b.batch, 6)
    size = draw.log_uniform(pictures, 0.12, 0.6)
    x = middle_x + half_x * draw.uniform(pictures, -0.9, 0.9)
    y = floor - draw.uniform(pictures, 1.0, 2.0)
    local = torch.stack([x, y, (depth - 0.02).expand(pictures)], -1)
    b.shape(
        Kind.BOX,
        torch.stack([size, size * draw.uniform(pictures, 0.6, 1.4), torch.full_like(size, 0.025)], -1),
        b.material(pictures, family("poster", "poster", "wood", "metal"), size * 2),
        there & draw.coin(pictures, 0.5),
        centre=(turn @ local[..., None])[..., 0],
        rotation=turn,
    )
    b.shape(
        Kind.BOX,
        torch.stack([half_x, zero + 0.06, zero + 0.03], -1),
        b.material(one, family("plaster", "wood"), 1.0),
        there & draw.coin(one, 0.6),
        centre=(turn @ torch.stack([middle_x, floor - 0.06, depth - 0.03], -1)[..., None])[..., 0],
        rotation=turn,
    )
    # curtains: cards that hang in waves
    hung = (b.batch, 2)
    side = torch.tensor([-1.0, 1.0]).expand(hung)
    at = torch.stack([middle_x + side * half_x * 0.7, (middle_y + 0.1).expand(hung), (depth - 0.12).expand(hung)], -1)
    b.shape(
        Kind.CARD,
        torch.stack([draw.uniform(hung, 0.2, 0.5), (height / 2 - 0.15).expand(hung), torch.ones(hung)], -1),
        b.material(hung, family("fabric"), 0.5),
        there & draw.coin(one, 0.3),
        centre=(turn @ at[..., None])[..., 0],
        rotation=turn,
        form=(draw.uniform(hung, -0.6, 0.2), 0.0),
    )


def _table(b: SceneBuilder, plan: Plan) -> None:
    draw, one = b.draw, (b.batch, 1)
    distance = plan.subject[:, 2:]
    half_z = distance * draw.uniform(one, 0.6, 1.6)
    half = torch.stack([distance * draw.uniform(one, 0.8, 2.0), torch.full_like(half_z, 0.02), half_z], -1)
    centre = torch.stack([draw.normal(one, 0.1), torch.full_like(half_z, 0.02), distance + draw.normal(one, 0.1)], -1)
    material = b.material(one, family("wood", "wood", "wood", "fabric", "stone", "plaster", "paint"), distance)
    b.shape(Kind.BOX, half, material, plan.table[:, None], centre=centre, rotation=yaw(draw.normal(one, 0.5)))
    below = torch.stack([distance * 30, torch.full_like(distance, 0.1), distance * 30], -1)
    b.shape(
        Kind.BOX,
        below,
        b.material(one, family("soil", "stone", "wood"), 1.0),
        (plan.table & ~plan.indoor)[:, None],
        centre=torch.tensor([0.0, 0.85, 0.0]).expand(b.batch, 1, 3),
    )


def _houses(b: SceneBuilder, plan: Plan) -> None:
    """Boxes with roofs along both sides and at the end, as a street has them, or strewn about."""
    draw, many = b.draw, (b.batch, HOUSES)
    wanted = plan.count(draw, "houses")
    number = torch.arange(HOUSES)
    there = number < wanted[:, None]
    along_street = draw.coin((b.batch, 1), 0.7)
    side = torch.where(number % 2 == 0, -1.0, 1.0)
    row = (number // 2 + 0.5) / (HOUSES / 2)
    scale = torch.where(plan.eye_height > 6, 1.6, 1.0)[:, None]
    width = draw.uniform(many, 2.5, 7.0) * scale
    street = draw.uniform((b.batch, 1), 3.0, 9.0) * torch.where(along_street, 1.0, 2.0)
    street_x = side * (street + width + draw.uniform(many, 0.0, 2.5))
    street_z = row * plan.reach[:, None] * 0.9 + draw.normal(many, 1.0)
    x, z = plan.spots(draw, HOUSES, nearest=3.5)
    z = z + 6 * scale
    x, z = torch.where(along_street, street_x, x), torch.where(along_street, street_z, z)
    height = draw.log_uniform(many, 2.5, 12.0) * scale
    turn = yaw(
        draw.normal(many, 0.05)
        + torch.where(along_street, 0.0, 1.0) * draw.normal(many, 0.6)
        + draw.normal((b.batch, 1), 0.15)
    )
    length = draw.uniform(many, 2.5, 8.0) * scale
    half = torch.stack([width, height / 2 + 0.5, length], -1)
    b.shape(
        Kind.BOX, half, b.material(many, family("facade", "facade", "facade", "brick", "plaster"),
        draw.uniform(many, 6, 14)),
        there, centre=plan.standing(x, z, height / 2 - 0.5), rotation=turn,
    )  # fmt: skip
    roof = torch.stack([width * 0.78, width * 0.78, length * 0.99], -1)
    b.shape(
        Kind.BOX, roof, b.material(many, family("brick", "stone", "paint"), 3.0), there & draw.coin(many, 0.55),
        centre=plan.standing(x, z, height - width * 0.55), rotation=turn @ about(torch.tensor([0.0, 0,
        1]).expand(*many, 3), torch.full(many, math.pi / 4)),
    )  # fmt: skip
    # doors, signs, awnings: boards a little before the walls that face the street
    board = torch.stack([draw.uniform(many, 0.03, 0.6), draw.uniform(many, 0.2, 1.1), draw.uniform(many, 0.3, 1.6)], -1)
    toward = -side * (width + 0.02)
    offset = torch.stack([toward.expand(many), torch.zeros(many), length * draw.uniform(many, -0.8, 0.8)], -1)
    up = draw.uniform(many, 0.9, 3.5)
    place = plan.standing(x, z, up) + (turn @ offset[..., None])[..., 0]
    b.shape(
        Kind.BOX,
        board,
        b.material(many, family("poster", "wood", "paint"), 1.5),
        there & along_street & draw.coin(many, 0.7),
        centre=place,
        rotation=turn,
    )


def _hills(b: SceneBuilder, plan: Plan) -> None:
    draw, many = b.draw, (b.batch, HILLS)
    there = plan.chance(draw, "hills")[:, None] & draw.coin(many, 0.7) & ~plan.indoor[:, None]
    far = plan.reach[:, None] * draw.log_uniform(many, 1.3, 6.0)
    side = draw.uniform(many, -1.3, 1.3)
    size = far * draw.uniform(many, 0.15, 0.7)
    half = torch.stack([size * draw.uniform(many, 0.6, 1.6), size * draw.uniform(many, 0.1, 0.5), size * 0.7], -1)
    centre = torch.stack([far * torch.sin(side), torch.zeros(many), far * torch.cos(side)], -1)
    b.shape(
        Kind.ELLIPSOID, half, b.material(many, family("soil", "foliage", "stone", "foliage"), size * 0.4), there,
        centre=centre, rotation=yaw(draw.turn(many)),
    )  # fmt: skip


def _poles_and_wires(b: SceneBuilder, plan: Plan) -> None:
    draw, many = b.draw, (b.batch, POLES)
    there = torch.arange(POLES) < plan.count(draw, "poles")[:, None]
    x, z = plan.spots(draw, POLES, nearest=1.2, farthest=0.7)
    height = draw.log_uniform(many, 1.0, 8.0) * torch.where(plan.indoor, 0.3, 1.0)[:, None]
    radius = height * draw.log_uniform(many, 0.004, 0.025)
    lean = along(
        torch.cat([draw.normal((*many, 1), 0.03), -torch.ones(*many, 1), draw.normal((*many, 1), 0.03)], -1),
        torch.zeros(many),
    )
    material = b.material(many, family("metal", "wood", "paint", "stone"), height * 0.3)
    b.shape(
        Kind.LIMB, torch.stack([radius, height / 2, radius * draw.uniform(many, 0.5, 1.0)], -1), material, there,
        centre=plan.standing(x, z, height / 2 - 0.02), rotation=lean, form=(0.2,),
    )  # fmt: skip
    # signs and lamps on them
    sign = draw.uniform(many, 0.15, 0.45)
    b.shape(
        Kind.BOX, torch.stack([sign, sign * draw.uniform(many, 0.4, 1.3), torch.full(many, 0.02)], -1),
        b.material(many, family("poster", "paint"), sign * 2), there & draw.coin(many, 0.4),
        centre=plan.standing(x, z - radius * 1.3, height * 0.92), rotation=yaw(draw.normal(many, 0.5)),
    )  # fmt: skip
    wires = (b.batch, WIRES)
    wx, wz = plan.spots(draw, WIRES, nearest=1.5, farthest=0.6)
    up = plan.eye_height[:, None] + wz * draw.uniform(wires, 0.05, 0.5)
    direction = torch.stack([torch.ones(wires), draw.normal(wires, 0.15), draw.normal(wires, 0.7)], -1)
    thin = draw.log_uniform(wires, 0.006, 0.03) * (1 + wz * 0.03)
    b.shape(
        Kind.LIMB, torch.stack([thin, wz * 2, thin], -1), b.material(wires, family("metal", "hair"), 0.2),
        plan.chance(draw, "hills")[:, None] & (there.sum(1) > 2)[:, None] & ~plan.indoor[:, None],
        centre=torch.stack([wx, -up, wz], -1), rotation=along(direction, torch.zeros(wires)), form=(0.1,),
    )  # fmt: skip


def _fence(b: SceneBuilder, plan: Plan) -> None:
    """A row of pales with two rails, or a wire mesh, across the view behind or before the subject."""
    draw, one, many = b.draw, (b.batch, 1), (b.batch, RAILS)
    there = (
        draw.coin(one, torch.where(plan.indoor, 0.04, 0.15)[:, None])
        & ~plan.table[:, None]
        & (plan.eye_height < 4)[:, None]
    )
    z = plan.subject[:, 2:] * draw.log_uniform(one, 0.8, 4.0)
    direction = draw.normal(one, 0.5)
    step = draw.uniform(one, 0.09, 0.35)
    offset = (torch.arange(RAILS) - RAILS / 2 + 0.5) * step
    x = offset * torch.cos(direction)
    depth = z + offset * torch.sin(direction)
    height = draw.uniform(one, 0.7, 1.6).expand(many)
    width = (step * draw.uniform(one, 0.1, 0.4)).expand(many)
    wire = draw.coin(one, 0.35)
    turn = yaw(-direction)
    material = b.material(one, family("wood", "metal", "paint"), 0.5)
    b.shape(
        Kind.BOX, torch.stack([width, height / 2, width * 0.4], -1), material, there & ~wire,
        centre=plan.standing(x, depth, height / 2), rotation=turn,
    )  # fmt: skip
    for share in (0.25, 0.85):
        b.shape(
            Kind.BOX, torch.stack([step * RAILS / 2, torch.full(one, 0.03), torch.full(one, 0.02)], -1), material,
            there & ~wire,
            centre=plan.standing(torch.zeros(one), z, height[:, :1] * share) + torch.tensor([0, 0, 0.03]),
            rotation=turn,
        )  # fmt: skip
    b.shape(
        Kind.SCREEN, torch.stack([step * RAILS / 2, height[:, :1], torch.ones(one)], -1), material, there & wire,
        centre=plan.standing(torch.zeros(one), z, height[:, :1]), rotation=turn,
        form=(0.0, 0.0, 0.0, float(CutOut.MESH), step * RAILS * 5, height[:, :1] * 10, draw.uniform(one, 0.08, 0.2),
        0.0),
    )  # fmt: skip
