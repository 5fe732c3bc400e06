# SPDX-License-Identifier: GPL-3.0-or-later
"""DepthCrafter's sampling (arXiv 2409.02095) on diffusers' Stable Video Diffusion classes.

An independent implementation. The picture-to-video model is conditioned on every frame instead of one: each frame
gives its own context to the cross-attention and its own latents beside the noisy ones. What is denoised is the
latents of the clip's disparity. A long clip is denoised in windows; each begins, where it overlaps the last, from
what that one found, and is faded in over the overlap in latent space.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import torch

from ...progress import Reporter
from ..network_loading import invalid, load_library_model

Array = npt.NDArray[np.float32]
Image = npt.NDArray[np.uint8]

TIME_IDS: Final = (7.0, 127.0, 0.02)
"""Frames a second, motion bucket and noise strength that the model is told, always the same."""
NOISE: Final = 0.02
"""Standard deviation of what is added to the frames, in −1…1, before they are encoded."""
_TOGETHER: Final = 8
"""Frames that are encoded or decoded at once."""


@dataclass(frozen=True)
class VideoDiffusion:
    """The model's parts: VAE in float32, whose half precision overflows; the others in one precision."""

    unet: Any
    vae: Any
    image_encoder: Any
    scheduler: Any

    @property
    def device(self) -> torch.device:
        """Where all parts lie."""
        device: torch.device = self.unet.device
        return device


@dataclass(frozen=True)
class Sampling:
    """window, overlap: frames denoised together, and how many of them the last window has too. steps: of the solver.

    seed: of all noise.
    """

    window: int = 110
    overlap: int = 25
    steps: int = 5
    seed: int = 0


@dataclass(frozen=True)
class Conditioning:
    """What the model knows of F frames: context (F, C) for the cross-attention, latents (F, c, h, w)."""

    context: torch.Tensor
    latents: torch.Tensor

    def joined(self, others: Conditioning) -> Conditioning:
        """These frames, then the others."""
        return Conditioning(torch.cat([self.context, others.context]), torch.cat([self.latents, others.latents]))

    def last(self, count: int) -> Conditioning:
        """The last `count` frames."""
        first = len(self.context) - count
        return Conditioning(self.context[first:], self.latents[first:])


def load_video_diffusion(
    unet_folder: Path, shared_folder: Path, dtype: torch.dtype, device: torch.device
) -> VideoDiffusion:
    """The parts from the folders they are published in.

    Raises:
        Ex4dError: `model_invalid` if a tensor is missing, has no place or another shape.
    """
    from diffusers import AutoencoderKLTemporalDecoder, EulerDiscreteScheduler, UNetSpatioTemporalConditionModel
    from transformers import CLIPVisionModelWithProjection

    try:
        scheduler = EulerDiscreteScheduler.from_pretrained(shared_folder / "scheduler", local_files_only=True)
    except (OSError, ValueError) as error:
        raise invalid(shared_folder / "scheduler", "Stable Video Diffusion", "its configuration is damaged") from error
    return VideoDiffusion(
        unet=load_library_model(UNetSpatioTemporalConditionModel, unet_folder, dtype).to(device),
        vae=load_library_model(AutoencoderKLTemporalDecoder, shared_folder / "vae", torch.float32).to(device),
        image_encoder=load_library_model(CLIPVisionModelWithProjection, shared_folder / "image_encoder", dtype).to(
            device
        ),
        scheduler=scheduler,
    )


def disparity(
    frames: Iterator[Image], model: VideoDiffusion, sampling: Sampling, reporter: Reporter
) -> Iterator[Array]:
    """Each frame's disparity (h, w), 0 far … 1 near within the clip, up to one scale and shift.

    Args:
        frames: (h, w, 3), h and w divisible by 64.
    """
    waiting: list[torch.Tensor] = []
    for latents in depth_latents(frames, model, sampling, reporter):
        waiting.append(latents)
        # always the same frames together: the decoder looks along time too
        if len(waiting) == _TOGETHER:
            yield from decoded(torch.stack(waiting), model)
            waiting = []
    if waiting:
        yield from decoded(torch.stack(waiting), model)


def depth_latents(
    frames: Iterator[Image], model: VideoDiffusion, sampling: Sampling, reporter: Reporter
) -> Iterator[torch.Tensor]:
    """The denoised latents (c, h, w) of every frame, windows blended. Holds one window."""
    generator = torch.Generator().manual_seed(sampling.seed)
    noise: torch.Tensor | None = None
    seen: Conditioning | None = None
    before: torch.Tensor | None = None
    while True:
        kept = 0 if seen is None else sampling.overlap
        batch = list(islice(frames, sampling.window - kept))
        if not batch:
            break
        fresh = condition(batch, model, generator)
        seen = fresh if seen is None else seen.joined(fresh)
        if noise is None:
            # one noise for all windows: what is alike in them comes out alike
            noise = torch.randn((sampling.window, *seen.latents.shape[1:]), generator=generator)
        latents = denoised(seen, noise[: len(seen.context)], before, model, sampling.steps, reporter)
        if before is not None:
            latents = blended(before, latents)
        if len(latents) < sampling.window:
            yield from latents
            return
        yield from latents[: sampling.window - sampling.overlap]
        before, seen = latents[sampling.window - sampling.overlap :], seen.last(sampling.overlap)
    if before is not None:
        yield from before


