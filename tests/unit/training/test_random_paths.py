# SPDX-License-Identifier: GPL-3.0-or-later
"""Random camera paths: they start at the source, keep to their ranges, and come in every kind."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ex4d_engine.errors import Ex4dError
from ex4d_engine.training.random_paths import PathSettings, random_path, turned_deg

DEPTH = np.full((40, 48), 9, np.float32)


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 2**63), count=st.integers(1, 50))
def test_random_paths_start_at_the_source_and_stay_within_their_ranges(seed: int, count: int) -> None:
    ranges = PathSettings(moves=(1, 0, 0, 0), orbit_deg=(10, 60), pitch_deg=(0, 0), arrival=(0.5, 1.0))
    path = random_path(np.random.default_rng(seed), count, DEPTH, ranges)
    np.testing.assert_allclose(path[0], np.eye(4), atol=1e-12)
    assert path.shape == (count, 4, 4)
    turned = turned_deg(path)
    assert (np.diff(turned) >= -1e-4).all()
    if count > 1:
        assert 10 - 1e-3 <= turned[-1] <= 60 + 1e-3


def test_paths_turn_to_both_sides_and_move_in_every_way() -> None:
    ends = np.stack([random_path(np.random.default_rng(seed), 5, DEPTH, PathSettings())[-1] for seed in range(60)])
    assert 0.2 < (ends[:, 0, 3] > 0).mean() < 0.8
    assert (ends[:, :3, :3] == np.eye(3)).all(axis=(1, 2)).any()  # a truck or a dolly


def test_a_crane_only_rises() -> None:
    crane = PathSettings(moves=(0, 0, 0, 1))
    ends = [random_path(np.random.default_rng(seed), 5, DEPTH, crane)[-1] for seed in range(20)]
    assert all(end[1, 3] < 0 for end in ends)  # y is down


def test_an_orbit_ends_at_its_radius_looking_at_its_pivot() -> None:
    orbit = PathSettings(moves=(1, 0, 0, 0), radius=(0.8, 0.8))
    end = random_path(np.random.default_rng(2), 5, DEPTH, orbit)[-1]
    to_pivot = np.array([0, 0, 9]) - end[:3, 3]
    np.testing.assert_allclose(end[:3, 2] * 0.8 * 9, to_pivot, atol=1e-9)


@pytest.mark.parametrize(
    "wrong",
    [
        {"moves": (0, 0, 0, 0)},
        {"orbit_deg": (5, 91)},
        {"pitch_deg": (10, -10)},
        {"radius": (0, 1)},
        {"shift": (0, 1)},
        {"pivot_quantile": (0.2, math.nan)},
        {"arrival": (0, 1)},
        {"smooth": 1.5},
    ],
)
def test_paths_that_cannot_be_are_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(Ex4dError, match=next(iter(wrong))):
        PathSettings(**wrong)  # type: ignore[arg-type]
