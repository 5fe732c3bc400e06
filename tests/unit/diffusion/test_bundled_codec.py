# SPDX-License-Identifier: GPL-3.0-or-later
"""The bundled codec: an autoencoder as the pipeline expects one, causal, and the same frame by frame or at once."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from ex4d_engine.diffusion.bundled_codec import BundledCodec, block_groups
from ex4d_engine.diffusion.loading import autoencoder_class, load_component
from ex4d_engine.diffusion.pipeline import Ex4dPipeline
from ex4d_engine.diffusion.scheduler import euler_scheduler
from ex4d_engine.diffusion.streaming_vae import StreamingDecoder
from ex4d_engine.errors import Ex4dError

LATENT = 6


def codec(seed: int = 0) -> BundledCodec:
    """A small one whose networks do something, which fresh ones do not."""
    torch.manual_seed(seed)
    made = BundledCodec(
        z_dim=LATENT,
        latents_mean=[0.1 * index for index in range(LATENT)],
        latents_std=[0.5 + 0.1 * index for index in range(LATENT)],
        encoder_widths=(6, 8, 8),
        decoder_widths=(12, 8, 6),
        decoder_blocks=1,
    )
    for parameter in made.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    return made.eval()


def video(frames: int = 9, height: int = 24, width: int = 40) -> torch.Tensor:
    return torch.rand(2, 3, frames, height, width, generator=torch.Generator().manual_seed(1)) * 2 - 1


@torch.no_grad()
@pytest.mark.parametrize(("frames", "latent_frames"), [(1, 1), (5, 2), (9, 3)])
def test_shapes(frames: int, latent_frames: int) -> None:
    vae, clip = codec(), video(frames)

    distribution = vae.encode(clip).latent_dist
    latents = distribution.mode()

    assert latents.shape == (2, LATENT, latent_frames, 3, 5)
    assert torch.equal(distribution.sample(), latents)
    assert torch.equal(vae.encode(clip, return_dict=False)[0].mode(), latents)
    decoded = vae.decode(latents).sample
    assert decoded.shape == clip.shape and decoded.abs().max() <= 1
    assert torch.equal(vae.decode(latents, return_dict=False)[0], decoded)
    vae.enable_tiling(16, 16, 12, 12)
    assert torch.equal(vae.decode(latents).sample, decoded)
    assert not vae.use_tiling


@pytest.mark.parametrize("shape", [(1, 3, 4, 16, 16), (1, 3, 5, 12, 16), (1, 3, 5, 16, 20), (1, 4, 5, 16, 16)])
def test_videos_that_do_not_fit_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="a video has to be"):
        codec().encode(torch.zeros(shape))


def test_the_block_is_what_it_is() -> None:
    with pytest.raises(ValueError, match="blocks are 4 frames"):
        BundledCodec(scale_factor_temporal=8)


def test_groups_hold_the_first_frame_four_times() -> None:
    clip = torch.arange(5.0).view(1, 1, 5, 1, 1) * 10 + torch.arange(3.0).view(1, 3, 1, 1, 1)

    groups = block_groups(clip)

    assert groups[:, :, 0, 0].tolist() == [[0, 1, 2] * 4, [10, 11, 12, 20, 21, 22, 30, 31, 32, 40, 41, 42]]


@torch.no_grad()
def test_one_latent_after_the_other_equals_all_at_once() -> None:
    vae = codec()
    latents = torch.randn(2, LATENT, 4, 3, 5, generator=torch.Generator().manual_seed(2))

    memory, parts = None, []
    for index in range(4):
        pixels, memory = vae.decode_next(latents[:, :, index : index + 1], memory)
        parts.append(pixels)

    assert [part.shape[2] for part in parts] == [1, 4, 4, 4]
    torch.testing.assert_close(torch.cat(parts, dim=2), vae.decode(latents).sample, atol=1e-5, rtol=0)


@torch.no_grad()
def test_a_latent_reaches_its_own_frames_and_the_next_ones_only() -> None:
    vae, latents = codec(), torch.zeros(1, LATENT, 4, 3, 5)
    changed = latents.clone()
    changed[:, :, 1] = 1

    difference = (vae.decode(changed).sample - vae.decode(latents).sample).abs().amax(dim=(0, 1, 3, 4))

    assert difference[0] == 0 and (difference[1:9] > 1e-4).all() and not difference[9:].any()


@torch.no_grad()
def test_a_frame_reaches_its_own_latent_only_and_the_first_stands_alone() -> None:
    vae, clip = codec(), video()
    changed = clip.clone()
    changed[:, :, 3] = 0

    latents, other = vae.latents_of(clip), vae.latents_of(changed)

    assert torch.equal(latents[:, :, [0, 2]], other[:, :, [0, 2]])
    assert not torch.allclose(latents[:, :, 1], other[:, :, 1])
    torch.testing.assert_close(latents[:, :, :1], vae.latents_of(clip[:, :, :1]))


@torch.no_grad()
def test_what_is_saved_is_what_comes_back(tmp_path: Path) -> None:
    vae, folder = codec(), tmp_path / "Ünï 作業" / "vae"
    vae.save_pretrained(folder)

    loaded = load_component(autoencoder_class(folder.parent), folder, torch.float32)

    assert isinstance(loaded, BundledCodec)
    for name in ("latents_mean", "latents_std", "scale_factor_temporal", "scale_factor_spatial"):
        assert loaded.config[name] == vae.config[name]
    assert json.loads((folder / "config.json").read_text(encoding="utf-8"))["_class_name"] == "BundledCodec"
    clip = video()
    assert torch.equal(loaded.decode(loaded.latents_of(clip)).sample, vae.decode(vae.latents_of(clip)).sample)


@pytest.mark.parametrize("text", ['{"_class_name": "AutoencoderKL"}', "{}", "[]", "{"])
def test_another_autoencoder_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "vae").mkdir()
    (tmp_path / "vae" / "config.json").write_text(text, encoding="utf-8")
    with pytest.raises(Ex4dError) as caught:
        autoencoder_class(tmp_path)
    assert caught.value.code == "model_invalid"


@torch.no_grad()
def test_the_pipeline_encodes_decodes_and_streams_with_it() -> None:
    pipeline = Ex4dPipeline(None, None, codec(), euler_scheduler())
    clip = video(13)[:1]

    latents = pipeline.encode_video(clip)
    at_once = pipeline.decode_latents(latents)
    decoder = StreamingDecoder(pipeline)
    *first, ahead = (part.pixels for part in decoder.parts(latents[:, :, :3], ahead=1))
    rest = list(decoder.frames(latents[:, :, 2:]))

    assert latents.shape == (1, LATENT, 4, 3, 5)
    mean, std = pipeline.latent_statistics()
    torch.testing.assert_close(latents * std + mean, pipeline.vae.latents_of(clip))
    torch.testing.assert_close(torch.cat([*first, *rest], dim=2), at_once, atol=1e-5, rtol=0)
    torch.testing.assert_close(ahead, rest[0], atol=1e-5, rtol=0)


@torch.no_grad()
@pytest.mark.parametrize("use", ["encode", "decode", "decode_next"])
def test_an_offloaded_codec_is_brought_to_the_device(use: str, monkeypatch: pytest.MonkeyPatch) -> None:
    called: list[Any] = []

    class Hook:
        def pre_forward(self, module: object) -> None:
            called.append(module)

    vae = codec()
    monkeypatch.setattr(vae, "_hf_hook", Hook(), raising=False)

    getattr(vae, use)(video(1) if use == "encode" else torch.zeros(1, LATENT, 1, 2, 2))

    assert called == [vae]


@torch.no_grad()
def test_noise_is_measured_in_the_latents_deviation() -> None:
    vae, clip = codec(), video()
    noise = torch.randn(2, LATENT, 3, 3, 5, generator=torch.Generator().manual_seed(3))
    latents = vae.latents_of(clip)
    deviation = latents.transpose(0, 1).flatten(1).std(1).view(1, -1, 1, 1, 1)

    torch.testing.assert_close(vae(clip, noise), vae.video_of(latents + noise * deviation))
    torch.testing.assert_close(vae(clip), vae.video_of(latents))
