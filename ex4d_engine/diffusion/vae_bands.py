# SPDX-License-Identifier: GPL-3.0-or-later
"""Wan's VAE in half the memory: its large layers compute a frame in bands, and the outcome is the same.

What the VAE takes is taken by its layers at the frame's own and at half its size: activations, and what their causal
convolutions remember of the frames before. These layers see only a few pixels around each, so that a band that is
read with a margin comes out as in the whole frame, but for rounding. The attention, which sees the whole frame, is
among the small layers, which take it whole.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Final

import torch
from diffusers import AutoencoderKLWan
from diffusers.models.autoencoders.autoencoder_kl_wan import WanCausalConv3d, WanResample

Memory = list[Any]
"""What causal convolutions remember: a tensor each, diffusers' "Rep", or None before the start."""

BANDS: Final = 2
"""The margins of each further one are computed twice: with two that is 9 % of a 512² frame."""
STEP: Final = 4
"""Pixels of a side of the maps, a quarter of the frame's size, between the layers in bands and the others."""
DECODER_MARGIN: Final = 6
"""Of such maps: 8 convolutions at full size, 7 at half, are 5.5."""
ENCODER_MARGIN: Final = 4
"""5 convolutions at full size, 4 at half and two that halve see 13 pixels before and 15 behind."""
LARGE: Final = 2
"""The changes of size within the layers in bands."""
CHUNK: Final = 4
"""Frames of a latent frame; the first has one."""


@dataclass(frozen=True)
class Band:
    """A part of a frame's rows or columns, `start` to `stop`, and with its margin, `read_from` to `read_to`, in maps
    of a quarter of its size."""

    axis: int
    start: int
    stop: int
    read_from: int
    read_to: int

    def read(self, maps: torch.Tensor, scale: int = 1) -> torch.Tensor:
        """The band with its margin, of maps `scale` times as large; a view."""
        return maps.narrow(self.axis, self.read_from * scale, (self.read_to - self.read_from) * scale)

    def kept(self, maps: torch.Tensor, scale: int = 1) -> torch.Tensor:
        """The band alone, of what was computed from `read`; a view."""
        return maps.narrow(self.axis, (self.start - self.read_from) * scale, (self.stop - self.start) * scale)


