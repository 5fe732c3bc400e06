# SPDX-License-Identifier: GPL-3.0-or-later
"""What masks are like: how much is missing, how ragged it is, how steady; and the true masks to compare with."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

from .visibility import visible_pixels

SKY_DEPTHS = 1e5  # times the median depth: no camera path shifts what is this far by a pixel


def true_masks(
    target_depth: NDArray[np.float32],
    source_depth: NDArray[np.float32],
    intrinsics: NDArray[np.float64],
    target_to_source: NDArray[np.float64],
) -> NDArray[np.uint8]:
    """What a new camera sees of a known scene and the source camera sees too.

    Args:
        target_depth, source_depth: (F,H,W) float32 z of what each camera sees at the same moments, inf for sky.
        intrinsics: (3,3) of both.
        target_to_source: (F,4,4) from the new camera's space to the source camera's.

    Returns:
        (F,H,W) uint8 in the new camera's pixels: 255 where the source camera saw the point, 0 where it was hidden
        from it or outside its picture.
    """
    keep = np.zeros(target_depth.shape, np.uint8)
    for index, (target, source) in enumerate(zip(target_depth, source_depth, strict=True)):
        finite = np.concatenate([target[np.isfinite(target)], source[np.isfinite(source)]])
        sky = np.float32(SKY_DEPTHS * (np.median(finite) if finite.size else 1.0))
        target, source = (np.where(np.isfinite(depth), depth, sky).astype(np.float32) for depth in (target, source))
        keep[index][visible_pixels(target, intrinsics, target_to_source[index], intrinsics, source)] = 255
    return keep


def hole_shares(keep: NDArray[np.uint8]) -> NDArray[np.float64]:
    """(F,) the share of each frame that is missing."""
    return np.mean(keep == 0, axis=(1, 2))


def boundary_lengths(keep: NDArray[np.uint8]) -> NDArray[np.float64]:
    """(F,) how long the outline of the holes is: pixel sides between missing and kept, as a share of 2 (H + W).

    The picture's own border is not counted. 1 is an outline as long as the picture's.
    """
    holes = keep == 0
    sides = (holes[:, 1:] != holes[:, :-1]).sum(axis=(1, 2)) + (holes[:, :, 1:] != holes[:, :, :-1]).sum(axis=(1, 2))
    return sides / (2.0 * sum(keep.shape[1:]))


def coherence(keep: NDArray[np.uint8], flow: NDArray[np.float32] | None = None) -> NDArray[np.float64]:
    """(F−1,) intersection over union of the holes of neighbouring frames; NaN where neither has any.

    Args:
        flow: (F−1,H,W,2) pixels, from each frame but the first back to the one before it: the earlier holes are
            moved along before they are compared. Left out, they are compared in place.
    """
    holes = keep == 0
    frames, height, width = holes.shape
    result = np.full(frames - 1, np.nan)
    grid = np.stack(np.meshgrid(np.arange(width), np.arange(height)), axis=-1).astype(np.float32)
    for index in range(frames - 1):
        before, after = holes[index], holes[index + 1]
        if flow is not None:
            places = grid + flow[index].astype(np.float32)
            before = cv2.remap(before.astype(np.uint8), places, None, cv2.INTER_NEAREST) > 0
        union = np.count_nonzero(before | after)
        if union:
            result[index] = np.count_nonzero(before & after) / union
    return result


def mean_by_angle(
    angles_deg: NDArray[np.float64], values: NDArray[np.float64], edges_deg: NDArray[np.float64]
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """How many values fall between neighbouring edges (N+1,), and their means (N,), NaN where there are none."""
    bins = np.digitize(angles_deg, edges_deg) - 1
    within = (bins >= 0) & (bins < len(edges_deg) - 1) & np.isfinite(values)
    counts = np.bincount(bins[within], minlength=len(edges_deg) - 1)
    sums = np.bincount(bins[within], values[within], minlength=len(edges_deg) - 1)
    return counts, np.where(counts > 0, sums / np.maximum(counts, 1), np.nan)
