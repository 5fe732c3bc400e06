# SPDX-License-Identifier: GPL-3.0-or-later
"""A clip of any length, denoised in overlapping windows of the length the weights were trained with.

A window's latent 0 holds its first frame alone and every later one four frames. Windows start at multiples of four
frames, so that from latent 1 on their latents lie on the clip's. Each window after the first is tied to the one
before in three ways: the frames they share are its conditioning, seen in full, so that its first frame is a
generated one; at every step the shared latents are crossfaded with the former window's, noised to the same level by
the same noise; and all noise comes from one field over the clip.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from ..errors import Ex4dError
from ..progress import Reporter
from . import preprocess
from .latent_store import LatentStore
from .pipeline import Ex4dPipeline, Velocity
from .scheduler import set_sampling_steps
from .streaming_vae import PIXELS, PixelTile, StreamingDecoder

FRAME_STEP = 4
"""Frames a latent frame stands for, but for the first."""
TRAINED_FRAMES = 49
OVERLAP_FRAMES = 13
"""Frames two windows share by default: the first and three latent frames."""


@dataclass(frozen=True)
class Window:
    """A run of frames that is denoised at once.

    Attributes:
        index: 0 for the first.
        start: its first frame, a multiple of 4.
        frames: its length, 4k+1.
        overlap: frames shared with the window before, 4k+1; 0 for the first window.
    """

    index: int
    start: int
    frames: int
    overlap: int

    @property
    def stop(self) -> int:
        return self.start + self.frames

    @property
    def latent_start(self) -> int:
        return self.start // FRAME_STEP

    @property
    def latents(self) -> int:
        return self.frames // FRAME_STEP + 1

    @property
    def overlap_latents(self) -> int:
        """Latent frames shared with the window before; its own latent 0, a single frame, is not one of them."""
        return self.overlap // FRAME_STEP


def padded_frames(num_frames: int) -> int:
    """The next length of the form 4k+1."""
    return num_frames + -(num_frames - 1) % FRAME_STEP


def plan_windows(num_frames: int, window: int = TRAINED_FRAMES, overlap: int = OVERLAP_FRAMES) -> tuple[Window, ...]:
    """The windows over a clip padded to `padded_frames`.

    A clip no longer than a window is one window of its own length. In a longer one every window has the same length,
    and the last moves back to end with the clip, so that it shares more frames with the one before.

    Args:
        num_frames: the clip's length, at least 1.
        window: a window's length, 4k+1, at least 5.
        overlap: frames that neighbours share at least, at least 1; rounded up to 4k+1.

    Raises:
        ValueError: a length or overlap that is not possible.
    """
    if num_frames < 1:
        raise ValueError("a clip has at least one frame")
    if window < 5 or window % FRAME_STEP != 1:
        raise ValueError(f"a window has 4k+1 frames, at least 5, not {window}")
    shared = padded_frames(overlap)
    if overlap < 1 or shared >= window:
        raise ValueError(f"windows of {window} frames can share from 1 to {window - FRAME_STEP} frames, not {overlap}")
    total = padded_frames(num_frames)
    if total <= window:
        return (Window(0, 0, total, 0),)
    starts = [*range(0, total - window, window - shared), total - window]
    return tuple(
        Window(index, start, window, starts[index - 1] + window - start if index else 0)
        for index, start in enumerate(starts)
    )


class NoiseField:
    """One seeded noise over a whole clip, drawn as it is needed and forgotten behind the window in hand.

    It comes from the CPU, so that it is the same on every machine. Its first part is what the plain pipeline draws
    for the first window; the rest follows latent frame by latent frame, so that it does not depend on how many there
    will be.

    Args:
        seed: of torch's CPU generator.
        channels, height, width: of a latent frame.
    """

    def __init__(self, seed: int, channels: int, height: int, width: int) -> None:
        self._generator = torch.Generator("cpu").manual_seed(seed)
        self._size = (channels, height, width)
        self._start = 0
        self._drawn: torch.Tensor | None = None

    def window(self, window: Window) -> torch.Tensor:
        """(1, C, f, h, w) float32 of the window's latents; windows are asked for in order."""
        start, stop = window.latent_start, window.latent_start + window.latents
        if self._drawn is None:
            self._drawn = self._draw(window.latents)
        have = self._start + self._drawn.shape[2]
        parts = [self._drawn[:, :, start - self._start :], *(self._draw(1) for _ in range(have, stop))]
        self._drawn, self._start = torch.cat(parts, dim=2), start
        return self._drawn

    def _draw(self, latents: int) -> torch.Tensor:
        channels, height, width = self._size
        return torch.randn(1, channels, latents, height, width, generator=self._generator)


