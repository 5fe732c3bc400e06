# SPDX-License-Identifier: GPL-3.0-or-later
"""A take's video of any length and size: windows over time and, if asked for, a second pass in tiles."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Generator, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

import numpy as np
import torch
from numpy.typing import NDArray

from ..progress import Reporter
from . import preprocess
from .latent_store import LatentStore, NoStore, settings_digest
from .pipeline import Ex4dPipeline
from .refine import FrameBuffer, PromptEmbeds, first_pass_inputs, second_pass_inputs
from .sizes import TRAINED_AREA, WorkingSize, to_source_size, working_size
from .streaming_vae import PixelTile, decoder_bytes
from .tiles import LATENT_STEP, OVERLAP_PX, Tile, plan_tiles
from .windows import (
    OVERLAP_FRAMES,
    TRAINED_FRAMES,
    DenoisePass,
    Frames,
    PrepareWindow,
    StepCounter,
    Window,
    WindowInputs,
    denoise_windows,
    plan_windows,
)
from .working_frames import ReadFrame, WorkingFrames

Erosion = int | Literal["random"]

FLOATS_OF_TILE: Final = 15
"""Values a pixel that are there at once while a tile is encoded or decoded: colour and mask, and copies of both."""
LATENT_COPIES: Final = 6
"""Of a window's latents and noise."""
BEING_WRITTEN: Final = 72
"""Bytes a pixel of frames that are read, scaled and encoded: `BackgroundWriter` holds up to 12."""
UNACCOUNTED: Final = 2**27
"""What measured peaks are above the sum at most, with frames so small that it shows: the allocator's gaps."""


@dataclass(frozen=True)
class VideoSettings:
    """What a generated video is made with, besides model, text and conditioning.

    Attributes:
        steps: denoising steps.
        guidance_scale: neg + g·(pos − neg); 1 is one forward a step.
        seed: of noise and random erosion.
        window: frames denoised at once, 4k+1; the weights were trained with 49.
        overlap: frames that neighbouring windows share at least.
        erosion: how far the seen region shrinks at the working size, a radius in pixels, or "random": a kernel of
            2…8 pixels drawn for each frame, as in the reference.
        area: pixels of the first pass's frame; the weights were trained near 512².
        detail_area: pixels of the second pass's frame, at most the source's; None leaves the second pass out.
        detail_strength: the share of the steps that the second pass repeats. At 0.4 of 25 steps it begins at noise
            level 0.77.
        remedy: what to do if the model gives no numbers, a sentence.
    """

    steps: int = 25
    guidance_scale: float = 5.0
    seed: int = 0
    window: int = TRAINED_FRAMES
    overlap: int = OVERLAP_FRAMES
    erosion: Erosion = preprocess.EROSION_RADIUS
    area: int = TRAINED_AREA
    detail_area: int | None = None
    detail_strength: float = 0.4
    remedy: str = "Set the precision to exact and run again."

    def __post_init__(self) -> None:
        if self.steps < 1 or not 0 < self.detail_strength <= 1:
            raise ValueError(f"{self.steps} steps and a strength of {self.detail_strength} are not possible")
        if self.erosion != "random" and (isinstance(self.erosion, str) or self.erosion < 0):
            raise ValueError(f"an erosion of {self.erosion} is not possible")

    @property
    def first_detail_step(self) -> int:
        return self.steps - max(1, round(self.detail_strength * self.steps))


