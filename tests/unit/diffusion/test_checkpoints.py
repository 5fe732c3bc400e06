# SPDX-License-Identifier: GPL-3.0-or-later
"""Names, shapes and counts of original weight files. Their numbers are tested in tests/golden."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from ex4d_engine.diffusion.checkpoints import (
    load_adapter,
    load_image_encoder,
    load_text_encoder,
    load_transformer,
    load_vae,
    save_adapter,
)
from ex4d_engine.diffusion.transformer import Ex4dTransformer3DModel
from ex4d_engine.errors import Ex4dError
from tests import tiny_model

GOLDEN = Path(__file__).parents[2] / "golden" / "wan_tiny"
CONFIG = json.loads((GOLDEN / "configs_diffusers.json").read_text(encoding="utf-8"))

LOADERS: dict[str, tuple[Callable[[Path, dict[str, Any]], Any], dict[str, Any]]] = {
    "dit": (load_transformer, CONFIG["WanTransformer3DModel"]),
    "vae": (load_vae, CONFIG["AutoencoderKLWan"]),
    "clip": (load_image_encoder, CONFIG["CLIPVisionModel"]),
    "text_encoder": (load_text_encoder, CONFIG["UMT5EncoderModel"]),
}


@pytest.fixture
def transformer() -> Ex4dTransformer3DModel:
    return Ex4dTransformer3DModel(**tiny_model.TRANSFORMER)


@pytest.fixture
def adapter(tmp_path: Path) -> Path:
    return tiny_model.save_adapter_file(tmp_path / "ex4d.safetensors", rank=3)


def changed(source: Path, target: Path, change: Callable[[dict[str, torch.Tensor]], Any]) -> Path:
    tensors = load_file(source)
    change(tensors)
    save_file(tensors, target)
    return target


def drop(name: str) -> Callable[[dict[str, torch.Tensor]], Any]:
    return lambda tensors: tensors.pop(name)


def put(name: str, *shape: int) -> Callable[[dict[str, torch.Tensor]], Any]:
    return lambda tensors: tensors.update({name: torch.zeros(shape)})


@pytest.mark.parametrize("kind", LOADERS)
def test_saved_as_a_diffusers_folder_and_loaded_back(kind: str, tmp_path: Path) -> None:
    load, config = LOADERS[kind]
    module = load(GOLDEN / f"{kind}.safetensors", config)
    assert not any(tensor.is_meta for tensor in (*module.parameters(), *module.buffers()))

    module.save_pretrained(tmp_path)
    again = type(module).from_pretrained(tmp_path)

    expected = module.state_dict()
    assert again.state_dict().keys() == expected.keys()
    assert all(torch.equal(value, expected[name]) for name, value in again.state_dict().items())


@pytest.mark.parametrize(
    ("kind", "change", "found"),
    [
        ("dit", drop("blocks.1.self_attn.q.weight"), r"1 missing: blocks\.1\.attn1\.to_q\.weight\b"),
        ("dit", put("blocks.2.norm3.weight", 48), r"1 unexpected: blocks\.2\.norm2\.weight"),
        ("dit", put("head.head.bias", 7), r"1 of another shape: proj_out\.bias \(7,\) instead of \(64,\)"),
        ("vae", drop("conv2.bias"), r"1 missing: post_quant_conv\.bias"),
        ("vae", put("encoder.extra", 1), r"1 unexpected: encoder\.extra"),
        ("clip", drop("visual.transformer.1.attn.to_qkv.bias"), r"3 missing: .*k_proj\.bias.*q_proj.*v_proj"),
        ("clip", put("visual.extra", 1), r"1 unexpected: visual\.extra"),
        ("text_encoder", drop("token_embedding.weight"), r"2 missing: .*embed_tokens.*shared"),
        ("text_encoder", drop("norm.weight"), r"1 missing: encoder\.final_layer_norm\.weight"),
    ],
)
def test_every_name_and_shape_is_checked(kind: str, change: Any, found: str, tmp_path: Path) -> None:
    load, config = LOADERS[kind]
    path = changed(GOLDEN / f"{kind}.safetensors", tmp_path / "changed.safetensors", change)

    with pytest.raises(Ex4dError, match=found) as caught:
        load(path, config)

    assert caught.value.code == "model_invalid"
    assert "changed.safetensors" in caught.value.message


def test_nothing_that_differs_is_left_out_of_the_list(tmp_path: Path) -> None:
    """The real files' names are what nobody here has seen: whoever has them reads in the error what they are."""
    given = {f"blocks.{block}.attn1.{name}.weight": torch.zeros(1) for block in range(40) for name in "abcdefg"}
    save_file({**given, "blocks.7.alone": torch.zeros(1)}, path := tmp_path / "strange.safetensors")

    with pytest.raises(Ex4dError) as caught:
        load_transformer(path, LOADERS["dit"][1])

    assert "281 unexpected" in caught.value.message and "blocks.N.attn1.a.weight (40 times)" in caught.value.message
    assert len(caught.value.message) < 1000, "a panel has to hold it"
    missing, unexpected = caught.value.__notes__
    assert "patch_embedding.weight" in missing and "blocks.7.alone" in unexpected
    for name in "abcdefg":
        assert f"blocks.N.attn1.{name}.weight (40 times)" in unexpected


