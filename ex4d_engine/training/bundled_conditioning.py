# SPDX-License-Identifier: GPL-3.0-or-later
"""What the bundled model is shown of a clip while it trains: as the pipeline shows it, for whole batches on the device.

Latents are (B, C, f, h, w) with f = 1 + (F − 1) / 4, h = H / 8, w = W / 8, normalised by the codec's configuration.
"""

from __future__ import annotations

from typing import Final

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from ..diffusion.bundled_codec import BLOCK, GROUP, BundledCodec
from ..diffusion.scheduler import even_sigmas, shifted
from .bundled_folder import BUNDLED_SHIFT
from .depth_validation import autocast
from .flow_matching import seeded
from .host_transfer import sent

STEPS: Final = 4
"""Denoising steps that it is made for."""
_SAMPLED_SHARE: Final = 0.25  # of the noise levels are those of `STEPS`; the others make any number of steps possible


@torch.no_grad()
def normalised_latents(codec: BundledCodec, video: Tensor) -> Tensor:
    """Latents (B, C, f, h, w) float32 of a video (B, 3, F, H, W) in [−1, 1]."""
    mean, std = statistics(codec, video.device)
    if video.device.type == "cuda":
        video = video.bfloat16()  # as its first layers would; here it halves what is moved about before them
    with autocast(video.device):
        latents: Tensor = codec.encode(video).latent_dist.mode()
    return (latents.float() - mean) / std


@torch.no_grad()
def decoded_video(codec: BundledCodec, latents: Tensor) -> Tensor:
    """The video (B, 3, F, H, W) float32 in [−1, 1] of normalised latents."""
    mean, std = statistics(codec, latents.device)
    video: Tensor = codec.decode(latents * std + mean, return_dict=False)[0]
    return video.float().clamp(-1, 1)


def statistics(codec: BundledCodec, device: torch.device) -> tuple[Tensor, Tensor]:
    """Mean and deviation of the codec's latents, each (1, C, 1, 1, 1)."""
    config = codec.config
    mean, std = (
        sent(torch.tensor(values), device).view(1, -1, 1, 1, 1) for values in (config.latents_mean, config.latents_std)
    )
    return mean, std


def image_condition(codec: BundledCodec, video: Tensor, target: Tensor, known: Tensor) -> Tensor:
    """Wan's image-to-video condition (B, 4 + C, f, h, w): which frames are known, and the latents of what is.

    The codec encodes each latent frame for itself. So only clips that know a frame in part are encoded again: where a
    whole frame is known its latent is the target's, where nothing is known that of grey, as in Wan.

    Args:
        codec: the codec.
        video: (B, 3, F, H, W) in [−1, 1].
        target: (B, C, f, h, w) its normalised latents.
        known: (B, 1, f, h, w) on the CPU, 1 where a block of the video is known, else 0; `first_frame_known` is plain
            Wan's. The four frames of a latent one are known together.
    """
    here = sent(known, video.device)
    grey = normalised_latents(codec, torch.zeros(1, 3, 1, *video.shape[-2:], device=video.device))
    latents = torch.where(here > 0, target, grey)
    if partly := _partly_known(known):
        clips = sent(torch.tensor(partly), video.device)
        shown = video.index_select(0, clips) * as_pixels(here.index_select(0, clips))
        latents.index_copy_(0, clips, normalised_latents(codec, shown))
    return torch.cat([here.expand(-1, GROUP, -1, -1, -1), latents], dim=1)


def first_frame_condition(codec: BundledCodec, video: Tensor, target: Tensor) -> Tensor:
    """`image_condition` of a video whose first frame alone is known."""
    return image_condition(codec, video, target, first_frame_known(len(video), latent_size(video)))


def ray_latents(codec: BundledCodec, video: Tensor, keep: Tensor) -> tuple[Tensor, Tensor]:
    """What the camera encoder reads, latents (B, C, f, h, w) of colour and of mask, as `Ex4dPipeline.encode_rays`.

    Args:
        codec: the codec.
        video: (B, 3, F, H, W) in [−1, 1]: the whole clip.
        keep: (B, 1, F, H, W), 1 where a pixel is kept, else 0.
    """
    colour = (video + 1) * keep - 1  # black where it is not kept
    # scaled twice, to {−3, 1}, as the published weights have it and as the pipeline therefore does
    mask = ((keep * 2 - 1) * 2 - 1).expand(-1, 3, -1, -1, -1)
    return normalised_latents(codec, colour), normalised_latents(codec, mask)


def latent_size(video: Tensor) -> tuple[int, int, int]:
    """(f, h, w) of a video (B, 3, F, H, W)."""
    frames, height, width = video.shape[2:]
    return 1 + (frames - 1) // GROUP, height // BLOCK, width // BLOCK


def first_frame_known(batch: int, size: tuple[int, int, int]) -> Tensor:
    """(B, 1, f, h, w) on the CPU: the first frame and nothing else."""
    known = torch.zeros(batch, 1, *size)
    known[:, :, 0] = 1
    return known


