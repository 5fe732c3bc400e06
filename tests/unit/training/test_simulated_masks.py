# SPDX-License-Identifier: GPL-3.0-or-later
"""The mix of masks: what holds for every seed, and that it is the conditioning which the pipeline knows."""

from __future__ import annotations

import math
import subprocess
import sys
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ex4d_engine.cameras import intrinsics_from_fov
from ex4d_engine.diffusion import preprocess
from ex4d_engine.errors import Ex4dError
from ex4d_engine.training.simulated_masks import (
    KINDS,
    MaskSettings,
    SimulatedMasks,
    eroded,
    masked_plate,
    simulated_masks,
)

WIDTH, HEIGHT, FRAMES = 48, 40, 4
K = intrinsics_from_fov(WIDTH, HEIGHT)


@cache
def clip() -> tuple[np.ndarray, np.ndarray]:
    """Frames and depth: a block before a wall, of noise that slides by a pixel a frame."""
    noise = np.random.default_rng(5).integers(0, 256, (HEIGHT, WIDTH + FRAMES, 3), dtype=np.uint8)
    frames = np.stack([noise[:, index : index + WIDTH] for index in range(FRAMES)])
    depth = np.full((FRAMES, HEIGHT, WIDTH), 9, np.float32)
    depth[:, 12:30, 14:30] = 4
    return frames, depth


def simulate(seed: int, **changed: object) -> SimulatedMasks:
    return simulated_masks(seed, *clip(), K, MaskSettings(**changed))  # type: ignore[arg-type]


@settings(max_examples=12, deadline=None)
@given(seed=st.integers(0, 2**63), wall_share=st.sampled_from([0.1, math.inf]))
def test_whatever_the_seed_the_first_frame_is_whole_and_masks_are_0_or_255(seed: int, wall_share: float) -> None:
    drawn = simulate(seed, wall_share=wall_share)
    assert drawn.keep.shape == (FRAMES, HEIGHT, WIDTH)
    assert drawn.keep.dtype == np.uint8
    assert (drawn.keep[0] == 255).all()
    assert set(np.unique(drawn.keep)) <= {0, 255}
    assert drawn.kind in KINDS
    assert (drawn.path is not None) == (drawn.kind in ("rendering", "both"))


@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 2**63), kernel=st.integers(1, 9), more=st.integers(0, 6))
def test_erosion_only_grows_holes(seed: int, kernel: int, more: int) -> None:
    keep = np.where(np.random.default_rng(seed).random((2, 30, 40)) < 0.95, 255, 0).astype(np.uint8)
    little = eroded(keep, np.full(2, kernel))
    much = eroded(keep, np.full(2, kernel + 2 * more))
    assert (little <= keep).all()
    assert (much <= little).all()


def test_seeds_repeat_and_differ() -> None:
    one, again, other = (simulate(seed, ratios=(0, 0, 1, 0)) for seed in (8, 8, 9))
    np.testing.assert_array_equal(one.keep, again.keep)
    np.testing.assert_array_equal(one.path, again.path)
    assert (one.keep != other.keep).any()


def test_both_is_the_union_of_the_two() -> None:
    """One seed means one path and one set of blobs, whichever of them are asked for."""
    rendering, tracking, both = (
        simulate(8, ratios=ratios, erosion=(1, 1)).keep for ratios in ((1, 0, 0, 0), (0, 1, 0, 0), (0, 0, 1, 0))
    )
    assert (rendering == 0).any()
    assert (tracking == 0).any()
    np.testing.assert_array_equal(both, rendering & tracking)


def test_none_keeps_everything() -> None:
    assert (simulate(8, ratios=(0, 0, 0, 1)).keep == 255).all()


def test_ratios_are_kept() -> None:
    empty = np.zeros((1, 2, 2, 3), np.uint8), np.ones((1, 2, 2), np.float32)
    # a clip of one frame: its kind is drawn, and next to no work is done
    mixed = MaskSettings(ratios=(0, 1, 0, 3))
    kinds = [simulated_masks(seed, *empty, intrinsics_from_fov(2, 2), mixed).kind for seed in range(200)]
    assert set(kinds) == {"tracking", "none"}
    assert kinds.count("none") == pytest.approx(150, abs=25)


def test_the_conditioning_is_what_the_pipeline_makes_of_it() -> None:
    """Eroded and blackened here or there: the same tensors."""
    frames, _ = clip()
    whole = simulate(8, ratios=(1, 0, 0, 0), erosion=(1, 1)).keep
    shrunk = simulate(8, ratios=(1, 0, 0, 0)).keep
    here = preprocess.conditioning_videos(masked_plate(frames, shrunk), shrunk, preprocess.no_erosion(FRAMES))
    there = preprocess.conditioning_videos(frames, whole, preprocess.fixed_erosion(FRAMES))
    for mine, theirs in zip(here, there, strict=True):
        np.testing.assert_array_equal(mine.numpy(), theirs.numpy())
    assert float(here[1].min()) == -1


@pytest.mark.parametrize(
    ("wrong", "named"),
    [
        ({"ratios": (0, 0, 0, 0)}, "ratios"),
        ({"ratios": (1, 1, -1, 1)}, "ratios"),
        ({"ratios": (math.nan, 1, 1, 1)}, "ratios"),
        ({"wall_share": 0.0}, "wall share"),
        ({"erosion": (0, 3)}, "erosion"),
        ({"erosion": (5, 3)}, "erosion"),
    ],
)
def test_settings_that_cannot_be_are_refused(wrong: dict[str, object], named: str) -> None:
    with pytest.raises(Ex4dError, match=named) as error:
        MaskSettings(**wrong)  # type: ignore[arg-type]
    assert error.value.code == "bad_request"


def test_frames_and_depth_of_different_sizes_are_refused() -> None:
    frames, depth = clip()
    with pytest.raises(Ex4dError) as error:
        simulated_masks(0, frames[:, :-1], depth, K, MaskSettings())
    assert error.value.code == "depth_mismatch"


def test_masks_are_made_without_loading_torch() -> None:
    """Data workers are many: each would pay for it in seconds and memory."""
    code = "import sys, ex4d_engine.training.simulated_masks; print('torch' in sys.modules)"
    root = Path(__file__).parents[3]
    answer = subprocess.run(
        [sys.executable, "-c", code], cwd=root, capture_output=True, text=True, timeout=60, check=True
    )
    assert answer.stdout.strip() == "False"
