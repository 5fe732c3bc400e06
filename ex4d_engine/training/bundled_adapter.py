# SPDX-License-Identifier: GPL-3.0-or-later
"""Stage `adapter`: a LoRA and a camera encoder teach the frozen bundled transformer to fill what a camera cannot see.

From simulated masks alone, with the conditioning that the pipeline makes: the same classes and the same file as the
large model's adapter.
"""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

from torch import Tensor

from ..diffusion.bundled_codec import BundledCodec
from ..diffusion.folder_adapter import folder_adapter
from .adapter_export import adapter_tensors, layer_sizes
from .adapter_network import AdapterNetwork, trained_parameters, with_adapter
from .bank_masks import BankMasks
from .bundled_camera import begin_as_the_base
from .bundled_conditioning import first_frame_condition, hole_weights, kept_blocks, normalised_latents, ray_latents
from .bundled_objective import SHEET_NAME, HeldOut, Velocity, flow_loss
from .bundled_parts import (
    codec_checksum,
    compile_blocks,
    constant_text,
    load_transformer,
    save_model_folder,
    weights_checksum,
)
from .bundled_run import BundledTraining, new_state
from .clip_bank import ClipBank, MaskedClips
from .lora_config import AdapterShape

ADAPTER_SHAPE = AdapterShape(rank=64, alpha=64.0, camera_channels=256)
"""Of the bundled adapter: 8 million parameters."""


class AdapterStage:
    """See `bundled_run.Stage`.

    Args:
        settings: how it is trained.
        shape: of the adapter.
        masks: those of the bank's clips.
        codec: frozen, on the device.
        bank: clips with masks to learn from.
        held_out: clips with masks that are never learned from.
        start: a folder with the transformer; if an adapter lies in it, it is trained on.

    Raises:
        Ex4dError: `model_missing` or `model_invalid` for `start`; `bad_request` for an adapter of another shape.
    """

    def __init__(
        self,
        settings: BundledTraining,
        shape: AdapterShape,
        masks: BankMasks,
        codec: BundledCodec,
        bank: ClipBank,
        held_out: MaskedClips,
        start: Path,
    ) -> None:
        self._settings, self._shape, self._masks, self._codec, self._bank = settings, shape, masks, codec, bank
        self._base = load_transformer(start)
        self._layers = layer_sizes(self._base)
        adapter = folder_adapter(start)
        network = with_adapter(copy.deepcopy(self._base), shape, settings.seed, adapter)
        if adapter is None:
            begin_as_the_base(network, codec)
        network.to(settings.device).train()
        self._average = copy.deepcopy(network)
        self.run = new_state(network, self._average, settings)
        if settings.compiled:
            compile_blocks(network.transformer)
        self._network = network
        self._held_out = HeldOut(held_out, normalised_latents(codec, held_out.video), codec)
        self._shown = (held_out.video + 1) * held_out.keep - 1
        self._conditioning = self._conditioned(held_out, self._held_out.target)

    def identity(self) -> dict[str, Any]:
        shape = self._shape
        return {
            "stage": "adapter",
            "rank": shape.rank,
            "alpha": shape.alpha,
            "camera_channels": shape.camera_channels,
            "base": weights_checksum(self._base),
            "codec": codec_checksum(self._codec),
            **self._masks.identity(),
        }

    def material(self, step: int, frames: int) -> tuple[Tensor, tuple[Tensor, Tensor, Tensor], Tensor]:
        """Latents (B, C, f, h, w); the conditioning's: first frame (B, 4 + C, f, h, w), colour and mask; and how much
        each block counts."""
        clips = self._bank.masked_batch(step, self._settings.batch, frames)
        target = normalised_latents(self._codec, clips.video)
        weights = hole_weights(kept_blocks(clips.keep), self._settings.hole_weight)
        return target, self._conditioned(clips, target), weights

    def loss(self, step: int, material: tuple[Tensor, tuple[Tensor, Tensor, Tensor], Tensor]) -> Tensor:
        target, conditioning, weights = material
        velocity = _velocity(self._network, *conditioning)
        return flow_loss(velocity, self._codec, target, self._settings.own_seed, step, weights)

    def save_model(self) -> list[Path]:
        average = copy.deepcopy(self._average)
        for parameter, trained in zip(average.parameters(), self.run.network.parameters(), strict=True):
            parameter.requires_grad_(trained.requires_grad)  # which is how `trained_parameters` tells them
        tensors = {name: value.detach().cpu() for name, value in trained_parameters(average).items()}
        adapter = adapter_tensors(tensors, self._shape, self._layers)
        return [save_model_folder(self._settings.out, self._codec, self._base, adapter)]

    def held_out(self) -> float:
        return self._held_out.loss(self._averaged)

    def write_sheet(self) -> Path:
        path = self._settings.out / SHEET_NAME
        self._held_out.write_sheet(path, self._averaged, self._shown)
        return path

    def _conditioned(self, clips: MaskedClips, target: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        first = first_frame_condition(self._codec, clips.video, target)
        return first, *ray_latents(self._codec, clips.video, clips.keep)

    def _averaged(self, clips: slice) -> Velocity:
        condition, colour, mask = self._conditioning
        return _velocity(self._average, condition[clips], colour[clips], mask[clips])


def _velocity(network: AdapterNetwork, condition: Tensor, colour: Tensor, mask: Tensor) -> Velocity:
    def velocity(noisy: Tensor, timestep: Tensor) -> Tensor:
        text = constant_text(network.transformer, len(noisy))
        predicted: Tensor = network(noisy, timestep, condition, None, text, colour, mask)
        return predicted

    return velocity
