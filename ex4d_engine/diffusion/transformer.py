# SPDX-License-Identifier: GPL-3.0-or-later
"""The Wan transformer with one extra input: a ray latent, added once to its patch embedding.

The parameter names are those of `WanTransformer3DModel`, so stock folders, LoRA files, quantisation, group
offload and context parallelism work on it unchanged.
"""

from __future__ import annotations

import functools
from typing import Any

import torch
from diffusers import ModelMixin as ModelMixin  # diffusers looks for it in this module when it loads the class
from diffusers import WanTransformer3DModel
from torch import nn


class RayPatchEmbedding(nn.Conv3d):
    """A patch embedding that adds `ray_latent`, when one is set, to its output.

    Adding it inside the convolution, rather than after it in a copy of the transformer's forward, keeps that
    forward diffusers' own. A hook would do the same but breaks a graph compiled in one piece.
    """

    ray_latent: torch.Tensor | None = None

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        """Patch tokens (B, D, F, H, W) of latents (B, C, F·p, H·p, W·p)."""
        tokens = super().forward(input)
        if self.ray_latent is None:
            return tokens
        return tokens + self.ray_latent.to(device=tokens.device, dtype=tokens.dtype)


class Ex4dTransformer3DModel(WanTransformer3DModel):
    """`WanTransformer3DModel` whose forward takes a `ray_latent`; without one it is the stock model."""

    patch_embedding: RayPatchEmbedding

    # diffusers reads a configuration's keys off the signature, which `wraps` hands on.
    @functools.wraps(WanTransformer3DModel.__init__)  # type: ignore[misc]
    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        stock = self.patch_embedding
        self.patch_embedding = RayPatchEmbedding(
            stock.in_channels, stock.out_channels, kernel_size=self.config.patch_size, stride=self.config.patch_size
        )

    @property
    def width(self) -> int:
        """Channels of a token: attention heads × head size."""
        return self.config.num_attention_heads * self.config.attention_head_dim

    def forward(
        self,
        hidden_states: torch.Tensor,
        timestep: torch.Tensor,
        encoder_hidden_states: torch.Tensor,
        encoder_hidden_states_image: torch.Tensor | None = None,
        return_dict: bool = True,
        attention_kwargs: dict[str, Any] | None = None,
        ray_latent: torch.Tensor | None = None,
    ) -> Any:
        """The velocity prediction.

        Args:
            hidden_states: (B, 36, F, H, W): noisy latents (16), first-frame mask (4), first-frame latents (16).
            timestep: (B,) float in [0, 1000]; not rounded.
            encoder_hidden_states: (B, 512, text_dim), zero rows after the prompt's end.
            encoder_hidden_states_image: (B, 257, image_dim).
            return_dict, attention_kwargs: as of `WanTransformer3DModel`.
            ray_latent: (B or 1, width, F/p, H/p, W/p) from `CameraEncoder`.

        Returns:
            `Transformer2DModelOutput` with `sample` (B, 16, F, H, W), or a tuple of it.
        """
        self.patch_embedding.ray_latent = ray_latent
        try:
            # `attention_kwargs` goes by keyword: the decorator on the parent's forward reads its LoRA scale there.
            return super().forward(
                hidden_states,
                timestep,
                encoder_hidden_states,
                encoder_hidden_states_image,
                return_dict=return_dict,
                attention_kwargs=attention_kwargs,
            )
        finally:
            self.patch_embedding.ray_latent = None
