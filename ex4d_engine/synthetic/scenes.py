# SPDX-License-Identifier: GPL-3.0-or-later
"""Scenes: everything that can be seen, without a camera."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from .animals import add_animals
from .backdrops import add_backdrop
from .branches import add_branches
from .builder import SceneBuilder
from .draw import Draw
from .flowers import add_flowers
from .hands import add_hands
from .lights import Lights, make_lights
from .materials import Materials
from .motion import Bodies
from .people import add_people
from .plants import add_plants
from .primitives import Primitives
from .settings import Plan, make_plan
from .surroundings import add_surroundings
from .things import add_things

SEEDS_A_BANK = 512  # a bank takes seconds to make, so consecutive seeds share one


@dataclass(frozen=True)
class Scenes:
    """B scenes of the same number of slots. Metres; x right, y down, z away from where the plan's camera stands.

    Attributes:
        seed: what they were drawn from.
        plan: where a camera would stand, and how far things go; on the CPU.
        bank: number of the pattern bank.
    """

    seed: int
    plan: Plan
    shapes: Primitives
    bodies: Bodies
    materials: Materials
    lights: Lights
    bank: int

    @property
    def device(self) -> torch.device:
        """Where the tables lie, and pictures will be drawn."""
        return self.shapes.body.device


def random_scenes(seed: int, batch: int, frames: int, device: torch.device) -> Scenes:
    """Draws scenes. The same seed, batch and length give the same scenes on every device.

    Args:
        seed: any int64.
        batch: B.
        frames: the clip's length: in long clips things move no faster than lets the scene outlast them.
    """
    draw = Draw(seed)
    plan = make_plan(draw, batch, frames)
    builder = SceneBuilder(draw, batch)
    add_surroundings(builder, plan)
    add_backdrop(builder, plan)
    add_plants(builder, plan)
    add_flowers(builder, plan)
    add_branches(builder, plan)
    add_people(builder, plan)
    add_animals(builder, plan)
    add_hands(builder, plan)
    add_things(builder, plan)
    return Scenes(
        seed=seed,
        plan=plan,
        shapes=builder.primitives().to(device),
        bodies=builder.bodies().to(device),
        materials=builder.materials().to(device),
        lights=make_lights(draw, plan).to(device),
        bank=seed // SEEDS_A_BANK,
    )
