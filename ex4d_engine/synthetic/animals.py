# SPDX-License-Identifier: GPL-3.0-or-later
"""Animal-like figures with fur or feathers: four-legged ones of any build, and birds."""

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

ANIMALS: Final = 2
FUR: Final = 240
WHISKERS: Final = 10
SIDES: Final = torch.tensor([-1.0, 1.0])
# height and place along the trunk, then radii: chest, belly, rump, neck; across and up they grow with the girth
TRUNK: Final = (
    (-0.72, 0.22, 0.2, 0.26, 0.25),
    (-0.7, -0.08, 0.19, 0.22, 0.38),
    (-0.74, -0.33, 0.18, 0.24, 0.22),
    (-0.85, 0.36, 0.12, 0.24, 0.15),
)
SKULL: Final = (0.0, 0.02, 0.13, 0.13, 0.15)
COATS: Final = family("hair", "hair", "bark", "fabric", "autumn", "plaster")


def add_animals(b: SceneBuilder, plan: Plan) -> None:
    """Adds two animals: the first one's head is the subject where an animal is, the second stands farther away.

    An animal's axes: z forward, y down, its height (to the withers) is the unit; a bird is a small one on two legs.
    """
    draw, many = b.draw, (b.batch, ANIMALS)
    wanted = draw.coin((b.batch,), torch.tensor([SETTINGS[name].subject_animal for name in NAMES])[plan.setting])
    there = wanted[:, None] & torch.stack([torch.ones(b.batch, dtype=torch.bool), draw.coin((b.batch,), 0.35)], -1)
    bird = draw.coin((b.batch, 1), 0.3).expand(many)
    # so large that the head, or the whole animal, fills the picture
    framed = plan.subject[:, 2:] * plan.fov[:, None] * draw.log_uniform((b.batch, 1), 0.45, 2.2)
    tall = framed * draw.uniform(many, 0.85, 1.15)
    lean = yaw(math.pi + torch.where(draw.coin(many, 0.7), draw.normal(many, 0.8), draw.turn(many)))
    neck = torch.stack([torch.zeros(many), -tall * draw.uniform((b.batch, 1), 0.85, 1.1), tall * 0.45], -1)
    behind = torch.cat([torch.zeros(b.batch, 1), plan.subject[:, 2:] * draw.uniform((b.batch, 1), 0.6, 2.5)], 1)
    shift = torch.stack([behind * plan.fov[:, None] * draw.normal(many, 0.4), torch.zeros(many), behind], -1)
    rate = plan.pace[:, None] * draw.uniform(many, 0.5, 1.5) / 24
    head_there = (lean @ neck[..., None])[..., 0]
    breath = tall * draw.uniform(many, 0.0, 0.02)
    root = b.body(
        plan.subject[:, None] + shift - head_there, rest=lean, sway=torch.stack([breath * 0.4, breath, breath], -1),
        sway_rate=rate * 0.6, sway_phase=draw.turn(many), swing=draw.uniform(many, 0.0, 0.08), swing_rate=rate * 0.3,
        swing_phase=draw.turn(many),
    )  # fmt: skip
    head = b.body(
        neck, parent=root, rest=yaw(draw.normal(many, 0.4)),
        axis=unit(torch.stack([draw.normal(many, 0.5), torch.ones(many), draw.normal(many, 0.5)], -1)),
        swing=draw.uniform(many, 0.0, 0.4), swing_rate=rate * 0.8, swing_phase=draw.turn(many),
    )  # fmt: skip
    coat, under = b.material((b.batch, 1), COATS, tall[:, :1] * 0.5), b.material((b.batch, 1), COATS, tall[:, :1] * 0.5)
    coat, under = coat.expand(many), under.expand(many)
    dark = b.material((b.batch, 1), family("hair", "metal"), 0.1).expand(many)
    girth = draw.uniform((b.batch, 1), 0.75, 1.35).expand(many)
    _trunk(b, root, tall, girth, coat, under, there, bird)
    _legs(b, root, tall, rate, coat, under, there, bird)
    _head(b, head, tall, girth, coat, under, dark, there, bird)
    _coat(b, root, head, tall, girth, coat, under, there)


def _at(tall: torch.Tensor, x: float, y: float, z: float) -> torch.Tensor:
    """A point or half sizes as shares of the animal's height; y down."""
    return torch.stack([tall * x, tall * y, tall * z], -1)


