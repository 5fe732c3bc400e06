# SPDX-License-Identifier: GPL-3.0-or-later
"""What the look and the movement of a frame's regions say about their depth; one function a cue.

Everything is inverse z, (h, w) or one value a region: linear in the picture on every plane in space,
and what both parallax and perspective speak about.
"""

from __future__ import annotations

from typing import Final

import cv2
import numpy as np
import numpy.typing as npt

from .regions import Regions, borders

Array = npt.NDArray[np.float32]
Image = npt.NDArray[np.uint8]
Mask = npt.NDArray[np.bool_]

NEAR, FAR, SKY = 1 / 2.0, 1 / 14.0, 1 / 60.0
"""Inverse z of the near and the far end of the cues, and of the sky, in scene units. Nothing in a
single view says how large a scene is; these make a walkable one."""

_SLOPE: Final = 0.03
_BEST: Final = 4000.0
"""Standard error of the slope of inverse depth across a standing thing; the information beyond which the flow's common
errors rule."""


def focus(image: Image, regions: Regions) -> tuple[Array, Array]:
    """How much in focus each region is (count,), and the sharpness ratios (N,) along strong borders.

    Both rest on what a slight blur does to the gradient: much to a crisp edge (ratio above 2), nothing to a
    blurred one (ratio 1). Borders are left out, for they belong to whichever side is in front.
    """
    small = regions.labels.shape[::-1]
    working = cv2.resize(image, (2 * small[0], 2 * small[1]), interpolation=cv2.INTER_AREA)
    fine = cv2.GaussianBlur(cv2.cvtColor(working, cv2.COLOR_RGB2GRAY).astype(np.float32), (0, 0), 0.7)
    soft = cv2.GaussianBlur(fine, (0, 0), 2.0)
    crisp, blurred = (
        cv2.magnitude(cv2.Sobel(g, cv2.CV_32F, 1, 0), cv2.Sobel(g, cv2.CV_32F, 0, 1)) / 8 for g in (fine, soft)
    )
    border = cv2.resize(1 - regions.inside(), (2 * small[0], 2 * small[1]), interpolation=cv2.INTER_NEAREST) > 0.5
    # Only on the ridge of an edge: beside it a crisp edge has no gradient of its own.
    ridge = border & (blurred > 1.0) & (blurred > 0.99 * cv2.dilate(blurred, np.ones((5, 5), np.uint8)))
    strong = ridge & (blurred > (np.percentile(blurred[ridge], 50) if ridge.any() else 0))
    ratios = (crisp[strong] + 0.3) / (blurred[strong] + 0.3)
    products = np.dstack([np.abs(fine - soft), crisp * crisp, crisp * blurred])
    detail, own, mixed = regions.mean(cv2.resize(products, small, interpolation=cv2.INTER_AREA), regions.inside()).T
    ratio = np.maximum((own + 0.05) / (mixed + 0.05) - 1, 0)
    return (ratio + 0.1) * np.log1p(3 * detail), ratios


def floor(ground: Mask, horizon: float, measured: Array, information: Array) -> tuple[Array, Array]:
    """(h, w) inverse depth of the ground, continued over the whole frame, and how far parallax tilts it from the guess.

    The guess: FAR at the horizon, NEAR at the bottom edge.

    Inverse depth is linear in the picture on every plane in space.
    """
    h, w = ground.shape
    y, x = np.mgrid[:h, :w].astype(np.float32)
    y, x = (y + 0.5) / h, (x + 0.5) / w - 0.5
    floor = FAR + (NEAR - FAR) * (y - horizon) / (1 - horizon)
    tilt = np.zeros_like(floor)
    if ground.any():
        basis = np.stack([np.ones_like(y), y - (1 + horizon) / 2, x], -1)[ground].astype(np.float64)
        missing, weight = (measured - floor)[ground], np.minimum(information[ground], 1e4) * 30 / ground.sum()
        plane = np.zeros(3)
        for _ in range(4):
            robust = weight / (1 + ((missing - basis @ plane) / 0.1) ** 2)
            system = (basis * robust[:, None]).T @ basis + np.diag(1 / np.array([0.1, 0.3, 0.1]) ** 2)
            plane = np.linalg.solve(system, (basis * robust[:, None]).T @ missing)
        tilt = (plane[0] + plane[1] * (y - (1 + horizon) / 2) + plane[2] * x).astype(np.float32)
    return np.clip(floor + tilt, FAR, 2 * NEAR).astype(np.float32), tilt


