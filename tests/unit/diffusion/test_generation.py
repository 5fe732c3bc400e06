# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

import dataclasses
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from ex4d_engine.diffusion import preprocess, streaming_vae
from ex4d_engine.diffusion.generation import VideoSettings, erosion_kernels, generate_video, plan_video
from ex4d_engine.diffusion.latent_store import FileStore
from ex4d_engine.diffusion.pipeline import Ex4dPipeline
from ex4d_engine.diffusion.refine import FrameBuffer, second_pass_inputs
from ex4d_engine.diffusion.sizes import to_source_size, working_size
from ex4d_engine.diffusion.tiles import plan_tiles
from ex4d_engine.diffusion.windows import Window, at_level, first_level
from ex4d_engine.diffusion.working_frames import WorkingFrames
from ex4d_engine.errors import Cancelled
from ex4d_engine.progress import Silent
from tests.tiny_model import TEXT_WIDTH

EMBEDS = (
    torch.randn(1, 9, TEXT_WIDTH, generator=torch.Generator().manual_seed(5)),
    torch.randn(1, 4, TEXT_WIDTH, generator=torch.Generator().manual_seed(6)),
)
SMALL = VideoSettings(steps=2, window=9, overlap=5, area=32 * 48, guidance_scale=1.0, erosion=0)
FINE = dataclasses.replace(SMALL, area=48 * 48, detail_area=48 * 94, detail_strength=0.5)


