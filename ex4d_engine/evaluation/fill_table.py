# SPDX-License-Identifier: GPL-3.0-or-later
"""Scores of many cases as figures: means with their standard errors by orbit and by angle, and a row's lead."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from .fill_metrics import FIGURES, FillScores

BUCKETS_DEG: Final = (0.0, 30.0, 60.0, 90.0)
FINE_DEG: Final = (0.0, 10.0, 20.0, 30.0, 40.0, 50.0, 60.0, 70.0, 80.0, 90.0)
FIGURE_TITLES: Final = {
    "psnr": "PSNR in the holes, dB",
    "ssim": "SSIM in the holes",
    "gradient": "gradient distance in the holes",
    "flicker": "flicker in the holes",
}
BETTER: Final = {"psnr": 1, "ssim": 1, "gradient": -1, "flicker": -1}
"""Whether more of a figure is better."""


@dataclass(frozen=True)
class ScoredCase:
    """swing, seed: of the case; angles_deg: (F,); scores: by the row's name."""

    swing: str
    seed: int
    angles_deg: NDArray[np.float64]
    scores: Mapping[str, FillScores]

    @property
    def name(self) -> str:
        return f"{self.swing}_{self.seed}"

    def frames_between(self, low: float, high: float) -> NDArray[np.bool_]:
        """(F,) frames at angles above `low` and up to `high`; the first frame, which has no holes, is in none."""
        rounded = np.round(self.angles_deg, 3)
        return (rounded > low) & (rounded <= high)


def summary(cases: Sequence[ScoredCase], rows: Sequence[str], leader: str) -> dict[str, Any]:
    """All figures as a JSON document.

    Keys: `by_swing` and `by_angle` hold, for each orbit or range of angles, for each row and figure of the holes
    [mean, standard error, scenes]; `whole` the same by orbit over whole frames, `unseen_by_swing` and
    `unseen_by_angle` where the source really saw nothing. `lead` is how far `leader` is ahead of each other row by
    angle, case by case, so that scenes that are hard for all do not blur it; positive is better. `lead_unseen` is its
    like where the source saw nothing. `hidden` is the share of the holes that the source did see.
    `known` is the PSNR of what the conditioning knows and the source really saw: [mean, standard error, cases].
    """
    swings = list(dict.fromkeys(case.swing for case in cases))
    buckets = [*itertools.pairwise(BUCKETS_DEG)]

    def by_swing(region: str) -> dict[str, Any]:
        return {swing: _rows([case for case in cases if case.swing == swing], rows, region) for swing in swings}

    document: dict[str, Any] = {
        "rows": list(rows),
        "leader": leader,
        "by_swing": by_swing("hole"),
        "whole": by_swing("whole"),
        "by_angle": {range_name(*bucket): _rows(cases, rows, "hole", bucket) for bucket in buckets},
        "unseen_by_swing": by_swing("unseen"),
        "unseen_by_angle": {range_name(*bucket): _rows(cases, rows, "unseen", bucket) for bucket in buckets},
        "lead": {range_name(*bucket): lead(cases, rows, leader, bucket) for bucket in buckets},
        "lead_unseen": {range_name(*bucket): lead(cases, rows, leader, bucket, "unseen") for bucket in buckets},
        "lead_fine": {range_name(*bin_): lead(cases, rows, leader, bin_) for bin_ in itertools.pairwise(FINE_DEG)},
        "known": mean_and_error([case.scores[rows[0]].figures("known")["psnr"] for case in cases]),
        "hidden": mean_and_error([1 - case.scores[rows[0]].share("unseen", "hole") for case in cases]),
    }
    return document


def lead(
    cases: Sequence[ScoredCase],
    rows: Sequence[str],
    leader: str,
    bucket: tuple[float, float],
    region: str = "hole",
) -> dict[str, dict[str, list[float]]]:
    """By row and figure, [mean, standard error, scenes] of how far `leader` is ahead; positive is better."""
    result: dict[str, dict[str, list[float]]] = {}
    for row in rows:
        if row == leader:
            continue
        pairs = [
            (case.scores[leader].figures(region, chosen), case.scores[row].figures(region, chosen))
            for case in cases
            for chosen in [case.frames_between(*bucket)]
        ]
        ahead = [{name: BETTER[name] * (ours[name] - theirs[name]) for name in FIGURES} for ours, theirs in pairs]
        result[row] = _over_scenes(cases, ahead)
    return result


def _rows(
    cases: Sequence[ScoredCase], rows: Sequence[str], region: str, bucket: tuple[float, float] | None = None
) -> dict[str, dict[str, list[float]]]:
    result: dict[str, dict[str, list[float]]] = {}
    for row in rows:
        figures = [
            case.scores[row].figures(region, None if bucket is None else case.frames_between(*bucket)) for case in cases
        ]
        result[row] = _over_scenes(cases, figures)
    return result


