# SPDX-License-Identifier: GPL-3.0-or-later
"""Person-like figures that stand, walk and gesture: limbs on joints, faces, clothes; `hair` has the hair."""

from __future__ import annotations

import math
from typing import Final

import torch

from .builder import SceneBuilder
from .hair import add_hair
from .materials import family
from .motion import about, along, yaw
from .primitives import Kind
from .settings import NAMES, SETTINGS, Plan

PEOPLE: Final = 5
SIDES: Final = torch.tensor([-1.0, 1.0])


def add_people(b: SceneBuilder, plan: Plan) -> None:
    """Adds the figures of every scene; where a person is the subject, it is the first one."""
    draw, many = b.draw, (b.batch, PEOPLE)
    there = torch.arange(PEOPLE) < plan.count(draw, "people")[:, None]
    x, z = plan.spots(draw, PEOPLE, nearest=1.6, farthest=0.35)
    is_subject = torch.tensor([SETTINGS[name].subject_person for name in NAMES])[plan.setting]
    first = (torch.arange(PEOPLE) == 0) & draw.coin((b.batch,), is_subject)[:, None]
    there = there | first
    x, z = torch.where(first, plan.subject[:, :1], x), torch.where(first, plan.subject[:, 2:], z)
    tall = draw.uniform(many, 1.5, 1.9) * torch.where(draw.coin(many, 0.15), 0.65, 1.0)
    tall = torch.where(
        first & (plan.subject[:, 2:] < 2.7), (0.16 - plan.subject[:, 1:2] - plan.height(x, z)).clamp(1.0, 2.1), tall
    )
    # faces look at the camera more often than not
    facing = math.pi + torch.where(draw.coin(many, 0.65), draw.normal(many, 0.7), draw.turn(many))
    walks = draw.coin(many, 0.45) & ~(first & (plan.subject[:, 2:] < 2.7))
    stride = torch.where(walks, draw.uniform(many, 0.6, 1.6), 0.0) * plan.pace[:, None] / 24  # metres a frame
    heading = torch.stack([torch.sin(facing), torch.zeros(many), torch.cos(facing)], -1)
    breath = tall * torch.where(walks, 0.02, 0.008)
    rate = plan.pace[:, None] * draw.uniform(many, 0.7, 1.2) / 24
    root = b.body(
        plan.standing(x, z), rest=yaw(facing), velocity=heading * stride[..., None],
        sway=torch.stack([breath * draw.normal(many), breath * 0.6, breath * draw.normal(many)], -1),
        sway_rate=rate * 0.6,
        sway_phase=draw.turn(many), swing=draw.uniform(many, 0.0, 0.25), swing_rate=rate * 0.4,
        swing_phase=draw.turn(many),
    )  # fmt: skip
    cloth = ("fabric", "fabric", "fabric", "paint")
    skin = b.material(many, family("skin"), tall * 0.15)
    top, bottom = b.material(many, family(*cloth), tall * 0.3), b.material(many, family(*cloth), tall * 0.3)
    hair, shoes = b.material(many, family("hair"), tall * 0.1), b.material(many, family("paint", "fabric"), tall * 0.1)
    build = draw.uniform(many, 0.85, 1.25)
    _trunk(b, root, tall, build, top, bottom, there)
    _head(b, root, tall, rate, skin, hair, top, there)
    sleeve = torch.where(draw.coin(many, 0.6), top, skin)
    _arms(b, root, tall, build, rate, top, sleeve, skin, there, walks)
    trousers = torch.where(draw.coin(many, 0.75), bottom, skin)
    _legs(b, root, tall, build, rate, bottom, trousers, shoes, there, walks)


def _at(tall: torch.Tensor, x: float, y: float, z: float) -> torch.Tensor:
    """A point of the figure as shares of its height: x to its left, y up from the ground, z forward."""
    return torch.stack([tall * x, -tall * y, tall * z], -1)