def _trunk(
    b: SceneBuilder, root: torch.Tensor, tall: torch.Tensor, girth: torch.Tensor,
    coat: torch.Tensor, under: torch.Tensor, there: torch.Tensor, bird: torch.Tensor,
) -> None:  # fmt: skip
    draw, many = b.draw, tuple(tall.shape)
    wide = tall * girth
    for number, (up, ahead, *radii) in enumerate(TRUNK):
        half = torch.stack([wide * radii[0], wide * radii[1], tall * radii[2]], -1)
        paint = under if number == 1 else coat
        b.shape(Kind.ELLIPSOID, half, paint, there, body=root, centre=_at(tall, 0, up, ahead))
    tail = unit(torch.stack([draw.normal(many, 0.4), draw.normal(many, 0.7), -torch.ones(many)], -1))
    long = tall * draw.uniform((b.batch, 1), 0.05, 0.35)
    end = _at(tall, 0, -0.78, -0.5)
    b.shape(
        Kind.LIMB, torch.stack([tall * 0.04, long, tall * draw.uniform((b.batch, 1), 0.015, 0.06)], -1), coat,
        there & ~bird, body=root, centre=end + tail * long[..., None], rotation=along(tail, torch.zeros(many)),
        form=(1.0,),
    )  # fmt: skip
    # a bird's tail and folded wings
    b.shape(
        Kind.CARD, torch.stack([tall * 0.1, tall * 0.35, tall], -1), under, there & bird, body=root,
        centre=end + tail * (tall * 0.3)[..., None], rotation=along(tail, torch.zeros(many)), form=(0.0, 0.0, 0.2, 0.3),
    )  # fmt: skip
    wings = (*many, 2)
    b.shape(
        Kind.ELLIPSOID, _at(tall, 0.05, 0.17, 0.42)[:, :, None].expand(*wings, 3), coat[..., None],
        (there & bird)[..., None], body=root[..., None],
        centre=torch.stack([SIDES * (wide * 0.19)[..., None], (-tall * 0.72)[..., None].expand(wings),
                            (-tall * 0.15)[..., None].expand(wings)], -1),
    )  # fmt: skip


def _legs(
    b: SceneBuilder, root: torch.Tensor, tall: torch.Tensor, rate: torch.Tensor,
    coat: torch.Tensor, under: torch.Tensor, there: torch.Tensor, bird: torch.Tensor,
) -> None:  # fmt: skip
    """Four legs of two parts; a bird's are the hind ones, thin."""
    draw, many = b.draw, (*tall.shape, 4)
    side, end = torch.tensor([-1.0, 1.0, -1.0, 1.0]), torch.tensor([0.26, 0.26, -0.36, -0.36])
    height = tall[..., None].expand(many)
    there = there[..., None] & (~bird[..., None] | (end < 0))
    slim = torch.where(bird[..., None], 0.3, 1.0) * draw.uniform((b.batch, 1, 1), 0.7, 1.4)
    sideways = torch.tensor([1.0, 0.0, 0.0]).expand(*many, 3)
    walks = draw.coin((*tall.shape, 1), 0.3) & ~bird[..., None]
    upper = b.body(
        torch.stack([side * height * 0.12, -height * 0.62, torch.where(bird[..., None], 0.0, end) * height], -1),
        parent=root[..., None], rest=about(sideways, draw.normal(many, 0.15)), axis=sideways,
        swing=torch.where(walks, 0.35, 0.02).expand(many), swing_rate=rate[..., None].expand(many),
        swing_phase=side * torch.sign(end) * (math.pi / 2),
    )  # fmt: skip
    down = torch.stack([torch.zeros(many), height * 0.16, torch.zeros(many)], -1)
    b.shape(
        Kind.LIMB, torch.stack([height * 0.085 * slim, height * 0.17, height * 0.05 * slim], -1), coat[..., None],
        there, body=upper, centre=down, form=(1.0,),
    )  # fmt: skip
    b.shape(
        Kind.LIMB, torch.stack([height * 0.05 * slim, height * 0.16, height * 0.04 * slim], -1), under[..., None],
        there, body=upper, centre=down * 2.8, form=(1.0,),
    )  # fmt: skip


