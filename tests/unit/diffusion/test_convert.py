# SPDX-License-Identifier: GPL-3.0-or-later
"""Original files → folder → pipeline gives the reference's own numbers."""

from __future__ import annotations

import json
import os
import shutil
from collections import namedtuple
from pathlib import Path

import pytest
import torch
from diffusers import AutoencoderKLWan, WanTransformer3DModel
from safetensors.torch import load_file, save_file
from transformers import CLIPVisionConfig, CLIPVisionModel, UMT5Config, UMT5EncoderModel

from ex4d_engine.cli import main
from ex4d_engine.diffusion.convert import (
    CONFIGS_14B,
    OriginalFiles,
    convert,
    original_files,
    read_configs,
)
from ex4d_engine.diffusion.folder_adapter import ADAPTER_FILE
from ex4d_engine.diffusion.loading import load_pipeline
from ex4d_engine.errors import Cancelled, Ex4dError
from ex4d_engine.progress import Silent
from tests.tiny_model import save_adapter_file, tokenizer

GOLDEN = Path(os.environ.get("EX4D_GOLDEN", Path(__file__).parents[2] / "golden" / "wan_tiny"))
CONFIG_FILE = GOLDEN / "configs_diffusers.json"


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The golden fixture's files as Wan publishes them: shards, torch files, the tokenizer's folder."""
    folder = tmp_path_factory.mktemp("Wan 2.1 ü")
    tensors = load_file(GOLDEN / "dit.safetensors")
    names = sorted(tensors)
    for number, part in enumerate((names[0::2], names[1::2]), start=1):
        save_file(
            {name: tensors[name] for name in part},
            folder / f"diffusion_pytorch_model-{number:05}-of-00002.safetensors",
        )
    torch.save(load_file(GOLDEN / "vae.safetensors"), folder / "Wan2.1_VAE.pth")
    torch.save(
        load_file(GOLDEN / "clip.safetensors"), folder / "models_clip_open-clip-xlm-roberta-large-vit-huge-14.pth"
    )
    torch.save(load_file(GOLDEN / "text_encoder.safetensors"), folder / "models_t5_umt5-xxl-enc-bf16.pth")
    tokenizer().save_pretrained(folder / "google" / "umt5-xxl")
    return folder


@pytest.fixture(scope="module")
def converted(original: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    target = tmp_path_factory.mktemp("converted") / "модель wan"
    adapter = target.parent / "ex4d.ckpt"
    torch.save(load_file(GOLDEN / "ex4d.safetensors"), adapter)
    options = ["--out", str(target), "--config", str(CONFIG_FILE), "--adapter", str(adapter)]
    assert main(["models", "convert", str(original), *options]) == 0
    return target


def parts(original: Path, **changes: Path) -> OriginalFiles:
    return original_files(original, **changes)


def test_the_reference_s_frames(converted: Path) -> None:
    given, golden = load_file(GOLDEN / "inputs.safetensors"), load_file(GOLDEN / "outputs.safetensors")
    run = json.loads(CONFIG_FILE.read_text(encoding="utf-8"))["run"]
    pipeline = load_pipeline(converted, None, dtype=torch.float32, device="cpu", reporter=Silent())

    frames = pipeline(
        given["video"],
        given["mask"],
        prompt_embeds=given["text_pos"][None],
        negative_prompt_embeds=given["text_neg"][None],
        num_inference_steps=run["num_inference_steps"],
        guidance_scale=run["guidance_scale"],
        generator=torch.Generator("cpu").manual_seed(run["seed"]),
        output_type="np",
    ).frames

    ours = torch.from_numpy(frames).permute(0, 4, 1, 2, 3) * 2 - 1
    torch.testing.assert_close(ours, golden["frames"], rtol=0, atol=5e-5)
    text = pipeline.text_encoder(golden["text_ids"], golden["text_mask"]).last_hidden_state
    seen = golden["text_mask"].bool()
    torch.testing.assert_close(text[seen], golden["text_emb"][seen], rtol=0, atol=5e-5)
    assert pipeline.scheduler.config.shift == run["flow_shift"]


def test_the_adapter_is_kept_as_it_is(converted: Path) -> None:
    published = load_file(GOLDEN / "ex4d.safetensors")
    kept = load_file(converted / ADAPTER_FILE)
    assert kept.keys() == published.keys()
    assert all(torch.equal(kept[name], value) for name, value in published.items())


def test_the_folder_is_stock(converted: Path) -> None:
    index = json.loads((converted / "model_index.json").read_text(encoding="utf-8"))
    assert index["_class_name"] == "WanImageToVideoPipeline"
    layers = json.loads(CONFIG_FILE.read_text(encoding="utf-8"))["WanTransformer3DModel"]["num_layers"]
    assert WanTransformer3DModel.from_pretrained(converted / "transformer").config.num_layers == layers
    assert json.loads((converted / "transformer/config.json").read_text())["_class_name"] == "WanTransformer3DModel"


def test_every_tensor_is_counted(original: Path, tmp_path: Path) -> None:
    counts = convert(parts(original), tmp_path / "made", Silent(), configs=read_configs(CONFIG_FILE))
    assert counts["transformer"] == len(load_file(GOLDEN / "dit.safetensors"))
    assert counts["vae"] == len(load_file(GOLDEN / "vae.safetensors"))
    assert "adapter" not in counts
    pipeline = load_pipeline(tmp_path / "made", None, dtype=torch.float32, device="cpu", reporter=Silent())
    assert pipeline.camera_encoder is None


def test_single_files_and_their_precision(original: Path, tmp_path: Path) -> None:
    half = tmp_path / "half.safetensors"
    save_file({n: v.bfloat16() for n, v in load_file(GOLDEN / "dit.safetensors").items()}, half)
    convert(parts(original, transformer=half), tmp_path / "made", Silent(), configs=read_configs(CONFIG_FILE))
    saved = load_file(tmp_path / "made/transformer/diffusion_pytorch_model.safetensors")
    assert {value.dtype for value in saved.values()} == {torch.bfloat16}


def refused(files: OriginalFiles, target: Path, code: str) -> Ex4dError:
    before = sorted(path.name for path in target.parent.iterdir())
    with pytest.raises(Ex4dError) as caught:
        convert(files, target, Silent(), configs=read_configs(CONFIG_FILE))
    assert caught.value.code == code and caught.value.hint
    assert sorted(path.name for path in target.parent.iterdir()) == before, "something half-made was left"
    return caught.value


def test_files_that_do_not_fit(original: Path, tmp_path: Path) -> None:
    short = tmp_path / "short.safetensors"
    tensors = load_file(GOLDEN / "dit.safetensors")
    tensors.pop("blocks.0.ffn.0.weight")
    save_file({**tensors, "surplus": torch.zeros(1)}, short)
    error = refused(parts(original, transformer=short), tmp_path / "made", "model_invalid")
    assert "1 missing" in error.message and "1 unexpected" in error.message
    other_model = save_adapter_file(tmp_path / "other.safetensors")
    refused(parts(original, adapter=other_model), tmp_path / "made", "model_invalid")
    refused(parts(original, vae=other_model), tmp_path / "made", "model_invalid")
    broken = tmp_path / "tokenizer"
    broken.mkdir()
    (broken / "tokenizer.json").write_text("{", encoding="utf-8")
    refused(parts(original, tokenizer=broken), tmp_path / "made", "model_invalid")


def test_the_command_lists_all_that_does_not_fit(
    original: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    wrong = ["--transformer", str(GOLDEN / "ex4d.safetensors"), "--config", str(CONFIG_FILE)]
    assert main(["models", "convert", str(original), "--out", str(tmp_path / "made"), *wrong]) == 1
    said = capsys.readouterr().err
    for name in load_file(GOLDEN / "ex4d.safetensors"):
        if name.startswith("latent_"):  # names that the converter leaves as they are
            assert f"  {name}\n" in said
    assert f"All {len(load_file(GOLDEN / 'dit.safetensors'))} missing" in said


def test_the_target_and_the_disk(original: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    full = tmp_path / "full"
    full.mkdir()
    (full / "mine.txt").write_text("mine", encoding="utf-8")
    refused(parts(original), full, "bad_request")
    assert (full / "mine.txt").is_file()
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(10**9, 10**9 - 1000, 1000))
    refused(parts(original), tmp_path / "made", "disk_full")


def test_an_empty_folder_may_be_the_target(original: Path, tmp_path: Path) -> None:
    (tmp_path / "made").mkdir()
    convert(parts(original), tmp_path / "made", Silent(), configs=read_configs(CONFIG_FILE))
    assert (tmp_path / "made" / "model_index.json").is_file()


def test_cancelled_between_parts(original: Path, tmp_path: Path) -> None:
    class Cancelling(Silent):
        def progress(self, stage: str, done: int, total: int) -> None:
            if done == 2:
                self.cancelled.set()

    with pytest.raises(Cancelled):
        convert(parts(original), tmp_path / "made", Cancelling(), configs=read_configs(CONFIG_FILE))
    assert list(tmp_path.iterdir()) == []


def test_what_is_not_there_is_named(original: Path, tmp_path: Path) -> None:
    with pytest.raises(Ex4dError) as caught:
        original_files(tmp_path, adapter=tmp_path / "none.ckpt", vae=original / "Wan2.1_VAE.pth")
    message = caught.value.message
    assert caught.value.code == "model_missing"
    assert all(name in message for name in ("transformer", "text_encoder", "none.ckpt")) and "vae" not in message
    with pytest.raises(Ex4dError, match="tokenizer"):
        original_files(None)


@pytest.mark.parametrize("text", ["{", "[]", '{"AutoencoderKLWan": {}}'])
def test_a_file_that_is_no_configuration(tmp_path: Path, text: str) -> None:
    path = tmp_path / "config.json"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(Ex4dError) as caught:
        read_configs(path)
    assert caught.value.code == "model_invalid"


def test_the_sizes_of_the_14b_parts() -> None:
    """Parameters of what is published: the text encoder's 22.7 GB and the image encoder's 2.5 GB in float32."""

    def parameters(module: torch.nn.Module) -> int:
        return sum(parameter.numel() for parameter in module.parameters())

    with torch.device("meta"):
        text = UMT5EncoderModel(UMT5Config(**CONFIGS_14B["UMT5EncoderModel"]))
        image = CLIPVisionModel(CLIPVisionConfig(**CONFIGS_14B["CLIPVisionModel"]))
        vae = AutoencoderKLWan(**CONFIGS_14B["AutoencoderKLWan"])
    assert parameters(text) == 5_680_910_336
    assert parameters(image) == 630_766_080
    assert parameters(vae) == 126_892_531
