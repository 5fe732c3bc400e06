# SPDX-License-Identifier: GPL-3.0-or-later
"""The camera encoder: from the latents of the rendered colour and mask to an offset of the video tokens."""

from __future__ import annotations

import torch
from diffusers import ConfigMixin, ModelMixin
from diffusers.configuration_utils import register_to_config
from torch import nn


class CameraEncoder(ModelMixin, ConfigMixin):
    """Three point-wise convolutions and a patch embedding (EX-4D, arXiv 2506.05554, §3.3).

    The parameters carry the names of the published checkpoint, so its tensors load as they are. The patch
    embedding starts at zero: a fresh encoder leaves the video model unchanged, and training departs from there.

    Args:
        in_channels: channels of one latent; the encoder reads two, colour and mask.
        hidden_channels: width of the point-wise convolutions.
        out_channels: width of the transformer (attention heads × head size).
        patch_size: (frames, rows, columns) of latent per token, equal to the transformer's.
    """

    @register_to_config
    def __init__(
        self,
        in_channels: int = 16,
        hidden_channels: int = 1024,
        out_channels: int = 5120,
        patch_size: tuple[int, int, int] = (1, 2, 2),
    ) -> None:
        super().__init__()
        self.latent_encoder = nn.Sequential(
            nn.Conv3d(2 * in_channels, hidden_channels, kernel_size=1),
            nn.SiLU(),
            nn.Conv3d(hidden_channels, hidden_channels, kernel_size=1),
            nn.SiLU(),
            nn.Conv3d(hidden_channels, hidden_channels, kernel_size=1),
        )
        self.latent_patch_embedding = nn.Conv3d(
            hidden_channels, out_channels, kernel_size=patch_size, stride=patch_size
        )
        for parameter in self.latent_patch_embedding.parameters():
            nn.init.zeros_(parameter)

    def forward(self, colour_latents: torch.Tensor, mask_latents: torch.Tensor) -> torch.Tensor:
        """The ray latent.

        Args:
            colour_latents: (B, C, F, H, W) normalised latents of the masked colour video.
            mask_latents: (B, C, F, H, W) normalised latents of the mask video.

        Returns:
            (B, out_channels, F/p, H/p, W/p), to be added to the transformer's patch embedding.
        """
        return self.latent_patch_embedding(self.latent_encoder(torch.cat([colour_latents, mask_latents], dim=1)))
