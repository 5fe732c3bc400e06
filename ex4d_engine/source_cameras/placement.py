# SPDX-License-Identifier: GPL-3.0-or-later
"""Depth and a known camera path in one scale: one scale and shift in inverse depth for the whole shot.

    1/z in the world of the poses = scale · 1/z of the depth source + shift

Points that were followed through the clip are triangulated with the known cameras; what the depth source says at the
same places is fitted to them robustly, all frames at once. A fit a frame would follow whatever walks through it, and
would shake.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final, Literal

import numpy as np
from numpy.typing import NDArray

from .flicker import Flicker, measure_flicker
from .tracks import SHORTEST, Track
from .triangulation import triangulate

Array = NDArray[np.float64]
Alignment = Literal["scale", "affine"]
KEPT_A_FRAME: Final = 64  # pairs; less than a kilobyte a frame, however many points were followed
LEAST_TRACKS, LEAST_PAIRS = 15, 60
MOST_UNCERTAIN: Final = 0.08  # of a triangulated depth; beyond, the path has too little baseline for it
LEAST_DEPTH_RANGE: Final = 1.15  # far over near of the points, below which a shift cannot be told from a scale
_TUKEY: Final = 4.685  # 95 % efficient where errors are Gaussian
_SURE_WITHIN: Final = 0.002
_LEAST_DOUBT: Final = 0.005
"""Of a pair, as a share of the depth. To it come the triangulated point's uncertainty and what depth varies by around
the point: corners are where surfaces end, and a point that slides over one has its neighbour's depth."""


@dataclass(frozen=True)
class DepthPairs:
    """What depth source and cameras say of the same places. All (N,): frame index, 1/z of the source, 1/z of the
    cameras, weight; `tracks`: how many points they come from; `moved`: whether the camera left its place at all.
    """

    frame: NDArray[np.int64]
    source: Array
    world: Array
    weight: Array
    tracks: int
    moved: bool


@dataclass(frozen=True)
class Placement:
    """How a source's depth gets into the world of the poses.

    alignment: what was fitted; "none": the depth keeps its own scale, and `note` says why.
    agreement: typical difference between depth and cameras after the fit, as a share of the depth (robust sigma).
    before, after: the depth's flicker, None where it cannot be measured.
    """

    alignment: Literal["none", "scale", "affine"]
    scale: float
    shift: float
    agreement: float
    tracks: int
    before: Flicker | None
    after: Flicker | None
    note: str

    def apply(self, depth: NDArray[np.float32]) -> NDArray[np.float32]:
        """z (H,W) in the world's scale; the sky stays infinite, and so becomes what would lie beyond infinity."""
        if self.alignment == "none":
            return depth
        with np.errstate(divide="ignore", invalid="ignore"):
            inverse = self.scale / depth + self.shift
            placed = np.where(inverse > 0, 1.0 / inverse, np.inf)
            known = np.isfinite(depth) & (depth > 0)
        return np.where(known, placed, depth).astype(np.float32)


def collect_pairs(
    tracks: Iterable[Track], intrinsics: Array, camera_to_world: Array, long_side: int, *, seed: int = 0
) -> DepthPairs:
    """Triangulates tracks as they come and keeps a random few pairs a frame: memory of the frames' number only.

    Args:
        intrinsics: (F,3,3); camera_to_world: (F,4,4); long_side: of the plate in pixels.
    """
    count = len(camera_to_world)
    random = np.random.default_rng(seed)
    kept = np.zeros((count, KEPT_A_FRAME, 3), np.float32)
    offered = np.zeros(count, np.int64)
    used = 0
    centres = camera_to_world[:, :3, 3]
    moved = bool(np.linalg.norm(centres - centres[0], axis=1).max() > 0)
    for track in tracks if moved else ():
        known = np.flatnonzero(np.isfinite(track.inverse_depth))
        if len(known) < SHORTEST:
            continue
        frames = track.first + np.arange(len(track.positions))
        found = triangulate(track.positions, intrinsics[frames], camera_to_world[frames], long_side)
        if found is None or found.uncertainty > MOST_UNCERTAIN:
            continue
        used += 1
        frames = frames[known]
        # a reservoir a frame: every pair has the same chance to stay
        slot = np.where(offered[frames] < KEPT_A_FRAME, offered[frames], random.integers(0, offered[frames] + 1))
        offered[frames] += 1
        stays = slot < KEPT_A_FRAME
        weight = 1.0 / (found.uncertainty**2 + track.spread[known] ** 2 + _LEAST_DOUBT**2)
        values = np.c_[track.inverse_depth[known], 1.0 / found.depth[known], weight]
        kept[frames[stays], slot[stays]] = values[stays]
    frame, place = np.nonzero(kept[..., 2] > 0)
    pairs = kept[frame, place].astype(np.float64)
    return DepthPairs(frame, pairs[:, 0], pairs[:, 1], pairs[:, 2], used, moved)