def random_known(rng: np.random.Generator, batch: int, size: tuple[int, int, int], share: float) -> Tensor:
    """(B, 1, f, h, w) on the CPU: the first frame, and in a share of the clips more: other frames, boxes that move,
    or all but such boxes or a side that closes.

    A network that learns from nothing learns faster from clips of which it sees a part: it first learns to copy, then
    to continue, then to invent.
    """
    known = np.zeros((batch, *size), np.float32)
    for clip in known:
        if rng.random() < share:
            clip[:] = _KNOWN[int(rng.integers(len(_KNOWN)))](rng, size)
        clip[0] = 1
    return torch.from_numpy(known)[:, None]


def noise_levels(seed: int, step: int, batch: int) -> Tensor:
    """(B,) noise levels σ of a step's clips: evenly drawn before the shift, or those at which it will be sampled."""
    generator = seeded(seed, "levels", step)
    even = 1 - torch.rand(batch, generator=generator)
    sampled = even_sigmas(STEPS)[torch.randint(STEPS, (batch,), generator=generator)]
    even = torch.where(torch.rand(batch, generator=generator) < _SAMPLED_SHARE, sampled, even)
    return shifted(even, BUNDLED_SHIFT)


def hole_weights(kept: Tensor, weight: float) -> Tensor:
    """(B, 1, f, h, w) with mean 1: how much a block counts, `weight` times as much in a hole as where all is kept.

    What is kept is shown to the network and laid over its picture afterwards; what it has to learn is the holes.

    Args:
        kept: (B, 1, f, h, w) share of each block that is kept.
        weight: 1 counts all alike.
    """
    weights = 1 + (weight - 1) * (1 - kept)
    return weights / weights.mean()


def kept_blocks(keep: Tensor) -> Tensor:
    """(B, 1, f, h, w) share of each block that is kept, of pixels (B, 1, F, H, W)."""
    frames = functional.avg_pool3d(keep, (1, BLOCK, BLOCK))
    later = frames[:, :, 1:].unflatten(2, (-1, GROUP)).mean(3)
    return torch.cat([frames[:, :, :1], later], dim=2)


def channel_weights(codec: BundledCodec, device: torch.device) -> Tensor:
    """(1, C, 1, 1, 1) with mean 1: a channel of the latents counts as it varies in the picture.

    Normalised, the finest texture would count as much as the light and the colours.
    """
    std = statistics(codec, device)[1]
    return std / std.mean()


# --- what is known ------------------------------------------------------------------------------------------------


def _partly_known(known: Tensor) -> list[int]:
    """Clips of (B, 1, f, h, w) in which a frame is known in part."""
    share = known.flatten(3).mean(3)[:, 0]
    return [clip for clip, frames in enumerate(share.tolist()) if any(0 < frame < 1 for frame in frames)]


def _some_frames(rng: np.random.Generator, size: tuple[int, int, int]) -> np.ndarray:
    chosen = rng.random(size[0]) < rng.uniform(0.1, 0.6)
    return np.broadcast_to(chosen[:, None, None], size)


def _moving_boxes(rng: np.random.Generator, size: tuple[int, int, int]) -> np.ndarray:
    frames, height, width = size
    inside = np.zeros(size, bool)
    times = np.linspace(0, 1, frames)[:, None, None]
    rows, columns = np.arange(height)[None, :, None], np.arange(width)[None, None, :]
    for _ in range(int(rng.integers(1, 4))):
        (top, left), move = rng.uniform(-0.2, 0.9, 2), rng.uniform(-0.4, 0.4, 2)
        tall, wide = rng.uniform(0.15, 0.6, 2)
        top, left = (top + move[0] * times) * height, (left + move[1] * times) * width
        inside |= (rows >= top) & (rows < top + tall * height) & (columns >= left) & (columns < left + wide * width)
    return inside


def _but_moving_boxes(rng: np.random.Generator, size: tuple[int, int, int]) -> np.ndarray:
    return ~_moving_boxes(rng, size)


def _closing_side(rng: np.random.Generator, size: tuple[int, int, int]) -> np.ndarray:
    """All but a band at the left or right that grows with time, as when a camera turns away."""
    frames, _, width = size
    band = rng.uniform(0.1, 0.8) * width * np.linspace(0, 1, frames)[:, None, None]
    columns = np.arange(width)[None, None, :]
    open_side = columns >= band if rng.random() < 0.5 else columns < width - band
    return np.broadcast_to(open_side, size)


_KNOWN: Final = (_some_frames, _moving_boxes, _but_moving_boxes, _closing_side)


def as_pixels(known: Tensor) -> Tensor:
    """(B, 1, F, H, W) of blocks (B, 1, f, h, w): every pixel as its block is."""
    later = known[:, :, 1:].repeat_interleave(GROUP, 2)
    frames = torch.cat([known[:, :, :1], later], dim=2)
    return frames.repeat_interleave(BLOCK, 3).repeat_interleave(BLOCK, 4)