@dataclass(frozen=True)
class WindowInputs:
    """What one window is denoised from.

    Attributes:
        velocity: its denoiser, with the window's conditioning.
        clean: (1, C, f, h, w) latents that the pass starts from, noised to its first step; None starts from noise.
    """

    velocity: Velocity
    clean: torch.Tensor | None = None


Frames = NDArray[np.uint8]
"""(F, H, W, 3) uint8 RGB."""

PrepareWindow = Callable[[Window, Frames | None], WindowInputs]
"""(window, anchor) to its inputs. The anchor, None for the first window, is the frames that the window shares with
the one before, as they were made, (overlap, H, W, 3): see `anchored`."""


def anchored(video: torch.Tensor, mask: torch.Tensor, anchor: Frames | None) -> tuple[torch.Tensor, torch.Tensor]:
    """A window's colour and mask (1, 3, F, H, W) with the anchor's frames in front, seen in full."""
    if anchor is None:
        return video, mask
    # A quarter of a level more: the first frame is cut off to whole levels on its way to the model, and a level lost
    # at each window would add up over a long clip.
    colour = (torch.from_numpy(anchor).permute(3, 0, 1, 2)[None].float() + 0.25) / 255 * 2 - 1
    rest = slice(len(anchor), None)
    return (
        torch.cat([colour, video[:, :, rest]], dim=2),
        torch.cat([torch.ones_like(colour), mask[:, :, rest]], dim=2),
    )


@dataclass(frozen=True)
class DenoisePass:
    """How every window of a pass is denoised.

    Attributes:
        name: of the pass in keys, a plain word.
        digest: of all that decides the numbers, see `latent_store.settings_digest`.
        steps: steps of the whole schedule; first_step: the one to begin with.
        seed: of the noise field.
        remedy: what to do if the model gives no numbers, a sentence.
        decoder_tile: largest part of a frame that is decoded at once; None decodes whole frames.
        decoder_folder: where the decoder's memory of tiles waits between windows; None keeps it in main memory.
    """

    name: str
    digest: str
    steps: int
    first_step: int = 0
    seed: int = 0
    remedy: str = "Set the precision to exact and run again."
    decoder_tile: PixelTile | None = None
    decoder_folder: Path | None = None

    def key(self, window: Window) -> str:
        return f"{self.name}_{window.index:04d}.{self.digest[:16]}"


class StepCounter:
    """One bar over all steps of all windows and passes.

    Args:
        reporter: told of each step and asked, before each, whether to go on.
        total: steps.
    """

    def __init__(self, reporter: Reporter, total: int) -> None:
        self._reporter = reporter
        self._done = 0
        self._total = total

    def check(self) -> None:
        self._reporter.check()

    def advance(self, steps: int = 1) -> None:
        self._done += steps
        self._reporter.progress("denoise", self._done, self._total)

    def finish(self) -> None:
        """Fills the bar: a first pass whose second was all in the store is never run."""
        self._reporter.progress("denoise", self._total, self._total)


@torch.no_grad()
def denoise_windows(
    pipeline: Ex4dPipeline,
    plan: Sequence[Window],
    prepare: PrepareWindow,
    denoising: DenoisePass,
    latent_size: tuple[int, int],
    store: LatentStore,
    counter: StepCounter,
) -> Iterator[Frames]:
    """The clip's frames, window by window.

    Memory: latents and noise of one window, its frames that are new and its anchor, and the decoder's memory of one
    tile; all tiles' without a `decoder_folder`.

    Args:
        pipeline: denoises and decodes.
        plan: from `plan_windows`.
        prepare: makes a window's inputs; not called for windows the store has.
        denoising: steps and seed.
        latent_size: (h, w) of the latents.
        store: asked for each window before it is denoised, given it after.
        counter: asked and told at each step.

    Yields:
        The frames that no later window changes any more; together they are the padded clip.

    Raises:
        Ex4dError: `model_invalid` when a step gives no numbers; `out_of_memory`; `cancelled`; `disk_full`.
    """
    noise = NoiseField(denoising.seed, pipeline.vae.config.z_dim, *latent_size)
    decoder = StreamingDecoder(pipeline, denoising.decoder_tile, counter.check, denoising.decoder_folder)
    former: torch.Tensor | None = None  # the former window's latents in the overlap
    anchor: Frames | None = None
    for window, following in zip(plan, (*plan[1:], None), strict=True):
        counter.check()
        field = noise.window(window)
        latents = store.load(denoising.key(window), tuple(field.shape))
        if latents is None:
            with pipeline.released():
                inputs = prepare(window, anchor)
                anchor = None
                latents = _denoised_window(pipeline, window, inputs, denoising, field, former, counter)
            del inputs
            store.save(denoising.key(window), latents)
        else:
            counter.advance(denoising.steps - denoising.first_step)

        first = 1 if window.index else 0
        last = following.latent_start - window.latent_start if following else window.latents - 1
        former = latents[:, :, last + 1 :] if following else None
        with pipeline.released():
            frames, anchor = _decoded(decoder, window, latents[:, :, first:], former)
        del latents
        yield frames
        del frames  # the next window needs the room


