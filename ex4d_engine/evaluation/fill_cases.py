# SPDX-License-Identifier: GPL-3.0-or-later
"""Generated scenes that say what a new camera ought to see: a source clip with exact depth, a path, and its truth.

The source camera stands where the scene's plan puts it and holds still, so that an angle on the path is the angle
between the two views; things in the scene move meanwhile, and both cameras see the same moments. Pictures are drawn
without what a lens, a shutter and a sensor add, which would differ between source and truth.
"""

from __future__ import annotations

import zlib
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray

from ..errors import Ex4dError
from ..synthetic import Scenes, camera_path, random_scenes, render_views
from ..synthetic.draw import Draw
from ..synthetic.surfaces import cameras_at, see
from ..training.depth_clips import HELD_OUT_SEED
from ..training.mask_statistics import true_masks
from ..training.random_paths import turned_deg
from ..training.rendering_masks import usable_depth
from ..trajectories import orbit

PIVOT_QUANTILE: Final = 0.25  # of the depths in the middle of the first frame: what a shot's own default comes to
CLEARANCE: Final = 0.2  # of the pivot's depth: nothing may fill the picture nearer to the camera than that
CROWDED: Final = 0.02  # this share of the picture may be nearer
COMMON: Final = 0.05  # less than this share of the picture seen from the source too: another room, or a wall's back
LOOKED_AT: Final = 9  # moments of a path at which it is checked
LOOKED_AT_WIDTH: Final = 64  # pixels of the longer side while checking
VIEWS_AT_ONCE: Final = 64


@dataclass(frozen=True)
class Swing:
    """An orbit.

    Attributes:
        name: for tables and files.
        turns: degrees at which the path begins, bends and ends; equal angles take equal times.
        shown: three places on the path, as shares of it, that contact sheets show.
        both_sides: whether it sees both sides; else a scene's seed decides whether it goes left or right.
    """

    name: str
    turns: tuple[float, ...]
    shown: tuple[float, float, float]
    both_sides: bool = False

    def degrees(self, frames: int) -> NDArray[np.float64]:
        """(F,) the angle of each frame; the first is 0, where the source stands."""
        way = np.concatenate([[0.0], np.cumsum(np.abs(np.diff(self.turns)))])
        return np.interp(np.linspace(0, way[-1], frames), way, self.turns)


SWINGS: Final = (
    Swing("0-30", (0, 30), (1 / 3, 2 / 3, 1)),
    Swing("0-60", (0, 60), (1 / 3, 2 / 3, 1)),
    Swing("0-90", (0, 90), (1 / 3, 2 / 3, 1)),
    Swing("-90-90", (0, -90, 90), (1 / 3, 5 / 6, 1), both_sides=True),  # a clip begins at the source, so not at -90
)


@dataclass(frozen=True)
class FillCase:
    """One clip to fill, and what the fill ought to look like.

    Attributes:
        swing: name of its orbit; seed: of its scene.
        source: (F,H,W,3) uint8 sRGB; depth: (F,H,W) float32 z of it, the sky at one finite depth.
        intrinsics: (3,3) pixels, of both cameras.
        path: (F,4,4) poses of the new camera in the source camera's space; the first is the identity.
        truth: (F,H,W,3) uint8, what the new camera sees at the same moments.
        visible: (F,H,W) bool, where the source camera sees that too. Elsewhere a conditioning may still show
            something: what the source saw behind a thing that was beside its picture.
    """

    swing: str
    seed: int
    source: NDArray[np.uint8]
    depth: NDArray[np.float32]
    intrinsics: NDArray[np.float64]
    path: NDArray[np.float64]
    truth: NDArray[np.uint8]
    visible: NDArray[np.bool_]

    @property
    def name(self) -> str:
        return f"{self.swing}_{self.seed}"

    @property
    def angles_deg(self) -> NDArray[np.float64]:
        """(F,) between the new camera's line of sight and the source's."""
        return turned_deg(self.path)


def fill_cases(
    scenes: int,
    frames: int,
    size: tuple[int, int],
    device: torch.device,
    *,
    first: int = 0,
    swings: Sequence[Swing] = SWINGS,
    drawn: frozenset[str] = frozenset(),
    turned_away: Counter[str] | None = None,
) -> Iterator[FillCase]:
    """Draws cases on held-out seeds: `scenes` of them for each swing, the first ones on which its camera has room.

    Args:
        frames: F, 4n + 1.
        size: (width, height) in pixels.
        device: where pictures are drawn.
        first: number of the first held-out seed.
        drawn: names of cases that are there already: they count, but are not drawn again.
        turned_away: counts, by swing and reason, the scenes that were passed over.

    Raises:
        Ex4dError: `bad_request` for numbers that are not possible, or where nearly every scene is passed over.
    """
    if scenes < 1 or frames < 5 or frames % 4 != 1 or min(size) < 16:
        raise Ex4dError(
            "bad_request",
            f"{scenes} scenes of {frames} frames of {size[0]} x {size[1]} pixels cannot be drawn.",
            "Give one scene or more, and 4n + 1 frames from 5 on.",
        )
    turned_away = Counter() if turned_away is None else turned_away
    lacking = {swing.name: scenes for swing in swings}
    for seed in range(HELD_OUT_SEED + first, HELD_OUT_SEED + first + 20 * scenes + 20):
        wanted = [swing for swing in swings if lacking[swing.name]]
        stage = _Stage.built(seed, frames, size, device)
        paths = {}
        for swing in wanted:
            path = stage.path(swing)
            if reason := stage.obstacle(path):
                turned_away[f"{swing.name}: {reason}"] += 1
            else:
                paths[swing.name] = path
        yield from stage.cases({name: path for name, path in paths.items() if f"{name}_{seed}" not in drawn})
        for name in paths:
            lacking[name] -= 1
        if not any(lacking.values()):
            return
    cramped = ", ".join(name for name, count in lacking.items() if count)
    raise Ex4dError("bad_request", f"Hardly any scene has room for {cramped} degrees.", "Choose other orbits or seeds.")