def on_floor(regions: Regions, floor: Array, measured: Array, information: Array) -> Mask:
    """(count,) regions that parallax shows to lie in the floor's plane."""
    weight = regions.inside() * np.minimum(information, _BEST)
    known = regions.mean(information) > 200
    off = np.sqrt(regions.mean((measured - floor) ** 2, weight))
    upright = np.sqrt(regions.mean((measured - regions.mean(measured, weight)[regions.labels]) ** 2, weight))
    return known & (off < 0.04) & (off < upright) & (regions.mean(floor) > 1.2 * FAR)


def movers(regions: Regions, own: Array) -> Mask:
    """(count,) regions that move by themselves, and plainly so beside the rest of the frame."""
    speed = regions.mean(own, regions.inside())
    return speed > 0.35 + 3 * float(np.median(own))


def with_movers(inverse_z: Array, moving: Mask, floor: Array) -> Array:
    """Each thing that moves, whatever its colours, put where its lowest point meets the floor."""
    whole = cv2.morphologyEx(moving.astype(np.uint8), cv2.MORPH_CLOSE, np.ones((5, 5), np.uint8))
    count, things, stats, _ = cv2.connectedComponentsWithStats(whole)
    result = inverse_z.copy()
    for thing in range(1, count):
        if stats[thing, cv2.CC_STAT_AREA] > 0.002 * whole.size:
            rows, columns = np.nonzero(things == thing)
            foot = rows >= np.percentile(rows, 97)
            result[rows, columns] = np.median(floor[rows[foot], columns[foot]])
    return result


def planes(regions: Regions, guess: Array, doubt: Array, measured: Array, information: Array) -> Array:
    """(h, w) inverse depth, a plane in each region: the guess (count,), corrected by what parallax measured there.

    doubt: (count,) standard error of the guess.
    """
    if not information.any():
        return guess[regions.labels]
    y, x = np.mgrid[: measured.shape[0], : measured.shape[1]].astype(np.float32)
    offset = np.dstack([x, y]) - regions.mean(np.dstack([x, y]))[regions.labels]
    extent = np.sqrt(regions.mean(offset**2)) + 1.0
    u, v = np.moveaxis(offset / extent[regions.labels], 2, 0)
    difference = measured - guess[regions.labels]
    # A region that disagrees wildly with where it stands moves by itself.
    weight = np.minimum(information, _BEST) / (1 + (difference / (1.5 * doubt[regions.labels])) ** 2) ** 2
    weight *= regions.inside()
    products = [np.ones_like(u), u, v, u * u, u * v, v * v, difference, u * difference, v * difference]
    sums = regions.mean(np.dstack(products) * weight[..., None]).astype(np.float64)
    system = sums[:, [0, 1, 2, 1, 3, 4, 2, 4, 5]].reshape(-1, 3, 3)
    loose = np.stack([doubt, np.full_like(doubt, _SLOPE), np.full_like(doubt, _SLOPE)], axis=1)
    system += np.eye(3) / loose[:, None, :] ** 2
    plane = np.linalg.solve(system, sums[:, 6:, None])[..., 0].astype(np.float32)
    level, along, down = (plane + guess[:, None] * np.eye(1, 3, dtype=np.float32))[regions.labels].transpose(2, 0, 1)
    return level + along * u + down * v


