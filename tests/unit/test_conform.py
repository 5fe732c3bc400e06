# SPDX-License-Identifier: GPL-3.0-or-later
"""Variable rate made constant: the rule, and that it changes nothing in a clip of constant rate."""

from __future__ import annotations

from collections.abc import Iterator
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ex4d_engine.conform import STANDARD_RATES, find_rate, hold_frames, tick, ticks

MS = Fraction(1, 1000)


@given(
    rate=st.sampled_from([rate for rate in STANDARD_RATES if rate <= 60]),
    count=st.integers(2, 300),
    start=st.integers(-5000, 5000),
)
def test_a_constant_rate_is_found_through_times_in_milliseconds(rate: Fraction, count: int, start: int) -> None:
    times = np.array([start + round(index / rate * 1000) for index in range(count)])
    assert find_rate(times, MS, [rate]) == (rate, True)
    assert ticks(times, MS, rate).tolist() == list(range(count))


def test_the_containers_nonsense_is_passed_over() -> None:
    times = np.arange(50) * 3003
    for guesses in ([Fraction(90000)], [None, Fraction(0)], [Fraction(60)], []):
        assert find_rate(times, Fraction(1, 90000), guesses) == (Fraction(30000, 1001), True)


def test_a_variable_rate_takes_the_usual_distance_not_the_average() -> None:
    times = np.cumsum([0] + [33, 34, 33, 500] * 10)
    assert find_rate(times, MS, [Fraction(7)]) == (30, False)


def test_a_rate_of_its_own_is_kept_as_a_fraction() -> None:
    times = np.cumsum([0] + [143, 400] * 10)
    rate, constant = find_rate(times, MS, [])
    assert not constant
    assert rate is not None
    assert rate.denominator <= 1001


def test_one_frame_has_no_distance() -> None:
    assert find_rate(np.array([40]), MS, [Fraction(25)]) == (25, True)
    assert find_rate(np.array([40]), MS, [None]) == (None, True)
    assert find_rate(np.array([], np.int64), MS, []) == (None, True)


@given(times=st.lists(st.integers(0, 10**7), min_size=1, max_size=50), rate=st.sampled_from(STANDARD_RATES))
def test_the_two_ways_to_compute_a_tick_agree(times: list[int], rate: Fraction) -> None:
    base = Fraction(1, 90000)
    expected = [tick(time, min(times), base, rate) for time in times]
    assert ticks(np.array(times), base, rate).tolist() == expected


@pytest.mark.parametrize(
    ("given_ticks", "expected"),
    [
        ([0, 1, 2], [0, 1, 2]),
        ([0, 3, 4], [0, 0, 0, 1, 2]),
        ([0, 1, 1, 2], [0, 2, 3]),
        ([0, 1, 0, 2], [0, 1, 3]),
        ([5, 7], [0, 0, 1]),
        ([], []),
    ],
)
def test_holes_are_filled_and_crowds_thinned(given_ticks: list[int], expected: list[int]) -> None:
    held = list(hold_frames((now, index) for index, now in enumerate(given_ticks)))
    assert [frame for _, frame in held] == expected
    if held:
        assert [now for now, _ in held] == list(range(given_ticks[0], given_ticks[0] + len(expected)))


def test_frames_stream_through() -> None:
    taken = []

    def source() -> Iterator[tuple[int, int]]:
        for index in range(1000):
            taken.append(index)
            yield index, index

    held = hold_frames(source())
    next(held)
    assert len(taken) == 2
