# SPDX-License-Identifier: GPL-3.0-or-later
"""Rough depth from the clip itself, with no network and no download: the baseline `rough-pictorial`.

Each frame is cut into regions at a small size; every region gets a disparity from old painters' and
photographers' cues: the ground rises to the horizon, things stand where they touch it, sky is far,
what is in focus or moves by itself is in front. The map is carried along the optical flow, so it
does not flicker, and enlarged with its steps on the image's edges.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

import cv2
import numpy as np
import numpy.typing as npt

from ..progress import Reporter
from .edge_snap import enlarge_to_edges
from .parallax import measure_parallax
from .regions import Regions, borders, segment
from .registry import DepthClip, DepthFrame, PlatePass

Array = npt.NDArray[np.float32]
Image = npt.NDArray[np.uint8]
Mask = npt.NDArray[np.bool_]

NEAR, FAR, SKY = 1 / 2.0, 1 / 14.0, 1 / 60.0
"""Inverse z of the near and the far end of the cues, and of the sky, in scene units. Nothing in a
single view says how large a scene is; these make a walkable one."""

_SMALL: Final = 288
_SURVEYED: Final = 12
_WARM_UP: Final = 12
_CONTRAST: Final = 12.0
_CRISP, _BLURRED = 1.6, 1.4


@dataclass(frozen=True)
class Survey:
    """What holds for the whole clip, so that no frame is scaled on its own.

    horizon: height of the horizon, 0 top … 1 bottom.
    defocus: 0 where everything is in focus … 1 where depth of field is shallow.
    focus: `_focus` of what is most blurred and what is sharpest.
    """

    horizon: float
    defocus: float
    focus: tuple[float, float]


@dataclass
class State:
    """What is carried from frame to frame; all (h, w) at the small size.

    grey: uint8, the frame. inverse_z: the estimate. measured, information: parallax gathered so far and
    how much it is worth (`parallax.Parallax`). own: movement of its own, pixels a frame.
    """

    grey: Image
    inverse_z: Array
    measured: Array
    information: Array
    own: Array


class RoughPictorialDepth:
    """The `rough-pictorial` source: a stand-in until a trained network takes its place."""

    name = "rough-pictorial"
    title = "Rough (pictorial cues, no download)"
    licence = "GPL-3.0-or-later"
    needs_download = False

    def estimate(self, plate: PlatePass, frame_count: int, size: tuple[int, int], reporter: Reporter) -> DepthClip:
        """Surveys the clip now; estimates each frame when asked. Holds at most a handful of small frames."""
        small = _small_size(size)
        survey = survey_clip(plate, frame_count, small, reporter)
        return DepthClip(
            frames=self._frames(plate, frame_count, small, survey, reporter),
            intrinsics=None,
            camera_to_world=None,
            scale="relative",
            note="Depth is a rough guess from pictorial cues, not a measurement: expect wrong distances; "
            "use a depth file or a network for real work.",
        )

    def _frames(
        self, plate: PlatePass, frame_count: int, small: tuple[int, int], survey: Survey, reporter: Reporter
    ) -> Iterator[DepthFrame]:
        state = warm_up(plate, small, survey, reporter)
        for done, image in enumerate(plate(), start=1):
            reporter.check()
            state = advance(state, image, small, survey)
            yield DepthFrame((1.0 / enlarge_to_edges(_evened(state.inverse_z), image)).astype(np.float32))
            reporter.progress("depth", done, frame_count)


def _evened(inverse_z: Array) -> Array:
    """Without the small steps between regions of one surface; larger ones stay as they are."""
    return np.exp(cv2.bilateralFilter(np.log(inverse_z), 9, 0.06, 4.0))


def _small_size(size: tuple[int, int]) -> tuple[int, int]:
    scale = min(1.0, _SMALL / max(size))
    return max(16, round(size[0] * scale)), max(16, round(size[1] * scale))


def survey_clip(plate: PlatePass, frame_count: int, small: tuple[int, int], reporter: Reporter) -> Survey:
    """A first pass over evenly spread frames."""
    stride = max(1, frame_count // _SURVEYED)
    focus, edges, skylines = [], [], []
    for index, image in enumerate(plate()):
        reporter.check()
        if index % stride:
            continue
        lab = _denoised_lab(image, small)
        regions = segment(lab, _CONTRAST)
        in_focus, ratios = _focus(image, regions)
        focus.append(np.percentile(in_focus[regions.labels], (10, 90)))
        # Blurred edges beside crisp ones; a clip that is soft all over says nothing about depth.
        shallow = ratios.size and np.percentile(ratios, 90) > _CRISP
        edges.append(float((ratios < _BLURRED).mean()) if shallow else 0.0)
        sky = _sky(regions, lab)[regions.labels]
        if sky.mean() > 0.03:
            skylines.append(float(np.percentile(np.nonzero(sky)[0], 98)) / small[1])
    low, high = np.median(focus, axis=0)
    return Survey(
        # Whatever stands hides the horizon, so the sky ends above it or on it.
        horizon=float(np.clip(np.median(skylines), 0.45, 0.65)) if skylines else 0.45,
        defocus=float(np.clip((np.median(edges) - 0.08) / 0.12, 0, 1)),
        focus=(float(low), float(max(high, low + 0.2))),
    )


def warm_up(plate: PlatePass, small: tuple[int, int], survey: Survey, reporter: Reporter) -> State | None:
    """The state that the first frame inherits: its following frames, gone through backwards.

    Without it the first frames would know less than the later ones, and depth would drift into place on screen.
    """
    head: deque[Image] = deque()
    for image in plate():
        reporter.check()
        # Twice the working size is all that any cue looks at.
        head.append(cv2.resize(image, (2 * small[0], 2 * small[1]), interpolation=cv2.INTER_AREA))
        if len(head) == _WARM_UP:
            break
    state = None
    while len(head) > 1:
        state = advance(state, head.pop(), small, survey)
    return state


def advance(state: State | None, image: Image, small: tuple[int, int], survey: Survey) -> State:
    """The state after one more frame, `image` (H, W, 3)."""
    lab = _denoised_lab(image, small)
    grey = cv2.cvtColor(cv2.resize(image, small, interpolation=cv2.INTER_AREA), cv2.COLOR_RGB2GRAY)
    if state is None:
        nothing = np.zeros(grey.shape, np.float32)
        state = State(grey, nothing, nothing, nothing, nothing)
        state.inverse_z, _ = _estimate(image, lab, survey, state, own=None)
        return state
    flow = _FLOW.calc(grey, state.grey, None)
    now, valid = _carried(state, grey, flow)
    parallax = measure_parallax(flow, now.inverse_z)
    own = np.linalg.norm(parallax.own, axis=2)
    now.own = np.where(valid, 0.7 * now.own + 0.3 * own, own).astype(np.float32)
    kept = np.where(valid, _MEMORY * now.information, 0)
    # What seems to lie behind the horizon or in the lens has moved by itself.
    added = parallax.information * ((parallax.inverse_z > -0.05) & (parallax.inverse_z < 2 * NEAR))
    now.information = (kept + added).astype(np.float32)
    gathered = kept * now.measured + added * np.clip(parallax.inverse_z, SKY, None)
    now.measured = (gathered / np.maximum(now.information, 1e-6)).astype(np.float32)
    fresh, now.measured = _estimate(image, lab, survey, now, parallax.own)
    blended = np.where(valid, now.inverse_z + 0.15 * (fresh - now.inverse_z), fresh)
    now.grey, now.inverse_z = grey, cv2.medianBlur(blended.astype(np.float32), 3)
    return now


_FLOW: Final = cv2.DISOpticalFlow_create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM)


def _denoised_lab(image: Image, small: tuple[int, int]) -> Array:
    reduced = cv2.bilateralFilter(cv2.resize(image, small, interpolation=cv2.INTER_AREA), 7, 25, 4)
    return cv2.cvtColor(reduced.astype(np.float32) / 255, cv2.COLOR_RGB2LAB)


def _carried(state: State, grey: Image, flow: Array) -> tuple[State, Mask]:
    """The last state moved onto this frame, and where the move can be believed."""
    h, w = grey.shape
    y, x = np.mgrid[:h, :w].astype(np.float32)
    fx, fy = x + flow[..., 0], y + flow[..., 1]
    moved = State(
        *(
            cv2.remap(values, fx, fy, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
            for values in (state.grey, state.inverse_z, state.measured, state.information, state.own)
        )
    )
    mismatch = cv2.blur(cv2.absdiff(moved.grey, grey), (5, 5))
    return moved, (mismatch < 20) & (fx > -1) & (fy > -1) & (fx < w) & (fy < h)


def _focus(image: Image, regions: Regions) -> tuple[Array, Array]:
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


def _estimate(image: Image, lab: Array, survey: Survey, state: State, own: Array | None) -> tuple[Array, Array]:
    """One frame's inverse depth (h, w), from its regions and the parallax gathered so far; and that, kept in its place.

    own: (h, w, 2), movement that the camera does not explain.
    """
    regions = segment(lab, _CONTRAST, None if own is None else np.dstack([90.0 * state.inverse_z, 5.0 * own]))
    sky = _sky(regions, lab)
    # Shallow focus comes with things that sway by themselves and hardly any floor; then focus tells more than parallax.
    information = (1 - survey.defocus) * state.information
    ground = _ground(regions, lab, sky, survey.horizon)
    floor, _ = _floor(ground[regions.labels], survey.horizon, state.measured, information)
    ground |= _on_floor(regions, floor, state.measured, information)
    floor, tilt = _floor(ground[regions.labels], survey.horizon, state.measured, information)
    movers = _movers(regions, state.own)
    ground &= ~movers
    guess, doubt = _standing(regions, ground, floor)
    guess = regions.smoothed(guess, lab, 12.0, ground | movers)
    if survey.defocus > 0:
        low, high = survey.focus
        moving = regions.mean(state.own) ** 2
        front = 0.8 * np.clip((_focus(image, regions)[0] - low) / (high - low), 0, 1) + 0.2 * moving / (moving + 0.2)
        height = regions.mean(np.mgrid[: lab.shape[0], : lab.shape[1]][0].astype(np.float32)) / lab.shape[0]
        front = np.clip(1.2 * regions.smoothed(front, lab, 12.0) + 0.1 * (height - 1), 0, 1)
        guess = (1 - survey.defocus) * guess + survey.defocus * (FAR + (NEAR - FAR) * front)
    standing = _planes(regions, guess, doubt, state.measured, information)
    inverse_z = np.where(ground[regions.labels], floor, standing)
    inverse_z = _with_movers(inverse_z, movers[regions.labels], floor)
    if survey.defocus > 0:
        inverse_z = (1 - survey.defocus) * inverse_z + survey.defocus * standing
    # Whatever the frame, lower is a little nearer: a picture of one region is no flat card.
    inverse_z = inverse_z * np.linspace(0.97, 1.03, len(inverse_z), dtype=np.float32)[:, None]
    inverse_z = np.where(sky[regions.labels], SKY, np.clip(inverse_z, SKY, 2 * NEAR)).astype(np.float32)
    # Two frames hardly tell a turn of the camera from one more plane of inverse depth: left alone, it would drift.
    if not ground.any():
        tilt = np.average(state.measured - guess[regions.labels], weights=information + 1e-6)
    return inverse_z, state.measured - np.float32(_ANCHOR) * tilt


def _floor(ground: Mask, horizon: float, measured: Array, information: Array) -> tuple[Array, Array]:
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


def _on_floor(regions: Regions, floor: Array, measured: Array, information: Array) -> Mask:
    """(count,) regions that parallax shows to lie in the floor's plane."""
    weight = regions.inside() * np.minimum(information, _BEST)
    known = regions.mean(information) > 200
    off = np.sqrt(regions.mean((measured - floor) ** 2, weight))
    upright = np.sqrt(regions.mean((measured - regions.mean(measured, weight)[regions.labels]) ** 2, weight))
    return known & (off < 0.04) & (off < upright) & (regions.mean(floor) > 1.2 * FAR)


