# SPDX-License-Identifier: GPL-3.0-or-later
"""The bundled model's video codec: what AutoencoderKLWan is to Wan, with 2-D convolutions on groups of four frames.

A linear projection of 4×8×8 blocks carries most of the picture; the way back is linear too, from a latent pixel and
its neighbours. Two small convolutional networks mend it: the encoder's puts into the latent what the projection leaves
out, the decoder's removes what is left of the blocks' edges and sharpens.
A fresh codec's networks add nothing; `training.bundled_codec_training` fits the projection and trains from there.
"""

from __future__ import annotations

import torch
from diffusers import ConfigMixin, ModelMixin
from diffusers.configuration_utils import register_to_config
from diffusers.models.autoencoders.vae import DecoderOutput, IdentityDistribution
from diffusers.models.modeling_outputs import AutoencoderKLOutput
from diffusers.utils.accelerate_utils import apply_forward_hook
from torch import Tensor, nn
from torch.nn import functional

GROUP = 4
"""Frames of a latent frame. The clip's first latent frame stands for one frame, which it takes four times."""

BLOCK = 8
"""Rows and columns of a latent pixel."""

BLOCK_VALUES = GROUP * 3 * BLOCK * BLOCK
_HALF = GROUP * 3 * 4  # channels of a group whose 2×2 pixels are channels, as the networks see it


