# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from ex4d_engine.diffusion import tiles as tiles_module
from ex4d_engine.diffusion.pipeline import Ex4dPipeline
from ex4d_engine.diffusion.tiles import Tile, blended, plan_tiles, tile_weights, tiled_velocity
from ex4d_engine.diffusion.windows import at_level, first_level
from ex4d_engine.errors import Cancelled
from tests.tiny_model import TEXT_WIDTH, conditioning

AREA = 64 * 64
EMBEDS = torch.randn(1, 512, TEXT_WIDTH, generator=torch.Generator().manual_seed(5))


# --- the plan -----------------------------------------------------------------------------------------------------


@given(st.integers(1, 300), st.integers(1, 300), st.integers(8, 128))
def test_tiles_cover_the_frame(rows: int, columns: int, overlap: int) -> None:
    height, width = 16 * rows, 16 * columns

    tiles = plan_tiles(height, width, overlap=overlap)

    assert len({(tile.height, tile.width) for tile in tiles}) == 1
    assert tiles[0].height % 16 == 0 and tiles[0].width % 16 == 0
    assert tiles[0].height * tiles[0].width <= 1.1 * 512 * 512
    for starts, length, frame in (
        (sorted({tile.top for tile in tiles}), tiles[0].height, height),
        (sorted({tile.left for tile in tiles}), tiles[0].width, width),
    ):
        assert starts[0] == 0 and starts[-1] + length == frame
        assert all(start % 8 == 0 for start in starts)
        assert all(before + length - after >= overlap for before, after in itertools.pairwise(starts))


@pytest.mark.parametrize(
    ("height", "width", "count", "tile"),
    [
        (512, 512, 1, (512, 512)),
        (384, 688, 1, (384, 688)),
        (1088, 1920, 15, (512, 512)),
        (2160, 4096, 66, (512, 512)),
        (4096, 2160, 66, (512, 512)),
        (256, 4096, 5, (256, 1024)),
        (4096, 256, 5, (1024, 256)),
    ],
)
def test_some_plans(height: int, width: int, count: int, tile: tuple[int, int]) -> None:
    tiles = plan_tiles(height, width)
    assert len(tiles) == count
    assert (tiles[0].height, tiles[0].width) == tile


def test_impossible_plans() -> None:
    with pytest.raises(ValueError, match="not a multiple"):
        plan_tiles(500, 512)
    with pytest.raises(ValueError, match="cannot share"):
        plan_tiles(1024, 1024, overlap=512)