def _movers(regions: Regions, own: Array) -> Mask:
    """(count,) regions that move by themselves, and plainly so beside the rest of the frame."""
    speed = regions.mean(own, regions.inside())
    return speed > 0.35 + 3 * float(np.median(own))


def _with_movers(inverse_z: Array, moving: Mask, floor: Array) -> Array:
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


def _planes(regions: Regions, guess: Array, doubt: Array, measured: Array, information: Array) -> Array:
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


_SLOPE: Final = 0.03
_BEST: Final = 4000.0
_MEMORY: Final = 0.92
_ANCHOR: Final = 0.15
"""Standard error of the slope of inverse depth across a standing thing; the information beyond which the flow's common
errors rule; what is left of a measurement one frame later; how much of its drift is undone each frame."""


def _sky(regions: Regions, lab: Array) -> Mask:
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


def _standing(regions: Regions, ground: Mask, floor: Array) -> tuple[Array, Array]:
    """Guessed inverse depth (count,) and its standard error: a thing stands where it meets what is below it."""
    labels = regions.labels
    h, w = labels.shape
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


def _ground(regions: Regions, lab: Array, sky: Mask, horizon: float) -> Mask:
    """(count,) regions that lie rather than stand: they reach the bottom edge and end below the horizon, or continue such."""
    labels = regions.labels
    h, w = labels.shape
    rows, columns = regions.occupied()
    top = np.argmax(rows, axis=1) / h
    wide = columns.sum(1) / w > 0.7 * (1 - top)
    may_lie = (top > horizon - 0.05) & ~sky
    bottom = np.bincount(labels[-2:].ravel(), minlength=regions.count) / (2 * w)
    ground = may_lie & (bottom > 0.08) & wide
    mean = regions.mean(lab)
    likeness = np.linalg.norm(mean[:, None] - mean[None, ground], axis=2).min(1) if ground.any() else np.full(len(mean), 99)
    pairs, _, length = borders(labels, np.zeros(labels.shape, np.float32))
    pairs = np.concatenate([pairs, pairs[:, ::-1]])
    outline = np.bincount(pairs[:, 0], np.tile(length, 2), regions.count)
    for _ in range(4):
        beside = np.bincount(pairs[:, 0], np.tile(length, 2) * ground[pairs[:, 1]], regions.count) / np.maximum(outline, 1)
        ground |= may_lie & ((likeness < 12) & (beside > 0.15) | (beside > 0.75) & (likeness < 25))
    # A frame that is mostly one thing says nothing: the ramp is a better guess than a wall.
    return ground | ((regions.area() > 0.6 * labels.size) & (bottom > 0.3))