def _trunk(
    b: SceneBuilder, root: torch.Tensor, tall: torch.Tensor, build: torch.Tensor,
    top: torch.Tensor, bottom: torch.Tensor, there: torch.Tensor,
) -> None:  # fmt: skip
    draw, many = b.draw, tuple(tall.shape)
    wide, deep = tall * build, tall * build * draw.uniform(many, 0.9, 1.1)
    parts = [  # centre, half sizes, material
        (_at(tall, 0, 0.735, 0.0), (wide * 0.108, tall * 0.105, deep * 0.066), top),
        (_at(tall, 0, 0.64, 0.004), (wide * 0.088, tall * 0.11, deep * 0.06), top),
        (_at(tall, 0, 0.53, -0.004), (wide * 0.1, tall * 0.075, deep * 0.072), bottom),
    ]
    for centre, half, material in parts:
        b.shape(Kind.ELLIPSOID, torch.stack(half, -1), material, there, body=root, centre=centre)
    # shoulders, and a skirt or a coat now and then
    across = along(torch.tensor([1.0, 0, 0]).expand(*many, 3), torch.zeros(many))
    b.shape(
        Kind.LIMB, torch.stack([tall * 0.04, wide * 0.085, tall * 0.04], -1), top, there, body=root,
        centre=_at(tall, 0, 0.8, -0.005), rotation=across, form=(1.0,),
    )  # fmt: skip
    long = draw.uniform(many, 0.1, 0.22)
    upright = torch.eye(3)
    b.shape(
        Kind.LIMB, torch.stack([wide * 0.085, tall * long, wide * draw.uniform(many, 0.1, 0.17)], -1),
        torch.where(draw.coin(many, 0.5), top, bottom), there & draw.coin(many, 0.35), body=root,
        centre=torch.stack([torch.zeros(many), -tall * (0.6 - long), torch.zeros(many)], -1), rotation=upright,
        form=(0.1,),
    )  # fmt: skip


def _head(
    b: SceneBuilder, root: torch.Tensor, tall: torch.Tensor, rate: torch.Tensor,
    skin: torch.Tensor, hair: torch.Tensor, top: torch.Tensor, there: torch.Tensor,
) -> None:  # fmt: skip
    draw, many = b.draw, tuple(tall.shape)
    b.shape(
        Kind.LIMB, torch.stack([tall * 0.033, tall * 0.035, tall * 0.036], -1), skin, there, body=root,
        centre=_at(tall, 0, 0.85, -0.002), form=(0.5,),
    )  # fmt: skip
    head = b.body(
        _at(tall, 0, 0.875, 0.0), parent=root, rest=yaw(draw.normal(many,
        0.4)) @ about(torch.tensor([1.0, 0, 0]).expand(*many, 3), draw.normal(many, 0.15)),
        axis=torch.nn.functional.normalize(torch.stack([draw.normal(many, 0.4), torch.ones(many),
        draw.normal(many, 0.3)], -1), dim=-1),
        swing=draw.uniform(many, 0.0, 0.35), swing_rate=rate * draw.uniform(many, 0.3, 0.9),
        swing_phase=draw.turn(many),
    )  # fmt: skip
    size = tall * draw.uniform(many, 0.95, 1.08)
    face = [  # x, y, z, radii: skull, jaw, cheeks, brow, nose, ears, lips
        (0.0, 0.062, -0.004, 0.043, 0.056, 0.054, 0), (0.0, 0.03, 0.014, 0.034, 0.036, 0.036, 0),
        (0.019, 0.044, 0.028, 0.017, 0.018, 0.017, 0), (-0.019, 0.044, 0.028, 0.017, 0.018, 0.017, 0),
        (0.0, 0.074, 0.036, 0.03, 0.008, 0.013, 0), (0.0, 0.05, 0.053, 0.0075, 0.015, 0.012, 0),
        (0.044, 0.056, -0.004, 0.006, 0.017, 0.01, 0), (-0.044, 0.056, -0.004, 0.006, 0.017, 0.01, 0),
    ]  # fmt: skip
    features = torch.tensor([row[:6] for row in face])
    count = len(face)
    varied = features * (1 + draw.normal((*many, count, 6), 0.04))
    place = varied[..., :3] * torch.tensor([1.0, -1.0, 1.0]) * size[..., None, None]
    b.shape(
        Kind.ELLIPSOID, varied[..., 3:] * size[..., None, None], skin[..., None], there[..., None],
        body=head[..., None], centre=place,
    )  # fmt: skip
    # eyes and mouth: small and of their own colours
    details = torch.tensor([[0.017, 0.062, 0.047, 0.0085, 0.0045, 0.004], [-0.017, 0.062, 0.047, 0.0085, 0.0045, 0.004],
                            [0.017, 0.062, 0.0505, 0.0035, 0.0038, 0.002],
                            [-0.017, 0.062, 0.0505, 0.0035, 0.0038, 0.002],
                            [0.017, 0.073, 0.0455, 0.012, 0.0025, 0.005], [-0.017, 0.073, 0.0455, 0.012, 0.0025, 0.005],
                            [0.0, 0.026, 0.045, 0.013, 0.0045, 0.0065]])  # fmt: skip
    white = b.material((*many, 1), family("plaster"), 0.05)
    dark = b.material((*many, 1), family("hair"), 0.05)
    lips = b.material((*many, 1), family("petal", "skin"), 0.05)
    paint = torch.cat([white, white, dark, dark, hair[..., None], hair[..., None], lips], -1)
    b.shape(
        Kind.ELLIPSOID, (details[:, 3:] * size[..., None, None]), paint, there[..., None], body=head[..., None],
        centre=details[:, :3] * torch.tensor([1.0, -1.0, 1.0]) * size[..., None, None],
    )  # fmt: skip
    add_hair(b, head, size, hair, top, there)


