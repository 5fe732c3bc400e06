# SPDX-License-Identifier: GPL-3.0-or-later
"""Scenes of a few shapes whose pictures can be worked out by hand."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace

import torch

from ex4d_engine.synthetic.builder import SceneBuilder
from ex4d_engine.synthetic.draw import Draw
from ex4d_engine.synthetic.materials import family
from ex4d_engine.synthetic.primitives import Kind
from ex4d_engine.synthetic.scenes import Scenes, random_scenes
from ex4d_engine.synthetic.surfaces import Cameras, Sight, cameras_at, see

CPU = torch.device("cpu")
FACING = torch.eye(3)  # a card across the optical axis


def scene_of(build: Callable[[SceneBuilder], None]) -> Scenes:
    """One scene that holds only what `build` adds."""
    builder = SceneBuilder(Draw(1), 1)
    build(builder)
    return replace(
        random_scenes(1, 1, 1, CPU),
        shapes=builder.primitives(), bodies=builder.bodies(), materials=builder.materials(),
    )  # fmt: skip


def add(
    builder: SceneBuilder,
    kind: Kind,
    centre: tuple[float, float, float],
    half: tuple[float, float, float],
    *,
    form: tuple[float, ...] = (),
    body: torch.Tensor | int = 0,
    rotation: torch.Tensor = FACING,
) -> None:
    """One shape."""
    builder.shape(
        kind, torch.tensor([[half]]), builder.material((1, 1), family("stone"), 1.0),
        torch.ones(1, 1, dtype=torch.bool),
        centre=torch.tensor([[centre]]), form=form, body=body, rotation=rotation,
    )  # fmt: skip


def intrinsics(focal: float, height: int, width: int) -> torch.Tensor:
    """K (3, 3) with the axis in the middle."""
    return torch.tensor([[focal, 0, width / 2], [0, focal, height / 2], [0, 0, 1]])


def moved(x: float = 0.0, y: float = 0.0, z: float = 0.0, turn: float = 0.0) -> torch.Tensor:
    """A camera-to-world pose (4, 4), turned to the right by `turn` radians."""
    pose = torch.eye(4)
    c, s = math.cos(turn), math.sin(turn)
    pose[:3, :3] = torch.tensor([[c, 0, s], [0, 1, 0], [-s, 0, c]])
    pose[:3, 3] = torch.tensor([x, y, z])
    return pose


def look(
    scenes: Scenes, pose: torch.Tensor, *, time: float = 0.0, focal: float = 60.0, size: tuple[int, int] = (48, 64)
) -> tuple[Cameras, Sight]:
    """What one camera sees of one scene."""
    K = intrinsics(focal, *size)
    cameras = cameras_at(scenes, K[None, None], pose[None, None], torch.tensor([[time]]))
    return cameras, see(scenes, cameras, *size)
