# SPDX-License-Identifier: GPL-3.0-or-later
"""Overlapping tiles over a frame that is larger than the weights were trained for.

At every step each tile's velocity is predicted with the tile's own conditioning, from the same latents with the same
noise, and the predictions are crossfaded into one velocity of the whole frame. So there is only ever one picture:
tiles agree about it where they overlap, and nothing is stitched afterwards.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from .pipeline import Conditioning, Ex4dPipeline, Velocity
from .sizes import SIZE_MULTIPLE, TRAINED_AREA

LATENT_STEP = 8
"""Pixels of a latent's side."""
OVERLAP_PX = 128


@dataclass(frozen=True)
class Tile:
    """A part of a frame, in pixels, all multiples of 8."""

    top: int
    left: int
    height: int
    width: int

    def of_pixels(self, video: Any) -> Any:
        """The tile of an array (F, H, W, …), a view."""
        return video[:, self.top : self.top + self.height, self.left : self.left + self.width]

    def of_latents(self, latents: torch.Tensor) -> torch.Tensor:
        """The tile of latents (B, C, f, h, w), a view."""
        top, left, height, width = (value // LATENT_STEP for value in (self.top, self.left, self.height, self.width))
        return latents[..., top : top + height, left : left + width]


def plan_tiles(
    height: int, width: int, area: int = TRAINED_AREA, overlap: int = OVERLAP_PX, multiple: int = SIZE_MULTIPLE
) -> tuple[Tile, ...]:
    """Tiles of equal size and about `area` over a frame, row by row.

    A frame up to a tenth above `area` is one tile. Otherwise tiles are squares, or longer where the frame is too
    narrow for a square, as few as cover it with at least `overlap` shared, and spread evenly.

    Args:
        height, width: of the frame, multiples of `multiple`.
        area: of a tile, pixels.
        overlap: pixels that neighbours share at least.
        multiple: of the model, pixels.

    Raises:
        ValueError: a frame that is no multiple, or an overlap that leaves no tile.
    """
    if height % multiple or width % multiple or height < 1 or width < 1:
        raise ValueError(f"a frame of {width} × {height} is not a multiple of {multiple}")
    if height * width <= 1.1 * area:
        return (Tile(0, 0, height, width),)
    square = max(multiple, int(area**0.5) // multiple * multiple)
    if min(height, width) <= square:
        long = max(multiple, area // min(height, width) // multiple * multiple)
        tile_height, tile_width = (height, min(width, long)) if height <= width else (min(height, long), width)
    else:
        tile_height = tile_width = square
    return tuple(
        Tile(top, left, tile_height, tile_width)
        for top in _starts(height, tile_height, overlap)
        for left in _starts(width, tile_width, overlap)
    )


def _starts(length: int, tile: int, overlap: int) -> list[int]:
    """Where the tiles of one axis begin: multiples of a latent's side, first 0, last length − tile."""
    if tile >= length:
        return [0]
    overlap = -(-overlap // LATENT_STEP) * LATENT_STEP
    if overlap >= tile:
        raise ValueError(f"tiles of {tile} pixels cannot share {overlap}")
    count = -(-(length - overlap) // (tile - overlap))
    free = (length - tile) // LATENT_STEP
    return [index * free // (count - 1) * LATENT_STEP for index in range(count)]


def blended(tiles: Sequence[Tile], size: tuple[int, int], of_tile: Callable[[int], torch.Tensor]) -> torch.Tensor:
    """Latents of a whole frame from those of its tiles, crossfaded linearly where they overlap.

    Args:
        tiles: from `plan_tiles`.
        size: (h, w) of the frame's latents.
        of_tile: a tile's index to its latents (1, C, f, h', w'), asked for one after the other.
    """
    if len(tiles) == 1:
        return of_tile(0)
    total: torch.Tensor | None = None
    weight_total: torch.Tensor | None = None
    for index, tile in enumerate(tiles):
        value = of_tile(index)
        weight = tile_weights(tile, tiles, size).to(value.device)
        if total is None or weight_total is None:
            total = value.new_zeros(*value.shape[:-2], *size)
            weight_total = weight.new_zeros(size)
        tile.of_latents(total).add_(value * weight)
        tile.of_latents(weight_total).add_(weight)
    assert total is not None and weight_total is not None
    return total / weight_total


def tile_weights(tile: Tile, tiles: Sequence[Tile], size: tuple[int, int]) -> torch.Tensor:
    """(h', w') float32 weights of a tile: 1 inside, falling towards each side that a neighbour shares."""
    rows = _ramp(tile.top, tile.height, {other.top for other in tiles}, size[0] * LATENT_STEP)
    columns = _ramp(tile.left, tile.width, {other.left for other in tiles}, size[1] * LATENT_STEP)
    return rows[:, None] * columns[None]


def _ramp(start: int, length: int, starts: set[int], frame: int) -> torch.Tensor:
    count = length // LATENT_STEP
    place = torch.arange(count, dtype=torch.float32) + 0.5
    weights = torch.ones(count)
    if start > 0:
        before = max(other for other in starts if other < start)
        weights = weights.minimum(place / ((before + length - start) / LATENT_STEP))
    if start + length < frame:
        after = min(other for other in starts if other > start)
        weights = weights.minimum((count - place) / ((start + length - after) / LATENT_STEP))
    return weights


def tiled_velocity(
    pipeline: Ex4dPipeline,
    tiles: Sequence[Tile],
    conditionings: Sequence[Conditioning],
    prompt_embeds: tuple[torch.Tensor, torch.Tensor | None],
    guidance_scale: float,
    attention_kwargs: dict[str, Any] | None = None,
    check: Callable[[], None] = lambda: None,
) -> Velocity:
    """The denoiser of a whole frame; with one tile it is the plain pipeline's.

    Args:
        pipeline: predicts.
        tiles: from `plan_tiles`.
        conditionings: one a tile; on the CPU they take no device memory while another tile is in hand.
        prompt_embeds: from `prepare_prompt_embeds`.
        guidance_scale, attention_kwargs: as of the pipeline.
        check: asked before each tile; raises to stop.
    """

    def velocity(latents: torch.Tensor, timestep: torch.Tensor) -> torch.Tensor:
        def of_tile(index: int) -> torch.Tensor:
            check()
            if len(tiles) > 1 and pipeline.transformer.is_cache_enabled:
                # what a block cache remembers is of the tile before
                pipeline.transformer._reset_stateful_cache()
            return pipeline.conditioned_velocity(
                tiles[index].of_latents(latents),
                timestep,
                conditionings[index],
                prompt_embeds,
                guidance_scale,
                attention_kwargs,
            )

        return blended(tiles, (latents.shape[-2], latents.shape[-1]), of_tile)

    return velocity
