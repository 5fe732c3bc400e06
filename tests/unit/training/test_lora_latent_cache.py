# SPDX-License-Identifier: GPL-3.0-or-later
"""The cache holds what the pipeline itself would have computed, once, and goes on where it was interrupted."""

from __future__ import annotations

import dataclasses
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from ex4d_engine.diffusion import preprocess
from ex4d_engine.diffusion.loading import load_pipeline
from ex4d_engine.errors import Cancelled, Ex4dError
from ex4d_engine.progress import Silent
from ex4d_engine.training import latent_cache, training_windows
from ex4d_engine.training.clip_folder import Skips
from ex4d_engine.training.latent_cache import CachedData, MaskSource, build_cache, read_sample
from ex4d_engine.training.lora_config import LoraTraining
from tests import tiny_model
from tests.unit.training.lora_material import FRAMES, HEIGHT, WIDTH, BoxMasks, config, save_movie

CPU = torch.device("cpu")


def build(
    training: LoraTraining,
    cache: Path,
    masks: MaskSource | None = None,
    skips: Skips | None = None,
    reporter: Silent | None = None,
) -> CachedData:
    return build_cache(
        training,
        Path(training.model.folder),
        cache,
        masks or BoxMasks(),
        CPU,
        skips if skips is not None else Skips(),
        reporter or Silent(),
    )


def refuse(*_: Any, **__: Any) -> Any:
    raise AssertionError("nothing was to be computed")


def test_it_holds_what_the_pipeline_is_conditioned_on(model_folder: Path, clips: Path, tmp_path: Path) -> None:
    class RecordedMasks(BoxMasks):
        def __init__(self) -> None:
            super().__init__()
            self.drawn: list[tuple[np.ndarray, np.ndarray]] = []

        def __call__(self, frames: Any, depth: Any, intrinsics: Any, seed: int) -> Any:
            mask = super().__call__(frames, depth, intrinsics, seed)
            self.drawn.append((frames, mask.copy()))
            mask[0, :5] = 0  # is made whole again by the cache
            return mask

    masks = RecordedMasks()
    data = build(config(model_folder, clips), tmp_path, masks)
    assert (len(data.training), len(data.validation), data.padded, data.shift) == (3, 1, 0, 5.0)
    assert len(masks.drawn) == 8 and not np.array_equal(masks.drawn[0][1], masks.drawn[1][1])

    adapter = tiny_model.save_adapter_file(tmp_path / "adapter.safetensors")
    pipeline = load_pipeline(model_folder, adapter, dtype=torch.float32, device="cpu", reporter=Silent())
    for mask in range(2):
        frames, drawn = masks.drawn[2 + mask]
        drawn[0] = 255
        sample = read_sample(data.training[1], mask)
        video, seen = preprocess.conditioning_videos(frames, drawn, preprocess.no_erosion(FRAMES))
        wanted = pipeline.prepare_conditioning(video, seen)
        whole, _ = preprocess.conditioning_videos(frames, np.full_like(drawn, 255), preprocess.no_erosion(FRAMES))
        half = {"rtol": 1e-3, "atol": 2e-3}
        torch.testing.assert_close(sample.condition, wanted.condition, **half)
        torch.testing.assert_close(sample.image_embeds, wanted.image_embeds, **half)
        torch.testing.assert_close(sample.target, pipeline.encode_video(whole), **half)
        with torch.no_grad():
            rays = pipeline.camera_encoder(sample.colour, sample.mask)
        torch.testing.assert_close(rays, wanted.ray_latent, rtol=1e-2, atol=2e-2)
    pipeline._guidance_scale = 1.0
    text, _ = pipeline.prepare_prompt_embeds("a camera moves around a quiet street", "", None, None)
    torch.testing.assert_close(sample.text, text)


