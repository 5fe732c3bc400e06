# SPDX-License-Identifier: GPL-3.0-or-later
"""Wan's VAE in bands against the whole frame."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import AutoencoderKLWan

from ex4d_engine.diffusion import vae_bands
from ex4d_engine.diffusion.generation import VideoSettings, generate_video
from ex4d_engine.diffusion.loading import load_pipeline
from ex4d_engine.diffusion.pipeline import Ex4dPipeline
from ex4d_engine.diffusion.runtime import place_small_models
from ex4d_engine.diffusion.streaming_vae import StreamingDecoder
from ex4d_engine.diffusion.tiers import TIERS, tier_named
from ex4d_engine.diffusion.vae_bands import bands_of, compute_in_bands, decode_in_bands, is_in_bands
from ex4d_engine.errors import Cancelled
from ex4d_engine.progress import Silent
from tests import tiny_model
from tests.unit.diffusion.test_streaming_vae import decoded

ROUNDING = 1e-5
SIZES = [(128, 48), (48, 136), (120, 120), (16, 24)]


@pytest.fixture
def banded(model_folder: Path, adapter_file: Path) -> Ex4dPipeline:
    pipeline = load_pipeline(model_folder, adapter_file, dtype=torch.float32, device="cpu", reporter=Silent())
    compute_in_bands(pipeline.vae)
    return pipeline


@pytest.fixture(autouse=True)
def no_gradients() -> Iterator[None]:
    with torch.no_grad():
        yield


def video(height: int, width: int, frames: int = 9) -> torch.Tensor:
    return torch.rand(1, 3, frames, height, width, generator=torch.Generator().manual_seed(0)) * 2 - 1


def latents(height: int, width: int, frames: int = 5) -> torch.Tensor:
    return torch.randn(1, 16, frames, height // 8, width // 8, generator=torch.Generator().manual_seed(0))


def largest(one: torch.Tensor, other: torch.Tensor) -> float:
    return float((one - other).abs().max())


@pytest.mark.parametrize(("height", "width"), SIZES)
@pytest.mark.parametrize("frames", [1, 9])
def test_latents_are_those_of_the_whole_frame(
    pipeline: Ex4dPipeline, banded: Ex4dPipeline, height: int, width: int, frames: int
) -> None:
    value = video(height, width, frames)
    whole = pipeline.encode_video(value)
    assert whole.std() > 0.1
    assert banded.encode_video(value).shape == whole.shape
    assert largest(banded.encode_video(value), whole) < ROUNDING


@pytest.mark.parametrize(("height", "width"), SIZES)
def test_frames_are_those_of_the_whole_frame_over_calls_and_other_uses(
    pipeline: Ex4dPipeline, banded: Ex4dPipeline, height: int, width: int
) -> None:
    value = latents(height, width)
    whole, decoder = decoded(StreamingDecoder(pipeline), value), StreamingDecoder(banded)
    first = decoded(decoder, value[:, :, :4], ahead=2)
    banded.encode_video(video(16, 16))
    rest = decoded(decoder, value[:, :, 2:])
    assert whole.std() > 0.1
    assert largest(torch.cat([first[:, :, :5], rest], dim=2), whole) < ROUNDING
    assert torch.equal(first[:, :, 5:], rest[:, :, :8])


def test_tiles_are_decoded_in_bands_too(pipeline: Ex4dPipeline, banded: Ex4dPipeline) -> None:
    value = latents(144, 96, 3)
    tiled = decoded(StreamingDecoder(pipeline, (96, 64)), value)
    assert largest(tiled, decoded(StreamingDecoder(pipeline), value)) > 0.1  # tiles are another picture here: bands not
    assert largest(decoded(StreamingDecoder(banded, (96, 64)), value), tiled) < ROUNDING


@pytest.mark.parametrize("less", [0, 1])
@pytest.mark.parametrize("name", ["DECODER_MARGIN", "ENCODER_MARGIN"])
def test_margins_are_what_the_published_depth_needs(monkeypatch: pytest.MonkeyPatch, name: str, less: int) -> None:
    """As deep as Wan's VAE, which the tiny model is not, and narrower."""
    torch.manual_seed(0)
    vae = AutoencoderKLWan(base_dim=4).eval()
    monkeypatch.setattr(vae_bands, name, getattr(vae_bands, name) - less)
    if name == "DECODER_MARGIN":
        value = latents(96, 16, 2)
        whole = vae.decode(value, return_dict=False)[0]
        difference = largest(torch.cat(decode_in_bands(vae, value, [], True), dim=2).clamp(-1, 1), whole)
    else:
        pixels = video(96, 16, 5)
        whole = vae._encode(pixels)
        compute_in_bands(vae)
        difference = largest(vae._encode(pixels), whole)
    assert (difference > 10 * ROUNDING) if less else (difference < ROUNDING)


