# SPDX-License-Identifier: GPL-3.0-or-later
"""The objective: which samples, under how much noise, and what counts as an error."""

from __future__ import annotations

import pytest
import torch

from ex4d_engine.diffusion.scheduler import euler_scheduler, set_sampling_steps, training_schedule
from ex4d_engine.training.flow_matching import (
    NoiseLevel,
    few_steps_level,
    level_at,
    logit_normal_level,
    noised,
    sample_number,
    seeded,
    uniform_level,
    velocity_error,
)
from ex4d_engine.training.lora_config import Objective
from ex4d_engine.training.lora_levels import level_source, validation_levels

SCHEDULE = training_schedule()


def test_uniform_levels_are_the_schedules_own() -> None:
    levels = [uniform_level(SCHEDULE, seeded("test", number)) for number in range(2000)]
    indices = [int((SCHEDULE.sigmas - level.sigma).abs().argmin()) for level in levels]
    assert sum(indices) / len(indices) == pytest.approx(499.5, abs=20)
    assert min(indices) < 5 and max(indices) > 994
    assert all(level.timestep == pytest.approx(1000 * level.sigma, rel=1e-5) for level in levels)
    assert sum(level.weight for level in levels) / len(levels) == pytest.approx(1, abs=0.05)
    for index in (0, 500, 999):
        level = level_at(SCHEDULE, index)
        assert (level.sigma, level.weight) == (float(SCHEDULE.sigmas[index]), float(SCHEDULE.weights[index]))


def test_logit_normal_levels_are_shifted_and_all_count_alike() -> None:
    levels = [logit_normal_level(5.0, seeded("test", number)) for number in range(2000)]
    assert all(level.weight == 1 for level in levels)
    # the median of the logit is 0, so that of the level is the shift of one half
    assert torch.tensor([level.sigma for level in levels]).median().item() == pytest.approx(5 * 0.5 / 3, abs=0.02)
    unshifted = torch.logit(torch.tensor([logit_normal_level(1.0, seeded(n)).sigma for n in range(2000)]))
    assert unshifted.mean().item() == pytest.approx(0, abs=0.1) and unshifted.std().item() == pytest.approx(1, abs=0.1)


def test_a_share_of_the_levels_are_those_of_the_steps_and_the_first_of_them_counts() -> None:
    levels = [few_steps_level(3.0, 4, 0.25, seeded("test", number)) for number in range(2000)]
    sampled = set_sampling_steps(euler_scheduler(3.0), 4).tolist()
    found = [min(range(4), key=lambda step: abs(level.timestep - sampled[step])) for level in levels]
    exact = [step for level, step in zip(levels, found, strict=True) if abs(level.timestep - sampled[step]) < 1e-3]
    assert len(exact) / len(levels) == pytest.approx(0.25, abs=0.03)
    assert all(exact.count(step) / len(exact) == pytest.approx(0.25, abs=0.08) for step in range(4))
    assert max(level.sigma for level in levels) == 1 and all(level.weight == 1 for level in levels)
    assert level_at(training_schedule(3.0), 0) == NoiseLevel(1.0, 1000.0, 0.0), "what the published weights say of it"
    # the others are even before the shift
    even = [level.sigma / (3 - 2 * level.sigma) for level in levels if level.timestep not in sampled]
    assert sum(even) / len(even) == pytest.approx(0.5, abs=0.03) and min(even) < 0.01
    assert all(few_steps_level(3.0, 4, 0.0, seeded(n)).timestep not in sampled for n in range(50))


def test_levels_are_those_that_the_configuration_asks_for() -> None:
    def drawn(objective: Objective) -> list[NoiseLevel]:
        draw = level_source(objective, 3.0)
        return [draw(seeded(number)) for number in range(5)]

    few = Objective("few_steps", sampling_steps=2, sampled_share=1.0)
    assert {level.sigma for level in drawn(few)} == {1.0, 0.75}
    assert drawn(Objective("uniform")) == [uniform_level(training_schedule(3.0), seeded(number)) for number in range(5)]
    assert drawn(Objective("logit_normal")) == [logit_normal_level(3.0, seeded(number)) for number in range(5)]


def test_validation_looks_at_the_levels_that_are_sampled() -> None:
    few = validation_levels(Objective("few_steps", sampling_steps=4), 3.0)
    sampled = set_sampling_steps(euler_scheduler(3.0), 4).tolist()
    assert list(few) == [0, 0.25, 0.5, 0.75]
    assert [level.timestep for level in few.values()] == pytest.approx(sampled)
    assert {level.weight for level in few.values()} == {1.0}
    plain = validation_levels(Objective(), 5.0)
    assert plain[0.5] == level_at(SCHEDULE, 500) and len(plain) == 5


def test_the_right_answer_has_no_error() -> None:
    target, noise = torch.randn(2, 16, 3, 4, 5, generator=seeded(1)), torch.randn(2, 16, 3, 4, 5, generator=seeded(2))
    assert torch.equal(velocity_error(noise - target, target, noise), torch.zeros(2))
    off = noise - target + torch.tensor([0.0, 2.0]).view(2, 1, 1, 1, 1)
    torch.testing.assert_close(velocity_error(off, target, noise), torch.tensor([0.0, 4.0]))
    # following the velocity from a noisy sample for its whole level arrives at the target
    torch.testing.assert_close(noised(target, noise, 0.7) - 0.7 * (noise - target), target)
    assert torch.equal(noised(target, noise, 1.0), noise)


def test_every_window_comes_once_a_lap_in_another_order() -> None:
    laps = [[sample_number(3, lap * 7 + place, 7) for place in range(7)] for lap in range(4)]
    assert all(sorted(lap) == list(range(7)) for lap in laps)
    assert len({tuple(lap) for lap in laps}) > 1
    assert laps[1] == [sample_number(3, 7 + place, 7) for place in range(7)]
    assert laps != [[sample_number(4, lap * 7 + place, 7) for place in range(7)] for lap in range(4)]


def test_numbers_follow_from_their_seed_alone() -> None:
    torch.manual_seed(0)
    one = torch.randn(3, generator=seeded(1, "sample", 2))
    torch.manual_seed(1)
    assert torch.equal(one, torch.randn(3, generator=seeded(1, "sample", 2)))
    assert not torch.equal(one, torch.randn(3, generator=seeded(12, "sample", 2)))
    assert torch.equal(seeded(1).get_state(), seeded(1).get_state())
