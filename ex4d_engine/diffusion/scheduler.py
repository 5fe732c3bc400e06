# SPDX-License-Identifier: GPL-3.0-or-later
"""The noise schedule: flow matching with a constant shift, for sampling and for training.

A sample at noise level σ is (1 − σ)·x + σ·ε and the model predicts ε − x. Levels are evenly spaced in [0, 1] and
then shifted, σ' = s·σ / (1 + (s − 1)·σ), which spends more steps at high noise.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeVar

import torch
from diffusers import FlowMatchEulerDiscreteScheduler

NUM_TRAIN_TIMESTEPS = 1000
FLOW_SHIFT = 5.0

Level = TypeVar("Level", float, torch.Tensor)


def euler_scheduler(shift: float = FLOW_SHIFT) -> FlowMatchEulerDiscreteScheduler:
    """The solver the weights are sampled with; a folder's own scheduler (UniPC in stock Wan) is another one."""
    return FlowMatchEulerDiscreteScheduler(num_train_timesteps=NUM_TRAIN_TIMESTEPS, shift=shift)


def even_sigmas(num_steps: int) -> torch.Tensor:
    """(num_steps,) float32 noise levels before the shift, from 1 down to 1/num_steps.

    They are handed to the scheduler explicitly: its own choice for a step count ends at the smallest trained
    level instead, which is off by up to 0.15 at 25 steps.
    """
    return torch.linspace(1, 0, num_steps + 1)[:-1]


def set_sampling_steps(
    scheduler: FlowMatchEulerDiscreteScheduler, num_steps: int, device: torch.device | str | None = None
) -> torch.Tensor:
    """Prepares `scheduler` for `num_steps` and returns its timesteps, (num_steps,) float32, σ'·1000, not rounded."""
    scheduler.set_timesteps(sigmas=even_sigmas(num_steps).tolist(), device=device)
    return scheduler.timesteps


@dataclass(frozen=True)
class TrainingSchedule:
    """The noise levels a training step draws from, uniformly. All fields (num_steps,) float32, high noise first.

    Attributes:
        sigmas: shifted noise levels.
        timesteps: sigmas · 1000, what the model is given.
        weights: loss weight of each level, mean 1.
    """

    sigmas: torch.Tensor
    timesteps: torch.Tensor
    weights: torch.Tensor


def shifted(even: Level, shift: float) -> Level:
    """The noise level that a shift makes of one in 0…1."""
    return shift * even / (1 + (shift - 1) * even)


def training_schedule(shift: float = FLOW_SHIFT, num_steps: int = NUM_TRAIN_TIMESTEPS) -> TrainingSchedule:
    """The schedule and loss weights Wan adapters are trained with.

    A weight is the bell exp(−2·((t − 500)/1000)²) around the middle timestep, lowered to reach zero at its
    smallest and scaled to mean 1.
    """
    even = even_sigmas(num_steps)
    sigmas = shifted(even, shift)
    timesteps = sigmas * NUM_TRAIN_TIMESTEPS
    bell = torch.exp(-2 * ((timesteps - NUM_TRAIN_TIMESTEPS / 2) / NUM_TRAIN_TIMESTEPS) ** 2)
    weights = bell - bell.min()
    return TrainingSchedule(sigmas, timesteps, weights / weights.mean())