class BundledCodec(ModelMixin, ConfigMixin):
    """Videos (B, 3, 1+4n, H, W) to latents (B, C, 1+n, H/8, W/8) and back, as diffusers' Wan autoencoder does.

    A latent frame is decoded from itself and the one before, so that decoding one after the other equals decoding all
    at once. Nothing is drawn at random: the latents' distribution is a single value. Latents come unnormalised; the
    configuration says their mean and deviation.

    Args:
        z_dim: channels of a latent.
        latents_mean, latents_std: of the latents' channels; 0 and 1 until they are measured.
        encoder_widths: channels of the encoder's network at 1/2, 1/4 and 1/8 of the frame.
        decoder_widths: channels of the decoder's network at 1/8, 1/4 and 1/2.
        decoder_blocks: residual blocks of the decoder at 1/8.
        scale_factor_temporal, scale_factor_spatial: 4 and 8, for those who read them in the configuration.
    """

    use_tiling = False

    @register_to_config
    def __init__(
        self,
        z_dim: int = 48,
        latents_mean: list[float] | None = None,
        latents_std: list[float] | None = None,
        encoder_widths: tuple[int, int, int] = (64, 128, 192),
        decoder_widths: tuple[int, int, int] = (256, 128, 64),
        decoder_blocks: int = 3,
        scale_factor_temporal: int = GROUP,
        scale_factor_spatial: int = BLOCK,
    ) -> None:
        super().__init__()
        if (scale_factor_temporal, scale_factor_spatial) != (GROUP, BLOCK):
            raise ValueError(f"this codec's blocks are {GROUP} frames of {BLOCK}×{BLOCK} pixels")
        if any(values and len(values) != z_dim for values in (latents_mean, latents_std)):
            raise ValueError(f"the latents' mean and deviation are not of {z_dim} channels")
        self.register_to_config(
            latents_mean=latents_mean or [0.0] * z_dim, latents_std=latents_std or [1.0] * z_dim
        )  # the pipelines read them even of a codec that is still to be trained
        self.project = nn.Conv2d(BLOCK_VALUES, z_dim, 1)
        self.expand = nn.Conv2d(z_dim, BLOCK_VALUES, 3, padding=1)
        self.encoder = _Encoder(encoder_widths, z_dim)
        self.decoder = _Decoder(decoder_widths, decoder_blocks, z_dim)

    @apply_forward_hook
    def encode(self, x: Tensor, return_dict: bool = True) -> AutoencoderKLOutput | tuple[IdentityDistribution]:
        """The latents of a video.

        Args:
            x: (B, 3, 1+4n, H, W) in [−1, 1]; H and W are multiples of 8.
            return_dict: False gives a tuple instead.

        Returns: an output whose `latent_dist` has `mode()` and `sample()`, both (B, z_dim, 1+n, H/8, W/8).

        Raises:
            ValueError: another shape.
        """
        latents = IdentityDistribution(self.latents_of(x))
        return AutoencoderKLOutput(latent_dist=latents) if return_dict else (latents,)

    @apply_forward_hook
    def decode(self, z: Tensor, return_dict: bool = True) -> DecoderOutput | tuple[Tensor]:
        """The video (B, 3, 1+4n, H, W) in [−1, 1] of unnormalised latents (B, z_dim, 1+n, H/8, W/8)."""
        video = self.video_of(z).clamp(-1, 1)
        return DecoderOutput(sample=video) if return_dict else (video,)

    @apply_forward_hook
    def decode_next(self, latent: Tensor, memory: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """The frames of a clip's next latent frame.

        Args:
            latent: (B, z_dim, 1, H/8, W/8), unnormalised.
            memory: what the last call returned; None for the clip's first latent frame.

        Returns: frames (B, 3, 4, H, W) in [−1, 1], a single one for the clip's first latent; the memory, which is
            the latent itself.
        """
        present = latent[:, :, 0]
        frames = _frames(self._decoded(present, present if memory is None else memory))
        return (_first_frame(frames) if memory is None else frames).clamp(-1, 1), present

    def forward(self, sample: Tensor, latent_noise: Tensor | None = None) -> Tensor:
        """The video as it comes back, (B, 3, 1+4n, H, W), not clamped: what training compares with `sample`.

        latent_noise: (B, z_dim, 1+n, H/8, W/8) added to the latents, in units of each channel's deviation in this
            batch, so that larger latents do not drown it.
        """
        latents = self.latents_of(sample)
        if latent_noise is not None:
            deviation = latents.detach().float().std(dim=(0, 2, 3, 4), keepdim=True)
            latents = latents + latent_noise * deviation
        return self.video_of(latents)

    def latents_of(self, video: Tensor) -> Tensor:
        """`encode`, with its gradient."""
        batch, channels, frames, height, width = video.shape
        if channels != 3 or frames % GROUP != 1 or height % BLOCK or width % BLOCK:
            raise ValueError(f"a video has to be (B, 3, 1+{GROUP}n, {BLOCK}h, {BLOCK}w) but is {tuple(video.shape)}")
        groups = block_groups(video)
        latents = self.project(functional.pixel_unshuffle(groups, BLOCK)) + self.encoder(groups)
        return latents.unflatten(0, (batch, -1)).transpose(1, 2)

    def video_of(self, latents: Tensor) -> Tensor:
        """`decode`, with its gradient and not clamped."""
        before = torch.cat([latents[:, :, :1], latents[:, :, :-1]], dim=2)
        present, past = (value.transpose(1, 2).flatten(0, 1) for value in (latents, before))
        frames = _frames(self._decoded(present, past)).unflatten(0, (len(latents), -1))
        first, rest = _first_frame(frames[:, 0]), frames[:, 1:]
        return torch.cat([first, rest.transpose(1, 2).flatten(2, 3)], dim=2)

    def enable_tiling(self, *_: float | None) -> None:
        """Nothing: a frame's memory is small enough for whole frames."""

    def disable_tiling(self) -> None:
        """Nothing, as it is never on."""

    def _decoded(self, present: Tensor, past: Tensor) -> Tensor:
        """Groups (N, 12, H, W) of latents (N, z_dim, h, w) and those before them."""
        blocks = functional.pixel_shuffle(self.expand(present), BLOCK)
        return self.decoder(present, past, blocks)


class _Residual(nn.Module):
    """Two convolutions beside the identity, which is all that a fresh one is."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.enter = nn.Conv2d(width, width, 3, padding=1)
        self.leave = _zero(nn.Conv2d(width, width, 3, padding=1))

    def forward(self, x: Tensor) -> Tensor:
        return x + self.leave(functional.gelu(self.enter(x)))


class _Encoder(nn.Module):
    """What a latent holds besides the projection of its own block: (N, 12, H, W) to (N, z_dim, H/8, W/8)."""

    def __init__(self, widths: tuple[int, int, int], z_dim: int) -> None:
        super().__init__()
        half, quarter, eighth = widths
        self.to_half = nn.Conv2d(_HALF, half, 3, padding=1)
        self.to_quarter = nn.Conv2d(half, quarter, 3, stride=2, padding=1)
        self.at_quarter = _Residual(quarter)
        self.to_eighth = nn.Conv2d(quarter, eighth, 3, stride=2, padding=1)
        self.at_eighth = _Residual(eighth)
        self.leave = _zero(nn.Conv2d(eighth, z_dim, 3, padding=1))

    def forward(self, groups: Tensor) -> Tensor:
        x = functional.gelu(self.to_half(functional.pixel_unshuffle(groups, 2)))
        x = self.at_quarter(functional.gelu(self.to_quarter(x)))
        x = self.at_eighth(functional.gelu(self.to_eighth(x)))
        return self.leave(functional.gelu(x))


class _Decoder(nn.Module):
    """Mends the blocks (N, 12, H, W) of the expanded latent: knows its neighbours, the latent before, the edges."""

    def __init__(self, widths: tuple[int, int, int], blocks: int, z_dim: int) -> None:
        super().__init__()
        eighth, quarter, half = widths
        self.enter = nn.Conv2d(2 * z_dim, eighth, 3, padding=1)
        self.at_eighth = nn.Sequential(*(_Residual(eighth) for _ in range(blocks)))
        self.to_quarter = nn.Conv2d(eighth, 4 * quarter, 1)
        self.at_quarter = _Residual(quarter)
        self.to_half = nn.Conv2d(quarter, 4 * half, 1)
        self.join = nn.Conv2d(half + _HALF, half, 3, padding=1)
        self.at_half = _Residual(half)
        self.leave = _zero(nn.Conv2d(half, _HALF, 3, padding=1))

    def forward(self, present: Tensor, past: Tensor, blocks: Tensor) -> Tensor:
        x = self.at_eighth(self.enter(torch.cat([present, past], dim=1)))
        x = self.at_quarter(functional.gelu(functional.pixel_shuffle(self.to_quarter(functional.gelu(x)), 2)))
        x = functional.gelu(functional.pixel_shuffle(self.to_half(functional.gelu(x)), 2))
        # The blocks themselves go in: to smooth an edge one must see it.
        x = self.at_half(functional.gelu(self.join(torch.cat([x, functional.pixel_unshuffle(blocks, 2)], dim=1))))
        return blocks + functional.pixel_shuffle(self.leave(functional.gelu(x)), 2)


def block_groups(video: Tensor) -> Tensor:
    """Groups of four frames (B·(1+n), 12, H, W) of a video (B, 3, 1+4n, H, W), channels frame by frame; the first
    frame is a group four times."""
    repeated = torch.cat([video[:, :, :1].expand(-1, -1, GROUP - 1, -1, -1), video], dim=2)
    return repeated.unflatten(2, (-1, GROUP)).permute(0, 2, 3, 1, 4, 5).flatten(2, 3).flatten(0, 1)


def _frames(groups: Tensor) -> Tensor:
    """(N, 3, 4, H, W) of (N, 12, H, W)."""
    return groups.unflatten(1, (GROUP, 3)).transpose(1, 2)


def _first_frame(frames: Tensor) -> Tensor:
    return frames.mean(dim=2, keepdim=True)


def _zero(layer: nn.Conv2d) -> nn.Conv2d:
    nn.init.zeros_(layer.weight)
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)
    return layer
