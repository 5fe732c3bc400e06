# SPDX-License-Identifier: GPL-3.0-or-later
"""What a step is asked: which windows, under how much noise, and how far the answer is from the truth.

All of it follows from the run's seed, the step and the sample's place in the batch, whichever graphics card computes
it: a resumed run, and one on another number of cards, sees what any other would have seen.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import torch
from torch import Tensor

from ..diffusion.scheduler import NUM_TRAIN_TIMESTEPS, TrainingSchedule, even_sigmas, shifted


@dataclass(frozen=True)
class NoiseLevel:
    """sigma: 0…1. timestep: what the model is given. weight: of the loss at this level."""

    sigma: float
    timestep: float
    weight: float


def seeded(*parts: float | str) -> torch.Generator:
    """A generator on the CPU whose numbers depend on `parts` alone."""
    digest = hashlib.sha256(" ".join(map(str, parts)).encode("utf-8")).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:8], "big") >> 1)


def sample_number(seed: int, position: int, count: int) -> int:
    """Which of `count` windows comes at `position` of the whole run: every one once, then all in another order."""
    lap, place = divmod(position, count)
    return int(torch.randperm(count, generator=seeded(seed, "order", lap))[place])


def uniform_level(schedule: TrainingSchedule, generator: torch.Generator) -> NoiseLevel:
    """One of the schedule's levels, each as likely as another, with its weight."""
    return level_at(schedule, int(torch.randint(len(schedule.sigmas), (), generator=generator)))


def level_at(schedule: TrainingSchedule, index: int) -> NoiseLevel:
    """A level of the schedule, with its weight."""
    return NoiseLevel(*(float(values[index]) for values in (schedule.sigmas, schedule.timesteps, schedule.weights)))


def logit_normal_level(shift: float, generator: torch.Generator) -> NoiseLevel:
    """A level whose logit is normal before the shift: the middle is drawn more often instead of counted for more."""
    return unweighted_level(float(torch.sigmoid(torch.randn((), generator=generator))), shift)


def few_steps_level(shift: float, steps: int, share: float, generator: torch.Generator) -> NoiseLevel:
    """A level drawn evenly before the shift or, as often as `share` says, one of those that `steps` steps are made at.

    The weights of `uniform_level` are 0 at the highest level, and of few steps that is the first.
    """
    even = 1 - float(torch.rand((), generator=generator))
    sampled = float(even_sigmas(steps)[torch.randint(steps, (), generator=generator)])
    return unweighted_level(sampled if torch.rand((), generator=generator) < share else even, shift)


def unweighted_level(even: float, shift: float) -> NoiseLevel:
    """The level that the shift makes of one in 0…1; it counts like any other."""
    sigma = shifted(even, shift)
    return NoiseLevel(sigma, sigma * NUM_TRAIN_TIMESTEPS, 1.0)


def noised(target: Tensor, noise: Tensor, sigma: float) -> Tensor:
    """(1 − σ)·x + σ·ε."""
    return (1 - sigma) * target + sigma * noise


def velocity_error(predicted: Tensor, target: Tensor, noise: Tensor) -> Tensor:
    """(B,) float32: each sample's mean squared distance from ε − x. All arguments (B, C, f, h, w)."""
    return (predicted.float() - (noise - target).float()).square().flatten(1).mean(1)
