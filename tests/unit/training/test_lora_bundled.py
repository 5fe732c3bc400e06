# SPDX-License-Identifier: GPL-3.0-or-later
"""`ex4d train lora` on a model folder without text and image encoders, from clips to a take of preset `draft`."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from ex4d_engine import bundled_model, cli
from ex4d_engine.bundled_model import BUNDLED
from ex4d_engine.diffusion import preprocess
from ex4d_engine.diffusion.bundled_codec import BundledCodec
from ex4d_engine.diffusion.loading import constant_prompt, load_component, load_pipeline
from ex4d_engine.diffusion.transformer import Ex4dTransformer3DModel
from ex4d_engine.errors import Cancelled, Ex4dError
from ex4d_engine.progress import Silent
from ex4d_engine.stages import GenerateOptions, generate, reconstruct, render
from ex4d_engine.stages.diffusion_presets import ADAPTER
from ex4d_engine.training.adapter_network import AdapterNetwork, with_adapter
from ex4d_engine.training.bundled_camera import begin_as_the_base
from ex4d_engine.training.clip_folder import Skips
from ex4d_engine.training.latent_cache import build_cache, read_sample
from ex4d_engine.training.lora_batches import BatchSource, Place
from ex4d_engine.training.lora_config import AdapterShape, LoraTraining
from ex4d_engine.training.lora_network import load_network
from ex4d_engine.training.lora_training import train_lora
from tests import tiny_model
from tests.tiny_shot import orbit_take, settings
from tests.unit.training.lora_material import FRAMES, HEIGHT, WIDTH, BoxMasks, Watch, config, losses

CPU = torch.device("cpu")
TRACKING_ONLY = {"rendering": 0, "both": 0, "none": 0, "tracking": 1, "least_erosion": 1, "most_erosion": 3}


@pytest.fixture(scope="module")
def bundled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """With statistics and a prompt that are none of the defaults."""
    folder = tiny_model.save_bundled_folder(tmp_path_factory.mktemp("Ünï 作業") / "small")
    path = folder / "vae" / "config.json"
    of_latents = {"latents_mean": np.linspace(-1, 1, 48).tolist(), "latents_std": np.linspace(0.2, 2, 48).tolist()}
    path.write_text(json.dumps({**json.loads(path.read_text("utf-8")), **of_latents}), encoding="utf-8")
    save_file({"prompt_embeds": torch.linspace(-1, 1, 8).view(1, 1, 8)}, folder / "prompt.safetensors")
    return folder


def installed(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As if this model had come with the engine."""
    monkeypatch.setattr(bundled_model, "FOLDER", folder)


def named(clips: Path, **changes: dict[str, Any]) -> LoraTraining:
    """A training on the model that comes with the engine."""
    model = {"folder": "", "name": BUNDLED} | changes.pop("model", {})
    return config(Path(), clips, model=model, **changes)


def train(out: Path, training: LoraTraining, reporter: Silent | None = None, *, resume: bool = False) -> Path:
    return train_lora(training, out, reporter or Silent(), masks=BoxMasks(), device="cpu", resume=resume)