def _arms(
    b: SceneBuilder, root: torch.Tensor, tall: torch.Tensor, build: torch.Tensor, rate: torch.Tensor,
    top: torch.Tensor, sleeve: torch.Tensor, skin: torch.Tensor, there: torch.Tensor, walks: torch.Tensor,
) -> None:  # fmt: skip
    draw, many = b.draw, (*tall.shape, 2)
    sideways = torch.tensor([1.0, 0.0, 0.0]).expand(*many, 3)
    forward = torch.tensor([0.0, 0.0, 1.0]).expand(*many, 3)
    height = tall[..., None].expand(many)
    shoulder = torch.stack([SIDES * (tall * build * 0.118)[..., None], -height * 0.8, -height * 0.005], -1)
    raised = torch.where(draw.coin(many, 0.3), draw.uniform(many, 0.2, 2.2), draw.uniform(many, -0.15, 0.25))
    spread = SIDES * torch.where(draw.coin(many, 0.25), draw.uniform(many, 0.1, 1.2), draw.uniform(many, 0.03, 0.2))
    # limbs hang along +y (down); a positive turn about −x lifts them forward
    swing = torch.where(walks[..., None], 0.45, draw.uniform(many, 0.0, 0.3))
    phase = torch.where(walks[..., None], SIDES * (math.pi / 2), draw.turn(many))
    upper = b.body(
        shoulder, parent=root[..., None], rest=about(forward, -spread) @ about(sideways, raised), axis=sideways,
        swing=swing,
        swing_rate=rate[..., None].expand(many), swing_phase=phase,
    )  # fmt: skip
    fore = b.body(
        torch.stack([torch.zeros(many), height * 0.165, torch.zeros(many)], -1), parent=upper,
        rest=about(sideways, torch.where(draw.coin(many, 0.4), draw.uniform(many, 0.5, 2.2),
        draw.uniform(many, 0.05, 0.5))),
        axis=sideways, swing=draw.uniform(many, 0.0, 0.4), swing_rate=rate[..., None].expand(many),
        swing_phase=draw.turn(many),
    )  # fmt: skip
    thick = (tall * build)[..., None].expand(many)
    half = torch.stack([thick * 0.03, height * 0.0825, thick * 0.025], -1)
    middle = torch.stack([torch.zeros(many), height * 0.0825, torch.zeros(many)], -1)
    lives = there[..., None].expand(many)
    b.shape(Kind.LIMB, half, top[..., None], lives, body=upper, centre=middle, form=(1.0,))
    half = torch.stack([thick * 0.025, height * 0.075, thick * 0.018], -1)
    b.shape(Kind.LIMB, half, sleeve[..., None], lives, body=fore, centre=middle * 0.9, form=(1.0,))
    palm = torch.stack([torch.zeros(many), height * 0.185, torch.zeros(many)], -1)
    b.shape(
        Kind.ELLIPSOID,
        torch.stack([height * 0.012, height * 0.032, height * 0.024], -1),
        skin[..., None],
        lives,
        body=fore,
        centre=palm,
    )
    fingers = (*many, 4)
    spacing = (torch.arange(4) - 1.5) * 0.0105
    tip = torch.stack(
        [torch.zeros(fingers), (height * 0.225)[..., None].expand(fingers), height[..., None] * spacing], -1
    )
    thin = (height * 0.0048)[..., None].expand(fingers)
    b.shape(
        Kind.LIMB, torch.stack([thin, thin * 3.6, thin * 0.8], -1), skin[..., None, None], lives[..., None],
        body=fore[..., None],
        centre=tip, rotation=about(torch.tensor([0.0, 0.0, 1.0]).expand(*fingers, 3),
        draw.normal(many, 0.3)[..., None].expand(fingers)), form=(1.0,),
    )  # fmt: skip