@given(st.integers(3, 40), st.integers(3, 40))
def test_weights_are_positive_and_fall_towards_neighbours_alone(rows: int, columns: int) -> None:
    height, width = 16 * rows, 16 * columns
    tiles = plan_tiles(height, width, AREA, 16)
    for tile in tiles:
        weights = tile_weights(tile, tiles, (height // 8, width // 8))
        assert weights.min() > 0 and weights.max() <= 1
        assert (weights[0].max() == weights.max()) == (tile.top == 0)
        assert (weights[:, -1].max() == weights.max()) == (tile.left + tile.width == width)


def test_tiles_of_one_picture_give_that_picture() -> None:
    tiles = plan_tiles(160, 208, AREA, 16)
    latents = torch.randn(1, 16, 2, 20, 26)
    result = blended(tiles, (20, 26), lambda index: tiles[index].of_latents(latents))
    torch.testing.assert_close(result, latents, rtol=0, atol=1e-6)


# --- velocities ---------------------------------------------------------------------------------------------------


def tiled_run(pipeline: Ex4dPipeline, tiles: tuple[Tile, ...], first_step: int, steps: int = 4) -> torch.Tensor:
    """Partial denoising of a clip's own latents, noised, in tiles."""
    video, mask = conditioning(5, 64, 96)
    given = []
    for tile in tiles:
        area = (..., slice(tile.top, tile.top + tile.height), slice(tile.left, tile.left + tile.width))
        given.append(pipeline.prepare_conditioning(video[area], mask[area]).to("cpu"))
    noise = torch.randn(1, 16, 2, 8, 12, generator=torch.Generator().manual_seed(1))
    start = at_level(pipeline.encode_video(video), noise, first_level(pipeline, steps, first_step))
    return pipeline.denoise(start, tiled_velocity(pipeline, tiles, given, (EMBEDS, None), 1.0), steps, first_step)


@torch.no_grad()
def test_a_step_of_many_tiles_can_be_stopped_between_two_of_them(
    pipeline: Ex4dPipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    predicted: list[int] = []

    def check() -> None:
        if len(predicted) == 2:
            raise Cancelled

    def predict(self: Ex4dPipeline, latents: torch.Tensor, *_: object) -> torch.Tensor:
        predicted.append(1)
        return latents

    monkeypatch.setattr(Ex4dPipeline, "conditioned_velocity", predict)
    tiles = plan_tiles(160, 208, AREA, 16)
    given = [pipeline.prepare_conditioning(*conditioning(5, 64, 64))] * len(tiles)
    velocity = tiled_velocity(pipeline, tiles, given, (EMBEDS, None), 1.0, check=check)
    with pytest.raises(Cancelled):
        velocity(torch.zeros(1, 16, 2, 20, 26), torch.tensor(500.0))
    assert len(predicted) == 2 < len(tiles)


@torch.no_grad()
@pytest.mark.parametrize("first_step", [0, 2])
def test_one_tile_is_plain_partial_denoising(pipeline: Ex4dPipeline, first_step: int) -> None:
    video, mask = conditioning(5, 64, 96)
    noise = torch.randn(1, 16, 2, 8, 12, generator=torch.Generator().manual_seed(1))
    start = at_level(pipeline.encode_video(video), noise, first_level(pipeline, 4, first_step))
    steps: list[int] = []
    plain = pipeline(
        video,
        mask,
        prompt_embeds=EMBEDS,
        guidance_scale=1.0,
        num_inference_steps=4,
        latents=start,
        first_step=first_step,
        callback_on_step_end=lambda _p, step, _t, _l: steps.append(step) or {},
        output_type="latent",
    ).frames

    assert torch.equal(tiled_run(pipeline, (Tile(0, 0, 64, 96),), first_step), plain)
    assert steps == list(range(first_step, 4))


@torch.no_grad()
def test_partial_denoising_starts_at_its_own_level(pipeline: Ex4dPipeline) -> None:
    clean = torch.randn(1, 16, 2, 8, 12, generator=torch.Generator().manual_seed(2))
    noise = torch.randn(1, 16, 2, 8, 12, generator=torch.Generator().manual_seed(1))
    times: list[float] = []

    def exact(_: torch.Tensor, timestep: torch.Tensor) -> torch.Tensor:
        times.append(float(timestep))
        return noise - clean

    level = first_level(pipeline, 25, 15)
    result = pipeline.denoise(at_level(clean, noise, level), exact, 25, 15)

    assert len(times) == 10 and times[0] == pytest.approx(1000 * level) and level == pytest.approx(0.769, abs=1e-3)
    torch.testing.assert_close(result, clean, rtol=0, atol=1e-5)
    for step in (-1, 25):
        with pytest.raises(ValueError, match="not one of 25"):
            pipeline.denoise(noise, exact, 25, step)


@torch.no_grad()
def test_all_tiles_see_their_own_conditioning_and_the_same_noise(pipeline: Ex4dPipeline) -> None:
    tiles = plan_tiles(64, 96, AREA // 2, 16)
    seen: list[torch.Tensor] = []
    hook = pipeline.transformer.register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    tiled_run(pipeline, tiles, 0, steps=1)
    hook.remove()

    assert len(tiles) == len(seen) > 1
    whole = torch.randn(1, 16, 2, 8, 12, generator=torch.Generator().manual_seed(1))
    assert all(torch.equal(value[:, :16], tile.of_latents(whole)) for tile, value in zip(tiles, seen, strict=True))
    assert not torch.equal(seen[0][:, 16:], seen[1][:, 16:])


@torch.no_grad()
def test_a_block_cache_never_carries_one_tile_to_the_next(
    pipeline: Ex4dPipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    from diffusers import FirstBlockCacheConfig

    tiles = plan_tiles(64, 96, AREA // 2, 16)
    plain = tiled_run(pipeline, tiles, 0)
    pipeline.transformer.enable_cache(FirstBlockCacheConfig(threshold=1e9))  # would take anything from the cache
    try:
        cached = tiled_run(pipeline, tiles, 0)
    finally:
        pipeline.transformer.disable_cache()
    torch.testing.assert_close(cached, plain, rtol=0, atol=1e-5)


# --- seams --------------------------------------------------------------------------------------------------------


def test_no_seam_where_tiles_drift(pipeline: Ex4dPipeline, monkeypatch: pytest.MonkeyPatch) -> None:
    """An oracle that knows a rough wall but shifts it by another amount in each tile."""
    tiles = plan_tiles(160, 160, AREA, 32)
    generator = torch.Generator().manual_seed(2)
    checks = (-1) ** (torch.arange(20)[:, None] + torch.arange(20)[None])
    wall = 0.1 * checks * torch.randn(1, 16, 1, 1, 1, generator=generator).sign()
    offsets = [0.2 * (-1) ** index for index in range(len(tiles))]
    noise = torch.randn(1, 16, 1, 20, 20, generator=generator)

    def velocity(latents: torch.Tensor, timestep: torch.Tensor) -> torch.Tensor:
        def of_tile(index: int) -> torch.Tensor:
            target = tiles[index].of_latents(wall) + offsets[index]
            return (tiles[index].of_latents(latents) - target) / (timestep / 1000)

        return blended(tiles, (20, 20), of_tile)

    def seam() -> float:
        result = pipeline.denoise(noise, velocity, 4)[0, :, 0].numpy()
        jumps = np.sqrt((np.diff(result, axis=-1) ** 2).mean(axis=0))
        return float(jumps.max() / np.median(jumps))

    faded = seam()
    monkeypatch.setattr(
        tiles_module, "tile_weights", lambda tile, all_tiles, _: torch.full((8, 8), 100.0 ** all_tiles.index(tile))
    )
    assert faded < 1.5 < seam(), faded