def test_bands_are_across_the_longer_side_and_cover_it() -> None:
    tall, wide = bands_of(128, 64, 6), bands_of(64, 101, 6)
    assert [(band.axis, band.read_from, band.start, band.stop, band.read_to) for band in tall] == [
        (-2, 0, 0, 64, 70),
        (-2, 58, 64, 128, 128),
    ]
    assert [(band.axis, band.start, band.stop) for band in wide] == [(-1, 0, 50), (-1, 50, 101)]


def test_large_layers_see_no_more_than_a_band(banded: Ex4dPipeline) -> None:
    seen: list[int] = []
    for layer in (banded.vae.encoder.conv_in, banded.vae.decoder.conv_out):
        layer.register_forward_pre_hook(lambda _, values: seen.append(values[0].shape[-2]))
    banded.encode_video(video(256, 32, 5))
    decoded(StreamingDecoder(banded), latents(256, 32, 2))
    assert seen == [128 + 16] * 4 + [128 + 24] * 4


def test_decoding_can_be_stopped_within_a_window(banded: Ex4dPipeline) -> None:
    asked = 0

    def check() -> None:
        nonlocal asked
        asked += 1
        if asked == 4:
            raise Cancelled

    with pytest.raises(Cancelled):
        decoded(StreamingDecoder(banded, check=check), latents(32, 32, 3))
    assert asked == 4


@pytest.mark.parametrize("tier", [tier.name for tier in TIERS])
def test_every_tier_but_the_largest_computes_in_bands(model_folder: Path, adapter_file: Path, tier: str) -> None:
    pipeline = load_pipeline(model_folder, adapter_file, dtype=torch.float32, device="cpu", reporter=Silent())
    cpu = torch.device("cpu")
    value = latents(64, 128, 3)
    whole = pipeline.encode_video(video(64, 128)), decoded(StreamingDecoder(pipeline), value)
    place_small_models(pipeline, cpu, tier_named(tier))  # diffusers' hooks among the layers
    assert is_in_bands(pipeline.vae) == (tier != "48")
    now = pipeline.encode_video(video(64, 128)), decoded(StreamingDecoder(pipeline), value)
    for one, other in zip(now, whole, strict=True):
        assert torch.equal(one, other) if tier == "48" else largest(one, other) < ROUNDING


def test_the_bundled_models_own_codec_stays_as_it_is(tmp_path: Path) -> None:
    folder = tiny_model.save_bundled_folder(tmp_path / "bundled")
    pipeline = load_pipeline(folder, None, dtype=torch.float32, device="cpu", reporter=Silent())
    place_small_models(pipeline, torch.device("cpu"), tier_named("24"))
    assert not is_in_bands(pipeline.vae)


def test_a_video_over_two_windows_is_the_same_but_for_rounding(pipeline: Ex4dPipeline, banded: Ex4dPipeline) -> None:
    settings = VideoSettings(steps=2, guidance_scale=1.0, window=9, overlap=5, area=96 * 32)
    frame = np.random.default_rng(0).integers(0, 256, (96, 32, 3), dtype=np.uint8)
    mask = np.full((96, 32), 255, np.uint8)
    prompt = torch.zeros(1, 8, tiny_model.TEXT_WIDTH)

    def frames(of: Ex4dPipeline) -> np.ndarray:
        made = generate_video(of, lambda _: (frame, mask), 13, 32, 96, settings, (prompt, None), Silent())
        return np.stack(list(made)).astype(int)

    whole = frames(pipeline)
    assert whole.std() > 10
    assert np.abs(frames(banded) - whole).max() <= 1
