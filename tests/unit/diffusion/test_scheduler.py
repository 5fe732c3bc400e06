# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

import pytest
import torch

from ex4d_engine.diffusion.scheduler import euler_scheduler, set_sampling_steps, training_schedule


@pytest.mark.parametrize("num_steps", [1, 4, 25])
def test_the_true_velocity_leads_back_to_the_sample(num_steps: int) -> None:
    torch.manual_seed(0)
    sample, noise = torch.randn(2, 1, 4, 2, 3, 3)
    scheduler = euler_scheduler()

    latents = noise
    for timestep in set_sampling_steps(scheduler, num_steps):
        latents = scheduler.step(noise - sample, timestep, latents, return_dict=False)[0]

    torch.testing.assert_close(latents, sample, rtol=0, atol=2e-6)


def test_timesteps_start_at_pure_noise_and_are_not_rounded() -> None:
    timesteps = set_sampling_steps(euler_scheduler(), 4)

    torch.testing.assert_close(timesteps, torch.tensor([1000.0, 937.5, 2500 / 3, 625.0]))


def test_training_weights_average_one_and_favour_the_middle() -> None:
    schedule = training_schedule()

    assert schedule.weights.mean().item() == pytest.approx(1, abs=1e-6)
    assert schedule.weights.min() == 0
    assert schedule.timesteps[schedule.weights.argmax()].item() == pytest.approx(500, abs=1)