def _over_scenes(cases: Sequence[ScoredCase], figures: Sequence[Mapping[str, float]]) -> dict[str, list[float]]:
    """`mean_and_error` of each figure over scenes. A scene seen on several orbits counts once, by the mean of its
    cases: they resemble each other, and would make the error look smaller than it is."""
    result = {}
    for figure in FIGURES:
        by_seed: dict[int, list[float]] = {}
        for case, each in zip(cases, figures, strict=True):
            if math.isfinite(each[figure]):
                by_seed.setdefault(case.seed, []).append(each[figure])
        result[figure] = mean_and_error([sum(values) / len(values) for values in by_seed.values()])
    return result


def mean_and_error(values: Sequence[float]) -> list[float]:
    """[mean, standard error, count] of those that are finite numbers; NaN where there are too few."""
    finite = np.array([value for value in values if math.isfinite(value)])
    mean = float(finite.mean()) if finite.size else math.nan
    error = float(finite.std(ddof=1) / math.sqrt(finite.size)) if finite.size > 1 else math.nan
    return [round(mean, 4), round(error, 4), int(finite.size)]


def range_name(low: float, high: float) -> str:
    """As keys of the document have it."""
    return f"{low:g}-{high:g}"


# ------------------------------------------------------------------------------------------ Markdown


def table(document: Mapping[str, Any]) -> str:
    """Markdown: each figure of the holes by orbit and by angle, of what was never seen, whole frames, and the lead."""
    parts = [_heading(document)]
    for of, where in (("", ""), ("unseen_", ", where the source really saw nothing")):
        columns = {
            **{f"{name}°": rows for name, rows in document[f"{of}by_swing"].items()},
            **{f"at {name}°": rows for name, rows in document[f"{of}by_angle"].items()},
        }
        for figure in FIGURES:
            parts.append(f"**{FIGURE_TITLES[figure]}{where}** ({'more' if BETTER[figure] > 0 else 'less'} is better)")
            parts.append(_grid(document["rows"], columns, figure, best=BETTER[figure]))
    parts.append("**PSNR of the whole frame, dB**")
    parts.append(
        _grid(document["rows"], {f"{name}°": rows for name, rows in document["whole"].items()}, "psnr", best=1)
    )
    others = [row for row in document["rows"] if row != document["leader"]]
    for key, where in (("lead", "in the holes"), ("lead_unseen", "where the source saw nothing")):
        columns = {f"at {name}°": rows for name, rows in document[key].items()}
        for figure, title in (("psnr", "in PSNR, dB"), ("ssim", "in SSIM"), ("gradient", "in gradient distance")):
            if others:
                parts.append(f"**Lead of {document['leader']} {where} {title}** (case by case; positive is ahead)")
                parts.append(_grid(others, columns, figure, best=0))
    return "\n\n".join(parts)


def _heading(document: Mapping[str, Any]) -> str:
    counts = ", ".join(
        f"{rows[document['rows'][0]]['psnr'][2]} at {name}°" for name, rows in document["by_swing"].items()
    )
    cases = document.get("cases", {"whole": 0, "wanted": 0})
    lacking = cases["whole"] < cases["wanted"]
    part = f"{cases['whole']} of {cases['wanted']} cases have all rows, and only these count. " if lacking else ""
    passed = sum(document.get("turned_away", {}).values())
    mean, error, _ = document["known"]
    hidden, hidden_error, _ = document["hidden"]
    return (
        f"{part}Scenes: {counts}; {passed} passed over, where the camera would have stood in or behind something. "
        f"Known pixels agree with the truth by {mean:.1f} ± {error:.1f} dB. The source saw "
        f"{100 * hidden:.0f} ± {100 * hidden_error:.0f} % of the holes. Mean ± standard error over scenes."
    )


def _grid(rows: Sequence[str], columns: Mapping[str, Any], figure: str, best: int) -> str:
    """A Markdown table of mean ± standard error; each column's best mean is bold, unless `best` is 0."""
    places = 2 if figure in ("psnr", "flicker") else 3
    lines = [f"| row | {' | '.join(columns)} |", "|---" * (len(columns) + 1) + "|"]
    winners = {}
    for name, column in columns.items():
        known = {row: best * column[row][figure][0] for row in rows if math.isfinite(column[row][figure][0])}
        winners[name] = max(known, key=lambda row: known[row]) if known and best else None
    for row in rows:
        cells = []
        for name, column in columns.items():
            mean, error, _ = column[row][figure]
            shown = "–" if not math.isfinite(mean) else f"{mean:.{places}f}"
            shown = f"**{shown}**" if winners[name] == row else shown
            cells.append(f"{shown} ± {error:.{places}f}" if math.isfinite(error) else shown)
        lines.append(f"| {row} | {' | '.join(cells)} |")
    return "\n".join(lines)