@dataclass(frozen=True)
class VideoPlan:
    """What `generate_video` will do, to be shown beforehand.

    Attributes:
        size: of the first pass.
        windows: over the clip, the same in both passes.
        detail_size: of the second pass, None without one.
        tiles: of the second pass, empty without one.
        steps: steps of all windows and passes, as the progress bar counts them.
        forwards: transformer forwards, each of about a window at the trained area.
    """

    size: WorkingSize
    windows: tuple[Window, ...]
    detail_size: WorkingSize | None
    tiles: tuple[Tile, ...]
    steps: int
    forwards: int

    @property
    def decoder_tile(self) -> PixelTile | None:
        """What is decoded at once of the second pass's frames: no more than is denoised at once."""
        return (self.tiles[0].height, self.tiles[0].width) if len(self.tiles) > 1 else None

    def host_bytes(self, wan_vae: bool = True) -> int:
        """About what the run takes of the main memory beside its models, on a graphics card; see docs/sizes.md.

        Args:
            wan_vae: whether the VAE is Wan's, in float32; the bundled codec remembers next to nothing.
        """
        channels = 16 if wan_vae else 48
        size, window = self.detail_size or self.size, self.windows[0]
        pixels, tile_pixels = size.width * size.height, self._tile_pixels
        # conditioning and its mask, and the anchor; what is encoded or decoded of a tile, as floats, in several copies
        frames = window.frames * 4 * pixels + max(one.overlap for one in self.windows) * 3 * pixels
        of_tile = window.frames * FLOATS_OF_TILE * 4 * tile_pixels
        # the rows and columns that tiles share wait for the next ones, and frames for their files
        waiting = (
            window.frames * 12 * size.width * LATENT_STEP**2 + BEING_WRITTEN * size.source_width * size.source_height
        )
        latents = 4 * channels * window.latents * pixels // LATENT_STEP**2 * LATENT_COPIES
        # of every tile: the first frame's mask and latents, and what the camera encoder reads
        of_tiles = 4 * (4 + 3 * channels) * window.latents * len(self.tiles) * tile_pixels // LATENT_STEP**2
        decoder = 0
        if wan_vae:
            decoder = decoder_bytes(*self._decoded_at_once)
            if len(self.windows) > 2 and self.detail_size is not None:  # the first pass, a window ahead, is not done
                decoder += decoder_bytes(self.size.height, self.size.width)
        return frames + of_tile + waiting + latents + of_tiles + decoder + UNACCOUNTED

    def scratch_bytes(self) -> int:
        """What the memory of Wan's decoder takes of the disk between windows, see `FileMemory`."""
        if len(self.windows) == 1 or self.detail_size is None or self.decoder_tile is None:
            return 0
        return decoder_bytes(self.detail_size.height, self.detail_size.width, tile=self.decoder_tile)

    @property
    def _decoded_at_once(self) -> PixelTile:
        size = self.detail_size or self.size
        return self.decoder_tile or (size.height, size.width)

    @property
    def _tile_pixels(self) -> int:
        height, width = self._decoded_at_once
        return height * width


def plan_video(num_frames: int, width: int, height: int, settings: VideoSettings, multiple: int = 16) -> VideoPlan:
    """The windows, sizes and tiles of a clip of `num_frames` frames of `width` × `height` pixels.

    The second pass is left out where it would be no larger than the first.

    Raises:
        ValueError: numbers that are not possible, see `plan_windows` and `working_size`.
    """
    windows = plan_windows(num_frames, settings.window, settings.overlap)
    size = working_size(width, height, settings.area, multiple)
    detail: WorkingSize | None = None
    tiles: tuple[Tile, ...] = ()
    if settings.detail_area is not None and size.scale < 1 and settings.detail_area > settings.area:
        detail = working_size(width, height, min(settings.detail_area, width * height), multiple)
        tiles = plan_tiles(detail.height, detail.width, settings.area, _tile_overlap(settings.area), multiple)
    steps, detail_steps = settings.steps, settings.steps - settings.first_detail_step if detail else 0
    branches = 2 if settings.guidance_scale > 1 else 1
    return VideoPlan(
        size,
        windows,
        detail,
        tiles,
        len(windows) * (steps + detail_steps),
        len(windows) * branches * (steps + detail_steps * len(tiles)),
    )


