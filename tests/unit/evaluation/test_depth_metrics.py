# SPDX-License-Identifier: GPL-3.0-or-later
"""Depth measures on cases that can be worked out by hand."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ex4d_engine.evaluation.depth_metrics import (
    depth_scores,
    edge_scores,
    fit,
    grown,
    mean_scores,
    sample_along,
    steps,
    temporal_error,
    warping_error,
)


def scene(frames: int = 3) -> np.ndarray:
    """Inverse depth: sky, a slope, and a card that moves by 2 px a frame."""
    inverse = np.tile(np.linspace(0.05, 0.5, 24)[:, None], (frames, 1, 32))
    inverse[:, :4] = 0
    for frame in range(frames):
        inverse[frame, 8:20, 4 + 2 * frame : 14 + 2 * frame] = 1.0
    return inverse


@settings(max_examples=25, deadline=None)
@given(scale=st.floats(0.01, 100), shift=st.floats(-5, 5))
def test_scale_and_shift_of_the_clip_cost_nothing(scale: float, shift: float) -> None:
    true = scene()
    flow, valid = np.zeros((2, 2, 24, 32)), np.ones((2, 24, 32), bool)
    scores = depth_scores(scale * true + shift, true, flow, valid)
    assert scores.abs_rel == pytest.approx(0, abs=1e-6) and scores.delta1 == 1
    assert scores.temporal == pytest.approx(0, abs=1e-6)
    assert scores.edge_f1 == pytest.approx(1)


def test_a_scale_a_frame_costs_the_clip_and_not_the_frame() -> None:
    true = scene()
    flicker = true * np.array([1.0, 1.5, 1.0])[:, None, None]
    scores = depth_scores(flicker, true, np.zeros((2, 2, 24, 32)), np.ones((2, 24, 32), bool))
    assert scores.abs_rel_frame == pytest.approx(0, abs=1e-9)
    assert scores.abs_rel > 0.05 and scores.temporal > 0.05


def test_abs_rel_and_delta_by_hand() -> None:
    # z true 1 and 2; a constant is fitted to 0.75, z 4/3: off by 1/3 of 1 and by 1/3 of 2
    true = np.array([[[1.0, 0.5]]])
    scores = depth_scores(np.ones_like(true), true)
    assert scores.abs_rel == pytest.approx((1 / 3 + 1 / 3) / 2)
    assert scores.delta1 == 0
    assert np.isnan(scores.temporal) and np.isnan(scores.sky)


def test_sky_and_unknown_pixels_do_not_count_as_depth() -> None:
    true = scene()
    said = true.copy()
    said[:, :4] = 7.0
    said[:, 23, 0] = np.nan
    scores = depth_scores(said, true)
    assert scores.abs_rel == pytest.approx(0, abs=1e-9)
    assert scores.sky == 0
    assert depth_scores(true, true).sky == 1


def test_the_temporal_error_follows_the_flow() -> None:
    first = np.tile(np.arange(8.0), (4, 1))
    clip = np.stack([first, first - 1])  # moved right by one pixel
    flow, valid = np.zeros((1, 2, 4, 8)), np.ones((1, 4, 8), bool)
    flow[:, 0] = 1
    assert temporal_error(clip, clip, flow, valid) == 0
    assert temporal_error(clip + np.array([0, 0.5])[:, None, None], clip, flow, valid) == pytest.approx(0.5)
    assert warping_error(clip + 2, flow, valid) == pytest.approx(0)
    assert warping_error(clip + 2, np.zeros_like(flow), valid) == pytest.approx(1 / (clip + 2).mean())
    assert np.isnan(temporal_error(clip, clip, flow, np.zeros_like(valid)))


def test_sampling_between_pixels() -> None:
    values = np.array([[0.0, 1.0], [2.0, 3.0]])
    sampled, inside = sample_along(values, np.full((2, 2, 2), 0.5))
    assert sampled[0, 0] == pytest.approx(1.5)
    assert inside.tolist() == [[True, False], [False, False]]


def test_edges_within_the_tolerance_count() -> None:
    true, off = np.full((1, 20, 20), 0.5), np.full((1, 20, 20), 0.5)
    true[..., 10:], off[..., 12:] = 1.0, 1.0
    assert edge_scores(off, true, 0.1, tolerance=2) == pytest.approx((1, 1, 1))
    assert edge_scores(off, true, 0.1, tolerance=1) == pytest.approx((0, 0, 0))
    both = np.maximum(true, 0)
    both[..., :4] = 2.0  # a step that is not there
    precision, recall, _ = edge_scores(both, true, 0.1, tolerance=1)
    assert (precision, recall) == pytest.approx((0.5, 1))
    assert edge_scores(np.full_like(true, 0.5), true, 0.1, 1)[1] == 0


def test_steps_are_ratios() -> None:
    near = np.array([[1.0, 1.1, 2.0]])
    assert steps(near, 0.01).tolist() == [[False, True, False]]
    assert steps(10 * near, 0.01).tolist() == [[False, True, False]]
    assert not steps(near, 5.0).any()
    assert grown(np.eye(5, dtype=bool), 1).sum() == 19


def test_fit_of_a_constant_is_the_mean() -> None:
    true = np.array([1.0, 3.0])
    assert fit(np.array([4.0, 4.0]), true, np.ones(2, bool)).tolist() == [2, 2]


def test_means_leave_out_what_is_not_there() -> None:
    one, other = depth_scores(scene(), scene()), depth_scores(np.ones((1, 1, 2)), np.array([[[1.0, 0.5]]]))
    mean = mean_scores([one, other])
    assert mean.sky == 1 and np.isnan(mean.temporal)
    assert mean.abs_rel == pytest.approx((one.abs_rel + other.abs_rel) / 2)
