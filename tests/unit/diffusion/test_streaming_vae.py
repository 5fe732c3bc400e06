# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

import errno
import weakref
from pathlib import Path
from typing import Any

import pytest
import torch

from ex4d_engine.diffusion import streaming_vae
from ex4d_engine.diffusion.pipeline import Ex4dPipeline
from ex4d_engine.diffusion.streaming_vae import StreamingDecoder, decoder_bytes
from ex4d_engine.errors import Ex4dError


def latents(frames: int = 5, height: int = 6, width: int = 8) -> torch.Tensor:
    return torch.randn(1, 16, frames, height, width, generator=torch.Generator().manual_seed(0))


def decoded(decoder: StreamingDecoder, value: torch.Tensor, ahead: int = 0, is_last: bool = False) -> torch.Tensor:
    """The parts put together; they cover every pixel once."""
    parts = list(decoder.parts(value, ahead, is_last=is_last))
    frames = max(part.frame + part.pixels.shape[2] for part in parts)
    whole = torch.full((1, 3, frames, 8 * value.shape[-2], 8 * value.shape[-1]), torch.nan)
    for part in parts:
        count, height, width = part.pixels.shape[2:]
        area = whole[:, :, part.frame :, part.top :, part.left :][:, :, :count, :height, :width]
        assert area.isnan().all()
        area.copy_(part.pixels)
    assert not whole.isnan().any()
    return whole


def files_in(folder: Path) -> list[Path]:
    return list(folder.iterdir()) if folder.is_dir() else []


def tiled_by_diffusers(pipeline: Ex4dPipeline, value: torch.Tensor) -> torch.Tensor:
    """In tiles of 32 pixels every 24."""
    pipeline.vae.enable_tiling(32, 32, 24, 24)
    try:
        return pipeline.decode_latents(value)
    finally:
        pipeline.vae.disable_tiling()


@torch.no_grad()
@pytest.mark.parametrize("frames", [1, 2, 5])
def test_equals_decoding_at_once(pipeline: Ex4dPipeline, frames: int) -> None:
    value = latents(frames)

    parts = list(StreamingDecoder(pipeline).frames(value))

    assert [part.shape[2] for part in parts] == [1] + [4] * (frames - 1)
    assert torch.equal(torch.cat(parts, dim=2), pipeline.decode_latents(value))


@torch.no_grad()
def test_in_tiles_it_equals_diffusers_tiled_decoding(pipeline: Ex4dPipeline) -> None:
    value = latents()
    at_once = tiled_by_diffusers(pipeline, value)
    assert not torch.equal(at_once, pipeline.decode_latents(value))  # the tiles do make a difference here

    assert torch.equal(decoded(StreamingDecoder(pipeline, (32, 32)), value), at_once)


