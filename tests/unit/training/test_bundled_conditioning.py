# SPDX-License-Identifier: GPL-3.0-or-later
"""What the bundled model is shown while it trains is what the pipeline shows it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from ex4d_engine.diffusion.bundled_codec import BundledCodec
from ex4d_engine.diffusion.loading import load_pipeline
from ex4d_engine.diffusion.preprocess import conditioning_videos, no_erosion
from ex4d_engine.diffusion.scheduler import euler_scheduler, set_sampling_steps
from ex4d_engine.progress import Silent
from ex4d_engine.training.adapter_export import adapter_tensors, layer_sizes
from ex4d_engine.training.adapter_network import trained_parameters, with_adapter
from ex4d_engine.training.bundled_conditioning import (
    STEPS,
    as_pixels,
    channel_weights,
    decoded_video,
    first_frame_condition,
    first_frame_known,
    hole_weights,
    image_condition,
    kept_blocks,
    latent_size,
    noise_levels,
    normalised_latents,
    random_known,
    ray_latents,
)
from ex4d_engine.training.bundled_objective import sampled_latents
from ex4d_engine.training.bundled_parts import new_transformer, save_model_folder
from ex4d_engine.training.simulated_masks import masked_plate
from tests.unit.training.bundled_material import ADAPTER, CPU, SHAPE, small_codec


@pytest.fixture(scope="module")
def codec() -> BundledCodec:
    return small_codec()


def frames_and_keep(seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    keep = np.where(rng.random((9, 32, 48)) < 0.7, np.uint8(255), np.uint8(0))
    keep[0] = 255
    return rng.integers(0, 256, (9, 32, 48, 3), np.uint8), keep


def as_batch(frames: np.ndarray, keep: np.ndarray) -> tuple[torch.Tensor, torch.Tensor]:
    video = torch.from_numpy(frames).permute(3, 0, 1, 2)[None].float() / 255 * 2 - 1
    return video, torch.from_numpy(keep > 127)[None, None].float()


def test_conditioning_is_the_pipelines_own(codec: BundledCodec, tmp_path: Path) -> None:
    transformer = new_transformer(codec, SHAPE, 0)
    network = with_adapter(transformer, ADAPTER, 0)
    adapter = adapter_tensors(trained_parameters(network), ADAPTER, layer_sizes(transformer))
    folder = save_model_folder(tmp_path, codec, new_transformer(codec, SHAPE, 0), adapter)
    pipeline = load_pipeline(folder, folder / "ex4d.safetensors", dtype=torch.float32, device=CPU, reporter=Silent())
    frames, keep = frames_and_keep()
    colour, mask = conditioning_videos(masked_plate(frames, keep), keep, no_erosion(9))
    video, kept = as_batch(frames, keep)
    shipped = pipeline.vae  # its weights are rounded to half precision

    first, _ = pipeline.encode_first_frame(colour)
    # the pipeline cuts the first frame's fractions off, as the published weights want it: a level or less
    ours = first_frame_condition(shipped, video, normalised_latents(shipped, video))
    assert torch.allclose(ours, first.float(), atol=5e-2)
    for ours, theirs in zip(ray_latents(shipped, video, kept), pipeline.encode_rays(colour, mask), strict=True):
        assert torch.allclose(ours, theirs, atol=1e-4)


def test_only_clips_known_in_part_are_encoded_again(codec: BundledCodec, monkeypatch: pytest.MonkeyPatch) -> None:
    """And what comes out is what encoding everything that is shown would give."""
    video = as_batch(*frames_and_keep())[0].repeat(3, 1, 1, 1, 1)
    known = first_frame_known(3, latent_size(video))
    known[1, :, 2] = 1
    known[2, :, 1, 1:3, 2:5] = 1
    target = normalised_latents(codec, video)
    encoded: list[int] = []
    encode = BundledCodec.encode
    monkeypatch.setattr(BundledCodec, "encode", lambda self, x: encoded.append(len(x)) or encode(self, x))
    condition = image_condition(codec, video, target, known)
    assert encoded == [1, 1], "grey, and the last clip"
    assert torch.allclose(condition[:, 4:], normalised_latents(codec, video * as_pixels(known)), atol=1e-5)


def test_known_blocks_are_shown_and_others_are_grey(codec: BundledCodec) -> None:
    video, _ = as_batch(*frames_and_keep())
    known = first_frame_known(1, latent_size(video))
    known[:, :, 2, 1, 3] = 1
    pixels = as_pixels(known)
    assert pixels.shape == (1, 1, 9, 32, 48)
    assert pixels[:, :, 0].all() and not pixels[:, :, 1:5].any()
    assert pixels[0, 0, 5:, 8:16, 24:32].all() and pixels[:, :, 5:].sum() == 4 * 64
    condition = image_condition(codec, video, normalised_latents(codec, video), known)
    assert condition.shape == (1, 10, 3, 4, 6)
    assert torch.equal(condition[:, :4], known.expand(-1, 4, -1, -1, -1))
    assert torch.allclose(condition[:, 4:], normalised_latents(codec, video * pixels), atol=1e-5)


def test_half_of_the_clips_show_more_than_their_first_frame() -> None:
    known = random_known(np.random.default_rng(0), 200, (5, 6, 8), 0.5)
    assert known[:, :, 0].all() and set(known.unique().tolist()) == {0.0, 1.0}
    more = known[:, :, 1:].flatten(1).any(1).float().mean()
    assert 0.35 < more < 0.55  # a box may lie outside the picture
    assert known[:, 0, 1:].flatten(1).mean(1).std() > 0.1
    alone = random_known(np.random.default_rng(0), 20, (5, 6, 8), 0.0)
    assert torch.equal(alone, first_frame_known(20, (5, 6, 8)))


def test_holes_count_more_and_all_together_as_much_as_before() -> None:
    keep = torch.ones(1, 1, 9, 16, 16)
    keep[..., 1:5, :8, :8] = 0
    keep[..., 5:7, :8, :8] = 0
    kept = kept_blocks(keep)
    assert kept.shape == (1, 1, 3, 2, 2)
    assert kept[0, 0, :, 0, 0].tolist() == [1.0, 0.0, 0.5] and (kept[..., 1, :] == 1).all()
    weights = hole_weights(kept, 3.0)
    assert weights.mean() == pytest.approx(1)
    assert (weights[0, 0, :, 0, 0] / weights[0, 0, 0, 1, 1]).tolist() == pytest.approx([1.0, 3.0, 2.0])


def test_noise_levels_repeat_and_favour_those_that_are_sampled() -> None:
    levels = noise_levels(0, 5, 4000)
    assert torch.equal(levels, noise_levels(0, 5, 4000)) and not torch.equal(levels, noise_levels(0, 6, 4000))
    assert levels.min() > 0 and levels.max() == 1
    scheduler = euler_scheduler(3.0)
    for timestep in set_sampling_steps(scheduler, STEPS):
        share = ((levels - timestep / 1000).abs() < 1e-5).float().mean()
        assert 0.04 < share < 0.09


def test_latents_come_back_and_channels_count_as_they_vary(codec: BundledCodec) -> None:
    video, _ = as_batch(*frames_and_keep())
    latents = normalised_latents(codec, video)
    direct = codec.decode(codec.encode(video).latent_dist.mode()).sample
    assert torch.allclose(decoded_video(codec, latents), direct, atol=1e-5)
    other = small_codec()
    other.register_to_config(latents_std=[1.0, 2.0, 3.0, 1.0, 2.0, 3.0])
    assert torch.allclose(channel_weights(other, CPU).flatten(), torch.tensor([0.5, 1.0, 1.5, 0.5, 1.0, 1.5]))


def test_four_steps_with_the_true_velocity_arrive_at_the_clip() -> None:
    target, noise = torch.randn(2, 1, 6, 3, 4, 6, generator=torch.Generator().manual_seed(0))
    made = sampled_latents(lambda noisy, timestep: noise - target, noise)
    assert torch.allclose(made, target, atol=1e-5)