def _decoded(
    decoder: StreamingDecoder, window: Window, latents: torch.Tensor, former: torch.Tensor | None
) -> tuple[Frames, Frames | None]:
    """What is decoded of a window, part by part.

    Args:
        decoder: in front of these latents.
        window: which they are of.
        latents: (1, C, f, h, w) of the frames that no earlier window has made.
        former: the last of them, which the next window changes still; None in the last window.

    Returns:
        The frames that are final, truncated as the pipeline gives them; and the next window's anchor, the last of them
        and those that are not final, rounded, so that their mean is not lower.
    """
    ahead = 0 if former is None else former.shape[2]
    total = FRAME_STEP * latents.shape[2] - (0 if window.index else FRAME_STEP - 1)
    final = total - FRAME_STEP * ahead
    size = (latents.shape[-2] * PIXELS, latents.shape[-1] * PIXELS, 3)
    frames = np.empty((final, *size), np.uint8)
    anchor = None if former is None else np.empty((total - final + 1, *size), np.uint8)
    for part in decoder.parts(latents, ahead, is_last=former is None):
        count, height, width = part.pixels.shape[2:]
        rows, columns = slice(part.top, part.top + height), slice(part.left, part.left + width)
        if part.frame < final:
            of_part = part.pixels[:, :, : final - part.frame]
            frames[part.frame : part.frame + of_part.shape[2], rows, columns] = preprocess.uint8_frames(of_part)
        if anchor is not None and part.frame + count >= final:
            start = max(part.frame, final - 1)
            of_part = part.pixels[:, :, start - part.frame :] + 1 / 255
            start -= final - 1
            anchor[start : start + of_part.shape[2], rows, columns] = preprocess.uint8_frames(of_part)
    return frames, anchor


def _denoised_window(
    pipeline: Ex4dPipeline,
    window: Window,
    inputs: WindowInputs,
    denoising: DenoisePass,
    noise: torch.Tensor,
    former: torch.Tensor | None,
    counter: StepCounter,
) -> torch.Tensor:
    """The window's latents (1, C, f, h, w) float32 on the CPU."""

    def crossfaded(latents: torch.Tensor, sigma: float) -> torch.Tensor:
        """`latents` at level `sigma`, tied to the former window's where they overlap."""
        if former is None:
            return latents
        shared = slice(1, 1 + window.overlap_latents)
        target = at_level(former, noise[:, :, shared], sigma).to(latents.device)
        share = overlap_shares(window.overlap_latents).to(latents.device)
        latents = latents.clone()
        latents[:, :, shared] = target + share * (latents[:, :, shared] - target)
        return latents

    def on_step(
        pipeline: Ex4dPipeline, step: int, timestep: torch.Tensor, tensors: dict[str, torch.Tensor]
    ) -> dict[str, Any]:
        latents = tensors["latents"]
        if not torch.isfinite(latents).all():
            raise Ex4dError(
                "model_invalid",
                f"Step {step + 1} of {denoising.steps} in window {window.index + 1} gave no numbers.",
                denoising.remedy,
            )
        latents = crossfaded(latents, float(pipeline.scheduler.sigmas[step + 1]))
        counter.advance()
        counter.check()
        return {"latents": latents}

    level = first_level(pipeline, denoising.steps, denoising.first_step)
    start = noise if inputs.clean is None else crossfaded(at_level(inputs.clean.cpu(), noise, level), level)
    return pipeline.denoise(start, inputs.velocity, denoising.steps, denoising.first_step, on_step).cpu()


def at_level(clean: torch.Tensor, noise: torch.Tensor, sigma: float) -> torch.Tensor:
    """`clean` latents noised to level `sigma`: (1 − σ)·x + σ·ε."""
    return (1 - sigma) * clean + sigma * noise


def overlap_shares(latents: int) -> torch.Tensor:
    """(1, 1, latents, 1, 1) shares of the new window over an overlap, from near 0 to near 1 in equal steps."""
    return (torch.arange(1, latents + 1, dtype=torch.float32) / (latents + 1)).view(1, 1, -1, 1, 1)


def first_level(pipeline: Ex4dPipeline, steps: int, first_step: int) -> float:
    """The noise level σ at the beginning of `first_step`, 1 for step 0."""
    set_sampling_steps(pipeline.scheduler, steps)
    return float(pipeline.scheduler.sigmas[first_step])
