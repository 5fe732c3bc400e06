# SPDX-License-Identifier: GPL-3.0-or-later
"""Latents to frames, one latent frame after the other, in memory that does not grow with the clip's length.

The Wan decoder is causal: besides one latent frame it needs only what its convolutions remember of the frames
before. diffusers keeps that memory too, but gathers all frames on the device before it returns. The bundled codec
says itself what it has to remember.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Final

import torch
from diffusers import AutoencoderKLWan
from diffusers.utils.accelerate_utils import apply_forward_hook

from .bundled_codec import BundledCodec
from .pipeline import Ex4dPipeline
from .vae_bands import Memory, decode_in_bands, is_in_bands, moved

PixelTile = tuple[int, int]
"""(height, width), pixels."""

OVERLAP_SHARE: Final = 8
"""The part of a tile that it shares with the next: 64 of 512 pixels, as many as in diffusers' own tiles of 256."""
PIXELS: Final = 8
"""Of a latent's side."""


class StreamingDecoder:
    """Decodes a clip's latents as they come; the frames equal `Ex4dPipeline.decode_latents` of all of them at once.

    The decoder's memory (`decoder_bytes`) waits on the CPU between calls, so that it takes nothing from the denoiser.
    It belongs to this object alone: the VAE may encode and decode other videos in between, and a cancelled run leaves
    nothing behind in it.

    With a `tile` each latent frame is decoded in overlapping tiles of at most that size, with a memory for each of
    which only one at a time is on the device; they are crossfaded as in diffusers' tiled decoding. The device then
    holds no more than a tile needs, the CPU all tiles' memories, overlaps twice. The bundled codec needs so little
    that it takes whole frames. A VAE that computes in bands decodes tiles and whole frames in them; whole frames then
    come all of a call at once.

    Args:
        pipeline: its VAE, latent statistics and device are used.
        tile: None decodes whole frames.
        check: called often while frames are made that come at once; may raise to stop.
    """

    def __init__(
        self, pipeline: Ex4dPipeline, tile: PixelTile | None = None, check: Callable[[], None] = lambda: None
    ) -> None:
        self._pipeline = pipeline
        self._tile = None if isinstance(pipeline.vae, BundledCodec) else tile
        self._check = check
        # of each tile: one of the whole decoder, or one of its small layers and of each band
        self._memories: dict[tuple[int, int], list[Memory]] = {}
        self._started = False
        self._ends_here = False

    def peek(self, latents: torch.Tensor) -> Iterator[torch.Tensor]:
        """As `frames`, but this decoder stays where it is: frames ahead of the ones that are final."""
        ahead = StreamingDecoder(self._pipeline, self._tile, self._check)
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
        tiling = _Tiling.of(latents.shape[-2], latents.shape[-1], self._tile)
        if not tiling.is_whole:
            for index in range(latents.shape[2]):
                latent = latents[:, :, index : index + 1].to(mean.device)
                yield self._tiled((latent * std + mean).to(vae.dtype), tiling)
            return
        if is_in_bands(vae):
            scaled = (latents.to(mean.device) * std + mean).to(vae.dtype)
            frames = self._in_bands((0, 0), scaled)
            self._started = True
            yield from (pixels.clamp(-1, 1) for pixels in frames)
            return
        memory = moved(self._memory_of((0, 0)), mean.device)
        for index in range(latents.shape[2]):
            latent = latents[:, :, index : index + 1].to(mean.device)
            pixels = _decode_one(vae, (latent * std + mean).to(vae.dtype), memory, first=not self._started)
            self._started = True
            yield pixels.clamp(-1, 1).cpu()
        if not self._ends_here:
            self._memories[0, 0] = [moved(memory, "cpu")]

    def _tiled(self, latent: torch.Tensor, tiling: _Tiling) -> torch.Tensor:
        """The frames of one latent frame, decoded tile by tile and blended as diffusers blends them."""
        vae = self._pipeline.vae
        rows: list[list[torch.Tensor]] = []
        for top in tiling.rows.starts:
            row = []
            for left in tiling.columns.starts:
                part = latent[..., top : top + tiling.rows.tile, left : left + tiling.columns.tile]
                if is_in_bands(vae):
                    row += self._in_bands((top, left), part)
                    continue
                memory = moved(self._memory_of((top, left)), latent.device)
                row.append(_decode_one(vae, part, memory, first=not self._started).cpu())
                self._memories[top, left] = [moved(memory, "cpu")]
            rows.append(row)
        self._started = True
        return tiling.blended(vae, rows).clamp(-1, 1)

    def _in_bands(self, place: tuple[int, int], latents: torch.Tensor) -> list[torch.Tensor]:
        """The frames of the next latents of a tile, in bands."""
        memories = list(self._memories.get(place, ()))
        frames = decode_in_bands(self._pipeline.vae, latents, memories, not self._started, self._check)
        self._memories[place] = memories
        return frames

    def _memory_of(self, place: tuple[int, int]) -> Memory:
        if place in self._memories:
            return self._memories[place][0]
        vae = self._pipeline.vae
        return [None] * (1 if isinstance(vae, BundledCodec) else vae._cached_conv_counts["decoder"])