def condition(images: list[Image], model: VideoDiffusion, generator: torch.Generator) -> Conditioning:
    """The conditioning of frames (h, w, 3)."""
    parts = []
    for first in range(0, len(images), _TOGETHER):
        stack = np.stack(images[first : first + _TOGETHER]).astype(np.float32) / 127.5 - 1.0
        video = torch.from_numpy(np.ascontiguousarray(stack.transpose(0, 3, 1, 2)))
        noisy = video + NOISE * torch.randn(video.shape, generator=generator)
        latents = model.vae.encode(noisy.to(model.device)).latent_dist.mode()
        parts.append(Conditioning(embedded(video.to(model.device), model.image_encoder), latents))
    whole = parts[0]
    for part in parts[1:]:
        whole = whole.joined(part)
    return whole


def embedded(video: torch.Tensor, image_encoder: Any) -> torch.Tensor:
    """Frames (F, 3, h, w) in −1…1 → their CLIP embeddings (F, C)."""
    # the pipeline's own, as what Stable Video Diffusion was trained with is this filter and no other
    from diffusers.pipelines.stable_video_diffusion.pipeline_stable_video_diffusion import _resize_with_antialiasing
    from transformers.image_utils import OPENAI_CLIP_MEAN, OPENAI_CLIP_STD

    side = image_encoder.config.image_size
    small = (_resize_with_antialiasing(video, (side, side)) + 1.0) / 2.0
    mean, deviation = (video.new_tensor(values)[:, None, None] for values in (OPENAI_CLIP_MEAN, OPENAI_CLIP_STD))
    embeddings: torch.Tensor = image_encoder(((small - mean) / deviation).to(image_encoder.dtype)).image_embeds
    return embeddings


def denoised(
    known: Conditioning,
    noise: torch.Tensor,
    before: torch.Tensor | None,
    model: VideoDiffusion,
    steps: int,
    reporter: Reporter,
) -> torch.Tensor:
    """The latents (F, c, h, w) float32 of one window.

    Args:
        noise: (F, c, h, w), standard normal, on the CPU.
        before: (n, c, h, w), what the last window found for the first n frames.
    """
    scheduler, unet = model.scheduler, model.unet
    scheduler.set_timesteps(steps, device=model.device)
    noise = noise.to(model.device)
    latents = start(noise, before, float(scheduler.sigmas[0]), float(scheduler.init_noise_sigma))[None]
    ids = torch.tensor([TIME_IDS], dtype=unet.dtype, device=model.device)
    with per_frame_context(unet, known.context.to(unet.dtype)):
        for step in scheduler.timesteps:
            reporter.check()
            scaled = scheduler.scale_model_input(latents, step)
            together = torch.cat([scaled, known.latents[None]], dim=2).to(unet.dtype)
            predicted = unet(
                together, step, known.context[None, :1].to(unet.dtype), added_time_ids=ids, return_dict=False
            )[0]
            latents = scheduler.step(predicted.float(), step, latents, return_dict=False)[0]
    return latents[0]


def start(noise: torch.Tensor, before: torch.Tensor | None, sigma: float, whole_noise: float) -> torch.Tensor:
    """What a window is denoised from: noise of the solver's strength; where frames are known, these with noise added.

    Args:
        noise: (F, c, h, w), standard normal.
        before: (n, c, h, w), the first n frames' latents.
        sigma: the first step's noise level.
        whole_noise: what the solver wants pure noise multiplied with.
    """
    latents = noise * whole_noise
    if before is not None:
        latents[: len(before)] = before + sigma * noise[: len(before)]
    return latents


def blended(before: torch.Tensor, latents: torch.Tensor) -> torch.Tensor:
    """A window's latents (F, c, h, w) with its first n frames faded linearly from `before` (n, c, h, w)."""
    count = min(len(before), len(latents))
    share = torch.linspace(0.0, 1.0, count, device=latents.device)[:, None, None, None]
    result = latents.clone()
    result[:count] = (1 - share) * before[:count] + share * latents[:count]
    return result


def decoded(latents: torch.Tensor, model: VideoDiffusion) -> list[Array]:
    """The disparity (h, w) in 0…1 of each frame's latents (F, c, h, w): the mean of the decoded colours."""
    scaled = latents.float() / model.vae.config.scaling_factor
    colours = model.vae.decode(scaled, num_frames=len(latents)).sample
    return list((colours / 2 + 0.5).clamp(0, 1).mean(1).float().cpu().numpy())


@contextmanager
def per_frame_context(unet: Any, context: torch.Tensor) -> Iterator[None]:
    """Inside, every frame of the network's one clip attends to its own context.

    The stock network repeats one context over all frames; its blocks are handed these instead.

    Args:
        context: (F, C).
    """
    own = context[:, None]

    def replaced(_: Any, args: tuple[Any, ...], named: dict[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
        if "encoder_hidden_states" in named:
            named = {**named, "encoder_hidden_states": own}
        return args, named

    with ExitStack() as hooks:
        for block in (*unet.down_blocks, unet.mid_block, *unet.up_blocks):
            hooks.callback(block.register_forward_pre_hook(replaced, with_kwargs=True).remove)
        yield
