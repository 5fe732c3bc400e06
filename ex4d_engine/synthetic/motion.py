# SPDX-License-Identifier: GPL-3.0-or-later
"""Rotations, and the poses of moving bodies at any time.

The world of a scene has OpenCV's axes: x right, y *down*, z away; the ground is y = 0, so heights are negative y.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, fields
from typing import Final

import torch

CHAIN: Final = 4  # the longest line of parents: world → person → trunk → upper arm → forearm


@dataclass(frozen=True)
class Bodies:
    """O moving bodies in each of B scenes; number 0 is the world itself. Time t counts frames.

    A body's place in its parent's axes is offset + velocity·t + sway·sin(2π·sway_rate·t + sway_phase); its rotation
    is `rest` after a turn about `axis` by spin·t + swing·sin(2π·swing_rate·t + swing_phase).

    Attributes:
        parent: (B, O) int64.
        rest: (B, O, 3, 3).
        offset, velocity, sway, axis: (B, O, 3), metres and metres a frame.
        sway_rate, sway_phase, spin, swing, swing_rate, swing_phase: (B, O), turns a frame and radians.
    """

    parent: torch.Tensor
    rest: torch.Tensor
    offset: torch.Tensor
    velocity: torch.Tensor
    sway: torch.Tensor
    axis: torch.Tensor
    sway_rate: torch.Tensor
    sway_phase: torch.Tensor
    spin: torch.Tensor
    swing: torch.Tensor
    swing_rate: torch.Tensor
    swing_phase: torch.Tensor

    def to(self, device: torch.device) -> Bodies:
        """The same bodies on another device."""
        return Bodies(**{f.name: getattr(self, f.name).to(device) for f in fields(self)})


def body_poses(bodies: Bodies, times: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Where every body is.

    Args:
        times: (B, F) frames.

    Returns:
        rotation (B, F, O, 3, 3) and position (B, F, O, 3) in the world.
    """
    t = times[:, :, None]
    wave = torch.sin(2 * math.pi * bodies.sway_rate[:, None] * t + bodies.sway_phase[:, None])
    place = bodies.offset[:, None] + bodies.velocity[:, None] * t[..., None] + bodies.sway[:, None] * wave[..., None]
    swing = torch.sin(2 * math.pi * bodies.swing_rate[:, None] * t + bodies.swing_phase[:, None])
    angle = bodies.spin[:, None] * t + bodies.swing[:, None] * swing
    turn = composed(bodies.rest[:, None], about(bodies.axis[:, None].expand(*angle.shape, 3), angle))
    parent = bodies.parent[:, None, :].expand(angle.shape)
    rotation = torch.eye(3, device=times.device).expand_as(turn)
    position = torch.zeros_like(place)
    for _ in range(CHAIN):
        above = parent[..., None].expand_as(position)
        parent_rotation = rotation.gather(2, parent[..., None, None].expand_as(rotation))
        position = position.gather(2, above) + turned(parent_rotation, place)
        rotation = composed(parent_rotation, turn)
    return rotation, position


def turned(rotation: torch.Tensor, vectors: torch.Tensor) -> torch.Tensor:
    """Rotations (..., 3, 3) times vectors (..., 3).

    Not with `@`, here and in `composed`: a matrix product may run in TF32 or, inside a trainer's autocast, in
    bfloat16, and geometry would lose its exactness.
    """
    return (rotation * vectors[..., None, :]).sum(-1)


def unturned(rotation: torch.Tensor, vectors: torch.Tensor) -> torch.Tensor:
    """Inverse rotations (..., 3, 3) times vectors (..., 3)."""
    return (rotation * vectors[..., :, None]).sum(-2)


def composed(first: torch.Tensor, second: torch.Tensor) -> torch.Tensor:
    """Products of rotations (..., 3, 3): the second one happens first, as with `@`."""
    return (first[..., :, :, None] * second[..., None, :, :]).sum(-2)


def about(axis: torch.Tensor, angle: torch.Tensor) -> torch.Tensor:
    """Rotation (..., 3, 3) about unit axes (..., 3) by angles (...) in radians (Rodrigues' formula)."""
    x, y, z = axis.unbind(-1)
    c, s = torch.cos(angle), torch.sin(angle)
    k = 1 - c
    rows = (
        (c + x * x * k, x * y * k - z * s, x * z * k + y * s),
        (y * x * k + z * s, c + y * y * k, y * z * k - x * s),
        (z * x * k - y * s, z * y * k + x * s, c + z * z * k),
    )
    return torch.stack([torch.stack(row, -1) for row in rows], -2)


def yaw(angle: torch.Tensor) -> torch.Tensor:
    """Rotation about the vertical."""
    return about(torch.tensor([0.0, 1.0, 0.0]).expand(*angle.shape, 3), angle)


def along(direction: torch.Tensor, roll: torch.Tensor) -> torch.Tensor:
    """A rotation (..., 3, 3) whose y axis is the direction (..., 3), turned about it by `roll` (...)."""
    y = torch.nn.functional.normalize(direction, dim=-1)
    helper = torch.where((y[..., :1].abs() < 0.9), torch.eye(3)[0].expand_as(y), torch.eye(3)[2].expand_as(y))
    x = torch.nn.functional.normalize(torch.linalg.cross(y, helper.expand_as(y)), dim=-1)
    frame = torch.stack([x, y, torch.linalg.cross(x, y)], -1)
    return frame @ about(torch.tensor([0.0, 1.0, 0.0]).expand_as(y), roll)