def test_a_second_run_loads_no_encoder(
    model_folder: Path, clips: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    training = config(model_folder, clips)
    first = build(training, tmp_path)
    for module, name in (
        (latent_cache, "load_encoders"),
        (latent_cache, "embed_texts"),
        (training_windows, "read_window"),
    ):
        monkeypatch.setattr(module, name, refuse)
    assert build(training, tmp_path) == first

    elsewhere = shutil.copytree(clips, tmp_path / "moved clips")
    model = shutil.copytree(model_folder, tmp_path / "moved model", copy_function=shutil.copyfile)
    assert build(config(model, elsewhere), tmp_path).digest == first.digest, "content counts, not its place"


def test_an_interrupted_cache_goes_on(model_folder: Path, clips: Path, tmp_path: Path) -> None:
    class Stopped(Silent):
        def progress(self, stage: str, done: int, total: int) -> None:
            if stage == "cache clips" and done == 2:
                self.cancelled.set()

    training, masks = config(model_folder, clips), BoxMasks()
    with pytest.raises(Cancelled):
        build(training, tmp_path, masks, reporter=Stopped())
    assert masks.calls == 2 * 2
    data = build(training, tmp_path, masks)
    assert masks.calls == 4 * 2, "what was there is not made again"
    torn = data.training[0].latents
    torn.write_bytes(torn.read_bytes()[:1000])
    with pytest.raises(Ex4dError, match=r"damaged .* run again|gone or damaged"):
        read_sample(data.training[0], 0)
    assert build(training, tmp_path) == data
    assert read_sample(data.training[0], 1).target.shape == (1, 16, 3, HEIGHT // 8, WIDTH // 8)


def test_other_masks_reuse_depth_and_other_sizes_nothing(
    model_folder: Path, clips: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class OtherMasks(BoxMasks):
        version = "others"

    first = build(config(model_folder, clips), tmp_path)
    monkeypatch.setattr(training_windows, "depth_source", refuse)
    second = build(config(model_folder, clips), tmp_path, OtherMasks())
    assert not {sample.latents for sample in first.training} & {sample.latents for sample in second.training}
    with pytest.raises(AssertionError):
        build(config(model_folder, clips, data={"height": 48}), tmp_path)


def test_bad_and_short_clips_are_counted(model_folder: Path, tmp_path: Path) -> None:
    clips = tmp_path / "clips"
    for number, frames in enumerate((9, 12, 5)):
        save_movie(clips / f"{number}.mp4", frames, number)
    (clips / "torn.mp4").write_bytes(b"\0" * 300)
    skips = Skips()
    data = build(config(model_folder, clips), tmp_path / "cache", skips=skips)
    assert (len(data.training) + len(data.validation), data.padded) == (3, 1)
    assert [name for name, _ in skips.problems] == ["torn.mp4"]

    skips = Skips()
    data = build(config(model_folder, clips, data={"short_clips": "skip"}), tmp_path / "cache", skips=skips)
    assert (len(data.training) + len(data.validation), data.padded) == (2, 0)
    assert skips.too_short == ["2.mp4"]


def test_a_clip_that_fails_only_when_it_is_read_is_left_out(
    model_folder: Path, clips: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read = training_windows.read_window

    def fails_once(window: Any, *arguments: Any) -> Any:
        if "clip 2" in window.clip.path.name:
            raise Ex4dError("unreadable_video", "It ends in the middle.")
        return read(window, *arguments)

    monkeypatch.setattr(training_windows, "read_window", fails_once)
    skips = Skips()
    data = build(config(model_folder, clips), tmp_path, skips=skips)
    assert (len(data.training), len(data.validation)) == (2, 1)
    assert skips.problems == [("clip 2 ü.mp4 from frame 0", "It ends in the middle.")]


def test_captions_are_embedded_once_each(model_folder: Path, clips: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(clips, tmp_path / "clips")
    (folder / "clip 0 ü.txt").write_text("a person walks", encoding="utf-8")
    data = build(config(model_folder, folder), tmp_path / "cache")
    texts = [sample.text for sample in data.training]
    assert texts[0] != texts[1] == texts[2]
    one, other = (read_sample(sample, 0).text for sample in data.training[:2])
    assert one.shape == other.shape == (1, 512, tiny_model.TEXT_WIDTH) and not torch.equal(one, other)
    assert load_file(texts[0])["text"].shape[0] < 20, "rows of zeros are not kept"


def test_too_few_windows_are_refused(model_folder: Path, clips: Path, tmp_path: Path) -> None:
    with pytest.raises(Ex4dError, match=r"4 windows .* 4 are kept for validation") as caught:
        build(config(model_folder, clips, run={"validation_clips": 4}), tmp_path)
    assert caught.value.code == "bad_request"


def test_drawn_scenes_need_no_clips(model_folder: Path, tmp_path: Path) -> None:
    training = config(model_folder, tmp_path)
    training = dataclasses.replace(training, data=dataclasses.replace(training.data, clips="", scenes=2))
    data = build(training, tmp_path)
    assert (len(data.training), len(data.validation)) == (1, 1)
    assert not torch.equal(*(read_sample(sample, 0).target for sample in (*data.training, *data.validation)))

    other = dataclasses.replace(training, run=dataclasses.replace(training.run, seed=1))
    keys = [
        {window.key for window in training_windows.training_windows(one, tmp_path, Skips(), CPU, Silent())}
        for one in (training, training, other)
    ]
    assert keys[0] == keys[1] and not keys[0] & keys[2]
