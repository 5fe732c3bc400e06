# SPDX-License-Identifier: GPL-3.0-or-later
"""Simulated masks for the clips of a bank, drawn by other processes while the graphics card trains.

A mask belongs to a window of its clip and to the direction in which it is seen, as its first frame is whole. numpy,
OpenCV and the raster only: the processes never load torch.
"""

from __future__ import annotations

import dataclasses
import multiprocessing
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from typing import Any, Final, Self

import cv2
import numpy as np
from numpy.typing import NDArray

from ..dwmesh.walls import WALL_SHARE
from ..errors import Ex4dError
from .beside import beside_the_training
from .simulated_masks import MaskSettings, simulated_masks

MIXES: Final = {
    "both": MaskSettings().ratios,
    "rendering": (1.0, 0.0, 0.0, 0.0),
    "tracking": (0.0, 1.0, 0.0, 0.0),
}
"""Weights of rendering masks, tracking masks, both united and none, by the name of the mix."""
_EROSIONS: Final = (3, 5, 7, 9)
"""Sides in pixels that a mask's kept region shrinks by, one a mask: small pictures are eroded by less than large."""


@dataclass(frozen=True)
class BankMasks:
    """Which masks a clip gets.

    mix: one of `MIXES`.
    frames: of a mask's window.
    per_clip: masks of a clip, each in a window of its own.
    wall_share: how deep the walls behind outlines are, see dwmesh/walls.py.
    raster: as in raster/__init__.py.
    """

    mix: str = "both"
    frames: int = 49
    per_clip: int = 2
    wall_share: float = WALL_SHARE
    raster: str = "opengl"

    def __post_init__(self) -> None:
        if self.mix not in MIXES:
            raise Ex4dError("bad_request", f"There are no {self.mix!r} masks.", f"Choose one of {', '.join(MIXES)}.")
        if self.per_clip < 1 or self.frames < 1:
            raise Ex4dError("bad_request", "A clip without a mask cannot be trained on.", "Give 1 or more.")

    def identity(self) -> dict[str, Any]:
        """What a resumed run must have in common with its first sitting, as it comes back from JSON.

        Not the raster: they draw alike, and another machine may have another.
        """
        return {
            "masks": self.mix,
            "masks.frames": self.frames,
            "masks.per_clip": self.per_clip,
            "masks.wall_share": self.wall_share,
        }


@dataclass(frozen=True)
class WindowMask:
    """start, step: the window's frames are start, start + step, …, with step 1 or −1.

    bits: (F, H, ⌈W/8⌉) uint8, a pixel a bit, as of `numpy.packbits`: 1 where it is kept.
    """

    start: int
    step: int
    bits: NDArray[np.uint8]


def window_masks(
    seed: int,
    frames: NDArray[np.uint8],
    depth: NDArray[np.float32],
    intrinsics: NDArray[np.float64],
    settings: BankMasks,
) -> list[WindowMask]:
    """Draws the masks of one clip. The same arguments give the same masks.

    Args:
        seed: of the windows and the masks.
        frames: (F,H,W,3) uint8 sRGB.
        depth: (F,H,W) float32 z, inf for sky.
        intrinsics: (F,3,3); a window has one lens, that of its first frame.
        settings: see `BankMasks`.

    Raises:
        Ex4dError: `bad_request` for a clip shorter than a window; and as `simulated_masks`.
    """
    if len(frames) < settings.frames:
        raise Ex4dError(
            "bad_request",
            f"Masks of {settings.frames} frames do not fit clips of {len(frames)}.",
            "Draw longer clips or shorter masks.",
        )
    draw = np.random.default_rng(seed)
    masks = []
    for number in range(settings.per_clip):
        first = int(draw.integers(len(frames) - settings.frames + 1))
        window = slice(first, first + settings.frames)
        forwards = bool(draw.random() < 0.5)
        order = slice(None) if forwards else slice(None, None, -1)
        erosion = int(draw.choice(_EROSIONS))
        chosen = dataclasses.replace(
            MaskSettings(), ratios=MIXES[settings.mix], wall_share=settings.wall_share, erosion=(erosion, erosion)
        )
        start = first if forwards else first + settings.frames - 1
        keep = simulated_masks(
            seed * settings.per_clip + number,
            np.ascontiguousarray(frames[window][order]),
            np.ascontiguousarray(depth[window][order]),
            intrinsics[start],
            chosen,
            raster=settings.raster,
        ).keep
        masks.append(WindowMask(start, 1 if forwards else -1, np.packbits(keep > 127, axis=-1)))
    return masks


class MaskDrawer:
    """Draws masks in `workers` processes, or with none of them here and at once. A context manager.

    Each process holds an OpenGL context of its own. Where there is no OpenGL (and no other raster is chosen), the
    first rendering mask's future raises `no_opengl`, which ends the training; tracking masks need none.
    """

    def __init__(self, settings: BankMasks, workers: int) -> None:
        self.settings = settings
        self._pool: ProcessPoolExecutor | None = None
        if workers > 0:
            # spawned, as forking a process that uses a graphics card breaks it
            context = multiprocessing.get_context("spawn")
            self._pool = ProcessPoolExecutor(workers, context, initializer=_begin_drawing)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        if self._pool is not None:
            self._pool.shutdown(cancel_futures=True)

    def submit(
        self, seed: int, frames: NDArray[np.uint8], depth: NDArray[np.float32], intrinsics: NDArray[np.float64]
    ) -> Future[list[WindowMask]]:
        """`window_masks` to come; arguments as there."""
        if self._pool is not None:
            return self._pool.submit(window_masks, seed, frames, depth, intrinsics, self.settings)
        done: Future[list[WindowMask]] = Future()
        done.set_result(window_masks(seed, frames, depth, intrinsics, self.settings))
        return done


def drawn(future: Future[list[WindowMask]]) -> list[WindowMask]:
    """The masks of a future that `MaskDrawer.submit` returned.

    Raises:
        Ex4dError: what drawing them raised; `out_of_memory` if the process that drew them was ended.
    """
    try:
        return future.result()
    except BrokenProcessPool as error:
        raise Ex4dError(
            "out_of_memory",
            "A process that draws masks was ended by the system.",
            "Use fewer processes (--workers), or a machine with more memory.",
        ) from error


def _begin_drawing() -> None:
    beside_the_training()
    cv2.setNumThreads(1)