def test_the_cache_holds_what_its_pipeline_is_conditioned_on(bundled: Path, clips: Path, tmp_path: Path) -> None:
    class Kept(BoxMasks):
        def __call__(self, frames: Any, depth: Any, intrinsics: Any, seed: int) -> Any:
            mask = super().__call__(frames, depth, intrinsics, seed)
            mask[0] = 255
            drawn.append((frames, mask.copy()))
            return mask

    drawn: list[tuple[np.ndarray, np.ndarray]] = []
    watch = Watch()
    data = build_cache(config(bundled, clips), bundled, tmp_path / "cache", Kept(), CPU, Skips(), watch)
    assert (len(data.training), len(data.validation), data.shift) == (3, 1, 3.0), "the model's own shift"
    pipeline = load_pipeline(bundled, None, dtype=torch.float32, device="cpu", reporter=Silent())
    frames, mask = drawn[3]
    sample = read_sample(data.training[1], 1)
    video, seen = preprocess.conditioning_videos(frames, mask, preprocess.no_erosion(FRAMES))
    whole, _ = preprocess.conditioning_videos(frames, np.full_like(mask, 255), preprocess.no_erosion(FRAMES))
    half = {"rtol": 1e-3, "atol": 2e-3}
    wanted = pipeline.prepare_conditioning(video, seen)
    torch.testing.assert_close(sample.condition, wanted.condition, **half)
    torch.testing.assert_close(sample.target, pipeline.encode_video(whole), **half)
    with torch.no_grad():
        rays = pipeline.camera_encoder(sample.colour, sample.mask)
    torch.testing.assert_close(rays, wanted.ray_latent, rtol=1e-2, atol=2e-2)
    assert sample.image_embeds is None and sample.target.shape == (1, 48, 3, HEIGHT // 8, WIDTH // 8)
    pipeline._guidance_scale = 1.0
    text, _ = pipeline.prepare_prompt_embeds(None, "", constant_prompt(bundled), None)
    assert torch.equal(sample.text, text), "one row, not 512 of which all but one are zero"
    (said,) = [line for line in watch.lines if "knows no text" in line]
    assert "data.prompt" in said


def test_captions_are_told_to_be_of_no_use_and_another_prompt_is_other_data(
    bundled: Path, clips: Path, tmp_path: Path
) -> None:
    folder = shutil.copytree(clips, tmp_path / "clips")
    (folder / "clip 1 ü.txt").write_text("a person walks", encoding="utf-8")
    model = shutil.copytree(bundled, tmp_path / "model")
    training = config(model, folder, data={"prompt": ""})
    watch = Watch()
    first = build_cache(training, model, tmp_path / "cache", BoxMasks(), CPU, Skips(), watch)
    assert len({sample.text for sample in first.training}) == 1
    assert any("captions" in line for line in watch.lines)
    silent = Watch()
    build_cache(config(model, clips, data={"prompt": ""}), model, tmp_path / "cache", BoxMasks(), CPU, Skips(), silent)
    assert not any("knows no text" in line for line in silent.lines), "nothing was asked of it"
    save_file({"prompt_embeds": torch.ones(1, 1, 8)}, model / "prompt.safetensors")
    second = build_cache(training, model, tmp_path / "cache", BoxMasks(), CPU, Skips(), Silent())
    assert second.digest != first.digest and (read_sample(second.training[0], 0).text == 1).all()


def test_noise_levels_are_shifted_as_the_model_says(bundled: Path, clips: Path, tmp_path: Path) -> None:
    training = config(bundled, clips)
    data = build_cache(training, bundled, tmp_path, BoxMasks(), CPU, Skips(), Silent())
    drawn = [BatchSource(training, data)._sample(step, 0)[2].sigma for step in range(200)]
    assert np.mean(drawn) == pytest.approx(0.676, abs=0.03), "the mean of 3σ / (1 + 2σ); of shift 5 it is 0.747"


def test_an_adapter_from_clips_to_a_take_of_preset_draft(
    bundled: Path, clips: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    installed(bundled, monkeypatch)
    monkeypatch.setenv("EX4D_MODELS", str(tmp_path / "models"))
    monkeypatch.setenv("EX4D_CACHE", str(tmp_path / "cache"))
    file = tmp_path / "klein ü.toml"
    training = named(
        clips,
        masks=TRACKING_ONLY,
        optimiser={"steps": 12, "batch": 4, "micro_batch": 2},
        run={"validate_every": 4, "validation_steps": 1},
    )
    file.write_text(training.printed(), encoding="utf-8")
    out = tmp_path / "out"
    arguments = ["train", "lora", "--config", str(file), "--out", str(out), "--device", "cpu", "--name", "my-look"]
    assert cli.main(arguments) == 0
    result = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert result["name"] == "my-look" and load_file(result["adapter"])["latent_patch_embedding.weight"].any()
    lines = [json.loads(line) for line in (out / "losses.jsonl").read_text("utf-8").splitlines()]
    validation = [line["validation_loss"] for line in lines if "validation_loss" in line]
    assert validation[-1] < 0.97 * validation[0]
    assert len(list((out / "validation").glob("*.mp4"))) == 3

    shot = reconstruct(settings(tmp_path), tmp_path / "shot", Silent())
    options = GenerateOptions(area=1024, adapter="my-look")
    taken = render(shot, orbit_take(shot, 12.0, count=6), Silent())
    own = generate(shot, taken, "draft", Silent(), seed=3, options=options)
    plain = render(shot, orbit_take(shot, 12.0, count=6), Silent())
    plain = generate(shot, plain, "draft", Silent(), seed=3, options=GenerateOptions(area=1024))
    assert own.is_finished and list(own.record["diffusion"]["models"]) == [BUNDLED, ADAPTER]
    last = own.numbers[-1]
    assert own.file("generated", last).read_bytes() != plain.file("generated", last).read_bytes()


def test_it_goes_on_exactly(bundled: Path, clips: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    installed(bundled, monkeypatch)
    training = named(clips)
    with pytest.raises(Cancelled):
        train(tmp_path / "parts", training, Watch(cancel_at=3))
    parts = train(tmp_path / "parts", training, resume=True)
    whole = train(tmp_path / "whole", training)
    assert losses(tmp_path / "parts") == losses(tmp_path / "whole") and len(losses(tmp_path / "whole")) == 6
    one, other = load_file(parts), load_file(whole)
    assert all(torch.equal(value, other[name]) for name, value in one.items())


def test_the_model_s_own_adapter_can_be_trained_further(
    bundled: Path, clips: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    installed(bundled, monkeypatch)
    nothing = {"steps": 1, "learning_rate": 1e-9, "weight_decay": 0.0}
    adapter = load_file(train(tmp_path / "out", named(clips, model={"start_from": "own"}, optimiser=nothing)))
    for name, value in load_file(bundled / "ex4d.safetensors").items():
        torch.testing.assert_close(adapter[name], value.float(), rtol=0, atol=1e-6)
    bare = shutil.copytree(bundled, tmp_path / "bare")
    (bare / "ex4d.safetensors").unlink()
    with pytest.raises(Ex4dError, match="no adapter of its own") as caught:
        train(tmp_path / "other", config(bare, clips, model={"start_from": "own"}))
    assert caught.value.code == "model_missing" and not (tmp_path / "other").exists()


def test_a_fresh_adapter_says_from_the_start_what_is_kept(bundled: Path, clips: Path, model_folder: Path) -> None:
    """The camera encoder begins at what the transformer can read, as in stage `adapter`; Wan's begins at nothing."""

    def fresh(folder: Path, **changes: dict[str, Any]) -> AdapterNetwork:
        return load_network(config(folder, clips, **changes), folder, torch.float32)

    wide = {"adapter": {"camera_channels": 2 * 49}}
    begun = fresh(bundled, **wide)
    wanted = with_adapter(transformer_of(bundled), AdapterShape(4, 4.0, camera_channels=2 * 49), 0)
    begin_as_the_base(wanted, load_component(BundledCodec, bundled / "vae", torch.float32))
    for name, value in wanted.camera_encoder.state_dict().items():
        assert torch.equal(begun.camera_encoder.state_dict()[name], value), name
    assert begun.camera_encoder.latent_patch_embedding.weight.any()
    assert all(parameter.requires_grad for parameter in begun.camera_encoder.parameters())
    own = fresh(bundled, model={"start_from": "own"})
    published = load_file(bundled / "ex4d.safetensors")["latent_patch_embedding.weight"]
    assert torch.equal(own.camera_encoder.latent_patch_embedding.weight, published.float())
    assert not fresh(model_folder, **wide).camera_encoder.latent_patch_embedding.weight.any()


def transformer_of(folder: Path) -> Ex4dTransformer3DModel:
    transformer: Ex4dTransformer3DModel = load_component(Ex4dTransformer3DModel, folder / "transformer", torch.float32)
    return transformer


def test_few_steps_train_the_level_that_sampling_begins_at(bundled: Path, clips: Path, tmp_path: Path) -> None:
    few = {"noise_levels": "few_steps", "sampling_steps": 1, "sampled_share": 1.0}
    training = config(bundled, clips, objective=few, run={"validate_every": 6, "validation_steps": 1})
    data = build_cache(training, bundled, tmp_path, BoxMasks(), CPU, Skips(), Silent())
    batch = BatchSource(training, data).draw(0, Place(0, 0, 1))
    assert torch.equal(batch.noisy, batch.noise) and batch.weight.tolist() == [1.0]
    train(tmp_path / "out", training)
    lines = [json.loads(line) for line in (tmp_path / "out" / "losses.jsonl").read_text("utf-8").splitlines()]
    assert all(line["loss"] > 0 for line in lines if "loss" in line)
    assert [line["step"] for line in lines if line.get("validation_loss", 0) > 0] == [6]


def test_without_the_model_it_says_so(clips: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    installed(tmp_path / "none", monkeypatch)
    with pytest.raises(Ex4dError, match="ships without it") as caught:
        train(tmp_path / "out", named(clips))
    assert caught.value.code == "model_missing" and not (tmp_path / "out").exists()
