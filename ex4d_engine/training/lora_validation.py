# SPDX-License-Identifier: GPL-3.0-or-later
"""How a run does on windows that it never learns from: a loss that does not depend on luck, and clips to look at."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from ..diffusion import preprocess
from ..diffusion.loading import autoencoder_class, load_component
from ..diffusion.pipeline import Ex4dPipeline
from ..diffusion.scheduler import euler_scheduler, set_sampling_steps
from ..diffusion.streaming_vae import StreamingDecoder
from ..progress import Reporter
from .flow_matching import NoiseLevel, seeded, velocity_error
from .latent_cache import CachedData, TrainingTensors, read_sample
from .lora_batches import MicroBatch, stacked


@torch.no_grad()
def validation_loss(
    network: nn.Module,
    data: CachedData,
    levels: Mapping[float, NoiseLevel],
    device: torch.device,
    reporter: Reporter,
) -> float:
    """The mean weighted loss over all validation windows; every rank computes all of it.

    Args:
        network: on `device`.
        data: whose validation windows are looked at.
        levels: from `validation_levels`. At each the noise is the same every time.
        device: this rank's.
        reporter: checked at every level.
    """
    total, count = 0.0, 0
    for number, sample in enumerate(data.validation):
        tensors = read_sample(sample, 0)
        for place, level in levels.items():
            reporter.check()
            noise = torch.randn(tensors.target.shape, generator=seeded("validation", number, place))
            batch = stacked([(tensors, noise, level)]).to(device)
            error = velocity_error(predicted(network, batch), batch.target, batch.noise)
            total += float((batch.weight * error).mean())
            count += 1
    return total / count


def predicted(network: nn.Module, batch: MicroBatch) -> Tensor:
    """The network's prediction of ε − x for a micro-batch, (B, C, f, h, w) float32."""
    prediction: Tensor = network(
        batch.noisy, batch.timestep, batch.condition, batch.image_embeds, batch.text, batch.colour, batch.mask
    )
    return prediction


@torch.no_grad()
def generated_latents(
    network: nn.Module, data: CachedData, number: int, steps: int, device: torch.device, reporter: Reporter
) -> Tensor:
    """Latents (1, C, f, h, w) of a validation window made from noise, without guidance; every rank takes part."""
    tensors = _on(read_sample(data.validation[number], 0), device)
    scheduler = euler_scheduler(data.shift)
    latents = torch.randn(tensors.target.shape, generator=seeded("validation clip", number)).to(device)
    for timestep in set_sampling_steps(scheduler, steps, device):
        reporter.check()
        velocity = network(
            latents,
            timestep.expand(1),
            tensors.condition,
            tensors.image_embeds,
            tensors.text,
            tensors.colour,
            tensors.mask,
        )
        latents = scheduler.step(velocity, timestep, latents, return_dict=False)[0]
    return latents


def side_by_side(
    latents: Tensor, data: CachedData, number: int, model_folder: Path, device: torch.device
) -> npt.NDArray[np.uint8]:
    """(F, H, 3·W, 3) uint8: what the network was shown, what it made of it, and the truth.

    The autoencoder is loaded for this and let go again.

    Raises:
        torch.OutOfMemoryError: there is no room for it beside the training.
    """
    vae = load_component(autoencoder_class(model_folder), model_folder / "vae", torch.float32)
    pipeline = Ex4dPipeline(None, None, vae, euler_scheduler()).to(device)
    tensors = read_sample(data.validation[number], 0)
    clips = [
        np.concatenate([preprocess.uint8_frames(part) for part in StreamingDecoder(pipeline).frames(shown)])
        for shown in (tensors.colour, latents, tensors.target)
    ]
    return np.concatenate(clips, axis=2)


def _on(tensors: TrainingTensors, device: torch.device) -> TrainingTensors:
    there = {name: value for name, value in tensors.__dict__.items() if value is not None}
    return dataclasses.replace(tensors, **{name: value.to(device) for name, value in there.items()})
