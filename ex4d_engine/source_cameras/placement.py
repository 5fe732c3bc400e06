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
from .triangulation import NOISE_SHARE, triangulate

Array = NDArray[np.float64]
Alignment = Literal["scale", "affine"]
KEPT_A_FRAME: Final = 128  # pairs; a few kilobytes a frame, however many points were followed
LEAST_TRACKS, LEAST_PAIRS = 15, 60
SURE_WITHIN: Final = 0.08  # of a triangulated depth; a point of more has too little parallax to say that there is any
LEAST_DEPTH_RANGE: Final = 1.15  # far over near of the points, below which a shift cannot be told from a scale
_FEW_SHARE, _FEW_PAIRS = 0.02, 3  # nearest and farthest pairs that range does without
_MUCH_BETTER: Final = 0.5  # times the disagreement that a scale alone leaves
_TUKEY: Final = 4.685  # 95 % efficient where errors are Gaussian
_LEAST_DOUBT: Final = 0.005
"""Of the depth, as a share of it. Found to be more where depth and cameras differ by more than tracking explains."""
_MOST_DOUBT: Final = 1.0
_CERTAIN: Final = 0.02  # what a source doubts where it says that it is sure
LEAST_NOISE: Final = 0.1  # of a tracked point, as a share of what is expected of one
_USUAL_TRACK: Final = 6  # numbers: what the noise of all tracks counts beside what one track says of its own
_GUESSES, _GUESSED_FROM = 300, 4000
_GUESSED_WITHIN: Final = 0.05  # of the depth: pairs that are surer than that are drawn alike


@dataclass(frozen=True)
class DepthPairs:
    """What depth source and cameras say of the same places. All (N,):

    frame: index; source: 1/z of the source; world: 1/z of the cameras, which noise can bring below 0;
    world_error: standard deviation of `world`; spread: by which share the source's depth is uneven around the point;
    confidence: of the source, 0…1, 1 where it gives none.
    tracks: how many points have parallax enough to be sure of; moved: whether the camera left its place at all.
    """

    frame: NDArray[np.int64]
    source: Array
    world: Array
    world_error: Array
    spread: Array
    confidence: Array
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

    None is left out for being uncertain: of points with little parallax those would stay whose noise brings them near.

    Args:
        intrinsics: (F,3,3); camera_to_world: (F,4,4); long_side: of the plate in pixels.
    """
    count = len(camera_to_world)
    random = np.random.default_rng(seed)
    kept = np.zeros((count, KEPT_A_FRAME, 7), np.float32)
    offered = np.zeros(count, np.int64)
    noise, sure = NOISE_SHARE * long_side, 0
    centres = camera_to_world[:, :3, 3]
    moved = bool(np.linalg.norm(centres - centres[0], axis=1).max() > 0)
    for track in tracks if moved else ():
        known = np.flatnonzero(np.isfinite(track.inverse_depth))
        if len(known) < SHORTEST:
            continue
        length = len(track.positions)
        frames = track.first + np.arange(length)
        found = triangulate(track.positions, intrinsics[frames], camera_to_world[frames], long_side)
        if found is None:
            continue
        sure += bool(np.median(found.error_per_pixel * noise - SURE_WITHIN * np.abs(found.inverse_depth)) < 0)
        frames = frames[known]
        # a reservoir a frame: every pair has the same chance to stay
        slot = np.where(offered[frames] < KEPT_A_FRAME, offered[frames], random.integers(0, offered[frames] + 1))
        offered[frames] += 1
        stays = slot < KEPT_A_FRAME
        values = np.c_[
            track.inverse_depth[known], found.inverse_depth[known], found.error_per_pixel[known], track.spread[known],
            track.confidence[known], np.tile((found.squared_misses, length), (len(known), 1)),
        ]  # fmt: skip
        kept[frames[stays], slot[stays]] = values[stays]
    frame, place = np.nonzero(kept[..., 6] > 0)
    source, world, error, spread, confidence, squared, length = kept[frame, place].T.astype(np.float64)
    error *= _track_noise(squared, length, LEAST_NOISE * noise)
    return DepthPairs(frame, source, world, error, spread, confidence, sure, moved)


def _track_noise(squared: Array, length: Array, least: float) -> Array:
    """(N,) standard deviation in pixels of the images of tracks, as far as it does not average out along them.

    What misses its place by chance in each frame would count less the longer a track is. What is followed from frame
    to frame slips instead, and stays slipped: a longer track, in the same parallax, is no better.

    Args:
        squared: (N,) px² that a track misses by; length: (N,) its frames; least: px.
    """
    free = 2 * length - 3
    usual = max(least**2, float(np.median(squared / free))) if len(squared) else least**2
    variance = (_USUAL_TRACK * usual + squared) / (_USUAL_TRACK + free)
    return np.asarray(np.sqrt(np.maximum(variance, least**2) * length))


def fit_placement(pairs: DepthPairs, alignment: Alignment, *, seed: int = 0) -> Placement:
    """The one scale and shift for the shot, by random pairs and then Tukey's biweight on the error.

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
    fitted, (scale, shift, agreement) = _fitted(pairs, alignment, seed)
    if not (math.isfinite(scale) and math.isfinite(shift) and scale > 0):
        return _kept("The depth and the cameras contradict each other: the depth keeps its own scale.", pairs)
    aligned = scale * pairs.source + shift
    sure = pairs.world_error < SURE_WITHIN * aligned
    before = measure_flicker(pairs.frame[sure], pairs.source[sure], pairs.world[sure])
    after = measure_flicker(pairs.frame[sure], aligned[sure], pairs.world[sure])
    said = f"one scale of {1 / scale:.4g}" + (f" and a shift of {shift:.3g} in inverse depth" if shift else "")
    note = f"The depth is placed by {pairs.tracks} points with {said}; it agrees with the cameras to {agreement:.1%}."
    if agreement > 0.15:
        note += " That is poor: are the poses of this clip, and is the lens right?"
    return Placement(fitted, scale, shift, agreement, pairs.tracks, before, after, note)


