# SPDX-License-Identifier: GPL-3.0-or-later
"""Simulated masks: an ordinary clip becomes a training pair by hiding from it what a new camera could not see.

The clip is its own target; its kept pixels are the conditioning. Two kinds of holes are mixed: those of a random
camera path (rendering_masks.py) and those that stick to what they cover (tracking_masks.py). numpy, OpenCV and the
raster only: a data pipeline makes them in worker processes that never load torch.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final

import cv2
import numpy as np
from numpy.typing import NDArray

from ..dwmesh.walls import WALL_SHARE
from ..errors import Ex4dError
from .random_paths import PathSettings, random_path
from .rendering_masks import rendering_masks, usable_depth
from .tracking_masks import BlobSettings, Tracker, tracking_masks

KINDS: Final = ("rendering", "tracking", "both", "none")


@dataclass(frozen=True)
class MaskSettings:
    """How masks are drawn.

    Attributes:
        ratios: weights of rendering masks only, tracking masks only, both united, and no holes at all.
        paths: the cameras of rendering masks.
        blobs: the holes of tracking masks.
        wall_share: see dwmesh/walls.py.
        erosion: least and most side in pixels of the square that the kept region shrinks by, drawn for each frame.
            The default is the pipeline's own, the same in every frame; (2, 8) is the reference's, (1, 1) is none.
    """

    ratios: tuple[float, float, float, float] = (0.5, 0.2, 0.25, 0.05)
    paths: PathSettings = field(default_factory=PathSettings)
    blobs: BlobSettings = field(default_factory=BlobSettings)
    wall_share: float = WALL_SHARE
    erosion: tuple[int, int] = (9, 9)

    def __post_init__(self) -> None:
        if len(self.ratios) != len(KINDS) or not min(self.ratios) >= 0 or not 0 < sum(self.ratios) < np.inf:
            raise _refused("ratios", self.ratios, "four weights that are not negative and not all zero")
        if not self.wall_share > 0:
            raise _refused("wall share", self.wall_share, "a positive number, or inf")
        if not 1 <= self.erosion[0] <= self.erosion[1]:
            raise _refused("erosion", self.erosion, "two rising numbers of pixels from 1 on")


@dataclass(frozen=True)
class SimulatedMasks:
    """kind: one of KINDS; keep: (F,H,W) uint8, 255 where a pixel is kept, eroded, the first frame whole;
    path: (F,4,4), the camera whose holes these are, relative to the source; None without rendering masks.
    """

    kind: str
    keep: NDArray[np.uint8]
    path: NDArray[np.float64] | None


def simulated_masks(
    seed: int,
    frames: NDArray[np.uint8],
    depth: NDArray[np.float32],
    intrinsics: NDArray[np.float64],
    settings: MaskSettings,
    *,
    source_poses: NDArray[np.float64] | None = None,
    tracker: Tracker | None = None,
    raster: str = "opengl",
) -> SimulatedMasks:
    """Draws the masks of one window of a clip. The same arguments give the same masks.

    Args:
        frames: (F,H,W,3) uint8 sRGB; looked at for tracking masks only.
        depth: (F,H,W) float32 z; looked at for rendering masks only.
        intrinsics, source_poses, raster: as in `rendering_masks`.
        tracker: as in `tracking_masks`.

    Raises:
        Ex4dError: `depth_mismatch` for frames and depth of different shapes; and as `rendering_masks`.
    """
    if frames.shape[:3] != depth.shape:
        raise Ex4dError(
            "depth_mismatch",
            f"Frames of shape {frames.shape} and depth of shape {depth.shape} are not of one clip.",
            "Give one depth map a frame, of the frame's size.",
        )
    # a stream for each part, so that other blobs do not mean another path
    choice, camera, holes, edges = (
        np.random.default_rng(stream) for stream in np.random.SeedSequence(seed).spawn(len(KINDS))
    )
    kind = str(choice.choice(KINDS, p=np.array(settings.ratios) / sum(settings.ratios)))
    keep, path = np.full(depth.shape, 255, np.uint8), None
    if kind in ("rendering", "both"):
        path = random_path(camera, len(depth), usable_depth(depth[:1])[0], settings.paths)
        keep &= rendering_masks(depth, intrinsics, path, source_poses, wall_share=settings.wall_share, raster=raster)
    if kind in ("tracking", "both"):
        keep &= tracking_masks(holes, frames, settings.blobs, tracker)
    kernels = edges.integers(settings.erosion[0], settings.erosion[1] + 1, len(depth))
    return SimulatedMasks(kind, eroded(keep, kernels), path)


def eroded(keep: NDArray[np.uint8], kernels: NDArray[np.int64]) -> NDArray[np.uint8]:
    """(F,H,W) keep-masks with each frame's kept region shrunk by a square of so many pixels, as the pipeline does.

    The picture's own border is no edge of the kept region: a whole frame stays whole.
    """
    pairs = zip(keep, kernels, strict=True)
    return np.stack([cv2.erode(frame, np.ones((kernel, kernel), np.uint8)) for frame, kernel in pairs])


def masked_plate(frames: NDArray[np.uint8], keep: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """(F,H,W,3) the colour of the conditioning: the plate where it is kept, black elsewhere.

    With `keep` this is what inference hands to `diffusion.preprocess.conditioning_videos`, with `no_erosion`, as
    these masks are eroded already.
    """
    return np.where(keep[..., None] > 0, frames, np.uint8(0))


def _refused(name: str, value: object, wanted: str) -> Ex4dError:
    return Ex4dError("bad_request", f"The masks' {name} cannot be {value}.", f"Give {wanted}.")
