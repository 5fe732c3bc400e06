# SPDX-License-Identifier: GPL-3.0-or-later
"""How the camera of a clip moves: held still, by hand, on a tripod, a dolly, a crane, around the subject, zooming."""

from __future__ import annotations

import math
from typing import Final

import torch

from .draw import Draw
from .motion import about
from .settings import Plan

MOVES: Final = {
    "still": 0.7,
    "handheld": 1.6,
    "pan": 1.0,
    "dolly": 1.0,
    "truck": 1.3,
    "orbit": 1.5,
    "crane": 0.7,
    "zoom": 0.5,
}
CLIP: Final = 16  # a clip of this many frames gets the whole of a move; shorter ones a part, longer ones more


def camera_path(plan: Plan, draw: Draw, frames: int, height: int, width: int) -> tuple[torch.Tensor, torch.Tensor]:
    """A camera for every frame of every scene.

    Args:
        plan: of B scenes.
        frames: F.

    Returns:
        intrinsics (B, F, 3, 3) in pixels, centres at +0.5, and camera_to_world (B, F, 4, 4); float32, on the CPU.
    """
    batch = (len(plan.setting),)
    names = list(MOVES)
    move = draw.pick(batch, list(MOVES.values()))
    t = (torch.arange(frames, dtype=torch.float32) - (frames - 1) / 2)[None]  # (1, F), the middle frame is the plan's
    share = t / CLIP * draw.log_uniform((*batch, 1), 0.4, 2.5)
    sign = torch.where(draw.coin(batch), 1.0, -1.0)[:, None]

    def of(*wanted: str) -> torch.Tensor:
        return torch.stack([move == names.index(name) for name in wanted]).any(0)[:, None]

    room = plan.nearest[:, None]  # how far the camera may go without meeting anything
    step = sign * share * room * draw.uniform((*batch, 1), 0.15, 0.7)
    step = torch.minimum(torch.maximum(step, -0.6 * room), 0.6 * room)
    zero = torch.zeros_like(step)
    height_limit = 0.7 * plan.eye_height[:, None]
    eye = torch.stack(
        [
            torch.where(of("truck"), step, zero),
            torch.where(of("crane"), torch.minimum(torch.maximum(step, -height_limit * 2), height_limit), zero),
            torch.where(of("dolly"), step, zero),
        ],
        -1,
    )
    start = plan.eye()
    eye = eye + start[:, None]
    # by hand: slow sway, tremor and, when walking, the step; less of it on every other move
    hand = torch.where(of("handheld"), 1.0, draw.uniform((*batch, 1), 0.0, 0.35) * draw.coin((*batch, 1), 0.6))
    hand = torch.where(of("still"), 0.0, hand) * draw.log_uniform((*batch, 1), 0.3, 1.6)
    steadied = (plan.fov[:, None] / 0.6).clamp_max(1.0)  # with a long lens a tripod or a stabiliser takes most of it
    shake = _shake(draw, batch, t, 6) * hand[..., None]
    eye = eye + shake[..., :3] * room[..., None] * 0.05

    circle = torch.where(of("orbit"), sign * share * draw.uniform((*batch, 1), 0.15, 0.7), zero).clamp(-0.9, 0.9)
    around = eye - plan.subject[:, None]
    vertical = torch.tensor([0.0, 1.0, 0.0]).expand(*circle.shape, 3)
    eye = plan.subject[:, None] + (about(vertical, circle) @ around[..., None])[..., 0]

    # aim: at the subject first, then turned so that it is not in the middle; other moves keep their direction
    follows = of("orbit") | (of("truck", "crane") & draw.coin((*batch, 1), 0.5))
    aimed_from = torch.where(follows[..., None], eye, start[:, None])
    forward = plan.subject[:, None] - aimed_from
    heading = torch.atan2(forward[..., 0], forward[..., 2]) + plan.aim[:, None]
    pitch = torch.atan2(-forward[..., 1], torch.hypot(forward[..., 0], forward[..., 2])) + plan.tilt[:, None]
    sweep = sign * share * plan.fov[:, None] * draw.uniform((*batch, 1), 0.1, 0.8)
    heading = heading + torch.where(of("pan"), sweep, zero) + shake[..., 3] * 0.03 * steadied
    pitch = (
        pitch + torch.where(of("pan"), sweep * draw.normal((*batch, 1), 0.35), zero) + shake[..., 4] * 0.03 * steadied
    )
    roll = (
        draw.normal((*batch, 1), 0.03)
        + draw.normal((*batch, 1), 0.12) * draw.coin((*batch, 1), 0.12)
        + shake[..., 5] * 0.015
    )
    x, y, z = (torch.eye(3)[k].expand(*heading.shape, 3) for k in range(3))
    rotation = about(y, heading) @ about(x, pitch) @ about(z, roll.expand_as(heading))

    zooming = torch.exp(torch.where(of("zoom"), sign * share * draw.uniform((*batch, 1), 0.15, 0.6), zero))
    # the field of view is the longer side's
    focal = max(height, width) / 2 / torch.tan(plan.fov / 2)[:, None] * zooming
    K = torch.zeros(*focal.shape, 3, 3)
    K[..., 0, 0] = K[..., 1, 1] = focal
    K[..., 0, 2], K[..., 1, 2], K[..., 2, 2] = width / 2, height / 2, 1
    pose = torch.zeros(*focal.shape, 4, 4)
    pose[..., :3, :3], pose[..., :3, 3], pose[..., 3, 3] = rotation, eye, 1
    return K, pose


def _shake(draw: Draw, batch: tuple[int], t: torch.Tensor, channels: int) -> torch.Tensor:
    """(B, F, channels) of smooth noise around zero: four waves of rising rate and falling height."""
    waves = torch.zeros(*batch, t.shape[1], channels)
    for octave in range(4):
        rate = draw.uniform((*batch, 1, channels), 0.5, 1.0) * 2**octave / 48
        waves = waves + torch.sin(2 * math.pi * rate * t[..., None] + draw.turn((*batch, 1, channels))) * 0.6**octave
    return waves