def _kept(note: str, pairs: DepthPairs) -> Placement:
    return Placement("none", 1.0, 0.0, 0.0, pairs.tracks, None, None, note)


def _fitted(pairs: DepthPairs, alignment: Alignment, seed: int) -> tuple[Alignment, tuple[float, float, float]]:
    """What could be fitted, and its scale, shift and agreement."""

    def fit(what: Alignment) -> tuple[float, float, float]:
        return _refined(pairs, what, *_best_guess(pairs, what, np.random.default_rng(seed)))

    few = max(_FEW_PAIRS / len(pairs.frame), _FEW_SHARE)
    low, high = np.quantile(pairs.source, [few, 1 - few])
    if alignment == "affine":
        affine = fit("affine")
        # of a source that hardly varies most may be shift; then without one nothing agrees
        if high > LEAST_DEPTH_RANGE * low or affine[2] < _MUCH_BETTER * fit("scale")[2]:
            return "affine", affine
    return "scale", fit("scale")


def _best_guess(pairs: DepthPairs, alignment: Alignment, random: np.random.Generator) -> tuple[float, float]:
    """The candidate, drawn from two pairs, with the smallest median error."""
    relative = np.abs(pairs.world_error / np.where(pairs.world > 0, pairs.world, np.nan))
    says = 1.0 / (np.nan_to_num(relative, nan=np.inf) ** 2 + pairs.spread**2 + (_GUESSED_WITHIN * _doubt(pairs)) ** 2)
    if not says.any():
        return math.nan, 0.0
    ratio = np.where(says > 0, pairs.world / pairs.source, 0.0)
    best, least = (_weighted_median(ratio, says), 0.0), np.inf
    if alignment == "scale":
        return best
    some = random.choice(len(says), size=min(_GUESSED_FROM, int((says > 0).sum())), replace=False, p=says / says.sum())
    source, world = pairs.source[some], pairs.world[some]
    varies = 0.25 * float(np.ptp(np.quantile(source, [0.05, 0.95])))
    for one, two in random.integers(0, len(some), (_GUESSES, 2)):
        run = source[two] - source[one]
        if abs(run) < min(0.05 * max(source[one], source[two]), varies):
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
    """Iteratively reweighted least squares on 1/z; returns the robust sigma of the relative error too.

    What a pair counts follows from the depth that is fitted to it, never from the one that was measured: of two points
    the one that noise brings nearer would seem the surer, and the fit would come nearer with it.
    """
    terms = np.c_[pairs.source, np.ones_like(pairs.source)][:, : 2 if alignment == "affine" else 1]
    answer = np.array([scale, shift])[: terms.shape[1]]
    doubt = _doubt(pairs)
    for _ in range(30):
        fitted = terms @ answer
        error, size = fitted - pairs.world, np.abs(fitted)
        known = pairs.world_error**2 + (pairs.spread * size) ** 2
        share = _common_doubt(error, known, doubt * size)
        sigma = np.sqrt(known + (share * doubt * size) ** 2)
        root = np.clip(1.0 - (error / (_TUKEY * sigma)) ** 2, 0.0, None) / np.maximum(sigma, 1e-300)
        answer, *_ = np.linalg.lstsq(terms * root[:, None], pairs.world * root, rcond=None)
    fitted = terms @ answer
    relative = np.abs(pairs.world / np.where(fitted > 0, fitted, np.nan) - 1.0)
    agreement = 1.4826 * _weighted_median(np.nan_to_num(relative, nan=np.inf), (fitted / sigma) ** 2)
    return float(answer[0]), float(answer[1]) if len(answer) == 2 else 0.0, agreement


def _doubt(pairs: DepthPairs) -> Array:
    """(N,) what the source doubts of its depth, 1 being usual: its error grows as its confidence falls short of 1."""
    doubt = 1.0 - np.clip(np.nan_to_num(pairs.confidence), 0.0, 1.0) + _CERTAIN
    return np.asarray(doubt / np.median(doubt))


def _common_doubt(error: Array, known: Array, doubt: Array) -> float:
    """The share of the depth that a usual doubt must stand for, so that errors are as large as they are.

    Args:
        error: (N,) differences; known: (N,) their variance by what is known; doubt: (N,) standard deviation a share.
    """

    def typical(share: float) -> float:
        return 1.4826 * float(np.median(np.abs(error) / np.sqrt(known + (share * doubt) ** 2)))

    low, high = _LEAST_DOUBT, _MOST_DOUBT
    if typical(low) <= 1:
        return low
    for _ in range(20):
        middle = math.sqrt(low * high)
        low, high = (middle, high) if typical(middle) > 1 else (low, middle)
    return high


def _weighted_median(values: Array, weights: Array) -> float:
    """The value below which half of all weight lies."""
    order = np.argsort(values)
    reached = np.cumsum(weights[order])
    return float(values[order][np.searchsorted(reached, reached[-1] / 2)])
