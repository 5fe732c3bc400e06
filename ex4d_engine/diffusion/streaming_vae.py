# SPDX-License-Identifier: GPL-3.0-or-later
"""Latents to frames, one latent frame after the other, in memory that does not grow with the clip's length.

The Wan decoder is causal: besides one latent frame it needs only what its convolutions remember of the frames
before. diffusers keeps that memory too, but gathers all frames on the device before it returns. The bundled codec
says itself what it has to remember.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from diffusers import AutoencoderKLWan
from diffusers.utils.accelerate_utils import apply_forward_hook

from .bundled_codec import BundledCodec
from .pipeline import Ex4dPipeline

Memory = list[Any]
"""What each causal convolution of the decoder remembers: a tensor, diffusers' "Rep", or None before the start. Of
the bundled codec one tensor."""


class StreamingDecoder:
    """Decodes a clip's latents as they come; the frames equal `Ex4dPipeline.decode_latents` of all of them at once.

    The decoder's memory (`decoder_bytes`) waits on the CPU between calls, so that it takes nothing from the denoiser.
    It belongs to this object alone: the VAE may encode and decode other videos in between, and a cancelled run leaves
    nothing behind in it.

    With `vae.enable_tiling()` each latent frame is decoded in the VAE's overlapping tiles, with a memory for each tile
    of which only one at a time is on the device; the frames equal diffusers' tiled decoding. The device then holds no
    more than a tile needs, the CPU all tiles' memories: those of the whole frame and of the overlaps, 1.8 times as
    much with the VAE's own tiles of 256 pixels every 192.

    Args:
        pipeline: its VAE, latent statistics and device are used.
    """

    def __init__(self, pipeline: Ex4dPipeline) -> None:
        self._pipeline = pipeline
        self._memories: dict[tuple[int, int], Memory] = {}
        self._started = False
        self._ends_here = False

    def peek(self, latents: torch.Tensor) -> Iterator[torch.Tensor]:
        """As `frames`, but this decoder stays where it is: frames ahead of the ones that are final."""
        ahead = StreamingDecoder(self._pipeline)
        ahead._memories = dict(self._memories)
        ahead._started = self._started
        ahead._ends_here = True
        return ahead.frames(latents)

    @torch.no_grad()
    def frames(self, latents: torch.Tensor) -> Iterator[torch.Tensor]:
        """The frames of the clip's next latents.

        Args:
            latents: (1, 16, f, h, w) normalised, on any device; all calls of one clip agree in h and w.

        Yields:
            (1, 3, 1, H, W) for the clip's first latent frame, (1, 3, 4, H, W) for every other, in [−1, 1], on the
            CPU. A decoder whose iterator was left in the middle is of no further use.
        """
        vae = self._pipeline.vae
        mean, std = self._pipeline.latent_statistics()
        tiling = _Tiling.of(vae, latents.shape[-2], latents.shape[-1])
        if not tiling.is_whole:
            for index in range(latents.shape[2]):
                latent = latents[:, :, index : index + 1].to(mean.device)
                yield self._tiled((latent * std + mean).to(vae.dtype), tiling)
            return
        memory = _moved(self._memory_of((0, 0)), mean.device)
        for index in range(latents.shape[2]):
            latent = latents[:, :, index : index + 1].to(mean.device)
            pixels = _decode_one(vae, (latent * std + mean).to(vae.dtype), memory, first=not self._started)
            self._started = True
            yield pixels.clamp(-1, 1).cpu()
        if not self._ends_here:
            self._memories[0, 0] = _moved(memory, "cpu")

    def _tiled(self, latent: torch.Tensor, tiling: _Tiling) -> torch.Tensor:
        """The frames of one latent frame, decoded tile by tile and blended as diffusers blends them."""
        vae = self._pipeline.vae
        rows: list[list[torch.Tensor]] = []
        for top in tiling.tops:
            row = []
            for left in tiling.lefts:
                memory = _moved(self._memory_of((top, left)), latent.device)
                part = latent[..., top : top + tiling.tile_height, left : left + tiling.tile_width]
                row.append(_decode_one(vae, part, memory, first=not self._started).cpu())
                self._memories[top, left] = _moved(memory, "cpu")
            rows.append(row)
        self._started = True
        return tiling.blended(vae, rows).clamp(-1, 1)

    def _memory_of(self, place: tuple[int, int]) -> Memory:
        vae = self._pipeline.vae
        count = 1 if isinstance(vae, BundledCodec) else vae._cached_conv_counts["decoder"]
        return self._memories.get(place) or [None] * count


@dataclass(frozen=True)
class _Tiling:
    """The VAE's tiles over a frame, in latent pixels; a whole frame is one tile."""

    height: int
    width: int
    tile_height: int
    tile_width: int
    tops: range = field(default=range(1))
    lefts: range = field(default=range(1))

    @property
    def is_whole(self) -> bool:
        return self.height <= self.tile_height and self.width <= self.tile_width

    @classmethod
    def of(cls, vae: AutoencoderKLWan, height: int, width: int) -> _Tiling:
        if not vae.use_tiling:
            return cls(height, width, height, width)
        ratio = vae.spatial_compression_ratio
        return cls(
            height,
            width,
            vae.tile_sample_min_height // ratio,
            vae.tile_sample_min_width // ratio,
            range(0, height, vae.tile_sample_stride_height // ratio),
            range(0, width, vae.tile_sample_stride_width // ratio),
        )

    def blended(self, vae: AutoencoderKLWan, rows: list[list[torch.Tensor]]) -> torch.Tensor:
        """The whole frames, each tile crossfaded with those above and to the left by the VAE's own functions."""
        stride_height, stride_width = vae.tile_sample_stride_height, vae.tile_sample_stride_width
        fade_height = vae.tile_sample_min_height - stride_height
        fade_width = vae.tile_sample_min_width - stride_width
        bands = []
        for i, row in enumerate(rows):
            kept = []
            for j, tile in enumerate(row):
                if i > 0:
                    tile = vae.blend_v(rows[i - 1][j], tile, fade_height)
                if j > 0:
                    tile = vae.blend_h(row[j - 1], tile, fade_width)
                kept.append(tile[..., :stride_height, :stride_width])
            bands.append(torch.cat(kept, dim=-1))
        ratio = vae.spatial_compression_ratio
        return torch.cat(bands, dim=-2)[..., : self.height * ratio, : self.width * ratio]


@apply_forward_hook  # brings an offloaded VAE to the device, as its own `decode` does
def _decode_one(
    vae: AutoencoderKLWan | BundledCodec, latent: torch.Tensor, memory: Memory, first: bool
) -> torch.Tensor:
    """The frames of one latent frame; `memory` is brought up to date in place."""
    if isinstance(vae, BundledCodec):
        pixels, memory[0] = vae.decode_next(latent, memory[0])
        return pixels
    return vae.decoder(vae.post_quant_conv(latent), feat_cache=memory, feat_idx=[0], first_chunk=first)


def decoder_bytes(height: int, width: int, bytes_per_value: int = 4) -> int:
    """The whole frame's decoder memory for Wan 2.1's VAE: 2.3 GiB at 512², 78 GiB at 4096 × 2160 in float32."""
    return 2365 * height * width * bytes_per_value  # counted: values that its convolutions keep, a pixel


def _moved(memory: Memory, device: torch.device | str) -> Memory:
    return [value.to(device) if isinstance(value, torch.Tensor) else value for value in memory]
