# SPDX-License-Identifier: GPL-3.0-or-later
"""The second pass: the generated video enlarged, noised part of the way and denoised in tiles beside the plate.

The first pass has decided what is in the picture, over the whole frame and at the size the weights know. This one
begins at a middle noise level, where that is fixed and detail is not, and sees the plate at its finer size.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import torch

from . import preprocess
from .pipeline import Conditioning, Ex4dPipeline
from .sizes import WorkingSize, enlarged
from .tiles import LATENT_STEP, Tile, blended, tiled_velocity
from .windows import Frames, Window, WindowInputs, anchored
from .working_frames import WorkingFrames

PromptEmbeds = tuple[torch.Tensor, torch.Tensor | None]


class FrameBuffer:
    """Frames that come in runs, handed out by number; those before the last start asked for are forgotten.

    Args:
        runs: consecutive frames (n, H, W, 3), asked for only when they are needed.
    """

    def __init__(self, runs: Iterator[Frames]) -> None:
        self._runs = runs
        self._start = 0
        self._held: list[np.ndarray] = []

    def frames(self, start: int, stop: int) -> Frames:
        """Frames start … stop − 1, (n, H, W, 3); `start` never decreases."""
        while self._start + len(self._held) < stop:
            self._held.extend(next(self._runs))
        del self._held[: start - self._start]
        self._start = start
        return np.stack(self._held[: stop - start])


def first_pass_inputs(
    pipeline: Ex4dPipeline,
    working: WorkingFrames,
    window: Window,
    anchor: Frames | None,
    prompt_embeds: PromptEmbeds,
    guidance_scale: float,
) -> WindowInputs:
    """A window of the first pass: the whole frame, from noise."""
    colours, masks = working.window(window)
    whole = Tile(0, 0, working.size.height, working.size.width)
    conditioning = _conditioning(pipeline, whole, colours, masks, anchor)
    return WindowInputs(tiled_velocity(pipeline, [whole], [conditioning], prompt_embeds, guidance_scale))


def second_pass_inputs(
    pipeline: Ex4dPipeline,
    working: WorkingFrames,
    window: Window,
    anchor: Frames | None,
    prompt_embeds: PromptEmbeds,
    guidance_scale: float,
    tiles: tuple[Tile, ...],
    first_pass: FrameBuffer,
    first_size: WorkingSize,
    check: Callable[[], None],
) -> WindowInputs:
    """A window of the second pass: tile by tile, from the first pass's frames.

    Nothing larger than a tile is encoded at once. Memory on the CPU: 4 bytes a pixel of the window, and the tiles'
    conditioning.

    Args:
        pipeline, prompt_embeds, guidance_scale: as in the first pass.
        working: the plate's conditioning at the second pass's size.
        window, anchor: from `denoise_windows`.
        tiles: over the second pass's size.
        first_pass: frames at `first_size`, as the first pass made them.
        first_size: of the first pass.
        check: asked before each tile is encoded, and in each step; raises to stop.
    """
    colours, masks = working.window(window)
    size = working.size
    conditionings = []
    for tile in tiles:
        check()
        conditioning = _conditioning(pipeline, tile, colours, masks, anchor, waits=len(tiles) > 1)
        conditionings.append(conditioning if len(tiles) == 1 else conditioning.to("cpu"))
    del colours, masks  # before there is another copy of all frames
    width, height = first_size.content
    start = np.empty((window.frames, size.height, size.width, 3), np.uint8)
    for place, frame in zip(start, first_pass.frames(window.start, window.stop), strict=True):
        place[:] = enlarged(frame[:height, :width], (size.width, size.height), first_size.scale / size.scale)

    def encoded(index: int) -> torch.Tensor:
        check()
        return pipeline.encode_video(_video(tiles[index].of_pixels(start))).cpu()

    clean = blended(tiles, (size.height // LATENT_STEP, size.width // LATENT_STEP), encoded)
    return WindowInputs(
        tiled_velocity(pipeline, tiles, conditionings, prompt_embeds, guidance_scale, check=check), clean
    )


def _conditioning(
    pipeline: Ex4dPipeline,
    tile: Tile,
    colours: Frames,
    masks: np.ndarray,
    anchor: Frames | None,
    *,
    waits: bool = False,
) -> Conditioning:
    """The conditioning of one tile; the masks are eroded already, over the whole frame."""
    video, mask = preprocess.conditioning_videos(
        tile.of_pixels(colours), tile.of_pixels(masks), preprocess.no_erosion(len(colours))
    )
    video, mask = anchored(video, mask, None if anchor is None else tile.of_pixels(anchor))
    return pipeline.prepare_conditioning(video, mask, waits=waits)


def _video(frames: Frames) -> torch.Tensor:
    """(1, 3, F, H, W) float32 in [−1, 1] of (F, H, W, 3) uint8."""
    return torch.from_numpy(np.ascontiguousarray(frames)).permute(3, 0, 1, 2)[None].float() * (2 / 255) - 1
