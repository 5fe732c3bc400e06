# SPDX-License-Identifier: GPL-3.0-or-later
"""Daylight and lamps: one light with shadows, a sky, and the light that comes from all around."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields

import torch

from .draw import Draw
from .materials import hsv_to_linear
from .settings import Backdrop, Plan
from .textures import FAMILIES, STARTS

SUN_DISTANCE = 12.0  # in units of what its shadows cover


@dataclass(frozen=True)
class Lights:
    """One light a scene; outdoors it is the sun, as a far lamp. (B, …); colours linear RGB, 1 = white in full light.

    Attributes:
        position: (B, 3) metres.
        target: (B, 3), the middle of what its shadows cover.
        cone: (B,) tangent of half the angle that they cover.
        colour: (B, 3) of its light at the target.
        lamp: (B,) bool: near, so its light falls off with the distance.
        softness: (B,) of shadow edges, as a share of what the shadow map covers.
        zenith, horizon: (B, 3) of the sky; fog has the horizon's colour.
        above, below: (B, 3) of the light from all around.
        cloud: (B,) int64, the pattern of the clouds; cloud_scale, cloud_cover: (B,).
        cloud_colour: (B, 3).
    """

    position: torch.Tensor
    target: torch.Tensor
    cone: torch.Tensor
    colour: torch.Tensor
    lamp: torch.Tensor
    softness: torch.Tensor
    zenith: torch.Tensor
    horizon: torch.Tensor
    above: torch.Tensor
    below: torch.Tensor
    cloud: torch.Tensor
    cloud_scale: torch.Tensor
    cloud_cover: torch.Tensor
    cloud_colour: torch.Tensor

    def to(self, device: torch.device) -> Lights:
        """The same lights on another device."""
        return Lights(**{f.name: getattr(self, f.name).to(device) for f in fields(self)})


def make_lights(draw: Draw, plan: Plan) -> Lights:
    """Draws the hour, the weather and the lamps."""
    batch = (len(plan.setting),)
    lamp = plan.indoor | (plan.backdrop == Backdrop.LAMPS)
    covered = plan.subject[:, 2] * 1.3 + torch.where(plan.subject[:, 2] > 1.2, 2.0, 0.1)
    target = torch.stack(
        [draw.normal(batch, 0.1) * covered, torch.zeros(batch), plan.subject[:, 2] + 0.25 * covered], -1
    )
    # on the ground, but never so far below a close-up's subject that its shadows are lost
    target[:, 1] = torch.minimum(-plan.height(target[:, 0], target[:, 2]), plan.subject[:, 1] + 0.6 * covered)
    elevation = torch.asin(draw.uniform(batch, 0.12, 0.97))
    heading = draw.turn(batch)
    upward = torch.stack(
        [torch.sin(heading) * torch.cos(elevation), -torch.sin(elevation), torch.cos(heading) * torch.cos(elevation)],
        -1,
    )
    sun = target + upward * (covered * SUN_DISTANCE)[:, None]
    ceiling = torch.where(plan.table, draw.uniform(batch, 0.7, 1.4), draw.uniform(batch, 1.9, 2.3))
    bulb = torch.stack([draw.normal(batch, 0.8), -ceiling, plan.subject[:, 2] * draw.uniform(batch, 0.1, 1.2)], -1)
    warmth = draw.uniform(batch)
    low_sun = torch.exp(-elevation * 4)
    daylight = hsv_to_linear(0.09 - 0.04 * low_sun, 0.1 + 0.55 * low_sun, torch.ones(batch))
    lamplight = hsv_to_linear(torch.where(warmth < 0.65, 0.09, 0.6), draw.uniform(batch, 0.0, 0.4), torch.ones(batch))
    overcast = draw.uniform(batch) ** 1.5 * draw.coin(batch, 0.75)
    strength = torch.where(lamp, draw.log_uniform(batch, 0.4, 1.6), 1.5 * (1 - 0.92 * overcast))
    blue = hsv_to_linear(
        draw.normal(batch, 0.02) + 0.58,
        0.75 * (1 - overcast) * draw.uniform(batch, 0.5, 1.0),
        draw.uniform(batch, 0.55, 0.95),
    )
    horizon = hsv_to_linear(
        torch.where(draw.coin(batch, 0.4 * low_sun), 0.07, 0.58),
        0.4 * (1 - overcast) * draw.uniform(batch) + 0.3 * low_sun,
        draw.uniform(batch, 0.75, 1.0),
    )
    ambient = draw.uniform(batch, 0.22, 0.5) + 0.45 * overcast
    ambient = torch.where(lamp, draw.uniform(batch, 0.15, 0.55), ambient)[:, None]
    tint = hsv_to_linear(draw.uniform(batch, 0.0, 0.7), draw.uniform(batch, 0.0, 0.2), torch.ones(batch))
    night = torch.where(plan.backdrop == Backdrop.LAMPS, draw.log_uniform(batch, 0.01, 0.2), 1.0)
    ambient = ambient * night[:, None]
    blue, horizon = blue * night[:, None] ** 2, horizon * night[:, None] ** 2
    grey_sky = (blue + horizon) / 2 / (blue + horizon).mean(-1, keepdim=True).clamp_min(1e-3) * 2
    return Lights(
        position=torch.where(lamp[:, None], bulb, sun),
        target=torch.where(lamp[:, None], plan.subject + torch.tensor([0.0, 0.3, 0.0]), target),
        cone=torch.where(lamp, math.tan(math.radians(65)), 1 / SUN_DISTANCE),
        colour=torch.where(lamp[:, None], lamplight, daylight) * strength[:, None],
        lamp=lamp,
        softness=draw.log_uniform(batch, 0.0015, 0.012) + 0.01 * overcast,
        zenith=blue,
        horizon=horizon,
        above=torch.where(lamp[:, None], tint, grey_sky) * ambient,
        below=torch.where(lamp[:, None], tint, torch.ones(3)) * ambient * draw.uniform((*batch, 1), 0.25, 0.7),
        cloud=STARTS["cloud"] + draw.integer(batch, 0, FAMILIES["cloud"]),
        cloud_scale=draw.log_uniform(batch, 0.03, 0.25),
        cloud_cover=(overcast * 0.8 + draw.uniform(batch, -0.3, 0.6)).clamp(0, 1),
        cloud_colour=hsv_to_linear(torch.full(batch, 0.07), 0.25 * low_sun, draw.uniform(batch, 0.8, 1.0))
        * night[:, None] ** 2,
    )


def light_camera(lights: Lights) -> torch.Tensor:
    """(B, 4, 4) camera-to-world of a camera in the light that looks at its target."""
    forward = torch.nn.functional.normalize(lights.target - lights.position, dim=-1)
    side = torch.tensor([1.0, 0.0, 0.0], device=forward.device).expand_as(forward)
    side = torch.where(forward[:, :1].abs() < 0.9, side, side.roll(1, -1).roll(1, -1))
    right = torch.nn.functional.normalize(torch.linalg.cross(side, forward), dim=-1)
    pose = torch.eye(4, device=forward.device).repeat(len(forward), 1, 1)
    pose[:, :3, 0], pose[:, :3, 2] = right, forward
    pose[:, :3, 1] = torch.linalg.cross(forward, right)
    pose[:, :3, 3] = lights.position
    return pose
