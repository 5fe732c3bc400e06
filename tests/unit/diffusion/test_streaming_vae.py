# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

from ex4d_engine.diffusion.pipeline import Ex4dPipeline
from ex4d_engine.diffusion.streaming_vae import StreamingDecoder


def latents(frames: int = 5, height: int = 6, width: int = 8) -> torch.Tensor:
    return torch.randn(1, 16, frames, height, width, generator=torch.Generator().manual_seed(0))


def decoded(decoder: StreamingDecoder, value: torch.Tensor) -> torch.Tensor:
    return torch.cat(list(decoder.frames(value)), dim=2)


@pytest.fixture
def tiled(pipeline: Ex4dPipeline) -> Iterator[Ex4dPipeline]:
    pipeline.vae.enable_tiling(32, 32, 24, 24)
    yield pipeline
    pipeline.vae.disable_tiling()


@torch.no_grad()
@pytest.mark.parametrize("frames", [1, 2, 5])
def test_equals_decoding_at_once(pipeline: Ex4dPipeline, frames: int) -> None:
    value = latents(frames)

    parts = list(StreamingDecoder(pipeline).frames(value))

    assert [part.shape[2] for part in parts] == [1] + [4] * (frames - 1)
    assert torch.equal(torch.cat(parts, dim=2), pipeline.decode_latents(value))


@torch.no_grad()
def test_equals_tiled_decoding_at_once(tiled: Ex4dPipeline) -> None:
    value = latents()
    at_once = tiled.decode_latents(value)
    tiled.vae.disable_tiling()
    assert not torch.equal(at_once, tiled.decode_latents(value))  # the tiles do make a difference here

    tiled.vae.enable_tiling()
    assert torch.equal(decoded(StreamingDecoder(tiled), value), at_once)


@torch.no_grad()
@pytest.mark.parametrize("tiling", [False, True])
def test_goes_on_over_calls_and_other_uses_of_the_vae(pipeline: Ex4dPipeline, tiling: bool) -> None:
    value, decoder = latents(), StreamingDecoder(pipeline)
    if tiling:
        pipeline.vae.enable_tiling(32, 32, 24, 24)
    try:
        whole = pipeline.decode_latents(value)
        first = decoded(decoder, value[:, :, :2])
        pipeline.encode_video(torch.zeros(1, 3, 5, 16, 16))
        ahead = torch.cat(list(decoder.peek(value[:, :, 2:4])), dim=2)
        rest = decoded(decoder, value[:, :, 2:])
    finally:
        pipeline.vae.disable_tiling()

    assert torch.equal(torch.cat([first, rest], dim=2), whole)
    assert torch.equal(ahead, rest[:, :, :8])


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
