# SPDX-License-Identifier: GPL-3.0-or-later
"""A frame cut into regions of one colour: watershed basins, merged where no edge keeps them apart."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float32]
Labels = npt.NDArray[np.intp]


@dataclass(frozen=True)
class Regions:
    """labels: (h, w) intp, 0…count−1 without gaps."""

    labels: Labels
    count: int

    def mean(self, values: Array, weight: Array | None = None) -> Array:
        """Weighted mean of (h, w) or (h, w, C) values in each region: (count,) or (count, C)."""
        flat = self.labels.ravel()
        w = np.ones(flat.size) if weight is None else weight.ravel()
        total = np.maximum(np.bincount(flat, w, self.count), 1e-9)
        channels = values.reshape(flat.size, -1)
        means = [np.bincount(flat, w * channels[:, c], self.count) / total for c in range(channels.shape[1])]
        return np.stack(means, axis=1).reshape(self.count, *values.shape[2:]).astype(np.float32)

    def area(self) -> npt.NDArray[np.int64]:
        return np.bincount(self.labels.ravel(), minlength=self.count)

    def occupied(self) -> tuple[npt.NDArray[np.bool_], npt.NDArray[np.bool_]]:
        """Which rows (count, h) and which columns (count, w) each region has pixels in."""
        h, w = self.labels.shape
        rows, columns = np.zeros((self.count, h), bool), np.zeros((self.count, w), bool)
        rows[self.labels, np.arange(h)[:, None]] = True
        columns[self.labels, np.arange(w)[None, :]] = True
        return rows, columns

    def inside(self) -> Array:
        """(h, w) weight: 1 away from borders, next to nothing on them (a region may be all border)."""
        borders = cv2.morphologyEx(self.labels.astype(np.float32), cv2.MORPH_GRADIENT, np.ones((5, 5), np.uint8)) > 0
        return np.where(borders, 1e-3, 1.0).astype(np.float32)

    def smoothed(self, values: Array, lab: Array, contrast: float, fixed: npt.NDArray[np.bool_] | None = None) -> Array:
        """Values (count,), but for `fixed` ones, drawn towards like-coloured neighbours', small regions the most.

        The minimum of Σ area (x − value)² + Σ border (x − x')², borders weighted by likeness of colour.
        """
        area, mean = self.area().astype(np.float64), self.mean(lab)
        pairs, _, length = borders(self.labels, np.zeros(self.labels.shape, np.float32))
        distance = np.linalg.norm(mean[pairs[:, 0]] - mean[pairs[:, 1]], axis=1)
        # A border as long as a region is wide binds it as firmly as its own value.
        bond = length * np.sqrt(self.labels.size) * 0.2 * (np.exp(-((distance / (2 * contrast)) ** 2)) + 0.01)
        if fixed is not None:
            bond *= ~(fixed[pairs[:, 0]] | fixed[pairs[:, 1]])
        i, j = pairs.T
        system = np.zeros((self.count, self.count))
        system[i, j] = system[j, i] = -bond
        system[np.diag_indices(self.count)] = area - system.sum(1)
        return np.linalg.solve(system, area * values).astype(np.float32)


def segment(lab: Array, contrast: float, apart: Array | None = None) -> Regions:
    """Regions of a small, denoised frame.

    Args:
        lab: (h, w, 3) float32 CIE Lab.
        contrast: the colour distance (ΔE) across which nothing is merged.
        apart: (h, w, C) float32, further values in ΔE units in which merged regions must agree (movement, depth of
            the last frame). Too soft to draw borders, they still tell that a border is one.
    """
    values = lab if apart is None else np.dstack([lab, apart])
    gradient = np.sqrt((cv2.Sobel(lab, cv2.CV_32F, 1, 0) ** 2 + cv2.Sobel(lab, cv2.CV_32F, 0, 1) ** 2).sum(2)) / 8
    labels = _basins(gradient)
    for step in (0.4, 0.7, 1.0):
        labels = _merge(labels, values, gradient, contrast * step)
    return Regions(labels, int(labels.max()) + 1)


def _basins(gradient: Array) -> Labels:
    """Watershed from the flat places of the gradient."""
    # OpenCV's watershed spoils a frame of one pixel.
    g = cv2.copyMakeBorder(cv2.GaussianBlur(gradient, (0, 0), 1.0), 1, 1, 1, 1, cv2.BORDER_REPLICATE)
    minima = (g <= cv2.erode(g, np.ones((7, 7), np.uint8)) + 1e-6) | (g < 0.6)
    _, markers = cv2.connectedComponents(minima.astype(np.uint8), connectivity=4)
    height = np.clip(g * 8, 0, 255).astype(np.uint8)
    labels = cv2.watershed(np.dstack([height] * 3), markers.astype(np.int32))[1:-1, 1:-1]
    # Watershed lines (−1) go to the largest neighbouring label.
    while (labels <= 0).any():
        grown = cv2.dilate(labels.astype(np.float32), np.ones((3, 3), np.uint8)).astype(np.int32)
        labels = np.where(labels <= 0, grown, labels)
    return _compact(labels)


def _merge(labels: Labels, values: Array, gradient: Array, contrast: float) -> Labels:
    """Joins neighbours, most alike first, while their means and their common border differ by less than contrast."""
    regions = Regions(labels, int(labels.max()) + 1)
    mean, area = regions.mean(values).astype(np.float64), regions.area().astype(np.float64)
    pairs, border, _ = borders(labels, gradient)
    cost = np.linalg.norm(mean[pairs[:, 0]] - mean[pairs[:, 1]], axis=1) + border
    parent = np.arange(regions.count)

    def root(i: int) -> int:
        while parent[i] != i:
            parent[i] = parent[parent[i]]
            i = int(parent[i])
        return i

    small = 0.001 * labels.size
    for k in np.argsort(cost):
        a, b = root(pairs[k, 0]), root(pairs[k, 1])
        if a == b:
            continue
        tolerance = contrast * (2.5 if min(area[a], area[b]) < small else 1.0)
        if np.linalg.norm(mean[a] - mean[b]) + border[k] < tolerance:
            mean[a] = (mean[a] * area[a] + mean[b] * area[b]) / (area[a] + area[b])
            area[a] += area[b]
            parent[b] = a
    return _compact(np.array([root(i) for i in range(regions.count)])[labels])


def borders(
    labels: Labels, gradient: Array
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float64], npt.NDArray[np.int64]]:
    """Neighbouring labels (P, 2), the mean gradient along each common border (P,), and its length in pixels (P,)."""
    count = int(labels.max()) + 1
    codes, strengths = [], []
    for a, b, ga, gb in (
        (labels[:, :-1], labels[:, 1:], gradient[:, :-1], gradient[:, 1:]),
        (labels[:-1], labels[1:], gradient[:-1], gradient[1:]),
    ):
        apart = a != b
        low, high = np.minimum(a, b)[apart].astype(np.int64), np.maximum(a, b)[apart]
        codes.append(low * count + high)
        strengths.append(np.maximum(ga, gb)[apart])
    unique, inverse, length = np.unique(np.concatenate(codes), return_inverse=True, return_counts=True)
    total = np.bincount(inverse, np.concatenate(strengths))
    return np.stack([unique // count, unique % count], axis=1), total / length, length


def _compact(labels: npt.NDArray[np.integer]) -> Labels:
    used = np.bincount(labels.ravel()) > 0
    return (np.cumsum(used) - 1)[labels]
