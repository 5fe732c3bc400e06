# SPDX-License-Identifier: GPL-3.0-or-later
"""The transformer with a LoRA to train and the camera encoder, as one module: frozen weights and trained ones.

One root module, so that FSDP2 gathers and shards both halves together.
"""

from __future__ import annotations

from pathlib import Path

import torch
from peft import LoraConfig
from torch import Tensor, nn

from ..diffusion.camera_encoder import CameraEncoder
from ..diffusion.checkpoints import ADAPTER_NAME, LORA_TARGETS, load_adapter, original_lora_name
from ..diffusion.transformer import Ex4dTransformer3DModel
from ..errors import Ex4dError
from .lora_config import AdapterShape


class AdapterNetwork(nn.Module):
    """`transformer` with its LoRA, and `camera_encoder`."""

    transformer: Ex4dTransformer3DModel
    camera_encoder: CameraEncoder

    def __init__(self, transformer: Ex4dTransformer3DModel, camera_encoder: CameraEncoder) -> None:
        super().__init__()
        self.transformer, self.camera_encoder = transformer, camera_encoder
        # asked now, as sharded weights and attached adapters make it hard to tell later
        self.dtype = transformer.patch_embedding.weight.dtype

    def forward(
        self,
        noisy: Tensor,
        timestep: Tensor,
        condition: Tensor,
        image_embeds: Tensor | None,
        text: Tensor,
        colour: Tensor,
        mask: Tensor,
    ) -> Tensor:
        """The prediction of ε − x, (B, C, f, h, w) float32.

        Args:
            noisy: (B, C, f, h, w) latents, 16 channels of Wan and 48 of the small model.
            timestep: (B,).
            condition: (B, 4 + C, f, h, w). text: (B, 512, text_dim), of the small model (B, 1, text_dim).
            image_embeds: (B, 257, image_dim), None for a base that takes none.
            colour, mask: (B, C, f, h, w) what the camera encoder reads.
        """
        rays = self.camera_encoder(colour, mask)
        (prediction,) = self.transformer(
            torch.cat([noisy, condition], dim=1).to(self.dtype),
            timestep,
            text.to(self.dtype),
            None if image_embeds is None else image_embeds.to(self.dtype),
            return_dict=False,
            ray_latent=rays,
        )
        return prediction.float()


def with_adapter(
    transformer: Ex4dTransformer3DModel, shape: AdapterShape, seed: int, start_from: Path | None = None
) -> AdapterNetwork:
    """The network with a LoRA and a camera encoder that is trained, everything else frozen.

    A fresh LoRA and a fresh encoder leave the transformer's prediction as it is.

    Args:
        transformer: without an adapter.
        shape: of the adapter.
        seed: of its first weights.
        start_from: an EX-4D adapter file whose weights are taken instead.

    Raises:
        Ex4dError: `model_missing`, `model_invalid`; `bad_request` if `start_from` is not of this shape.
    """
    transformer.requires_grad_(False)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        if start_from is None:
            config = LoraConfig(r=shape.rank, lora_alpha=shape.alpha, target_modules=list(shape.targets))
            transformer.add_adapter(config, ADAPTER_NAME)
            config_of = transformer.config
            camera = CameraEncoder(
                config_of.out_channels, shape.camera_channels, transformer.width, tuple(config_of.patch_size)
            )
        else:
            camera = load_adapter(start_from, transformer)
            _require_shape(transformer, camera, shape, start_from)
    network = AdapterNetwork(transformer, camera)
    for name, parameter in network.named_parameters():
        trained = name.startswith("camera_encoder.") or f".{ADAPTER_NAME}." in name
        parameter.requires_grad_(trained)
        if trained:
            parameter.data = parameter.data.float()
    return network


def trained_parameters(network: nn.Module) -> dict[str, nn.Parameter]:
    """The parameters to train by their names in the published checkpoint, in a fixed order."""
    return {
        published_name(name): parameter for name, parameter in network.named_parameters() if parameter.requires_grad
    }


def published_name(name: str) -> str:
    """A trained parameter's name in the published checkpoint, from the one in an `AdapterNetwork`."""
    if name.startswith("camera_encoder."):
        return name.removeprefix("camera_encoder.")
    return original_lora_name(name.removeprefix("transformer.").replace(f".{ADAPTER_NAME}.", "."))


def _require_shape(transformer: Ex4dTransformer3DModel, camera: CameraEncoder, shape: AdapterShape, file: Path) -> None:
    found = transformer.peft_config[ADAPTER_NAME]
    asked = (shape.rank, shape.camera_channels, shape.rank, set(shape.targets))
    if (found.r, camera.config.hidden_channels, shape.alpha, set(LORA_TARGETS)) != asked:
        raise Ex4dError(
            "bad_request",
            f"{file.name} has rank {found.r}, alpha {found.r}, all targets and {camera.config.hidden_channels} camera "
            f"channels; the training wants rank {shape.rank}, alpha {shape.alpha:g}, {len(shape.targets)} targets and "
            f"{shape.camera_channels} channels.",
            "Set [adapter] to what the file has, or leave model.start_from out.",
        )