class Clip:
    """Random frames with a hole; the first is seen in full. Remembers what was read."""

    def __init__(self, height: int, width: int, seed: int = 0) -> None:
        self.size = (height, width)
        self.seed = seed
        self.asked: list[int] = []

    def __call__(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        self.asked.append(index)
        random = np.random.default_rng((self.seed, index))
        mask = np.full(self.size, 255, np.uint8)
        if index:
            mask[self.size[0] // 3 : self.size[0] // 2, index % 5 : self.size[1] // 2] = 0
        return random.integers(0, 256, (*self.size, 3), dtype=np.uint8) * (mask[..., None] > 0), mask


class Bar(Silent):
    def __init__(self, cancel_at: int | None = None) -> None:
        super().__init__()
        self.steps: list[tuple[str, int, int]] = []
        self.cancel_at = cancel_at

    def progress(self, stage: str, done: int, total: int) -> None:
        self.steps.append((stage, done, total))
        if done == self.cancel_at:
            self.cancelled.set()


def video(
    pipeline: Ex4dPipeline,
    num_frames: int,
    height: int,
    width: int,
    settings: VideoSettings,
    clip: Clip | None = None,
    bar: Bar | None = None,
    store: Any = None,
) -> np.ndarray:
    frames = generate_video(
        pipeline, clip or Clip(height, width), num_frames, width, height, settings, EMBEDS, bar or Bar(), store
    )
    return np.stack(list(frames))


@pytest.fixture(scope="module")
def fine_video(pipeline: Ex4dPipeline) -> np.ndarray:
    return video(pipeline, 14, 48, 96, FINE)


# --- the whole ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("num_frames", "guidance_scale", "erosion"), [(9, 5.0, 1), (6, 1.0, "random"), (1, 1.0, 0)])
def test_a_short_clip_at_the_trained_size_is_the_plain_pipeline(
    pipeline: Ex4dPipeline, num_frames: int, guidance_scale: float, erosion: Any
) -> None:
    settings = dataclasses.replace(SMALL, guidance_scale=guidance_scale, erosion=erosion, seed=3)
    clip = Clip(32, 48)
    colours, masks = zip(*(clip(index) for index in range(num_frames)), strict=True)
    plain = pipeline(
        *preprocess.conditioning_videos(colours, masks, erosion_kernels(settings, num_frames)),
        prompt_embeds=EMBEDS[0],
        negative_prompt_embeds=EMBEDS[1],
        guidance_scale=guidance_scale,
        num_inference_steps=2,
        generator=torch.Generator().manual_seed(3),
    ).frames[0]

    assert np.array_equal(video(pipeline, num_frames, 32, 48, settings), plain)


@pytest.mark.parametrize(
    ("num_frames", "height", "width"), [(18, 32, 48), (7, 37, 61), (5, 61, 37), (5, 16, 20), (2, 90, 30), (5, 9, 300)]
)
def test_any_length_and_size(pipeline: Ex4dPipeline, num_frames: int, height: int, width: int) -> None:
    clip = Clip(height, width)

    frames = video(pipeline, num_frames, height, width, SMALL, clip)

    assert frames.shape == (num_frames, height, width, 3) and frames.dtype == np.uint8
    assert max(clip.asked) == num_frames - 1
    assert frames.std() > 1


def test_the_second_pass_refines_the_first_in_every_window(pipeline: Ex4dPipeline) -> None:
    plan, bar = plan_video(14, 96, 48, FINE), Bar()
    assert plan.detail_size is not None and plan.size.scale < plan.detail_size.scale < 1
    assert len(plan.tiles) > 1 and len(plan.windows) == 3
    forwards: list[int] = []
    hook = pipeline.transformer.register_forward_pre_hook(lambda *_: forwards.append(1))
    try:
        fine = video(pipeline, 14, 48, 96, FINE, bar=bar)
    finally:
        hook.remove()
    coarse = video(pipeline, 14, 48, 96, dataclasses.replace(FINE, detail_area=None))

    assert fine.shape == coarse.shape == (14, 48, 96, 3)
    assert not np.array_equal(fine, coarse)
    assert len(forwards) == plan.forwards == 3 * (2 + len(plan.tiles))
    assert list(dict.fromkeys(bar.steps)) == [("denoise", done, 9) for done in range(1, 10)]


def test_the_second_pass_starts_from_the_first_enlarged(
    pipeline: Ex4dPipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    encoded: list[torch.Tensor] = []
    encode_video = pipeline.encode_video

    def recorded(value: torch.Tensor) -> torch.Tensor:
        encoded.append(value)
        return encode_video(value)

    settings = dataclasses.replace(FINE, detail_area=32 * 48 * 4)
    plan = plan_video(5, 96, 64, settings)
    coarse = video(pipeline, 5, 64, 96, dataclasses.replace(settings, detail_area=None))
    monkeypatch.setattr(pipeline, "encode_video", recorded)
    video(pipeline, 5, 64, 96, settings)

    assert plan.detail_size is not None and plan.detail_size.scale == 1
    starts = encoded[-len(plan.tiles) :]
    for tile, start in zip(plan.tiles, starts, strict=True):
        expected = tile.of_pixels(coarse)
        np.testing.assert_allclose(preprocess.uint8_frames(start), expected, atol=1)


def test_the_vae_never_sees_more_than_a_tile(pipeline: Ex4dPipeline, monkeypatch: pytest.MonkeyPatch) -> None:
    """Or else a second pass would want a card for the decoder alone, whatever memory tier was chosen for a tile."""
    encoded: list[torch.Tensor] = []
    decoded: list[torch.Tensor] = []
    encode_video, decode_one = pipeline.encode_video, streaming_vae._decode_one

    def encoding(value: torch.Tensor) -> torch.Tensor:
        encoded.append(value)
        return encode_video(value)

    def decoding(vae: Any, latent: torch.Tensor, *others: Any, **named: Any) -> torch.Tensor:
        decoded.append(latent)
        return decode_one(vae, latent, *others, **named)

    monkeypatch.setattr(pipeline, "encode_video", encoding)
    monkeypatch.setattr(streaming_vae, "_decode_one", decoding)
    plan = plan_video(14, 96, 48, FINE)
    video(pipeline, 14, 48, 96, FINE)

    largest = max(plan.size.width * plan.size.height, *(tile.width * tile.height for tile in plan.tiles))
    assert plan.detail_size is not None and largest < plan.detail_size.width * plan.detail_size.height
    assert max(value.shape[-2] * value.shape[-1] for value in encoded) <= largest
    assert max(value.shape[-2] * value.shape[-1] for value in decoded) * 64 <= largest


@torch.no_grad()
def test_one_tile_of_the_second_pass_is_plain_partial_denoising(pipeline: Ex4dPipeline) -> None:
    clip, size = Clip(64, 96), working_size(96, 64, area=64 * 96)
    coarse_size = working_size(96, 64, area=32 * 48)
    coarse = np.random.default_rng(1).integers(0, 256, (5, 32, 48, 3), dtype=np.uint8)
    noise = torch.randn(1, 16, 2, 8, 12, generator=torch.Generator().manual_seed(1))
    prompts = (torch.nn.functional.pad(EMBEDS[0], (0, 0, 0, 503)), None)

    inputs = second_pass_inputs(
        pipeline,
        WorkingFrames(clip, size, [1] * 5),
        Window(0, 0, 5, 0),
        None,
        prompts,
        1.0,
        plan_tiles(64, 96, area=64 * 96),
        FrameBuffer(iter([coarse])),
        coarse_size,
        lambda: None,
    )
    assert inputs.clean is not None
    start = at_level(inputs.clean, noise, first_level(pipeline, 4, 2))
    tiled = pipeline.denoise(start, inputs.velocity, 4, 2)
    plain = pipeline(
        *preprocess.conditioning_videos(*zip(*map(clip, range(5)), strict=True), [1] * 5),
        prompt_embeds=EMBEDS[0],
        guidance_scale=1.0,
        num_inference_steps=4,
        latents=start,
        first_step=2,
        output_type="latent",
    ).frames

    assert torch.equal(tiled, plain)
    enlarged = np.stack([to_source_size(frame, coarse_size) for frame in coarse])
    video = torch.from_numpy(enlarged).permute(3, 0, 1, 2)[None].float() * (2 / 255) - 1
    torch.testing.assert_close(inputs.clean, pipeline.encode_video(video))


def test_memory_does_not_grow_with_the_clip(pipeline: Ex4dPipeline) -> None:
    def peak(num_frames: int) -> int:
        frames = generate_video(pipeline, Clip(64, 96), num_frames, 96, 64, SMALL, EMBEDS, Bar())
        tracemalloc.start()
        for _ in frames:
            pass
        highest = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return highest

    peak(9)
    assert peak(37) < 1.2 * peak(17)


def test_what_waits_on_the_disk_changes_nothing(pipeline: Ex4dPipeline, fine_video: np.ndarray, tmp_path: Path) -> None:
    folder, waited = tmp_path / "decoder", 0
    frames = []
    for frame in generate_video(pipeline, Clip(48, 96), 14, 96, 48, FINE, EMBEDS, Bar(), None, folder):
        frames.append(frame)
        waited = max(waited, len(list(folder.iterdir())))
    assert np.array_equal(np.stack(frames), fine_video)
    assert waited == 3 and not list(folder.iterdir())  # tiles of the decoder; after the last window nothing waits


def test_a_frame_that_waits_to_be_written_holds_no_other(pipeline: Ex4dPipeline) -> None:
    frames = generate_video(pipeline, Clip(32, 48), 5, 48, 32, SMALL, EMBEDS, Bar())
    assert all(frame.base is None for frame in frames)


# --- stopping and going on ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("cancel_at", [3, 8])
def test_going_on_after_a_cancel_gives_the_same_frames(
    pipeline: Ex4dPipeline, fine_video: np.ndarray, tmp_path: Path, cancel_at: int
) -> None:
    store = FileStore(tmp_path / "windows", {"weights": "tiny"})

    with pytest.raises(Cancelled):
        video(pipeline, 14, 48, 96, FINE, bar=Bar(cancel_at), store=store)
    assert not list((tmp_path / "windows").glob(".*"))
    bar = Bar()
    again = video(pipeline, 14, 48, 96, FINE, bar=bar, store=store)

    assert np.array_equal(again, fine_video)
    assert bar.steps[-1] == ("denoise", 9, 9)
    assert len(list((tmp_path / "windows").iterdir())) == 6


def test_a_finished_run_is_read_back_without_the_denoiser(pipeline: Ex4dPipeline, tmp_path: Path) -> None:
    store, clip, bar = FileStore(tmp_path, {}), Clip(48, 96), Bar()
    whole = video(pipeline, 14, 48, 96, FINE, store=store)

    def never(*_: Any) -> None:
        raise AssertionError("the denoiser was called")

    hook = pipeline.transformer.register_forward_pre_hook(never)
    try:
        again = video(pipeline, 14, 48, 96, FINE, clip, bar, store)
    finally:
        hook.remove()
    assert np.array_equal(again, whole)
    assert clip.asked == []
    assert bar.steps[-1] == ("denoise", 9, 9)


@pytest.mark.parametrize("changed", [{"seed": 1}, {"steps": 3}, {"erosion": 2}, {"guidance_scale": 2.0}])
def test_other_settings_start_again(pipeline: Ex4dPipeline, tmp_path: Path, changed: dict[str, Any]) -> None:
    store = FileStore(tmp_path, {})
    video(pipeline, 5, 32, 48, SMALL, store=store)
    settings = dataclasses.replace(SMALL, **changed)
    assert np.array_equal(video(pipeline, 5, 32, 48, settings, store=store), video(pipeline, 5, 32, 48, settings))
    assert len(list(tmp_path.iterdir())) == 2


def test_other_detail_keeps_the_first_pass(pipeline: Ex4dPipeline, tmp_path: Path) -> None:
    store = FileStore(tmp_path, {})
    video(pipeline, 5, 48, 96, dataclasses.replace(FINE, detail_area=None), store=store)
    bar = Bar()
    video(pipeline, 5, 48, 96, FINE, bar=bar, store=store)
    assert bar.steps[0] == ("denoise", 2, 3)


# --- plan and settings --------------------------------------------------------------------------------------------


def test_plans_to_be_shown_beforehand() -> None:
    base = plan_video(49, 512, 512, VideoSettings())
    assert (len(base.windows), base.steps, base.forwards, base.detail_size) == (1, 25, 50, None)

    large = plan_video(120, 4096, 2160, VideoSettings(detail_area=4096 * 2160))
    assert large.detail_size is not None
    assert (large.detail_size.width, large.detail_size.height) == (4096, 2160)
    assert len(large.tiles) == 66 and len(large.windows) == 3
    assert large.steps == 3 * (25 + 10) and large.forwards == 3 * 2 * (25 + 10 * 66)
    # 4.8 of the decoder's memory, of a tile and of the first pass; 2.0 of frames, 0.7 of a tile's, 0.7 of latents
    assert large.host_bytes() / 2**30 == pytest.approx(9.6, abs=0.2)
    assert large.scratch_bytes() / 2**30 == pytest.approx(98, abs=1)  # the decoder's memory of all tiles
    assert plan_video(229, 4096, 2160, VideoSettings(detail_area=4096 * 2160)).host_bytes() == large.host_bytes()
    assert plan_video(49, 4096, 2160, VideoSettings(detail_area=4096 * 2160)).scratch_bytes() == 0
    assert (base.decoder_tile, large.decoder_tile) == (None, (512, 512))
    assert base.host_bytes() / 2**30 == pytest.approx(3.2, abs=0.2) and base.scratch_bytes() == 0

    fast = plan_video(49, 1920, 1080, VideoSettings(steps=4, guidance_scale=1.0))
    assert fast.forwards == 4


@pytest.mark.parametrize(("width", "height", "area"), [(256, 144, 10**6), (1920, 1080, 512 * 512), (1920, 1080, 1000)])
def test_no_second_pass_where_it_would_add_nothing(width: int, height: int, area: int) -> None:
    assert plan_video(49, width, height, VideoSettings(detail_area=area)).detail_size is None


def test_erosion_by_default_and_as_in_the_reference() -> None:
    assert erosion_kernels(VideoSettings(), 3) == [9, 9, 9]
    assert erosion_kernels(VideoSettings(erosion="random", seed=2), 30) == preprocess.random_erosion(30, 2)


def test_impossible_settings(pipeline: Ex4dPipeline) -> None:
    for wrong in ({"steps": 0}, {"detail_strength": 0.0}, {"erosion": -1}, {"erosion": "maybe"}):
        with pytest.raises(ValueError, match="not possible"):
            dataclasses.replace(SMALL, **wrong)
    guided = dataclasses.replace(SMALL, guidance_scale=5.0)
    with pytest.raises(ValueError, match="negative prompt"):
        next(generate_video(pipeline, Clip(32, 48), 5, 48, 32, guided, (EMBEDS[0], None), Bar()))
    with pytest.raises(ValueError, match="frame 0 is"):
        video(pipeline, 5, 32, 48, SMALL, Clip(32, 40))


def test_a_frame_buffer_forgets() -> None:
    runs = (np.full((3, 1, 1, 3), value, np.uint8) for value in range(5))
    buffer = FrameBuffer(runs)
    assert buffer.frames(0, 4)[:, 0, 0, 0].tolist() == [0, 0, 0, 1]
    assert buffer.frames(2, 8)[:, 0, 0, 0].tolist() == [0, 1, 1, 1, 2, 2]
    assert len(buffer._held) == 7