@dataclass(frozen=True)
class _Axis:
    """A frame's rows or columns in tiles, in latent pixels: where they begin, their length, what two of them share."""

    starts: range
    tile: int
    overlap: int

    @classmethod
    def of(cls, length: int, tile: int) -> _Axis:
        if tile >= length:
            return cls(range(1), length, 0)
        overlap = max(1, tile // OVERLAP_SHARE)
        return cls(range(0, length - overlap, tile - overlap), tile, overlap)

    def lengths(self, length: int) -> list[int]:
        """Of each tile, the last of which may be shorter."""
        return [min(self.tile, length - start) for start in self.starts]

    def kept(self, index: int) -> int | None:
        """How much of a decoded tile is not the next one's, pixels; None is all of the last."""
        return (self.tile - self.overlap) * PIXELS if index + 1 < len(self.starts) else None


@dataclass(frozen=True)
class _Tiling:
    """A frame in overlapping tiles; a whole frame is one."""

    rows: _Axis
    columns: _Axis

    @property
    def is_whole(self) -> bool:
        return len(self.rows.starts) == len(self.columns.starts) == 1

    @classmethod
    def of(cls, height: int, width: int, tile: PixelTile | None) -> _Tiling:
        """Of a frame of `height` × `width` latent pixels."""
        rows, columns = (height, width) if tile is None else (side // PIXELS for side in tile)
        return cls(_Axis.of(height, rows), _Axis.of(width, columns))

    def blended(self, vae: AutoencoderKLWan, rows: list[list[torch.Tensor]]) -> torch.Tensor:
        """The whole frames, each tile crossfaded with those above and to the left by the VAE's own functions."""
        bands = []
        for i, row in enumerate(rows):
            kept = []
            for j, tile in enumerate(row):
                if i > 0:
                    tile = vae.blend_v(rows[i - 1][j], tile, self.rows.overlap * PIXELS)
                if j > 0:
                    tile = vae.blend_h(row[j - 1], tile, self.columns.overlap * PIXELS)
                kept.append(tile[..., : self.rows.kept(i), : self.columns.kept(j)])
            bands.append(torch.cat(kept, dim=-1))
        return torch.cat(bands, dim=-2)


@apply_forward_hook  # brings an offloaded VAE to the device, as its own `decode` does
def _decode_one(
    vae: AutoencoderKLWan | BundledCodec, latent: torch.Tensor, memory: Memory, first: bool
) -> torch.Tensor:
    """The frames of one latent frame; `memory` is brought up to date in place."""
    if isinstance(vae, BundledCodec):
        pixels, memory[0] = vae.decode_next(latent, memory[0])
        return pixels
    return vae.decoder(vae.post_quant_conv(latent), feat_cache=memory, feat_idx=[0], first_chunk=first)


def decoder_bytes(height: int, width: int, bytes_per_value: int = 4, tile: PixelTile | None = None) -> int:
    """What the decoder of Wan 2.1's VAE remembers, of a frame of `height` × `width` pixels or of all its tiles.

    A whole frame of 512² takes 2.3 GiB, one of 4096 × 2160 78 GiB, or 98 in tiles of 512², in float32. In bands it is
    8 % more, and 0.6 GiB for what waits of 49 such frames between its layers.
    """
    tiling = _Tiling.of(height // PIXELS, width // PIXELS, tile)
    latents = sum(tiling.rows.lengths(height // PIXELS)) * sum(tiling.columns.lengths(width // PIXELS))
    return 2365 * latents * PIXELS**2 * bytes_per_value  # counted: values that its convolutions keep, a pixel
