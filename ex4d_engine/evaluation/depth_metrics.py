# SPDX-License-Identifier: GPL-3.0-or-later
"""Measures of depth against a truth, for sources that know neither scale nor shift.

Everything is inverse depth (F, H, W), 0 where infinitely far: that is what a scale and a shift are fitted in, and what
parallax is proportional to. Numpy only.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.floating]
Mask = npt.NDArray[np.bool_]

STEP: Final = 1.15
"""Ratio of neighbouring depths that makes a step: the one from which `depth.edge_snap` keeps surfaces apart."""


@dataclass(frozen=True)
class DepthScores:
    """One clip's scores.

    abs_rel: mean |z − true z| / true z after one scale and shift for the clip; delta1: share of pixels within a factor
        of 1.25. Sky is left out of both.
    abs_rel_frame, delta1_frame: the same, each frame fitted by itself: the difference is drift and flicker.
    temporal: how differently inverse depth changes along the true flow, in shares of the clip's mean inverse depth.
    edge_precision, edge_recall, edge_f1: of depth steps, within `tolerance` pixels.
    sky: intersection over union of what is infinitely far; NaN where neither has any.
    """

    abs_rel: float
    delta1: float
    abs_rel_frame: float
    delta1_frame: float
    temporal: float
    edge_precision: float
    edge_recall: float
    edge_f1: float
    sky: float


def depth_scores(
    said: Array, true: Array, flow: Array | None = None, flow_valid: Mask | None = None, tolerance: int = 2
) -> DepthScores:
    """Scores of a clip.

    Args:
        said, true: (F, H, W) inverse depth, ≥ 0, NaN where unknown.
        flow: (F−1, 2, H, W) pixels (x, y) from each frame to the next; without it `temporal` is NaN.
        flow_valid: (F−1, H, W).
        tolerance: pixels by which a step may be off.
    """
    said, true = np.asarray(said, np.float64), np.asarray(true, np.float64)
    known = np.isfinite(said) & np.isfinite(true) & (true > 0)
    fitted = fit(said, true, known)
    by_frame = np.stack([fit(s, t, k) for s, t, k in zip(said, true, known, strict=True)])
    abs_rel, delta1 = _relative(fitted, true, known)
    abs_rel_frame, delta1_frame = _relative(by_frame, true, known)
    temporal = float("nan")
    if flow is not None and flow_valid is not None and len(said) > 1 and known.any():
        temporal = temporal_error(fitted, true, flow, flow_valid) / float(true[known].mean())
    floor = float(true[known].min()) if known.any() else 1.0
    precision, recall, f1 = edge_scores(fitted, true, floor, tolerance)
    return DepthScores(
        abs_rel, delta1, abs_rel_frame, delta1_frame, temporal, precision, recall, f1, _overlap(said == 0, true == 0)
    )


def mean_scores(scores: Sequence[DepthScores]) -> DepthScores:
    """The mean of clips' scores, each without the clips that do not have it."""
    columns = np.array([dataclasses.astuple(score) for score in scores], dtype=np.float64)
    held = np.isfinite(columns)
    means = np.where(held, columns, 0).sum(0) / np.maximum(held.sum(0), 1)
    return DepthScores(*np.where(held.any(0), means, np.nan).tolist())


def fit(said: Array, true: Array, known: Mask) -> npt.NDArray[np.float64]:
    """`said` with the scale and shift of least squares to `true` where known, as MiDaS is evaluated.

    Of any shape. A constant gets the mean.
    """
    if not known.any():
        return np.asarray(said, np.float64)
    x, y = np.asarray(said[known], np.float64), np.asarray(true[known], np.float64)
    spread = float(((x - x.mean()) ** 2).mean())
    scale = float(((x - x.mean()) * (y - y.mean())).mean()) / spread if spread > 1e-12 * x.mean() ** 2 else 0.0
    return scale * np.asarray(said, np.float64) + (y.mean() - scale * x.mean())


