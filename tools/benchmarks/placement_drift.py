#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-3.0-or-later
"""How still a still point of a generated scene stays, once depth of unknown scale and shift is placed.

    .venv/bin/python tools/benchmarks/placement_drift.py [--seeds 1 5 7 13 16] [--noise 2]

The camera's poses are the true ones; the depth is the true one with another scale and shift of its inverse, sky as
sky. Points of things that do not move are looked up in the placed depth of every frame that sees them. Of a point,
two figures are given, in percent of its depth:

    moved  the farthest that it gets from its own median place
    wrong  the farthest that it gets from where it truly is

Each as median, 95th percentile and largest of all points. A point counts as seen where the true depth says so within
0.2 %, which is how exact the figures are. Scenes whose camera moves by less than a twentieth of the subject's distance
are left out. A scene takes one to three minutes on two cores, some whose camera is close to leaves far more.
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Final

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import numpy as np
import torch
from numpy.typing import NDArray

from ex4d_engine.cameras import pixel_rays
from ex4d_engine.source_cameras.placement import Placement, collect_pairs, fit_placement
from ex4d_engine.source_cameras.tracks import feature_tracks, inverse_depth_at
from ex4d_engine.synthetic import camera_path, random_scenes, render_views
from ex4d_engine.synthetic.clips import CAMERA_SEED
from ex4d_engine.synthetic.draw import Draw
from ex4d_engine.synthetic.motion import body_poses
from ex4d_engine.synthetic.settings import NAMES

Array = NDArray[np.float64]

SEEDS: Final = (1, 3, 5, 7, 12, 13, 14, 15, 16, 19, 27, 28, 29, 34)
LEAST_TRAVEL: Final = 0.05  # of the subject's distance
AT_ONCE: Final = 8  # frames drawn together: memory
SEEN_WITHIN: Final = 0.002
LEAST_SEEN: Final = 10  # frames
GRID: Final = 8  # pixels between points of a frame
POINTS_EVERY: Final = 20  # frames from which points are taken


@dataclass(frozen=True)
class Clip:
    """images (F,H,W,3) uint8; depth (F,H,W) z, inf for sky; still (F,H,W): of what does not move; lenses (F,3,3)."""

    setting: str
    travel: float  # of the camera, as a share of the subject's distance
    images: NDArray[np.uint8]
    depth: NDArray[np.float32]
    shape: NDArray[np.int64]
    still: NDArray[np.bool_]
    lenses: Array
    poses: Array


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--seeds", type=int, nargs="+", default=SEEDS)
    parser.add_argument("--frames", type=int, default=120)
    parser.add_argument("--size", type=int, nargs=2, default=(384, 216), metavar=("WIDTH", "HEIGHT"))
    parser.add_argument("--noise", type=float, default=0.0, help="standard deviation, of 255")
    options = parser.parse_args()
    print("| seed, setting | camera's way | points followed | agreement | moved, % | wrong, % |")
    print("|---|---|---|---|---|---|")
    for seed in options.seeds:
        clip = drawn(seed, options.frames, tuple(options.size), options.noise)
        if clip is None:
            print(f"seed {seed}: the camera stands still", file=sys.stderr)
            continue
        placement = placed(clip)
        moved, wrong = drift(clip, placement)
        if not len(moved):
            print(f"seed {seed}: no still point is seen in {LEAST_SEEN} frames", file=sys.stderr)
            continue
        print(
            f"| {seed}, {clip.setting} | {clip.travel:.2f} | {placement.tracks} | {placement.agreement:.1%} "
            f"| {_spread(moved)} | {_spread(wrong)} |",
            flush=True,
        )
    return 0


def drawn(seed: int, frames: int, size: tuple[int, int], noise: float) -> Clip | None:
    """The clip of a scene, without what a lens adds; None where its camera hardly moves."""
    width, height = size
    scenes = random_scenes(seed, 1, frames, torch.device("cpu"))
    lenses, poses = camera_path(scenes.plan, Draw(seed ^ CAMERA_SEED), frames, height, width)
    places = poses[0, :, :3, 3]
    distance = float((scenes.plan.subject[0] - scenes.plan.eye()[0]).norm())
    travel = float((places.amax(0) - places.amin(0)).norm()) / distance
    if travel < LEAST_TRAVEL:
        return None
    times = torch.arange(frames, dtype=torch.float32)[None]
    views = [
        render_views(scenes, lenses[:, some], poses[:, some], times[:, some], height, width, effects=False)
        for some in (slice(first, first + AT_ONCE) for first in range(0, frames, AT_ONCE))
    ]
    rotation, position = body_poses(scenes.bodies, times)
    rests = ((rotation == rotation[:, :1]).all(-1).all(-1) & (position == position[:, :1]).all(-1)).all(1)[0]
    images = torch.cat([view.images[0] for view in views]).permute(0, 2, 3, 1).mul(255).numpy()
    images = images + np.random.default_rng(seed).normal(0, noise, images.shape) if noise else images
    shape = torch.cat([view.shape_index[0] for view in views])
    still = rests[scenes.shapes.body[0]][shape.clamp_min(0)] & (shape >= 0)
    return Clip(
        NAMES[int(scenes.plan.setting[0])],
        travel,
        np.ascontiguousarray(images.clip(0, 255).round().astype(np.uint8)),
        torch.cat([view.depth[0] for view in views]).numpy(),
        shape.numpy(),
        still.numpy(),
        lenses[0].double().numpy(),
        poses[0].double().numpy(),
    )


def source_depth(clip: Clip) -> NDArray[np.float32]:
    """(F,H,W) the true depth as a source gives it whose inverse lacks a scale and a shift."""
    inverse = 1 / clip.depth
    low, high = inverse.min() - 0.2 * np.ptp(inverse), inverse.max() * 1.3
    depth: NDArray[np.float32] = np.where(np.isfinite(clip.depth), (high - low) / (inverse - low), np.inf)
    return depth.astype(np.float32)


def placed(clip: Clip) -> Placement:
    """What `reconstruct` fits to such a clip."""
    tracks = feature_tracks((image, depth, None) for image, depth in zip(clip.images, source_depth(clip), strict=True))
    return fit_placement(collect_pairs(tracks, clip.lenses, clip.poses, max(clip.depth.shape[1:])), "affine")


def drift(clip: Clip, placement: Placement) -> tuple[Array, Array]:
    """Of each point that is seen often, how far it moved and how wrong it was, as shares of its depth."""
    maps = [placement.apply(depth) for depth in source_depth(clip)]
    moved, wrong = [np.zeros(0)], [np.zeros(0)]
    for first in range(0, len(maps), POINTS_EVERY):
        row, column = (
            grid.ravel() for grid in np.mgrid[tuple(slice(GRID // 2, n, GRID) for n in clip.depth.shape[1:])]
        )
        still = clip.still[first][row, column]
        row, column = row[still], column[still]
        pose, depth = clip.poses[first], clip.depth[first][row, column]
        rays = pixel_rays(clip.lenses[first], column + 0.5, row + 0.5)
        points = (rays * depth[:, None]) @ pose[:3, :3].T + pose[:3, 3]
        found, depths = _looked_up(clip, maps, points, clip.shape[first][row, column])
        often = np.isfinite(depths).sum(0) >= LEAST_SEEN
        if often.any():
            found, depths, points = found[:, often], depths[:, often], points[often]
            middle = np.nanmedian(found, axis=0)
            for figures, place in ((moved, middle), (wrong, points)):
                figures.append(np.nanmax(np.linalg.norm(found - place, axis=-1) / depths, axis=0))
    return np.concatenate(moved), np.concatenate(wrong)


def _looked_up(
    clip: Clip, maps: list[NDArray[np.float32]], points: Array, shape: NDArray[np.int64]
) -> tuple[Array, Array]:
    """Where each frame puts points (N,3) of the shapes (N,), (F,N,3), and their depth in it (F,N); NaN where hidden."""
    found, depths = np.full((len(maps), *points.shape), np.nan), np.full((len(maps), len(points)), np.nan)
    for index, (pose, lens) in enumerate(zip(clip.poses, clip.lenses, strict=True)):
        local = (points - pose[:3, 3]) @ pose[:3, :3]
        before = np.flatnonzero(local[:, 2] > 0)
        image = local[before] @ lens.T
        image = image[:, :2] / image[:, 2:]
        seen = np.abs(inverse_depth_at(clip.depth[index], image)[0] * local[before, 2] - 1) < SEEN_WITHIN
        before, image = before[seen], image[seen]
        own = clip.shape[index][image[:, 1].astype(int), image[:, 0].astype(int)] == shape[before]
        before, image = before[own], image[own]
        z = 1 / inverse_depth_at(maps[index], image)[0]
        found[index, before] = (pixel_rays(lens, *image.T) * z[:, None]) @ pose[:3, :3].T + pose[:3, 3]
        depths[index, before] = local[before, 2]
    return found, depths


def _spread(values: Array) -> str:
    return " / ".join(f"{100 * value:.2f}" for value in np.quantile(values, [0.5, 0.95, 1]))


if __name__ == "__main__":
    sys.exit(main())
