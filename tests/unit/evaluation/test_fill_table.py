# SPDX-License-Identifier: GPL-3.0-or-later
"""Means, leads and tables of scores whose figures are known."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest

from ex4d_engine.evaluation.fill_metrics import FIGURES, REGIONS, FillScores
from ex4d_engine.evaluation.fill_pictures import (
    LEGEND_STEP_PX,
    PLOT_COLOURS,
    PLOT_MARGIN,
    PLOT_SIZE,
    contact_sheet,
    lead_plot,
)
from ex4d_engine.evaluation.fill_table import ScoredCase, mean_and_error, summary, table

ANGLES = np.array([0.0, 15, 30, 45, 60, 75, 90])
PIXELS = 1000.0


def scores(psnr: np.ndarray, ssim: float = 0.5) -> FillScores:
    """Holes in all frames but the first, of this PSNR in each."""
    pixels = np.tile(np.where(ANGLES > 0, PIXELS, 0.0), (len(REGIONS), 1))
    squares = pixels * 255**2 / 10 ** (np.asarray(psnr) / 10)
    return FillScores(pixels, squares, pixels * ssim, pixels * 0.5, pixels, pixels, pixels * 3.0)


def cases() -> list[ScoredCase]:
    """Two scenes of unlike difficulty; `both` is ahead by 1, 2 and 3 dB in the three ranges of angles."""
    ahead = np.array([0, 1, 1, 2, 2, 3, 3.0])
    return [
        ScoredCase("0-90", seed, ANGLES, {"preview": scores(level - ahead), "both": scores(level + 0 * ahead, 0.75)})
        for seed, level in ((1, 20.0), (2, 30.0))
    ]


def test_mean_and_error_leave_out_what_is_no_number() -> None:
    assert mean_and_error([1.0, 3.0, math.nan, math.inf]) == [2.0, 1.0, 2]
    mean, error, count = mean_and_error([math.nan])
    assert math.isnan(mean) and math.isnan(error) and count == 0


def test_ranges_hold_their_upper_end_and_no_frame_without_holes() -> None:
    (case, _) = cases()
    assert case.frames_between(0, 30).tolist() == [False, True, True, False, False, False, False]
    assert case.frames_between(60, 90).tolist() == [False, False, False, False, False, True, True]


def test_the_lead_is_taken_case_by_case() -> None:
    document = summary(cases(), ["preview", "both"], "both")
    leads = [document["lead"][name]["preview"]["psnr"] for name in ("0-30", "30-60", "60-90")]
    assert [mean for mean, _, _ in leads] == pytest.approx([1, 2, 3])
    assert [error for _, error, _ in leads] == pytest.approx([0, 0, 0])  # though the scenes differ by 10 dB
    mean, error, count = document["by_angle"]["0-30"]["both"]["psnr"]
    assert (mean, error, count) == pytest.approx((25, 5, 2))
    assert document["lead"]["0-30"]["preview"]["ssim"][0] == pytest.approx(0.25)
    assert document["lead"]["0-30"]["preview"]["flicker"][0] == 0
    assert document["lead_unseen"]["60-90"]["preview"]["psnr"][0] == pytest.approx(3)
    assert document["hidden"] == [0, 0, 2]  # here everything in the holes is unseen
    json.dumps(document)


def test_the_table_has_every_row_range_and_figure_and_marks_the_best() -> None:
    document = summary(cases(), ["preview", "both"], "both")
    assert "cases have all rows" not in table(document)
    assert "2 of 3 cases have all rows" in table({**document, "cases": {"whole": 2, "wanted": 3}})
    text = table(document)
    for part in ("| preview |", "| both |", "0-90°", "at 0-30°", "at 30-60°", "at 60-90°", "PSNR", "SSIM", "flicker"):
        assert part in text, part
    assert "| preview | 1.00 ± 0.00 | 2.00 ± 0.00 | 3.00 ± 0.00 |" in text
    assert "| both | **25.00** ± 5.00 |" in text


def test_fifteen_rows_are_told_apart_in_the_legend() -> None:
    rows = [f"row {number}" for number in range(15)]
    fine = {"0-10": {row: {"psnr": [number, 0.1, 3]} for number, row in enumerate(rows[1:])}}
    plot = lead_plot({"rows": rows, "leader": rows[0], "lead_fine": fine}, "psnr")
    begin, line = PLOT_SIZE[0] - PLOT_MARGIN[2] + 14, PLOT_MARGIN[1] + 6
    middles = [line + LEGEND_STEP_PX * number for number in range(14)]
    samples = [plot[middle - 8 : middle + 9, begin : begin + 29].tobytes() for middle in middles]
    assert len(set(samples)) == 14


def test_a_plot_and_a_sheet_are_drawn() -> None:
    document = summary(cases(), ["preview", "both"], "both")
    for figure in FIGURES:
        plot = lead_plot(document, figure)
        assert (plot == PLOT_COLOURS[0]).all(axis=2).sum() > 100  # the only curve
    picture = np.full((40, 60, 3), (200, 30, 40), np.uint8)
    sheet = contact_sheet([[picture, picture]] * 3, ["truth", "both"], ["30 deg"] * 3)
    share = (sheet == (200, 30, 40)).all(axis=2).mean()
    assert 0.5 < share < 0.9
