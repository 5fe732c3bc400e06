# SPDX-License-Identifier: GPL-3.0-or-later
"""The bundled model's loss on clips that it learns from, and its loss and samples on clips that it never sees."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..diffusion.bundled_codec import BundledCodec
from ..diffusion.preprocess import uint8_frames
from ..diffusion.scheduler import NUM_TRAIN_TIMESTEPS, euler_scheduler, set_sampling_steps
from ..files import write_bytes
from .bundled_conditioning import STEPS, channel_weights, decoded_video, noise_levels
from .bundled_folder import BUNDLED_SHIFT
from .clip_bank import MaskedClips
from .depth_validation import autocast
from .flow_matching import seeded
from .host_transfer import sent

Velocity = Callable[[Tensor, Tensor], Tensor]
"""The prediction of ε − x, (B, C, f, h, w), for noisy latents of that shape and their timesteps (B,)."""

SHEET_NAME: Final = "samples.jpg"
_LEVELS: Final = (0.5, 0.75, 0.9, 1.0)
"""Noise levels that the held-out loss is the mean of: those that four steps are made at."""
_COLUMNS: Final = 5  # of a sheet
_SHEET_CLIPS: Final = 2


def flow_loss(
    velocity: Velocity, codec: BundledCodec, target: Tensor, seed: int, step: int, weights: Tensor | None = None
) -> Tensor:
    """The mean loss of a step's clips, each at a noise level of its own.

    Args:
        velocity: the network on these clips.
        codec: says how much each channel counts.
        target: (B, C, f, h, w) normalised latents.
        seed, step: which noise and which levels.
        weights: (B, 1, f, h, w) how much each block counts; None for all alike.
    """
    generator = torch.Generator(target.device).manual_seed(seeded(seed, "noise", step).initial_seed())
    noise = torch.randn(target.shape, generator=generator, device=target.device)
    sigma = sent(noise_levels(seed, step, len(target)), target.device)
    return _loss_at(velocity, codec, target, noise, sigma, weights)


def _loss_at(
    velocity: Velocity,
    codec: BundledCodec,
    target: Tensor,
    noise: Tensor,
    sigma: Tensor,
    weights: Tensor | None = None,
) -> Tensor:
    level = sigma.view(-1, 1, 1, 1, 1)
    predicted = velocity((1 - level) * target + level * noise, sigma * NUM_TRAIN_TIMESTEPS)
    error = (predicted.float() - (noise - target)).square()
    if weights is not None:
        error = error * weights
    return (error * channel_weights(codec, target.device)).mean()


@dataclass(frozen=True)
class HeldOut:
    """Clips that no run learns from.

    clips: N of them. target: their latents (N, C, f, h, w).
    velocity: a network's prediction for the clips of a slice.
    """

    clips: MaskedClips
    target: Tensor
    codec: BundledCodec

    @torch.no_grad()
    def loss(self, velocity_of: Callable[[slice], Velocity]) -> float:
        """The mean loss over all clips at fixed levels and noise, clip by clip: it does not depend on luck."""
        total = 0.0
        for number in range(len(self.target)):
            one = slice(number, number + 1)
            target = self.target[one]
            noise = _fixed_noise(number, target)
            for level in _LEVELS:
                with autocast(target.device):
                    loss = _loss_at(
                        velocity_of(one), self.codec, target, noise, torch.tensor([level], device=target.device)
                    )
                total += float(loss)
        return total / (len(self.target) * len(_LEVELS))

    def write_sheet(self, path: Path, velocity_of: Callable[[slice], Velocity], shown: Tensor) -> None:
        """Writes a picture of the first clips, three rows each: the clip, what the network sees, what it makes of it.

        Args:
            path: of the picture (JPEG).
            velocity_of: the network's prediction for clips of a slice.
            shown: (N, 3, F, H, W) in [−1, 1].
        """
        rows: list[NDArray[np.uint8]] = []
        for number in range(min(_SHEET_CLIPS, len(self.target))):
            one = slice(number, number + 1)
            made = decoded_video(self.codec, sampled_latents(velocity_of(one), _fixed_noise(number, self.target[one])))
            for video in (self.clips.video[one], shown[one], made):
                frames = uint8_frames(video)
                columns = np.linspace(0, len(frames) - 1, _COLUMNS).round().astype(int)
                rows.append(np.concatenate(list(frames[columns]), axis=1))
        picture = cv2.cvtColor(np.concatenate(rows), cv2.COLOR_RGB2BGR)
        write_bytes(path, cv2.imencode(".jpg", picture, [cv2.IMWRITE_JPEG_QUALITY, 90])[1].tobytes())


@torch.no_grad()
def sampled_latents(velocity: Velocity, noise: Tensor) -> Tensor:
    """Latents made of noise (B, C, f, h, w) in `STEPS` steps, without guidance."""
    scheduler = euler_scheduler(BUNDLED_SHIFT)
    latents = noise
    for timestep in set_sampling_steps(scheduler, STEPS, noise.device):
        with autocast(noise.device):
            predicted = velocity(latents, timestep.expand(len(latents)))
        latents = scheduler.step(predicted.float(), timestep, latents, return_dict=False)[0]
    return latents


def _fixed_noise(number: int, like: Tensor) -> Tensor:
    return torch.randn(like.shape, generator=seeded("held out", number)).to(like.device)
