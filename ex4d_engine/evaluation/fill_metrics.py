# SPDX-License-Identifier: GPL-3.0-or-later
"""How well a fill of what the source camera never saw agrees with what was really there.

Frames are compared with the true pictures from the same camera, within four regions: the holes of the DW-Mesh's
conditioning, which are the same for every way to fill them; the part of these that the source really did not see at
that moment; the whole frame; and what that conditioning knows and the source really saw, which checks the comparison
itself. Other conditionings than the DW-Mesh's show a part of its holes, so only the second region is new to all. Sums
are kept for each frame, so that any choice of frames gives exact figures afterwards. numpy and OpenCV only.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final

import cv2
import numpy as np
from numpy.typing import NDArray

REGIONS: Final = ("hole", "whole", "known", "unseen")
FIGURES: Final = ("psnr", "ssim", "gradient", "flicker")
"""Masked PSNR in dB; masked SSIM; the gradient distance, 0 … 2; and flicker in grey levels of 255."""

SSIM_SIGMA: Final = 1.5  # pixels, and 11 pixels wide: the usual window
SSIM_C1, SSIM_C2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2
SCALES: Final = 4  # of the gradient distance: steps over 1, 2, 4 and 8 pixels
LEAST_PIXELS: Final = 64  # fewer in all frames together say nothing about a region

Frames = NDArray[np.uint8]
Plane = NDArray[np.float32]


@dataclass(frozen=True)
class FillScores:
    """Sums over the pixels of each region of each frame, (len(REGIONS), F) float64 each.

    Attributes:
        pixels: how many there are.
        squares: of differences, mean of the channels, in grey levels.
        ssim: values of the SSIM map.
        gradient_off, gradient_all: squares of gradients' differences and of gradients, see `gradient_sums`.
        pairs: pixels that are in the region in the frame before as well; none in the first frame.
        flicker: over these, how differently fill and truth change since that frame, in grey levels. A fill that
            never changes gets what the truth changes by, so it is to be read beside the other figures.
    """

    pixels: NDArray[np.float64]
    squares: NDArray[np.float64]
    ssim: NDArray[np.float64]
    gradient_off: NDArray[np.float64]
    gradient_all: NDArray[np.float64]
    pairs: NDArray[np.float64]
    flicker: NDArray[np.float64]

    def figures(self, region: str, frames: NDArray[np.bool_] | None = None) -> dict[str, float]:
        """FIGURES over all pixels of a region in some frames, (F,) bool; NaN for too few pixels.

        A fill that equals the truth has infinite PSNR.
        """
        row = REGIONS.index(region)
        chosen = slice(None) if frames is None else frames

        def total(sums: NDArray[np.float64]) -> float:
            return float(sums[row][chosen].sum())

        pixels, pairs, gradients = total(self.pixels), total(self.pairs), total(self.gradient_all)
        if pixels < LEAST_PIXELS:
            return dict.fromkeys(FIGURES, math.nan)
        mean_square = total(self.squares) / pixels
        return {
            "psnr": 10 * math.log10(255**2 / mean_square) if mean_square else math.inf,
            "ssim": total(self.ssim) / pixels,
            "gradient": total(self.gradient_off) / gradients if gradients else 0.0,
            "flicker": total(self.flicker) / pairs if pairs >= LEAST_PIXELS else math.nan,
        }

    def share(self, region: str, of: str) -> float:
        """How large a region is beside another one, over all frames; NaN beside none."""
        part, whole = (float(self.pixels[REGIONS.index(name)].sum()) for name in (region, of))
        return part / whole if whole else math.nan


def fill_scores(
    filled: Frames, truth: Frames, holes: NDArray[np.bool_], visible: NDArray[np.bool_] | None = None
) -> FillScores:
    """Scores of a filled clip.

    Args:
        filled, truth: (F,H,W,3) uint8 sRGB.
        holes: (F,H,W) bool, what the DW-Mesh's conditioning does not know.
        visible: (F,H,W) bool, what the source camera sees of the truth: the rest is not `known`, whatever the
            conditioning shows there, and holes elsewhere are not `unseen`. By default it sees what is no hole.

    Raises:
        ValueError: shapes that do not fit each other.
    """
    if filled.shape != truth.shape or filled.shape[:3] != holes.shape:
        raise ValueError(f"a fill {filled.shape}, a truth {truth.shape} and holes {holes.shape} are not of one clip")
    sums = np.zeros((7, len(REGIONS), len(filled)))
    visible = ~holes if visible is None else visible
    regions_of = np.stack([holes, np.ones_like(holes), ~holes & visible, holes & ~visible], axis=1)
    before: tuple[Plane, NDArray[np.bool_]] | None = None
    for index, (ours, theirs, regions) in enumerate(zip(filled, truth, regions_of, strict=True)):
        a, b = ours.astype(np.float32), theirs.astype(np.float32)
        square, similar = ((a - b) ** 2).mean(axis=2), ssim_map(a, b)
        sums[0, :, index] = regions.sum(axis=(1, 2))
        sums[1, :, index] = (regions * square).sum(axis=(1, 2), dtype=np.float64)
        sums[2, :, index] = (regions * similar).sum(axis=(1, 2), dtype=np.float64)
        sums[3:5, :, index] = gradient_sums(a, b, regions)
        if before is not None:
            shared = regions & before[1]
            change = np.abs((a - b) - before[0]).mean(axis=2)
            sums[5, :, index] = shared.sum(axis=(1, 2))
            sums[6, :, index] = (shared * change).sum(axis=(1, 2), dtype=np.float64)
        before = a - b, regions
    return FillScores(*sums)


def ssim_map(one: Plane, other: Plane) -> Plane:
    """(H,W) structural similarity (Wang et al. 2004) of images (H,W,3) in grey levels, mean of the channels.

    A Gaussian window of σ = 1.5 pixels; the picture is reflected at its border, so that the map has its size.
    """

    def blurred(image: Plane) -> Plane:
        return np.asarray(cv2.GaussianBlur(image, (11, 11), SSIM_SIGMA), np.float32)

    mean_a, mean_b = blurred(one), blurred(other)
    spread_a = blurred(one * one) - mean_a**2
    spread_b = blurred(other * other) - mean_b**2
    shared = blurred(one * other) - mean_a * mean_b
    similar = ((2 * mean_a * mean_b + SSIM_C1) * (2 * shared + SSIM_C2)) / (
        (mean_a**2 + mean_b**2 + SSIM_C1) * (spread_a + spread_b + SSIM_C2)
    )
    return np.asarray(similar.mean(axis=2), np.float32)


def gradient_sums(one: Plane, other: Plane, regions: NDArray[np.bool_]) -> NDArray[np.float64]:
    """The two sums whose ratio is the multi-scale gradient distance of images (H,W,3) within regions (R,H,W): (2,R).

    Σ (∇a − ∇b)² / Σ ((∇a)² + (∇b)²), where ∇ is the step to the right and the lower neighbour, each channel by
    itself, over SCALES pictures of which each is half the one before, by the mean of four pixels. A coarse pixel
    counts as much as the fine ones it is the mean of, and by the share of them that the region holds.

    0 is the same structure, 1 is nothing in common: an even fill where there is texture, or as much texture at other
    places; what goes against the truth comes to 2. So, unlike the squared error, it neither likes blur nor texture
    for its own sake. Brightness as such does not count.
    """
    sums = np.zeros((2, len(regions)))
    weights = [region.astype(np.float32) for region in regions]
    for scale in range(SCALES):
        if scale:
            size = (max(1, one.shape[1] // 2), max(1, one.shape[0] // 2))
            one, other, *weights = (
                np.asarray(cv2.resize(image, size, interpolation=cv2.INTER_AREA), np.float32)
                for image in (one, other, *weights)
            )
        for axis in (0, 1):
            step, true = np.diff(one, axis=axis), np.diff(other, axis=axis)
            off = ((step - true) ** 2).sum(axis=2)
            everything = (step**2).sum(axis=2) + (true**2).sum(axis=2)
            for number, weight in enumerate(weights):
                # a step counts where both its pixels do, as far as they do
                first, second = (weight[:-1], weight[1:]) if axis == 0 else (weight[:, :-1], weight[:, 1:])
                both = np.minimum(first, second)
                sums[:, number] += [4.0**scale * float(np.vdot(both, part)) for part in (off, everything)]
    return sums