def bands_of(height: int, width: int, margin: int) -> list[Band]:
    """The bands of maps of `height` × `width`, across their longer side."""
    axis, length = (-2, height) if height >= width else (-1, width)
    ends = [length * index // BANDS for index in range(BANDS + 1)]
    return [
        Band(axis, start, stop, max(0, start - margin), min(length, stop + margin)) for start, stop in pairwise(ends)
    ]


def compute_in_bands(vae: AutoencoderKLWan) -> None:
    """From now on `vae.encode` works in bands, and `StreamingDecoder` takes `decode_in_bands`."""
    vae._encode = _BandedEncode(vae)


def is_in_bands(vae: Any) -> bool:
    """Whether `compute_in_bands` was called for this VAE."""
    return isinstance(getattr(vae, "_encode", None), _BandedEncode)


@dataclass(frozen=True)
class _BandedEncode:
    """In place of a VAE's own `_encode`."""

    vae: AutoencoderKLWan

    def __call__(self, video: torch.Tensor) -> torch.Tensor:
        """Latents (1, 32, f, H/8, W/8), mean and deviation, of a video (1, 3, 4f−3, H, W)."""
        encoder = self.vae.encoder
        layers = list(encoder.down_blocks)
        cut = [index for index, layer in enumerate(layers) if isinstance(layer, WanResample)][LARGE - 1] + 1
        large, small = layers[:cut], layers[cut:]
        ends = [0, *range(1, video.shape[2] + 1, CHUNK)]
        bands = bands_of(video.shape[-2] // STEP, video.shape[-1] // STEP, ENCODER_MARGIN)
        parts: list[list[torch.Tensor]] = [[] for _ in ends[1:]]
        for band in bands:
            memory: Memory = [None] * _convolutions([encoder.conv_in, *large])
            for part, (start, stop) in zip(parts, pairwise(ends), strict=True):
                at = [0]
                maps = _remembering(encoder.conv_in, band.read(video[:, :, start:stop], STEP), memory, at)
                for layer in large:
                    maps = layer(maps, feat_cache=memory, feat_idx=at)
                part.append(band.kept(maps).clone())  # not a view, which would keep the margin too
            del memory
        memory = [None] * self.vae._cached_conv_counts["encoder"]
        latents = []
        for index, part in enumerate(parts):
            at = [0]
            maps = torch.cat(part, dim=bands[0].axis)
            parts[index] = []
            for layer in small:
                maps = layer(maps, feat_cache=memory, feat_idx=at)
            maps = encoder.mid_block(maps, feat_cache=memory, feat_idx=at)
            maps = encoder.nonlinearity(encoder.norm_out(maps))
            latents.append(_remembering(encoder.conv_out, maps, memory, at))
        return self.vae.quant_conv(torch.cat(latents, dim=2))


def decode_in_bands(
    vae: AutoencoderKLWan,
    latents: torch.Tensor,
    memories: list[Memory],
    first: bool,
    check: Callable[[], None] = lambda: None,
) -> list[torch.Tensor]:
    """The frames of a clip's next latents, on the CPU.

    Args:
        vae: whose decoder it is.
        latents: (1, 16, f, h, w), not normalised, on the device that computes.
        memories: on the CPU; brought up to date in place. An empty list before the start; only one of the layers
            that are computed together is on the device at a time.
        first: whether these are the clip's first latents.
        check: called before each part; may raise, after which `memories` is of no further use.

    Returns:
        For each latent frame (1, 3, 4, H, W), or (1, 3, 1, H, W) for the clip's first; not clamped.
    """
    decoder, device = vae.decoder, latents.device
    blocks = list(decoder.up_blocks)
    cut = len(blocks) - 1 - LARGE  # the block whose change of size is the first of the layers in bands
    upsampler = blocks[cut].upsamplers[0]
    large = [upsampler, *blocks[cut + 1 :]]
    bands = bands_of(2 * latents.shape[-2], 2 * latents.shape[-1], DECODER_MARGIN)
    if not memories:
        count = _convolutions([*large, decoder.conv_out])
        memories.append([None] * (vae._cached_conv_counts["decoder"] - count))
        memories += [[None] * count for _ in bands]

    memory = moved(memories[0], device)
    waiting = []
    for index in range(latents.shape[2]):
        check()
        at = [0]
        maps = vae.post_quant_conv(latents[:, :, index : index + 1])
        maps = _remembering(decoder.conv_in, maps, memory, at)
        maps = decoder.mid_block(maps, feat_cache=memory, feat_idx=at)
        for block in blocks[:cut]:
            maps = block(maps, feat_cache=memory, feat_idx=at, first_chunk=first and index == 0)
        for resnet in blocks[cut].resnets:
            maps = resnet(maps, feat_cache=memory, feat_idx=at)
        waiting.append(maps.cpu())
    memories[0] = moved(memory, "cpu")

    parts: list[list[torch.Tensor]] = [[] for _ in waiting]
    for number, band in enumerate(bands, start=1):
        memory = moved(memories[number], device)
        for index, whole in enumerate(waiting):
            check()
            at = [0]
            maps = upsampler(band.read(whole).to(device), feat_cache=memory, feat_idx=at)
            for block in large[1:]:
                maps = block(maps, feat_cache=memory, feat_idx=at, first_chunk=first and index == 0)
            maps = decoder.nonlinearity(decoder.norm_out(maps))
            maps = _remembering(decoder.conv_out, maps, memory, at)
            parts[index].append(band.kept(maps, STEP).cpu())
        memories[number] = moved(memory, "cpu")
    return [torch.cat(part, dim=bands[0].axis) for part in parts]


def moved(memory: Memory, device: torch.device | str) -> Memory:
    """The same memory on a device."""
    return [value.to(device) if isinstance(value, torch.Tensor) else value for value in memory]


def _convolutions(layers: Sequence[torch.nn.Module]) -> int:
    """How many of the layers' convolutions remember, or might: diffusers counts those that do not, too."""
    return sum(isinstance(part, WanCausalConv3d) for layer in layers for part in layer.modules())


def _remembering(convolution: WanCausalConv3d, maps: torch.Tensor, memory: Memory, at: list[int]) -> torch.Tensor:
    """A causal convolution of frames that follow those it remembers, as diffusers' encoder and decoder do it."""
    index = at[0]
    latest, before = maps[:, :, -2:].clone(), memory[index]
    if latest.shape[2] < 2 and before is not None:
        latest = torch.cat([before[:, :, -1:], latest], dim=2)
    result = convolution(maps, before)
    memory[index] = latest
    at[0] += 1
    return result
