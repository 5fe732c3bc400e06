# SPDX-License-Identifier: GPL-3.0-or-later
"""Stage `base`: the bundled transformer learns from nothing to continue a clip from its first frame.

Wan's image-to-video condition, and in a share of the clips more of the video is given as known, its mask channels
saying so: see `random_known`.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..diffusion.bundled_codec import BundledCodec
from ..diffusion.transformer import Ex4dTransformer3DModel
from .bundled_conditioning import (
    as_pixels,
    first_frame_condition,
    first_frame_known,
    hole_weights,
    image_condition,
    latent_size,
    normalised_latents,
    random_known,
)
from .bundled_objective import SHEET_NAME, HeldOut, Velocity, flow_loss
from .bundled_parts import (
    TRANSFORMER_SHAPE,
    codec_checksum,
    compile_blocks,
    constant_text,
    load_transformer,
    new_transformer,
    save_model_folder,
)
from .bundled_run import BundledTraining, new_state
from .clip_bank import ClipBank, MaskedClips


@dataclass(frozen=True)
class BaseSettings:
    """known_share: of the clips that show more than their first frame. shape: of the transformer."""

    known_share: float = 0.5
    shape: Mapping[str, Any] = field(default_factory=lambda: TRANSFORMER_SHAPE)


class BaseStage:
    """See `bundled_run.Stage`.

    Args:
        settings: how it is trained.
        base: what is trained.
        codec: frozen, on the device.
        bank: clips to learn from.
        held_out: clips that are never learned from.
        start: a folder whose transformer is trained on; None for one of random weights.

    Raises:
        Ex4dError: `model_missing` or `model_invalid` for `start`.
    """

    def __init__(
        self,
        settings: BundledTraining,
        base: BaseSettings,
        codec: BundledCodec,
        bank: ClipBank,
        held_out: MaskedClips,
        start: Path | None = None,
    ) -> None:
        self._settings, self._base, self._codec, self._bank = settings, base, codec, bank
        transformer = load_transformer(start) if start else new_transformer(codec, base.shape, settings.seed)
        transformer.to(settings.device).requires_grad_(True).train()
        self._average = copy.deepcopy(transformer)
        self.run = new_state(transformer, self._average, settings)
        if settings.compiled:
            compile_blocks(transformer)
        self._transformer = transformer
        self._held_out = HeldOut(held_out, normalised_latents(codec, held_out.video), codec)
        known = first_frame_known(len(held_out.video), latent_size(held_out.video))
        self._shown = held_out.video * as_pixels(known).to(settings.device)
        self._condition = first_frame_condition(codec, held_out.video, self._held_out.target)

    def identity(self) -> dict[str, Any]:
        shape = {name: list(value) if isinstance(value, tuple) else value for name, value in self._base.shape.items()}
        return {
            "stage": "base",
            "known_share": self._base.known_share,
            "shape": shape,
            "codec": codec_checksum(self._codec),
        }

    def material(self, step: int, frames: int) -> tuple[Tensor, Tensor, Tensor]:
        """Latents (B, C, f, h, w), their condition (B, 4 + C, f, h, w), and how much each block counts."""
        settings = self._settings
        video = self._bank.batch(step, settings.batch, frames)
        rng = np.random.default_rng([settings.own_seed, step])
        known = random_known(rng, len(video), latent_size(video), self._base.known_share)
        target = normalised_latents(self._codec, video)
        condition = image_condition(self._codec, video, target, known)
        return target, condition, hole_weights(condition[:, :1], settings.hole_weight)

    def loss(self, step: int, material: tuple[Tensor, Tensor, Tensor]) -> Tensor:
        target, condition, weights = material
        velocity = _velocity(self._transformer, condition)
        return flow_loss(velocity, self._codec, target, self._settings.own_seed, step, weights)

    def save_model(self) -> list[Path]:
        return [save_model_folder(self._settings.out, self._codec, self._average)]

    def held_out(self) -> float:
        return self._held_out.loss(self._averaged)

    def write_sheet(self) -> Path:
        path = self._settings.out / SHEET_NAME
        self._held_out.write_sheet(path, self._averaged, self._shown)
        return path

    def _averaged(self, clips: slice) -> Velocity:
        return _velocity(self._average, self._condition[clips])


def _velocity(transformer: Ex4dTransformer3DModel, condition: Tensor) -> Velocity:
    def velocity(noisy: Tensor, timestep: Tensor) -> Tensor:
        (predicted,) = transformer(
            torch.cat([noisy, condition], dim=1), timestep, constant_text(transformer, len(noisy)), return_dict=False
        )
        result: Tensor = predicted
        return result

    return velocity