@dataclass(frozen=True)
class _Stage:
    """One scene with its source camera, before anything is drawn in colour."""

    seed: int
    frames: int
    size: tuple[int, int]
    scenes: Scenes
    intrinsics: torch.Tensor  # (3,3) float32
    placed: torch.Tensor  # (4,4) float32, the source camera in the scene
    pivot: float

    @classmethod
    def built(cls, seed: int, frames: int, size: tuple[int, int], device: torch.device) -> _Stage:
        scenes = random_scenes(seed, 1, frames, device)
        lens, pose = camera_path(scenes.plan, Draw(seed), 1, size[1], size[0])
        stage = cls(seed, frames, size, scenes, lens[0, 0], pose[0, 0], 1.0)
        depth = usable_depth(stage.glimpse(np.eye(4)[None], np.zeros(1)))[0]
        height, width = depth.shape
        middle = depth[height // 4 : height - height // 4, width // 4 : width - width // 4]
        pivot = float(np.quantile(middle, PIVOT_QUANTILE))
        return cls(seed, frames, size, scenes, lens[0, 0], pose[0, 0], pivot)

    def path(self, swing: Swing) -> NDArray[np.float64]:
        """(F,4,4) of the swing about this scene's pivot."""
        # by the bits of a checksum: neighbouring seeds shall not take turns
        left = bool(zlib.crc32(f"{self.seed} {swing.name}".encode()) & 1)
        degrees = swing.degrees(self.frames) * (-1 if left else 1)
        return np.stack([orbit(2, float(angle), self.pivot, smooth=False)[-1] for angle in degrees])

    def obstacle(self, path: NDArray[np.float64]) -> str:
        """Why the camera cannot take this path, in a word; empty if it can."""
        moments = np.unique(np.linspace(0, self.frames - 1, LOOKED_AT).round().astype(int))
        target = self.glimpse(path[moments], moments)
        source = self.glimpse(np.tile(np.eye(4), (len(moments), 1, 1)), moments)
        if (target < CLEARANCE * self.pivot).mean(axis=(1, 2)).max() > CROWDED:
            return "too close"
        common = true_masks(target, source, self.lens(_glimpse_size(self.size)), path[moments]) > 0
        return "out of sight" if common.mean(axis=(1, 2)).min() < COMMON else ""

    def glimpse(self, poses: NDArray[np.float64], moments: NDArray[np.integer | np.floating]) -> NDArray[np.float32]:
        """(V,h,w) z from poses (V,4,4) relative to the source, at few pixels; inf for sky."""
        width, height = _glimpse_size(self.size)
        K = torch.from_numpy(self.lens((width, height))).float().to(self.scenes.device)
        views = len(poses)
        cameras = cameras_at(self.scenes, K.expand(1, views, 3, 3), self._in_scene(poses), self._times(moments))
        depth: NDArray[np.float32] = see(self.scenes, cameras, height, width).depth.cpu().numpy()
        return depth

    def lens(self, size: tuple[int, int]) -> NDArray[np.float64]:
        """(3,3) for pictures of another size of the same shape."""
        scale = np.diag([size[0] / self.size[0], size[1] / self.size[1], 1.0])
        result: NDArray[np.float64] = scale @ self.intrinsics.double().numpy()
        return result

    def cases(self, paths: dict[str, NDArray[np.float64]]) -> Iterator[FillCase]:
        """The cases of some swings; the source clip is drawn once for all of them."""
        if not paths:
            return
        source, depth = self._pictures(np.tile(np.eye(4), (self.frames, 1, 1)))
        usable, lens = usable_depth(depth), self.lens(self.size)
        for name, path in paths.items():
            truth, true_depth = self._pictures(path)
            visible = true_masks(true_depth, depth, lens, path) > 0
            yield FillCase(name, self.seed, source, usable, lens, path, truth, visible)

    def _pictures(self, path: NDArray[np.float64]) -> tuple[NDArray[np.uint8], NDArray[np.float32]]:
        width, height = self.size
        images, depths = [], []
        for begin in range(0, self.frames, VIEWS_AT_ONCE):
            moments = np.arange(begin, min(begin + VIEWS_AT_ONCE, self.frames))
            lens = self.intrinsics.expand(1, len(moments), 3, 3)
            poses = self._in_scene(path[moments])
            views = render_views(self.scenes, lens, poses, self._times(moments), height, width, effects=False)
            images.append((views.images[0] * 255).round().byte().permute(0, 2, 3, 1).cpu().numpy())
            depths.append(views.depth[0].cpu().numpy())
        return np.ascontiguousarray(np.concatenate(images)), np.concatenate(depths)

    def _in_scene(self, poses: NDArray[np.float64]) -> torch.Tensor:
        placed = torch.from_numpy(self.placed.double().numpy() @ poses)
        return placed.float()[None].to(self.scenes.device)

    def _times(self, moments: NDArray[np.integer | np.floating]) -> torch.Tensor:
        return torch.from_numpy(np.asarray(moments, np.float32))[None].to(self.scenes.device)


def _glimpse_size(size: tuple[int, int]) -> tuple[int, int]:
    scale = LOOKED_AT_WIDTH / max(size)
    return max(8, round(size[0] * scale)), max(8, round(size[1] * scale))