def fit_placement(pairs: DepthPairs, alignment: Alignment, *, seed: int = 0) -> Placement:
    """The one scale and shift for the shot, by random pairs and then Tukey's biweight on the relative error.

    Args:
        alignment: what is unknown of the source's 1/z: "scale" a factor, "affine" a factor and a shift.
    """
    if not pairs.moved:
        return _kept("The source camera does not leave its place: the depth keeps its own scale.", pairs)
    if pairs.tracks < LEAST_TRACKS or len(pairs.frame) < LEAST_PAIRS:
        return _kept(
            f"The source camera's path shows too little parallax ({pairs.tracks} points): "
            "the depth keeps its own scale.",
            pairs,
        )
    low, high = np.quantile(pairs.source, [0.05, 0.95])
    fitted: Alignment = "affine" if alignment == "affine" and high > LEAST_DEPTH_RANGE * low else "scale"
    scale, shift = _best_guess(pairs, fitted, np.random.default_rng(seed))
    scale, shift, agreement = _refined(pairs, fitted, scale, shift)
    if not (math.isfinite(scale) and math.isfinite(shift) and scale > 0):
        return _kept("The depth and the cameras contradict each other: the depth keeps its own scale.", pairs)
    aligned = scale * pairs.source + shift
    before = measure_flicker(pairs.frame, pairs.source, pairs.world)
    after = measure_flicker(pairs.frame, aligned, pairs.world)
    said = f"one scale of {1 / scale:.4g}" + (f" and a shift of {shift:.3g} in inverse depth" if shift else "")
    note = f"The depth is placed by {pairs.tracks} points with {said}; it agrees with the cameras to {agreement:.1%}."
    if agreement > 0.15:
        note += " That is poor: are the poses of this clip, and is the lens right?"
    return Placement(fitted, scale, shift, agreement, pairs.tracks, before, after, note)


def _kept(note: str, pairs: DepthPairs) -> Placement:
    return Placement("none", 1.0, 0.0, 0.0, pairs.tracks, None, None, note)


def _best_guess(pairs: DepthPairs, alignment: Alignment, random: np.random.Generator) -> tuple[float, float]:
    """The candidate, drawn from two pairs, with the smallest median error."""
    if alignment == "scale":
        return float(np.median(pairs.world / pairs.source)), 0.0
    some = random.choice(len(pairs.frame), size=min(4000, len(pairs.frame)), replace=False)
    source, world = pairs.source[some], pairs.world[some]
    best, least = (float(np.median(world / source)), 0.0), np.inf
    for one, two in random.integers(0, len(some), (300, 2)):
        run = source[two] - source[one]
        if abs(run) < 0.05 * max(source[one], source[two]):
            continue
        scale = (world[two] - world[one]) / run
        if scale <= 0:
            continue
        shift = world[one] - scale * source[one]
        error = float(np.median(np.abs((scale * source + shift) / world - 1)))
        if error < least:
            best, least = (float(scale), float(shift)), error
    return best


def _refined(pairs: DepthPairs, alignment: Alignment, scale: float, shift: float) -> tuple[float, float, float]:
    """Iteratively reweighted least squares on the relative error; returns its robust sigma too."""
    # divided by what is wanted, the error is relative: near and far count alike
    terms = np.c_[pairs.source / pairs.world, 1.0 / pairs.world]
    terms = terms if alignment == "affine" else terms[:, :1]
    answer = np.array([scale, shift])[: terms.shape[1]]
    sigma = _SURE_WITHIN
    for _ in range(30):
        error = terms @ answer - 1.0
        sigma = max(_SURE_WITHIN, 1.4826 * _weighted_median(np.abs(error), pairs.weight))
        inside = np.clip(1.0 - (error / (_TUKEY * sigma)) ** 2, 0.0, None)
        root = np.sqrt(pairs.weight) * inside
        answer, *_ = np.linalg.lstsq(terms * root[:, None], root, rcond=None)
    error = terms @ answer - 1.0
    sigma = 1.4826 * float(np.median(np.abs(error)))
    return float(answer[0]), float(answer[1]) if len(answer) == 2 else 0.0, sigma


def _weighted_median(values: Array, weights: Array) -> float:
    """The value below which half of all weight lies."""
    order = np.argsort(values)
    reached = np.cumsum(weights[order])
    return float(values[order][np.searchsorted(reached, reached[-1] / 2)])