def test_text_half_of_clip_is_left_out(tmp_path: Path) -> None:
    path = changed(GOLDEN / "clip.safetensors", tmp_path / "clip.safetensors", put("textual.model.weight", 3))
    load_image_encoder(path, CONFIG["CLIPVisionModel"])


def test_the_rank_is_the_files(adapter: Path, transformer: Ex4dTransformer3DModel) -> None:
    load_adapter(adapter, transformer)

    config = transformer.peft_config["ex4d"]
    assert (config.r, config.lora_alpha) == (3, 3)
    lora = {name: p for name, p in transformer.named_parameters() if ".lora_" in name}
    assert len(lora) == 2 * 10 * tiny_model.TRANSFORMER["num_layers"]
    assert all(3 in p.shape for p in lora.values())


@pytest.mark.parametrize(
    ("change", "found"),
    [
        (drop("blocks.0.ffn.2.lora_B.default.weight"), r"1 missing: blocks\.0\.ffn\.net\.2\.lora_B\.weight"),
        (put("blocks.9.ffn.2.lora_B.default.weight", 24, 3), r"1 unexpected: blocks\.9"),
        (put("blocks.0.self_attn.q.lora_A.default.weight", 5, 24), "of another shape"),
        (put("blocks.0.self_attn.q.alpha", 1), r"unexpected: blocks\.0\.attn1\.to_q\.alpha"),
        (drop("latent_encoder.2.bias"), r"1 missing: latent_encoder\.2\.bias"),
        (drop("latent_encoder.0.weight"), "missing"),
        (put("latent_patch_embedding.weight", 24, 20, 1, 1, 1), "of another shape: latent_patch_embedding"),
        (lambda tensors: [tensors.pop(n) for n in list(tensors) if "lora" in n], "40 missing"),
        (lambda tensors: [tensors.pop(n) for n in list(tensors) if "latent" in n], "8 missing"),
    ],
)
def test_an_adapter_that_does_not_fit_changes_nothing(
    adapter: Path, transformer: Ex4dTransformer3DModel, tmp_path: Path, change: Any, found: str
) -> None:
    before = set(transformer.state_dict())

    with pytest.raises(Ex4dError, match=found) as caught:
        load_adapter(changed(adapter, tmp_path / "changed.safetensors", change), transformer)

    assert caught.value.code == "model_invalid"
    assert set(transformer.state_dict()) == before


def test_an_adapter_for_another_model_is_refused(adapter: Path) -> None:
    wider = Ex4dTransformer3DModel(**{**tiny_model.TRANSFORMER, "attention_head_dim": 24, "added_kv_proj_dim": 48})

    with pytest.raises(Ex4dError, match="of another shape"):
        load_adapter(adapter, wider)


def test_two_adapters_lie_side_by_side(adapter: Path, transformer: Ex4dTransformer3DModel, tmp_path: Path) -> None:
    second = tiny_model.save_adapter_file(tmp_path / "second.safetensors", rank=5, seed=7)
    load_adapter(adapter, transformer)
    camera_encoder = load_adapter(second, transformer, "second")

    save_adapter(tmp_path / "again.safetensors", transformer, camera_encoder, "second")

    original, again = load_file(second), load_file(tmp_path / "again.safetensors")
    assert original.keys() == again.keys()
    assert all(torch.equal(original[name], again[name]) for name in original)
