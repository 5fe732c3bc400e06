# SPDX-License-Identifier: GPL-3.0-or-later
"""Latents to frames, one latent frame after the other, in memory that does not grow with the clip's length.

The Wan decoder is causal: besides one latent frame it needs only what its convolutions remember of the frames
before. diffusers keeps that memory too, but gathers all frames on the device before it returns. The bundled codec
says itself what it has to remember.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import torch
from diffusers import AutoencoderKLWan
from diffusers.utils.accelerate_utils import apply_forward_hook

from .bundled_codec import BundledCodec
from .decoder_memory import DecoderMemory, FileMemory, MainMemory, Place
from .pipeline import Ex4dPipeline
from .vae_bands import Memory, decode_in_bands, is_in_bands, moved

PixelTile = tuple[int, int]
"""(height, width), pixels."""

OVERLAP_SHARE: Final = 8
"""The part of a tile that it shares with the next: 64 of 512 pixels, as many as in diffusers' own tiles of 256."""
PIXELS: Final = 8
"""Of a latent's side."""


@dataclass(frozen=True)
class Part:
    """A part of decoded frames; those of one call do not overlap and cover all of its frames.

    Attributes:
        frame: the first of its frames, counted within the call.
        top, left: of its pixels.
        pixels: (1, 3, n, h, w) in [−1, 1], on the CPU.
    """

    frame: int
    top: int
    left: int
    pixels: torch.Tensor


class StreamingDecoder:
    """Decodes a clip's latents as they come; the frames equal `Ex4dPipeline.decode_latents` of all of them at once.

    The decoder's memory (`decoder_bytes`) waits elsewhere between calls, so that it takes nothing from the denoiser.
    It belongs to this object alone: the VAE may encode and decode other videos in between, and a cancelled run leaves
    nothing behind in it.

    With a `tile` frames are decoded in overlapping tiles of at most that size, each through all frames of a call, so
    that the memory of only one is in hand; they are crossfaded as in diffusers' tiled decoding. The bundled codec
    needs so little that it takes whole frames. A VAE that computes in bands decodes tiles and whole frames in them;
    whole frames then come all of a call at once.

    Args:
        pipeline: its VAE, latent statistics and device are used.
        tile: None decodes whole frames.
        check: called often while frames are made that come at once; may raise to stop.
        folder: where tiles' memories wait, see `FileMemory`; None keeps them in main memory, as a whole frame's is.
    """

    def __init__(
        self,
        pipeline: Ex4dPipeline,
        tile: PixelTile | None = None,
        check: Callable[[], None] = lambda: None,
        folder: Path | None = None,
    ) -> None:
        self._pipeline = pipeline
        self._tile = None if isinstance(pipeline.vae, BundledCodec) else tile
        self._check = check
        self._memory: DecoderMemory = MainMemory() if folder is None or self._tile is None else FileMemory(folder)
        self._started = False

    def frames(self, latents: torch.Tensor) -> Iterator[torch.Tensor]:
        """The frames of the clip's next latents, decoded as whole frames, without a `tile`.

        Yields:
            (1, 3, 1, H, W) for the clip's first latent frame, (1, 3, 4, H, W) for every other, as of `Part`.
        """
        assert self._tile is None
        return (part.pixels for part in self.parts(latents))

    @torch.no_grad()
    def parts(self, latents: torch.Tensor, ahead: int = 0, *, is_last: bool = False) -> Iterator[Part]:
        """The frames of the clip's next latents, in parts.

        Args:
            latents: (1, 16, f, h, w) normalised, on any device; all calls of one clip agree in h and w.
            ahead: how many of them, from the end, are only looked at: the next call begins with the first of these.
            is_last: nothing follows, so that nothing is to be remembered.

        Yields:
            Of the clip's first latent frame one frame, of every other four. A decoder whose iterator was left in the
            middle is of no further use.

        Raises:
            Ex4dError: `disk_full`, `read_only` for the folder.
        """
        tiling = _Tiling.of(latents.shape[-2], latents.shape[-1], self._tile)
        if tiling.is_whole:
            frame = 0
            for pixels in self._decoded((0, 0), latents, ahead, is_last):
                yield Part(frame, 0, 0, pixels.clamp(-1, 1))
                frame += pixels.shape[2]
        else:
            yield from self._tiled(latents, tiling, ahead, is_last)
        self._started = True
        if is_last:
            self._memory.clear()

    def _tiled(self, latents: torch.Tensor, tiling: _Tiling, ahead: int, is_last: bool) -> Iterator[Part]:
        """Tile by tile, row by row, each crossfaded with those above and to the left by the VAE's own functions."""
        vae, rows, columns = self._pipeline.vae, tiling.rows, tiling.columns
        above: dict[int, torch.Tensor] = {}  # what the tiles of the row before share with this one
        for i, top in enumerate(rows.starts):
            before: torch.Tensor | None = None  # what the tile before shares with this one
            for j, left in enumerate(columns.starts):
                part = latents[..., top : top + rows.tile, left : left + columns.tile]
                tile = torch.cat(list(self._decoded((top, left), part, ahead, is_last)), dim=2)
                if i > 0:
                    tile = vae.blend_v(above[j], tile, rows.overlap * PIXELS)
                if before is not None:
                    tile = vae.blend_h(before, tile, columns.overlap * PIXELS)
                above[j] = tile[..., -rows.overlap * PIXELS :, :].clone()  # not a view, which would keep the tile
                before = tile[..., -columns.overlap * PIXELS :].clone()
                kept = tile[..., : rows.kept(i), : columns.kept(j)].clamp(-1, 1)
                del tile
                yield Part(0, top * PIXELS, left * PIXELS, kept)

    def _decoded(self, place: Place, latents: torch.Tensor, ahead: int, is_last: bool) -> Iterator[torch.Tensor]:
        """The frames of each latent frame of a tile, not clamped, on the CPU."""
        until = latents.shape[2] - ahead
        memories = self._memory.get(place)
        yield from self._advanced(memories, latents[:, :, :until], not self._started)
        if not is_last:
            self._memory.put(place, memories)
        if ahead:
            yield from self._advanced(memories, latents[:, :, until:], False)

    def _advanced(self, memories: list[Memory], latents: torch.Tensor, first: bool) -> Iterator[torch.Tensor]:
        """As `_decoded`; `memories`, empty before the start, are brought up to date in place."""
        vae = self._pipeline.vae
        mean, std = self._pipeline.latent_statistics()
        if is_in_bands(vae):
            scaled = (latents.to(mean.device) * std + mean).to(vae.dtype)
            yield from decode_in_bands(vae, scaled, memories, first, self._check)
            return
        if not memories:
            count = 1 if isinstance(vae, BundledCodec) else vae._cached_conv_counts["decoder"]
            memories.append([None] * count)
        memory = memories[0] = moved(memories[0], mean.device)
        for index in range(latents.shape[2]):
            self._check()
            latent = latents[:, :, index : index + 1].to(mean.device)
            yield _decode_one(vae, (latent * std + mean).to(vae.dtype), memory, first=first and index == 0).cpu()


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