@torch.no_grad()
@pytest.mark.parametrize(
    ("height", "width", "tile"), [(6, 8, (64, 32)), (5, 9, (32, 32)), (4, 4, (32, 32)), (7, 3, (16, 48))]
)
def test_tiles_cover_frames_of_any_size_and_none_is_larger(
    pipeline: Ex4dPipeline, monkeypatch: pytest.MonkeyPatch, height: int, width: int, tile: tuple[int, int]
) -> None:
    seen: list[tuple[int, int]] = []
    decode_one = streaming_vae._decode_one

    def watched(vae: object, latent: torch.Tensor, *others: object, **named: object) -> torch.Tensor:
        seen.append((latent.shape[-2], latent.shape[-1]))
        return decode_one(vae, latent, *others, **named)  # type: ignore[arg-type]

    monkeypatch.setattr(streaming_vae, "_decode_one", watched)
    value = latents(2, height, width)
    frames = decoded(StreamingDecoder(pipeline, tile), value)

    whole = pipeline.decode_latents(value)
    assert frames.shape == whole.shape and torch.isfinite(frames).all()
    assert all(rows <= tile[0] // 8 and columns <= tile[1] // 8 for rows, columns in seen)
    if height <= tile[0] // 8 and width <= tile[1] // 8:
        assert torch.equal(frames, whole)


@torch.no_grad()
@pytest.mark.parametrize("on_disk", [False, True])
@pytest.mark.parametrize("tile", [None, (32, 32)])
def test_goes_on_over_calls_and_other_uses_of_the_vae(
    pipeline: Ex4dPipeline, tmp_path: Path, tile: tuple[int, int] | None, on_disk: bool
) -> None:
    value, folder = latents(), tmp_path / "Ünï 作業" / "decoder"
    decoder = StreamingDecoder(pipeline, tile, folder=folder if on_disk else None)
    whole = pipeline.decode_latents(value) if tile is None else tiled_by_diffusers(pipeline, value)
    first = decoded(decoder, value[:, :, :4], ahead=2)
    pipeline.encode_video(torch.zeros(1, 3, 5, 16, 16))
    # 2 rows of 3 tiles; what is remembered of a whole frame stays in main memory
    assert len(files_in(folder)) == (6 if on_disk and tile else 0)
    second = decoded(decoder, value[:, :, 2:4], ahead=1)
    rest = decoded(decoder, value[:, :, 3:], is_last=True)

    assert torch.equal(first, whole[:, :, :13])  # with what is only looked at
    assert torch.equal(second, whole[:, :, 5:13])
    assert torch.equal(rest, whole[:, :, 9:])
    assert not files_in(folder)


@torch.no_grad()
def test_a_clip_of_one_call_leaves_nothing_to_wait(pipeline: Ex4dPipeline, tmp_path: Path) -> None:
    decoded(StreamingDecoder(pipeline, (32, 32), folder=tmp_path / "decoder"), latents(2), is_last=True)
    assert not (tmp_path / "decoder").exists()


@torch.no_grad()
def test_only_one_tile_is_in_hand(pipeline: Ex4dPipeline, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each through all frames of a call: what it remembers is read once, and let go before the next tile's."""
    alive: list[int] = []
    known: list[weakref.ref[torch.Tensor]] = []
    decode_one = streaming_vae._decode_one

    def watched(vae: Any, latent: torch.Tensor, memory: list[Any], first: bool) -> torch.Tensor:
        pixels = decode_one(vae, latent, memory, first)
        known.extend(weakref.ref(value) for value in memory if isinstance(value, torch.Tensor))
        there = {id(value): value.nbytes for value in (ref() for ref in known) if value is not None}
        alive.append(sum(there.values()))
        return pixels

    monkeypatch.setattr(streaming_vae, "_decode_one", watched)
    value, decoder = latents(4), StreamingDecoder(pipeline, (32, 32), folder=tmp_path)
    decoded(decoder, value[:, :, :2])
    decoded(decoder, value[:, :, 2:])
    assert max(alive) < 1.1 * alive[1]  # of the first tile


@pytest.mark.parametrize("code", ["disk_full", "read_only"])
def test_a_folder_that_cannot_be_written(
    pipeline: Ex4dPipeline, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: str
) -> None:
    def refused(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC if code == "disk_full" else errno.EACCES, "no")

    monkeypatch.setattr(Path, "open", refused)
    with pytest.raises(Ex4dError) as caught:
        decoded(StreamingDecoder(pipeline, (32, 32), folder=tmp_path), latents(2))
    assert caught.value.code == code


def test_what_the_decoder_remembers() -> None:
    """Of a whole frame, and of its tiles with their overlaps: 9 × 5 tiles of 512 pixels that share 64."""
    assert decoder_bytes(512, 512) == decoder_bytes(512, 512, tile=(512, 512))
    whole, tiles = decoder_bytes(2160, 4096), decoder_bytes(2160, 4096, tile=(512, 512))
    assert whole / 2**30 == pytest.approx(78, abs=0.5)
    assert tiles / whole == pytest.approx((9 * 64 / 512) * ((4 * 64 + 46) / 270))


@torch.no_grad()
def test_an_iterator_left_in_the_middle_leaves_the_vae_clean(pipeline: Ex4dPipeline) -> None:
    value = latents()
    whole = pipeline.decode_latents(value)
    frames = StreamingDecoder(pipeline).frames(value)
    next(frames)
    next(frames)

    frames.close()

    assert not any(memory is not None for memory in pipeline.vae._feat_map)
    assert torch.equal(pipeline.decode_latents(value), whole)


@torch.no_grad()
def test_an_offloaded_vae_is_brought_to_the_device(pipeline: Ex4dPipeline, monkeypatch: pytest.MonkeyPatch) -> None:
    class Hook:
        called = 0

        def pre_forward(self, _: object) -> None:
            self.called += 1

    hook = Hook()
    monkeypatch.setattr(pipeline.vae, "_hf_hook", hook, raising=False)

    decoded(StreamingDecoder(pipeline), latents(2))

    assert hook.called == 2
