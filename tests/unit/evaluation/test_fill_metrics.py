# SPDX-License-Identifier: GPL-3.0-or-later
"""Figures of fills against values that are worked out by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest

from ex4d_engine.evaluation.fill_metrics import (
    LEAST_PIXELS,
    SSIM_C1,
    FillScores,
    fill_scores,
    gradient_sums,
    ssim_map,
)

from .fill_material import HEIGHT, WIDTH, textured

FRAMES = 3


def holes(share: float = 0.5) -> np.ndarray:
    """(F,H,W) the left part is missing, but not in the first frame."""
    missing = np.zeros((FRAMES, HEIGHT, WIDTH), bool)
    missing[1:, :, : round(share * WIDTH)] = True
    return missing


def test_the_truth_itself_is_perfect() -> None:
    truth = textured(FRAMES)
    scores = fill_scores(truth, truth, holes())
    for region in ("hole", "whole", "known"):
        figures = scores.figures(region)
        assert figures["psnr"] == math.inf and figures["gradient"] == 0 and figures["flicker"] == 0
        assert figures["ssim"] == pytest.approx(1, abs=1e-4)


def test_psnr_counts_the_region_and_nothing_else() -> None:
    truth = textured(FRAMES)
    filled = truth.copy()
    filled[1, :, : WIDTH // 2] += 10
    scores = fill_scores(filled, truth, holes())
    of_ten = 20 * math.log10(255 / 10)
    second = np.array([False, True, False])
    assert scores.figures("hole", second)["psnr"] == pytest.approx(of_ten, abs=1e-4)
    # half of the holes' pixels, and a sixth of all: the mean square falls by as much
    assert scores.figures("hole")["psnr"] == pytest.approx(of_ten + 10 * math.log10(2), abs=1e-4)
    assert scores.figures("whole")["psnr"] == pytest.approx(of_ten + 10 * math.log10(6), abs=1e-4)
    assert scores.figures("known")["psnr"] == math.inf


def test_a_region_of_few_pixels_has_no_figures() -> None:
    truth = textured(FRAMES)
    missing = np.zeros((FRAMES, HEIGHT, WIDTH), bool)
    missing[1].flat[: LEAST_PIXELS - 1] = True
    assert math.isnan(fill_scores(truth, truth, missing).figures("hole")["psnr"])
    missing[1].flat[LEAST_PIXELS - 1] = True
    figures = fill_scores(truth, truth, missing).figures("hole")
    assert figures["psnr"] == math.inf
    assert math.isnan(figures["flicker"])  # no hole lasts for two frames


def test_ssim_of_even_pictures_is_that_of_their_means() -> None:
    one, other = np.full((20, 20, 3), 100, np.float32), np.full((20, 20, 3), 150, np.float32)
    wanted = (2 * 100 * 150 + SSIM_C1) / (100**2 + 150**2 + SSIM_C1)
    assert ssim_map(one, other) == pytest.approx(wanted, abs=1e-4)


def test_an_even_fill_has_no_structure_and_an_opposite_one_less_than_none() -> None:
    ramp = np.repeat(np.arange(WIDTH, dtype=np.float32)[None, :, None], HEIGHT, axis=0).repeat(3, axis=2)
    everywhere = np.ones((HEIGHT, WIDTH), bool)

    def distance(fill: np.ndarray) -> float:
        off, everything = gradient_sums(fill, ramp, everywhere[None])[:, 0]
        return off / everything

    assert distance(ramp + 50) == 0  # brightness does not count
    assert distance(np.full_like(ramp, 20)) == pytest.approx(1)
    assert distance(ramp[:, ::-1]) == pytest.approx(2)
    assert distance(ramp / 2) == pytest.approx(0.25 / 1.25)


def test_gradients_outside_the_region_do_not_count() -> None:
    truth = textured(1)[0].astype(np.float32)
    fill = truth.copy()
    fill[:, : WIDTH // 2] = 0
    right = np.zeros((HEIGHT, WIDTH), bool)
    right[:, WIDTH // 2 :] = True
    off, everything = gradient_sums(fill, truth, right[None])[:, 0]
    assert off == 0 and everything > 0


def test_flicker_is_the_change_that_the_truth_does_not_make() -> None:
    truth = textured(FRAMES)
    truth[2] += 7  # the scene itself grows brighter
    filled = truth.copy()
    filled[2, :, : WIDTH // 2] += 5
    scores = fill_scores(filled, truth, holes())
    assert scores.figures("hole")["flicker"] == pytest.approx(5)  # the only two frames that share a hole
    assert scores.figures("known")["flicker"] == 0


def test_what_an_unseen_thing_hides_is_not_known() -> None:
    truth = textured(FRAMES)
    filled = truth.copy()
    filled[:, :8] += 20
    visible = np.ones((FRAMES, HEIGHT, WIDTH), bool)
    assert math.isfinite(fill_scores(filled, truth, holes(), visible).figures("known")["psnr"])
    visible[:, :8] = False
    scores = fill_scores(filled, truth, holes(), visible)
    assert scores.figures("known")["psnr"] == math.inf
    assert math.isfinite(scores.figures("hole")["psnr"])  # a hole is one all the same


def test_a_hole_where_the_source_looked_is_none_of_what_was_never_seen() -> None:
    """Or a conditioning that shows more of it would fill what was never seen the better for that."""
    truth = textured(FRAMES)
    filled = truth.copy()
    filled[holes()] = 0
    filled[:, :, : WIDTH // 4] = truth[:, :, : WIDTH // 4]
    visible = ~holes()
    visible[:, :, : WIDTH // 4] = True
    scores = fill_scores(filled, truth, holes(), visible)
    assert scores.figures("unseen")["psnr"] < scores.figures("hole")["psnr"]
    assert 0 < scores.share("unseen", "hole") < 1
    filled[holes() & visible] = 255  # whatever stands there
    assert fill_scores(filled, truth, holes(), visible).figures("unseen")["psnr"] == scores.figures("unseen")["psnr"]
    assert fill_scores(filled, truth, holes()).share("unseen", "hole") == 1


def test_shapes_have_to_fit() -> None:
    truth = textured(FRAMES)
    with pytest.raises(ValueError, match="not of one clip"):
        fill_scores(truth[:2], truth, holes())


def test_scores_keep_their_order_in_a_file() -> None:
    """`fill_folder` stacks the fields and takes them apart by position."""
    assert list(FillScores.__dataclass_fields__) == [
        "pixels", "squares", "ssim", "gradient_off", "gradient_all", "pairs", "flicker"
    ]  # fmt: skip
