# SPDX-License-Identifier: GPL-3.0-or-later
"""DepthCrafter's conditioning and windows: against values by hand, and against diffusers' own pipeline."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import PIL.Image
import pytest
import torch

from ex4d_engine.depth.networks.video_diffusion_depth import (
    Conditioning,
    Sampling,
    VideoDiffusion,
    blended,
    condition,
    decoded,
    denoised,
    depth_latents,
    disparity,
    embedded,
    load_video_diffusion,
    per_frame_context,
    start,
)
from ex4d_engine.errors import Cancelled
from ex4d_engine.progress import Silent
from tests.tiny_depth_models import save_depthcrafter

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> VideoDiffusion:
    folder = tmp_path_factory.mktemp("models")
    save_depthcrafter(folder / "own", folder / "shared")
    return load_video_diffusion(folder / "own", folder / "shared", torch.float32, CPU)


@pytest.fixture(autouse=True)
def without_gradients() -> Iterator[None]:
    with torch.inference_mode():
        yield


def images(count: int, seed: int = 0) -> list[np.ndarray]:
    return list(np.random.default_rng(seed).integers(0, 256, (count, 64, 64, 3), dtype=np.uint8))


def random(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def test_every_frame_attends_to_its_own_context(model: VideoDiffusion) -> None:
    context, sample = random(3, 16), random(1, 3, 8, 8, 8, seed=1)
    ids = torch.tensor([[7.0, 127.0, 0.02]])
    seen: list[torch.Tensor] = []
    attentions = [m for name, m in model.unet.named_modules() if name.endswith(".transformer_blocks.0.attn2")]
    spatial = [m for m in attentions if m in {b.attn2 for t in transformers(model.unet) for b in t.transformer_blocks}]
    hooks = [
        m.register_forward_pre_hook(lambda _, a, k: seen.append(k["encoder_hidden_states"]), with_kwargs=True)
        for m in spatial
    ]
    with per_frame_context(model.unet, context):
        own = model.unet(sample, 1.0, context[None, :1], added_time_ids=ids).sample
    for hook in hooks:
        hook.remove()
    assert len(seen) == len(spatial) > 1
    for given in seen:
        torch.testing.assert_close(given, context[:, None])  # (frames, 1, channels)
    # outside, the network is the stock one; with one context for all frames, inside is no different
    stock = model.unet(sample, 1.0, context[None, :1], added_time_ids=ids).sample
    with per_frame_context(model.unet, context[:1].repeat(3, 1)):
        same = model.unet(sample, 1.0, context[None, :1], added_time_ids=ids).sample
    torch.testing.assert_close(same, stock)
    assert (own - stock).abs().max() > 1e-5


def transformers(unet: Any) -> list[Any]:
    from diffusers.models.transformers.transformer_temporal import TransformerSpatioTemporalModel

    return [module for module in unet.modules() if isinstance(module, TransformerSpatioTemporalModel)]


def pipeline(model: VideoDiffusion) -> Any:
    from diffusers import StableVideoDiffusionPipeline
    from transformers import CLIPImageProcessorPil

    side = {"height": 28, "width": 28}
    return StableVideoDiffusionPipeline(
        vae=model.vae,
        image_encoder=model.image_encoder,
        unet=model.unet,
        scheduler=model.scheduler,
        feature_extractor=CLIPImageProcessorPil(size=side, crop_size=side),
    )


def test_frames_are_embedded_as_clip_wants_them(model: VideoDiffusion, monkeypatch: pytest.MonkeyPatch) -> None:
    from diffusers.pipelines.stable_video_diffusion import pipeline_stable_video_diffusion as stock

    resize = stock._resize_with_antialiasing
    # the pipeline always resizes to 224, which the tiny encoder does not take
    monkeypatch.setattr(stock, "_resize_with_antialiasing", lambda video, size: resize(video, (28, 28)))
    image = images(1)[0]
    expected = pipeline(model)._encode_image(PIL.Image.fromarray(image), CPU, 1, False)[:, 0]
    video = torch.from_numpy(image).permute(2, 0, 1)[None] / 127.5 - 1
    torch.testing.assert_close(embedded(video, model.image_encoder), expected, rtol=1e-4, atol=1e-5)


def test_a_still_clip_is_denoised_as_stable_video_diffusion_does(
    model: VideoDiffusion, monkeypatch: pytest.MonkeyPatch
) -> None:
    from diffusers.pipelines.stable_video_diffusion import pipeline_stable_video_diffusion as stock

    resize = stock._resize_with_antialiasing
    monkeypatch.setattr(stock, "_resize_with_antialiasing", lambda video, size: resize(video, (28, 28)))
    noise, image = random(1, 4, 4, 8, 8, seed=5), images(1)[0]
    expected = pipeline(model)(
        PIL.Image.fromarray(image),
        height=64,
        width=64,
        num_frames=4,
        num_inference_steps=3,
        min_guidance_scale=1.0,
        max_guidance_scale=1.0,
        fps=8,  # the pipeline tells the model one less
        generator=torch.Generator().manual_seed(3),
        latents=noise.clone(),
        output_type="latent",
    ).frames
    one = condition([image], model, torch.Generator().manual_seed(3))
    known = Conditioning(one.context.repeat(4, 1), one.latents.repeat(4, 1, 1, 1))
    found = denoised(known, noise[0], None, model, 3, Silent())
    torch.testing.assert_close(found[None], expected, rtol=1e-3, atol=1e-3)


def test_noise_is_added_before_encoding_and_the_mode_is_taken(model: VideoDiffusion) -> None:
    given: list[torch.Tensor] = []

    class Encoder:
        def encode(self, video: torch.Tensor) -> SimpleNamespace:
            given.append(video)
            return SimpleNamespace(latent_dist=SimpleNamespace(mode=lambda: video[:, :, ::8, ::8] * 3))

    clip = images(9)
    made = condition(clip, VideoDiffusion(model.unet, Encoder(), model.image_encoder, None), torch.Generator())
    assert [len(part) for part in given] == [8, 1]
    clean = torch.from_numpy(np.stack(clip)).permute(0, 3, 1, 2) / 127.5 - 1
    added = torch.cat(given) - clean
    assert float(added.std()) == pytest.approx(0.02, rel=0.02) and abs(float(added.mean())) < 3e-4
    torch.testing.assert_close(made.latents, 3 * torch.cat(given)[:, :, ::8, ::8])
    torch.testing.assert_close(made.context[8:], embedded(clean[8:], model.image_encoder))


def test_a_window_starts_from_what_is_known() -> None:
    noise = random(4, 1, 2, 2)
    before = torch.full((2, 1, 2, 2), 7.0)
    expected = torch.cat([7.0 + 3.0 * noise[:2], 5.0 * noise[2:]])
    torch.testing.assert_close(start(noise, before, sigma=3.0, whole_noise=5.0), expected)
    torch.testing.assert_close(start(noise, None, 3.0, 5.0), 5.0 * noise)


def test_windows_are_blended_linearly() -> None:
    before, latents = torch.zeros(3, 1, 1, 1), torch.ones(5, 1, 1, 1)
    assert blended(before, latents).flatten().tolist() == [0.0, 0.5, 1.0, 1.0, 1.0]


def test_disparity_is_the_mean_of_the_decoded_colours() -> None:
    class Decoder:
        config = SimpleNamespace(scaling_factor=0.5)

        def decode(self, latents: torch.Tensor, num_frames: int) -> SimpleNamespace:
            assert num_frames == len(latents)
            return SimpleNamespace(sample=latents)

    latents = torch.tensor([-1.0, 0.0, 0.25]).reshape(1, 3, 1, 1)  # decoded −2, 0, 0.5 → 0, 0.5, 0.75
    assert float(decoded(latents, VideoDiffusion(None, Decoder(), None, None))[0][0, 0]) == pytest.approx(1.25 / 3)


class Knowing(torch.nn.Module):
    """A denoiser that knows the result: the conditioning latents, plus what the window is off by."""

    def __init__(self, scheduler: Any, offsets: list[float]) -> None:
        super().__init__()
        self.scheduler, self.offsets = scheduler, offsets
        self.down_blocks, self.mid_block, self.up_blocks = [], torch.nn.Identity(), []
        self.device, self.dtype = CPU, torch.float32
        self.windows: list[list[int]] = []
        self.ids: list[list[float]] = []

    def forward(
        self, sample: torch.Tensor, step: torch.Tensor, context: torch.Tensor, added_time_ids: torch.Tensor, **_: Any
    ) -> tuple[torch.Tensor]:
        scaled, known = sample.chunk(2, dim=2)
        sigma = self.scheduler.sigmas[self.scheduler.step_index or 0]
        if not self.scheduler.step_index:
            self.windows.append(known[0, :, 0, 0, 0].round().int().tolist())
            self.ids += added_time_ids.tolist()
        target = known + self.offsets[len(self.windows) - 1]
        latents = scaled * (sigma**2 + 1).sqrt()
        return ((latents / (sigma**2 + 1) - target) * (sigma**2 + 1).sqrt() / sigma,)


@pytest.mark.parametrize("count", [1, 2, 9, 10, 11, 17, 18, 24])
def test_windows_of_latents(model: VideoDiffusion, count: int, monkeypatch: pytest.MonkeyPatch) -> None:
    from ex4d_engine.depth.networks import video_diffusion_depth

    def numbered(batch: list[np.ndarray], *_: Any) -> Conditioning:
        numbers = torch.tensor([float(image[0, 0, 0]) for image in batch])
        return Conditioning(numbers[:, None].repeat(1, 16), numbers[:, None, None, None].repeat(1, 4, 8, 8))

    monkeypatch.setattr(video_diffusion_depth, "condition", numbered)
    unet = Knowing(model.scheduler, [0.0, 0.2, 0.4, 0.6])
    knowing = VideoDiffusion(unet, model.vae, model.image_encoder, model.scheduler)
    clip = [np.full((64, 64, 3), number, np.uint8) for number in range(count)]
    found = list(depth_latents(iter(clip), knowing, Sampling(window=10, overlap=3, steps=3), Silent()))
    assert len(found) == count
    off = np.zeros(count)
    for n, window in enumerate(unet.windows):
        first = 7 * n
        assert window == list(range(first, min(first + 10, count)))
        if n:  # faded in over its first three frames
            off[first : first + 3] = 0.2 * (n - 1) + 0.2 * np.array([0, 0.5, 1])
            off[first + 3 :] = 0.2 * n
    assert len(unet.windows) == 1 + max(0, math.ceil((count - 10) / 7))
    assert unet.ids == [pytest.approx([7.0, 127.0, 0.02])] * len(unet.windows)
    np.testing.assert_allclose([float(latents.mean()) for latents in found], np.arange(count) + off, atol=0.02)


def test_unless_told_otherwise_windows_and_steps_are_the_published_ones(
    model: VideoDiffusion, monkeypatch: pytest.MonkeyPatch
) -> None:
    from ex4d_engine.depth.networks import video_diffusion_depth

    runs: list[tuple[int, int]] = []

    def spied(seen: Conditioning, noise: torch.Tensor, before: Any, model: Any, steps: int, _: Any) -> torch.Tensor:
        runs.append((len(seen.context), steps))
        return noise

    def blank(batch: list[np.ndarray], *_: Any) -> Conditioning:
        return Conditioning(torch.zeros(len(batch), 16), torch.zeros(len(batch), 4, 8, 8))

    monkeypatch.setattr(video_diffusion_depth, "denoised", spied)
    monkeypatch.setattr(video_diffusion_depth, "condition", blank)
    clip = [np.zeros((64, 64, 3), np.uint8)] * 200
    assert len(list(depth_latents(iter(clip), model, Sampling(), Silent()))) == 200
    # 110 frames, of which 25 are the next window's too, and 200 − 2 · 85 in the last
    assert runs == [(110, 5), (110, 5), (30, 5)]


def test_the_same_seed_gives_the_same_depth_and_another_does_not(model: VideoDiffusion) -> None:
    def run(seed: int) -> np.ndarray:
        return np.stack(list(disparity(iter(images(5)), model, Sampling(4, 1, 2, seed), Silent())))

    first = run(0)
    assert first.shape == (5, 64, 64) and first.min() >= 0 and first.max() <= 1
    np.testing.assert_array_equal(run(0), first)
    assert np.abs(run(1) - first).max() > 1e-3


def test_it_can_be_stopped_between_steps(model: VideoDiffusion) -> None:
    stopped = Silent()
    stopped.cancelled.set()
    with pytest.raises(Cancelled):
        next(disparity(iter(images(2)), model, Sampling(), stopped))


def test_a_published_folder_s_own_class_name_does_not_matter(tmp_path: Path) -> None:
    save_depthcrafter(tmp_path / "own", tmp_path / "shared")
    config = tmp_path / "own" / "config.json"
    text = config.read_text("utf-8").replace("UNetSpatioTemporalConditionModel", "SomebodysUNet")
    config.write_text(text, encoding="utf-8")
    load_video_diffusion(tmp_path / "own", tmp_path / "shared", torch.float16, CPU)