def generate_video(
    pipeline: Ex4dPipeline,
    conditioning: ReadFrame,
    num_frames: int,
    width: int,
    height: int,
    settings: VideoSettings,
    prompt_embeds: PromptEmbeds,
    reporter: Reporter,
    store: LatentStore | None = None,
    scratch: Path | None = None,
) -> Generator[NDArray[np.uint8], None, None]:
    """The generated frames in order, at full size.

    Memory does not grow with the clip's length: about `VideoPlan.host_bytes` on the CPU, on the device what one
    window, or one tile of it, takes; and `VideoPlan.scratch_bytes` on the disk.

    Args:
        pipeline: with its models where they are to compute.
        conditioning: reads a frame's colour and mask at full size; the first frame is the source view.
        num_frames: frames of the clip, any number.
        width, height: of its frames, any size.
        settings: see there.
        prompt_embeds: positive and, under guidance, negative (1, L ≤ 512, text_dim).
        reporter: told each step under "denoise" and asked before it whether to go on.
        store: finished windows, from which a run that was stopped goes on with the same numbers.
        scratch: a folder for what waits from one window to the next, which the caller removes; None keeps that in main
            memory.

    Yields:
        (height, width, 3) uint8 RGB.

    Raises:
        Ex4dError: `model_missing` without a camera encoder; `model_invalid` when the model gives no numbers;
            `out_of_memory`; `cancelled`; `disk_full`.
        ValueError: guidance without a negative prompt; sizes that do not fit.
    """
    plan = plan_video(num_frames, width, height, settings, pipeline.size_multiple)
    prompts = _prompts(pipeline, prompt_embeds, settings.guidance_scale)
    kernels = erosion_kernels(settings, num_frames)
    counter = StepCounter(reporter, plan.steps)
    store = store or NoStore()
    identity = {
        "frames": num_frames,
        "size": [width, height],
        "prompts": [None if embeds is None else _tensor_digest(embeds) for embeds in prompts],
        **{name: value for name, value in dataclasses.asdict(settings).items() if name != "remedy"},
    }

    def runs(
        name: str,
        size: WorkingSize,
        first_step: int,
        prepare: PrepareWindow,
        digest: str,
        tile: PixelTile | None = None,
    ) -> Iterator[Frames]:
        denoising = DenoisePass(name, digest, settings.steps, first_step, settings.seed, settings.remedy, tile, scratch)
        latent_size = (size.height // LATENT_STEP, size.width // LATENT_STEP)
        return denoise_windows(pipeline, plan.windows, prepare, denoising, latent_size, store, counter)

    working = WorkingFrames(conditioning, plan.size, kernels)

    def first_pass(window: Window, anchor: Frames | None) -> WindowInputs:
        return first_pass_inputs(pipeline, working, window, anchor, prompts, settings.guidance_scale)

    first_identity = {name: value for name, value in identity.items() if not name.startswith("detail")}
    frames = runs("first", plan.size, 0, first_pass, settings_digest(first_identity))
    size = plan.size
    if plan.detail_size is not None:
        size, fine = plan.detail_size, WorkingFrames(conditioning, plan.detail_size, kernels)
        buffer = FrameBuffer(frames)

        def second_pass(window: Window, anchor: Frames | None) -> WindowInputs:
            return second_pass_inputs(
                pipeline,
                fine,
                window,
                anchor,
                prompts,
                settings.guidance_scale,
                plan.tiles,
                buffer,
                plan.size,
                counter.check,
            )

        digest = settings_digest(identity)
        frames = runs("second", size, settings.first_detail_step, second_pass, digest, plan.decoder_tile)
    given = 0
    for run in frames:
        for index in range(min(len(run), num_frames - given)):
            yield to_source_size(run[index], size)
        given += len(run)
        del run  # the next window needs the room
    counter.finish()


def erosion_kernels(settings: VideoSettings, num_frames: int) -> list[int]:
    """One erosion kernel a frame, pixels at the working size."""
    if settings.erosion == "random":
        return preprocess.random_erosion(num_frames, settings.seed)
    return preprocess.fixed_erosion(num_frames, 2 * settings.erosion + 1)


def _prompts(pipeline: Ex4dPipeline, embeds: PromptEmbeds, guidance_scale: float) -> PromptEmbeds:
    positive, negative = embeds
    if guidance_scale <= 1:
        negative = None
    elif negative is None:
        raise ValueError(f"a guidance of {guidance_scale} needs a negative prompt")
    pipeline._guidance_scale = guidance_scale
    return pipeline.prepare_prompt_embeds(None, "", positive, negative)


def _tile_overlap(area: int) -> int:
    """The share of a tile that 128 pixels are of 512, in whole latents."""
    return max(LATENT_STEP, round(OVERLAP_PX * (area / TRAINED_AREA) ** 0.5 / LATENT_STEP) * LATENT_STEP)


def _tensor_digest(value: torch.Tensor) -> str:
    return hashlib.sha256(value.detach().float().cpu().contiguous().numpy().tobytes()).hexdigest()
