# SPDX-License-Identifier: GPL-3.0-or-later
"""The noise levels of an adapter's training, as its configuration asks for them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import torch

from ..diffusion.scheduler import even_sigmas, training_schedule
from .flow_matching import NoiseLevel, few_steps_level, level_at, logit_normal_level, uniform_level, unweighted_level
from .lora_config import Objective

_PLACES: Final = (0.1, 0.3, 0.5, 0.7, 0.9)
"""Where in the noise schedule, as shares of it from the highest level on, the validation loss is looked at."""


def level_source(objective: Objective, shift: float) -> Callable[[torch.Generator], NoiseLevel]:
    """Draws the level of one sample after another.

    Args:
        objective: which levels.
        shift: of the model's noise schedule.
    """
    match objective.noise_levels:
        case "uniform":
            schedule = training_schedule(shift)
            return lambda generator: uniform_level(schedule, generator)
        case "logit_normal":
            return lambda generator: logit_normal_level(shift, generator)
        case _:
            steps, share = objective.sampling_steps, objective.sampled_share
            return lambda generator: few_steps_level(shift, steps, share, generator)


def validation_levels(objective: Objective, shift: float) -> dict[float, NoiseLevel]:
    """The levels that the validation loss is the mean of, by their place in the schedule, 0 being its highest level.

    For few steps they are those of these steps: nothing else is asked of such an adapter.
    """
    if objective.noise_levels == "few_steps":
        return {1 - even: unweighted_level(even, shift) for even in even_sigmas(objective.sampling_steps).tolist()}
    schedule = training_schedule(shift)
    return {place: level_at(schedule, int(place * len(schedule.sigmas))) for place in _PLACES}