def sky(regions: Regions, lab: Array) -> Mask:
    """(count,) regions that reach the top edge, are bright, plain, and not warm."""
    labels = regions.labels
    h, w = labels.shape
    top = np.bincount(labels[:2].ravel(), minlength=regions.count) > 0.05 * w
    mean = regions.mean(lab)
    lightest = float(np.percentile(lab[..., 0], 97))
    texture = regions.mean(np.abs(cv2.Laplacian(lab[..., 0], cv2.CV_32F)))
    y = np.broadcast_to(np.arange(h, dtype=np.float32)[:, None] / h, (h, w))
    plain = (texture < 1.5) & (mean[:, 2] < 12)
    return top & (mean[:, 0] > max(45.0, 0.7 * lightest)) & plain & (regions.mean(y) < 0.45)


def standing(regions: Regions, ground: Mask, floor: Array) -> tuple[Array, Array]:
    """Guessed inverse depth (count,) and its standard error: a thing stands where it meets what is below it."""
    labels = regions.labels
    h = labels.shape[0]
    upper, lower = labels[:-1].ravel(), labels[1:].ravel()
    feet = np.flatnonzero(upper != lower)
    feet = feet[np.argsort(upper[feet], kind="stable")]
    upper, lower, touched = upper[feet], lower[feet], floor[1:].ravel()[feet]
    first = np.searchsorted(upper, np.arange(regions.count + 1))
    rows, columns = regions.occupied()
    bottom, width = h - 1 - np.argmax(rows[:, ::-1], axis=1), columns.sum(1)
    guess, doubt = np.full(regions.count, FAR, np.float32), np.full(regions.count, 0.1, np.float32)
    for r in np.argsort(-bottom):
        below, at = lower[first[r] : first[r + 1]], touched[first[r] : first[r + 1]]
        # What ends higher than the region itself is a hole in it or behind it, and carries nothing.
        bearing = (bottom[below] > bottom[r]) | ground[below]
        below, at = below[bearing], at[bearing]
        on_ground = at[ground[below]]
        end = np.median(floor[bottom[r]][labels[bottom[r]] == r])
        if bottom[r] >= h - 2 or not below.size:
            guess[r] = end
        elif on_ground.size > 0.15 * below.size:
            guess[r], doubt[r] = np.percentile(on_ground, 90), 0.04
        else:
            # Borne by what is below, or behind it with the foot hidden: the more of its width rests on one thing,
            # the likelier borne.
            shared = np.bincount(below)
            bearer = int(np.argmax(shared))
            guess[r] = end + min(1.0, shared[bearer] / width[r]) * (guess[bearer] - end)
    return guess, doubt


def ground(regions: Regions, lab: Array, sky: Mask, horizon: float) -> Mask:
    """(count,) regions that lie rather than stand: below the horizon and reaching the bottom edge, or continued so."""
    labels = regions.labels
    h, w = labels.shape
    rows, columns = regions.occupied()
    top = np.argmax(rows, axis=1) / h
    wide = columns.sum(1) / w > 0.7 * (1 - top)
    may_lie = (top > horizon - 0.05) & ~sky
    bottom = np.bincount(labels[-2:].ravel(), minlength=regions.count) / (2 * w)
    ground = may_lie & (bottom > 0.08) & wide
    mean = regions.mean(lab)
    likeness = np.linalg.norm(mean[:, None] - mean[None, ground], axis=2).min(1, initial=100)
    pairs, _, length = borders(labels, np.zeros(labels.shape, np.float32))
    pairs = np.concatenate([pairs, pairs[:, ::-1]])
    length = np.tile(length, 2)
    outline = np.maximum(np.bincount(pairs[:, 0], length, regions.count), 1)
    for _ in range(4):
        beside = np.bincount(pairs[:, 0], length * ground[pairs[:, 1]], regions.count) / outline
        ground |= may_lie & ((likeness < 12) & (beside > 0.15) | (beside > 0.75) & (likeness < 25))
    # A frame that is mostly one thing says nothing: the ramp is a better guess than a wall.
    return ground | ((regions.area() > 0.6 * labels.size) & (bottom > 0.3))
