# SPDX-License-Identifier: GPL-3.0-or-later
"""A model folder without text and image encoders: what it has to have, and that its pipeline generates."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from ex4d_engine.diffusion.bundled_codec import BundledCodec
from ex4d_engine.diffusion.folder_adapter import folder_adapter
from ex4d_engine.diffusion.loading import (
    COMPONENTS,
    check_model_folder,
    constant_prompt,
    folder_components,
    load_pipeline,
)
from ex4d_engine.diffusion.pipeline import TEXT_TOKENS, Ex4dPipeline
from ex4d_engine.diffusion.run_plan import ModelPaths, RuntimeOptions
from ex4d_engine.diffusion.runtime import open_pipeline
from ex4d_engine.diffusion.transformer_size import transformer_size
from ex4d_engine.errors import Ex4dError
from ex4d_engine.progress import Silent
from ex4d_engine.training.bundled_folder import write_bundled_folder
from tests import tiny_model
from tests.tiny_model import conditioning


@pytest.fixture(scope="module")
def bundled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_model.save_bundled_folder(tmp_path_factory.mktemp("Ünï 作業") / "bundled")


@pytest.fixture
def copy(bundled: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(bundled, tmp_path / "model"))


def load(folder: Path, adapter: Path | None = None) -> Ex4dPipeline:
    return load_pipeline(folder, adapter, dtype=torch.float32, device="cpu", reporter=Silent())


def latents(pipeline: Ex4dPipeline, folder: Path) -> torch.Tensor:
    video, mask = conditioning(frames=5)
    return pipeline(
        video,
        mask,
        prompt_embeds=constant_prompt(folder),
        guidance_scale=1.0,
        num_inference_steps=2,
        generator=torch.Generator().manual_seed(0),
        output_type="latent",
    ).frames


def test_it_loads_in_float32_with_its_own_adapter_and_generates(bundled: Path) -> None:
    pipeline = load(bundled)
    assert (pipeline.tokenizer, pipeline.text_encoder, pipeline.image_encoder) == (None, None, None)
    assert isinstance(pipeline.vae, BundledCodec) and pipeline.scheduler.shift == 3.0
    assert pipeline.transformer.active_adapters() == ["ex4d"]
    parts = (pipeline.vae, pipeline.transformer, pipeline.camera_encoder)
    assert {value.dtype for part in parts for value in part.parameters()} == {torch.float32}, "the files hold halves"
    video, mask = conditioning()
    frames = pipeline(video, mask, prompt_embeds=constant_prompt(bundled), guidance_scale=1.0, num_inference_steps=2)
    assert frames.frames.shape == (1, 9, 32, 48, 3)


def test_opened_for_a_run_it_is_the_plain_pipeline_and_reads_no_text(bundled: Path) -> None:
    expected = latents(load(bundled), bundled)
    with open_pipeline(
        ModelPaths(bundled, None),
        RuntimeOptions(),
        tokens=12,
        steps=2,
        guidance_scale=1.0,
        prompt="whatever",
        negative_prompt="",
        reporter=Silent(),
    ) as ready:
        assert ready.prompt_embeds[1] is None and torch.equal(ready.prompt_embeds[0], constant_prompt(bundled))
        assert (latents(ready.pipeline, bundled) - expected).abs().max() < 5e-5


def test_the_constant_prompt_is_not_padded_unlike_a_text(bundled: Path) -> None:
    """Attention to equal rows is attention to one of them, so for an embedding of zeros both are the same."""
    pipeline = load(bundled)
    pipeline._guidance_scale = 1.0
    assert pipeline.prepare_prompt_embeds(None, "", constant_prompt(bundled), None)[0].shape[1] == 1
    short = latents(pipeline, bundled)
    pipeline.text_tokens = TEXT_TOKENS
    torch.testing.assert_close(latents(pipeline, bundled), short, rtol=0, atol=1e-4)


def test_weights_and_adapter_in_shards(bundled: Path, tmp_path: Path) -> None:
    pipeline = load(bundled)
    adapter = load_file(bundled / "ex4d.safetensors")
    whole, sharded = tmp_path / "whole", tmp_path / "shärded"
    for folder, size in ((whole, 10**9), (sharded, 12_000)):
        transformer = load(bundled).transformer
        transformer.delete_adapters("ex4d")
        transformer.unload_lora()
        write_bundled_folder(folder, load(bundled).vae, transformer, adapter, torch.zeros(1, 1, 8), shard_bytes=size)
    assert folder_adapter(sharded) == sharded / "ex4d" and len(list((sharded / "ex4d").iterdir())) > 1
    assert len(list((sharded / "transformer").glob("*.safetensors"))) > 1
    parts = [*(sharded / "ex4d").iterdir(), *(sharded / "transformer").glob("*.safetensors")]
    assert max(path.stat().st_size for path in parts) < 30_000  # with their headers
    expected = latents(pipeline, bundled)
    for folder in (whole, sharded):
        assert torch.equal(latents(load(folder), folder), expected)


def test_diffusers_own_loader_reads_the_folder_too(bundled: Path) -> None:
    again = Ex4dPipeline.from_pretrained(bundled, torch_dtype=torch.float32)
    ours = load(bundled)
    assert type(again.vae) is BundledCodec and again.text_encoder is None
    assert all(torch.equal(value, ours.vae.state_dict()[name]) for name, value in again.vae.state_dict().items())


def test_what_the_index_declares_absent_need_not_be_there(bundled: Path, model_folder: Path, copy: Path) -> None:
    assert folder_components(bundled) == ("vae", "transformer")
    assert folder_components(model_folder) == COMPONENTS == folder_components(model_folder / "vae")
    index = copy / "model_index.json"
    content = json.loads(index.read_text(encoding="utf-8"))
    index.write_text(json.dumps({**content, "vae": [None, None], "image_encoder": ["transformers", "X"]}), "utf-8")
    assert folder_components(copy) == ("image_encoder", "vae", "transformer"), "no pipeline is without its vae"
    with pytest.raises(Ex4dError, match=r"lacks image_encoder\.") as caught:
        check_model_folder(copy)
    assert caught.value.code == "model_missing"


@pytest.mark.parametrize("text", ["{", "[1]", '"model"', "\xff"])
def test_an_index_that_is_none(copy: Path, text: str) -> None:
    (copy / "model_index.json").write_bytes(text.encode("latin-1"))
    with pytest.raises(Ex4dError, match="model_index") as caught:
        load(copy)
    assert caught.value.code == "model_invalid"


@pytest.mark.parametrize("part", ["vae", "transformer"])
@pytest.mark.parametrize("text", ["{", "[1]"])
def test_the_damaged_configuration_is_the_one_that_is_named(copy: Path, part: str, text: str) -> None:
    (copy / part / "config.json").write_text(text, encoding="utf-8")
    with pytest.raises(Ex4dError) as caught:
        transformer_size(copy)
    assert caught.value.code == "model_invalid" and str(copy / part) in caught.value.message


def test_statistics_of_other_latents(copy: Path) -> None:
    path = copy / "vae" / "config.json"
    config = json.loads(path.read_text(encoding="utf-8"))
    path.write_text(json.dumps({**config, "latents_std": [1.0] * 3}), encoding="utf-8")
    with pytest.raises(Ex4dError, match="48 channels") as caught:
        load(copy)
    assert caught.value.code == "model_invalid"


@pytest.mark.parametrize("tensors", [{"other": torch.zeros(1, 1, 8)}, {"prompt_embeds": torch.zeros(8)}])
def test_a_prompt_that_is_none(copy: Path, tensors: dict[str, torch.Tensor]) -> None:
    save_file(tensors, copy / "prompt.safetensors")
    with pytest.raises(Ex4dError, match="text embedding") as caught:
        load(copy)
    assert caught.value.code == "model_invalid"


def test_a_folder_without_encoder_and_prompt(copy: Path) -> None:
    (copy / "prompt.safetensors").unlink()
    with pytest.raises(Ex4dError, match=r"lacks prompt\.safetensors") as caught:
        load(copy)
    assert caught.value.code == "model_missing" and "hf download" not in caught.value.hint