def _head(
    b: SceneBuilder, head: torch.Tensor, tall: torch.Tensor, girth: torch.Tensor,
    coat: torch.Tensor, under: torch.Tensor, dark: torch.Tensor, there: torch.Tensor, bird: torch.Tensor,
) -> None:  # fmt: skip
    """Skull and snout or beak, eyes, nose, ears, whiskers; the head's body sits where the neck ends."""
    draw, many = b.draw, tuple(tall.shape)
    big = tall * draw.uniform((b.batch, 1), 0.8, 1.3)
    long = draw.uniform((b.batch, 1), 0.06, 0.2).expand(many)
    b.shape(Kind.ELLIPSOID, _at(big, *SKULL[2:]), coat, there, body=head, centre=_at(big, 0, *SKULL[:2]))
    snout = torch.stack([torch.zeros(many), big * 0.045, big * (0.1 + long * 0.6)], -1)
    b.shape(
        Kind.ELLIPSOID, torch.stack([big * 0.075, big * 0.06, big * long], -1), under, there & ~bird, body=head,
        centre=snout,
    )  # fmt: skip
    forward = torch.tensor([0.0, 0.0, 1.0]).expand(*many, 3)
    b.shape(
        Kind.LIMB, torch.stack([big * 0.045, big * long * 0.8, big * 0.004], -1), dark, there & bird, body=head,
        centre=torch.stack([torch.zeros(many), big * 0.02, big * (0.14 + long * 0.8)], -1),
        rotation=along(forward, torch.zeros(many)), form=(0.5,),
    )  # fmt: skip
    b.shape(
        Kind.ELLIPSOID, _at(big, 0.028, 0.02, 0.02), dark, there & ~bird, body=head,
        centre=snout + torch.stack([torch.zeros(many), -big * 0.03, big * long * 0.93], -1),
    )  # fmt: skip
    pair = (*many, 2)
    size = big[..., None].expand(pair)
    b.shape(
        Kind.ELLIPSOID, torch.stack([size * 0.026] * 3, -1), dark[..., None], there[..., None], body=head[..., None],
        centre=torch.stack([SIDES * size * 0.075, -size * 0.035, size * 0.115], -1),
    )  # fmt: skip
    upright = draw.coin((b.batch, 1), 0.6).expand(many)
    ear_side = (SIDES * draw.uniform((b.batch, 1, 1), 0.2, 0.9)).expand(pair)
    ear_height = torch.where(upright, -1.0, 0.7)[..., None].expand(pair)
    ear = unit(torch.stack([ear_side, ear_height, torch.full(pair, -0.1)], -1))
    flap = size * draw.uniform((b.batch, 1, 1), 0.05, 0.14)
    b.shape(
        Kind.CARD, torch.stack([flap * draw.uniform((b.batch, 1, 1), 0.4, 0.75), flap, flap], -1), coat[..., None],
        (there & ~bird)[..., None], body=head[..., None],
        centre=torch.stack([SIDES * size * 0.085, -size * 0.1, torch.zeros(pair)], -1) + ear * (flap * 0.8)[..., None],
        rotation=along(ear, draw.normal(pair, 0.4)), form=(0.25 / flap, 0.0, 0.6, 0.5),
    )  # fmt: skip
    whiskers = (*many, WHISKERS)
    way = unit(torch.where(torch.arange(WHISKERS) % 2 == 0, 1.0, -1.0)[:, None] * torch.tensor([1.0, 0.0, 0.0])
               + draw.normal((*whiskers, 3), 0.25))  # fmt: skip
    hair = big[..., None] * draw.uniform(whiskers, 0.06, 0.14)
    b.shape(
        Kind.CARD, torch.stack([hair * 0.015, hair, hair], -1), under[..., None], (there & ~bird)[..., None],
        body=head[..., None], centre=snout[:, :, None] + way * (hair + big[..., None] * 0.05)[..., None],
        rotation=along(way, draw.turn(whiskers)), form=(0.0, draw.normal(whiskers, 0.4) / hair, 0.3),
    )  # fmt: skip


def _coat(
    b: SceneBuilder, root: torch.Tensor, head: torch.Tensor, tall: torch.Tensor, girth: torch.Tensor,
    coat: torch.Tensor, under: torch.Tensor, there: torch.Tensor,
) -> None:  # fmt: skip
    """Tufts on trunk and head that lie backwards, so that no outline is smooth."""
    draw, many = b.draw, (*tall.shape, FUR)
    shaggy = draw.coin((b.batch, 1, 1), 0.8)
    part = torch.arange(FUR) % (len(TRUNK) + 1)
    on_head = part == len(TRUNK)
    place = torch.tensor([*TRUNK, SKULL])[part]
    out = draw.direction(many)
    wider = 1 + (girth[..., None, None] - 1) * torch.tensor([1.0, 1.0, 0.0]) * ~on_head[:, None]
    radii = place[:, 2:] * tall[..., None, None] * wider
    middle = torch.cat([torch.zeros(FUR, 1), place[:, :2]], -1)
    at = middle * tall[..., None, None] + out * radii
    normal = unit(out / radii)
    lie = unit(normal * draw.log_uniform((b.batch, 1, 1, 1), 0.2, 1.2) + draw.normal((*many, 3), 0.25)
               + torch.tensor([0.0, 0.25, -0.8]))  # fmt: skip
    size = tall[..., None] * draw.log_uniform((b.batch, 1, 1), 0.02, 0.08) * draw.uniform(many, 0.6, 1.4)
    sideways = unit(torch.linalg.cross(lie, normal))
    b.shape(
        Kind.CARD, torch.stack([size * draw.log_uniform((b.batch, 1, 1), 0.08, 0.6), size, size], -1),
        torch.where(draw.coin(many, 0.7), coat[..., None], under[..., None]), there[..., None] & shaggy,
        body=torch.where(on_head, head[..., None], root[..., None]), centre=at + lie * size[..., None] * 0.7,
        rotation=torch.stack([sideways, lie, torch.linalg.cross(sideways, lie)], -1),
        form=(0.0, draw.normal(many, 0.2) / size, 0.5, draw.uniform(many, 0.2, 0.8), 0.0, 0.0,
              draw.normal(many, 0.4), draw.turn(many)),
    )  # fmt: skip
