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

from ...progress import Reporter
from ..edge_snap import enlarge_to_edges
from ..registry import DepthClip, DepthFrame, PlatePass
from . import cues
from .cues import FAR, NEAR, SKY
from .parallax import measure_parallax
from .regions import segment

Array = npt.NDArray[np.float32]
Image = npt.NDArray[np.uint8]
Mask = npt.NDArray[np.bool_]

_SMALL: Final = 256
_SURVEYED: Final = 12
_WARM_UP: Final = 12
_CONTRAST: Final = 12.0
_CRISP, _BLURRED = 1.6, 1.4
_MEMORY: Final = 0.92
_ANCHOR: Final = 0.15
"""Long side of the small frames; frames in the survey and the warm-up; the colour distance that keeps regions apart;
`focus` ratios of a crisp and a blurred edge; what is left of a parallax measurement one frame later; how much of its
drift is undone each frame."""


@dataclass(frozen=True)
class Survey:
    """What holds for the whole clip, so that no frame is scaled on its own.

    horizon: height of the horizon, 0 top … 1 bottom.
    defocus: 0 where everything is in focus … 1 where depth of field is shallow.
    focus: `cues.focus` of what is most blurred and what is sharpest.
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
            alignment="affine",
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
        in_focus, ratios = cues.focus(image, regions)
        focus.append(np.percentile(in_focus[regions.labels], (10, 90)))
        # Blurred edges beside crisp ones; a clip that is soft all over says nothing about depth.
        shallow = ratios.size and np.percentile(ratios, 90) > _CRISP
        edges.append(float((ratios < _BLURRED).mean()) if shallow else 0.0)
        sky = cues.sky(regions, lab)[regions.labels]
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


_FLOW: Final = cv2.DISOpticalFlow.create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM)


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


def _estimate(image: Image, lab: Array, survey: Survey, state: State, own: Array | None) -> tuple[Array, Array]:
    """One frame's inverse depth (h, w), from its regions and the parallax gathered so far; and that, kept in its place.

    own: (h, w, 2), movement that the camera does not explain.
    """
    regions = segment(lab, _CONTRAST, None if own is None else np.dstack([90.0 * state.inverse_z, 5.0 * own]))
    sky = cues.sky(regions, lab)
    # Shallow focus comes with things that sway by themselves and hardly any floor; then focus tells more than parallax.
    information = (1 - survey.defocus) * state.information
    ground = cues.ground(regions, lab, sky, survey.horizon)
    floor, _ = cues.floor(ground[regions.labels], survey.horizon, state.measured, information)
    ground |= cues.on_floor(regions, floor, state.measured, information)
    floor, tilt = cues.floor(ground[regions.labels], survey.horizon, state.measured, information)
    movers = cues.movers(regions, state.own)
    ground &= ~movers
    guess, doubt = cues.standing(regions, ground, floor)
    guess = regions.smoothed(guess, lab, 12.0, ground | movers)
    if survey.defocus > 0:
        low, high = survey.focus
        moving = regions.mean(state.own) ** 2
        front = 0.8 * np.clip((cues.focus(image, regions)[0] - low) / (high - low), 0, 1) + 0.2 * moving / (
            moving + 0.2
        )
        height = regions.mean(np.mgrid[: lab.shape[0], : lab.shape[1]][0].astype(np.float32)) / lab.shape[0]
        front = np.clip(1.2 * regions.smoothed(front, lab, 12.0) + 0.1 * (height - 1), 0, 1)
        guess = (1 - survey.defocus) * guess + survey.defocus * (FAR + (NEAR - FAR) * front)
    standing = cues.planes(regions, guess, doubt, state.measured, information)
    inverse_z = np.where(ground[regions.labels], floor, standing)
    inverse_z = cues.with_movers(inverse_z, movers[regions.labels], floor)
    if survey.defocus > 0:
        inverse_z = (1 - survey.defocus) * inverse_z + survey.defocus * standing
    # Whatever the frame, lower is a little nearer: a picture of one region is no flat card.
    inverse_z = inverse_z * np.linspace(0.97, 1.03, len(inverse_z), dtype=np.float32)[:, None]
    inverse_z = np.where(sky[regions.labels], SKY, np.clip(inverse_z, SKY, 2 * NEAR)).astype(np.float32)
    # Two frames hardly tell a turn of the camera from one more plane of inverse depth: left alone, it would drift.
    if not ground.any():
        tilt = np.average(state.measured - guess[regions.labels], weights=information + 1e-6)
    return inverse_z, state.measured - np.float32(_ANCHOR) * tilt