def _legs(
    b: SceneBuilder, root: torch.Tensor, tall: torch.Tensor, build: torch.Tensor, rate: torch.Tensor,
    bottom: torch.Tensor, trousers: torch.Tensor, shoes: torch.Tensor, there: torch.Tensor, walks: torch.Tensor,
) -> None:  # fmt: skip
    draw, many = b.draw, (*tall.shape, 2)
    sideways = torch.tensor([1.0, 0.0, 0.0]).expand(*many, 3)
    height = tall[..., None].expand(many)
    hip = torch.stack([SIDES * (tall * build * 0.052)[..., None], -height * 0.52, torch.zeros(many)], -1)
    swing = torch.where(walks[..., None], 0.4, 0.0).expand(many)
    phase = torch.where(walks[..., None], -SIDES * (math.pi / 2), 0.0).expand(many)
    pace = rate[..., None].expand(many)
    thigh = b.body(
        hip,
        parent=root[..., None],
        rest=about(sideways, draw.normal(many, 0.08)),
        axis=sideways,
        swing=swing,
        swing_rate=pace,
        swing_phase=phase,
    )
    knee = torch.stack([torch.zeros(many), height * 0.245, torch.zeros(many)], -1)
    bent = torch.where(walks[..., None], -0.3, -0.05).expand(many)
    shin = b.body(
        knee,
        parent=thigh,
        rest=about(sideways, bent),
        axis=sideways,
        swing=swing * 0.7,
        swing_rate=pace,
        swing_phase=phase - 1.2,
    )
    thick = (tall * build)[..., None].expand(many)
    lives = there[..., None].expand(many)
    b.shape(
        Kind.LIMB,
        torch.stack([thick * 0.05, height * 0.1225, thick * 0.034], -1),
        bottom[..., None],
        lives,
        body=thigh,
        centre=knee * 0.5,
        form=(1.0,),
    )
    b.shape(
        Kind.LIMB,
        torch.stack([thick * 0.034, height * 0.12, thick * 0.022], -1),
        trousers[..., None],
        lives,
        body=shin,
        centre=knee * 0.5,
        form=(1.0,),
    )
    foot = torch.stack([torch.zeros(many), height * 0.262, height * 0.032], -1)
    b.shape(
        Kind.ELLIPSOID,
        torch.stack([height * 0.026, height * 0.02, height * 0.072], -1),
        shoes[..., None],
        lives,
        body=shin,
        centre=foot,
    )