def _relative(fitted: Array, true: Array, known: Mask) -> tuple[float, float]:
    """AbsRel and δ1 in z. What the fit puts behind the farthest truth, or infinity, counts as at the farthest truth."""
    if not known.any():
        return float("nan"), float("nan")
    t = true[known]
    ratio = t / np.maximum(fitted[known], t.min())  # said z / true z
    return float(np.abs(ratio - 1).mean()), float((np.maximum(ratio, 1 / ratio) < 1.25).mean())


def temporal_error(said: Array, true: Array, flow: Array, flow_valid: Mask) -> float:
    """Mean | change of said − change of true | along the flow. said, true: (F, H, W), in one unit."""
    errors, count = 0.0, 0
    for now in range(len(flow)):
        said_next, inside = sample_along(said[now + 1], flow[now])
        true_next, _ = sample_along(true[now + 1], flow[now])
        off = np.abs((said_next - said[now]) - (true_next - true[now]))
        counted = inside & flow_valid[now] & np.isfinite(off)
        errors += float(off[counted].sum())
        count += int(counted.sum())
    return errors / count if count else float("nan")


def warping_error(said: Array, flow: Array, flow_valid: Mask) -> float:
    """Mean |change of inverse depth along the flow|, in shares of its mean: for clips without a truth.

    The optical-flow-based warping error (OPW, Wang et al. 2022); what truly comes nearer counts as well.
    """
    return temporal_error(said, np.zeros_like(said), flow, flow_valid) / max(float(np.nanmean(said)), 1e-12)


def sample_along(values: Array, flow: Array) -> tuple[npt.NDArray[np.float64], Mask]:
    """Values (H, W) where the flow (2, H, W) leads, linear between pixels; and whether that is inside the frame."""
    height, width = values.shape
    y = np.arange(height)[:, None] + flow[1]
    x = np.arange(width) + flow[0]
    inside = (x >= 0) & (y >= 0) & (x <= width - 1) & (y <= height - 1)
    x, y = np.where(inside, x, 0), np.where(inside, y, 0)
    left, top = np.minimum(x.astype(int), max(width - 2, 0)), np.minimum(y.astype(int), max(height - 2, 0))
    right, bottom = np.minimum(left + 1, width - 1), np.minimum(top + 1, height - 1)
    u, v = x - left, y - top
    upper = values[top, left] * (1 - u) + values[top, right] * u
    lower = values[bottom, left] * (1 - u) + values[bottom, right] * u
    return upper * (1 - v) + lower * v, inside


def edge_scores(said: Array, true: Array, floor: float, tolerance: int) -> tuple[float, float, float]:
    """Precision, recall and F1 of the depth steps of maps (F, H, W); both are taken as `floor` where they are less."""
    hits_said = count_said = hits_true = count_true = 0
    for s, t in zip(said, true, strict=True):
        found, wanted = steps(s, floor), steps(t, floor)
        hits_said += int((found & grown(wanted, tolerance)).sum())
        hits_true += int((wanted & grown(found, tolerance)).sum())
        count_said, count_true = count_said + int(found.sum()), count_true + int(wanted.sum())
    if not count_true:
        return float("nan"), float("nan"), float("nan")
    precision = hits_said / count_said if count_said else 0.0
    recall = hits_true / count_true
    return precision, recall, 2 * precision * recall / max(precision + recall, 1e-12)


def steps(inverse_depth: Array, floor: float) -> Mask:
    """Pixels (H, W) whose right or lower neighbour is nearer or farther by more than `STEP`."""
    level = np.log(np.maximum(np.nan_to_num(inverse_depth), floor))
    found = np.zeros(level.shape, bool)
    found[:, :-1] |= np.abs(np.diff(level, axis=1)) > np.log(STEP)
    found[:-1] |= np.abs(np.diff(level, axis=0)) > np.log(STEP)
    return found


def grown(mask: Mask, reach: int) -> Mask:
    """The mask (H, W) and all within `reach` pixels of it, diagonally too."""
    padded = np.pad(mask, reach)
    height, width = mask.shape
    out = np.zeros_like(mask)
    for y in range(2 * reach + 1):
        for x in range(2 * reach + 1):
            out |= padded[y : y + height, x : x + width]
    return out


def _overlap(one: Mask, other: Mask) -> float:
    union = int((one | other).sum())
    return int((one & other).sum()) / union if union else float("nan")
