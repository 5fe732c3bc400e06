# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from diffusers import FlowMatchEulerDiscreteScheduler
from safetensors.torch import load_file, save_file

from ex4d_engine.diffusion.loading import load_pipeline
from ex4d_engine.diffusion.pipeline import Ex4dPipeline
from ex4d_engine.errors import Cancelled, Ex4dError
from ex4d_engine.progress import Silent
from tests.tiny_model import conditioning, save_fast_lora_file

WEIGHTS = "diffusion_pytorch_model.safetensors"


class Recorder(Silent):
    def __init__(self) -> None:
        super().__init__()
        self.reports: list[tuple[str, int, int]] = []

    def progress(self, stage: str, done: int, total: int) -> None:
        self.reports.append((stage, done, total))


def load(folder: Path, adapter: Path | None, dtype: torch.dtype = torch.float32) -> Ex4dPipeline:
    return load_pipeline(folder, adapter, dtype=dtype, device="cpu", reporter=Silent())


def generated(pipeline: Ex4dPipeline) -> torch.Tensor:
    video, mask = conditioning(frames=5)
    return pipeline(
        video,
        mask,
        "a person walks",
        num_inference_steps=2,
        generator=torch.Generator().manual_seed(0),
        output_type="latent",
    ).frames


@pytest.fixture
def copy(model_folder: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(model_folder, tmp_path / "model"))


def test_a_stock_folder_and_an_adapter(model_folder: Path, adapter_file: Path) -> None:
    recorder = Recorder()

    pipeline = load_pipeline(model_folder, adapter_file, dtype=torch.float32, device="cpu", reporter=recorder)

    assert type(pipeline.scheduler) is FlowMatchEulerDiscreteScheduler
    assert pipeline.scheduler.shift == 5.0
    assert pipeline.transformer.active_adapters() == ["ex4d"]
    tensors = load_file(adapter_file)
    assert torch.equal(pipeline.camera_encoder.state_dict()["latent_encoder.4.bias"], tensors["latent_encoder.4.bias"])
    assert {stage for stage, _, _ in recorder.reports} == {"load model"}
    assert [done for _, done, _ in recorder.reports] == list(range(recorder.reports[0][2] + 1))


def test_every_weight_of_the_folder_arrives(model_folder: Path) -> None:
    pipeline = load(model_folder, None)

    assert pipeline.camera_encoder is None
    for name, file in (("transformer", WEIGHTS), ("vae", WEIGHTS), ("image_encoder", "model.safetensors")):
        loaded = getattr(pipeline, name).state_dict()
        assert all(torch.equal(loaded[n], v) for n, v in load_file(model_folder / name / file).items())


def test_precision(model_folder: Path, adapter_file: Path) -> None:
    pipeline = load(model_folder, adapter_file, torch.bfloat16)

    assert pipeline.transformer.blocks[0].attn1.to_q.weight.dtype == torch.bfloat16
    assert pipeline.transformer.scale_shift_table.dtype == torch.float32
    assert pipeline.text_encoder.dtype == torch.bfloat16
    assert pipeline.vae.dtype == pipeline.image_encoder.dtype == pipeline.camera_encoder.dtype == torch.float32
    assert generated(pipeline).isfinite().all()


def test_saved_and_loaded_as_one_folder(model_folder: Path, adapter_file: Path, tmp_path: Path) -> None:
    pipeline = load(model_folder, adapter_file)
    expected = generated(pipeline)
    pipeline.fuse_lora()
    pipeline.unload_lora_weights()
    pipeline.save_pretrained(tmp_path / "saved")

    for again in (load(tmp_path / "saved", None), Ex4dPipeline.from_pretrained(tmp_path / "saved")):
        torch.testing.assert_close(generated(again), expected, rtol=0, atol=1e-4)


def test_the_shift_of_a_saved_folder_is_kept(model_folder: Path, adapter_file: Path, copy: Path) -> None:
    FlowMatchEulerDiscreteScheduler(shift=3.0).save_pretrained(copy / "scheduler")
    assert load(copy, adapter_file).scheduler.shift == 3.0


def test_older_names_of_the_image_encoder(copy: Path) -> None:
    path = copy / "image_encoder" / "model.safetensors"
    tensors = load_file(path)
    save_file({f"vision_model.{name}": value for name, value in tensors.items()}, path, metadata={"format": "pt"})

    loaded = load(copy, None).image_encoder.state_dict()

    assert all(torch.equal(loaded[name], value) for name, value in tensors.items())


def test_a_missing_folder(tmp_path: Path) -> None:
    with pytest.raises(Ex4dError, match="no model folder") as caught:
        load(tmp_path / "none", None)
    assert caught.value.code == "model_missing"
    assert "Wan2.1-I2V-14B-480P" in caught.value.hint


def test_a_folder_without_a_part(copy: Path) -> None:
    shutil.rmtree(copy / "image_encoder")
    (copy / "vae" / WEIGHTS).unlink()

    with pytest.raises(Ex4dError, match=r"lacks image_encoder, vae/\*\.safetensors\.") as caught:
        load(copy, None)
    assert caught.value.code == "model_missing"


def test_a_missing_adapter(model_folder: Path, tmp_path: Path) -> None:
    with pytest.raises(Ex4dError, match="no EX-4D adapter") as caught:
        load(model_folder, tmp_path / "none.safetensors")
    assert caught.value.code == "model_missing"


@pytest.mark.parametrize(
    ("component", "file"), [("transformer", WEIGHTS), ("vae", WEIGHTS), ("text_encoder", "model.safetensors")]
)
def test_truncated_weights(copy: Path, component: str, file: str) -> None:
    path = copy / component / file
    path.write_bytes(path.read_bytes()[:-10])

    with pytest.raises(Ex4dError, match=component) as caught:
        load(copy, None)
    assert caught.value.code == "model_invalid"


@pytest.mark.parametrize(
    ("component", "file", "lost"),
    [
        ("transformer", WEIGHTS, "blocks.0.attn1.to_q.weight"),
        ("vae", WEIGHTS, "decoder.conv_in.bias"),
        ("image_encoder", "model.safetensors", "pre_layrnorm.weight"),
        ("text_encoder", "model.safetensors", "encoder.final_layer_norm.weight"),
    ],
)
def test_weights_with_a_tensor_missing(copy: Path, component: str, file: str, lost: str) -> None:
    path = copy / component / file
    tensors = load_file(path)
    del tensors[lost]
    save_file(tensors, path, metadata={"format": "pt"})

    with pytest.raises(Ex4dError, match=f"missing_keys: {lost}") as caught:
        load(copy, None)
    assert caught.value.code == "model_invalid"


@pytest.mark.parametrize("damaged", ["vae/config.json", "tokenizer/tokenizer.json", "scheduler/scheduler_config.json"])
def test_a_config_that_is_no_json(copy: Path, damaged: str) -> None:
    (copy / damaged).write_text("{", encoding="utf-8")

    with pytest.raises(Ex4dError, match=damaged.split("/")[0]) as caught:
        load(copy, None)
    assert caught.value.code == "model_invalid"


def test_a_model_index_cannot_name_code_to_run(copy: Path, tmp_path: Path) -> None:
    index = copy / "model_index.json"
    content = json.loads(index.read_text(encoding="utf-8"))
    (copy / "vae" / "evil.py").write_text(f"open({str(tmp_path / 'marker')!r}, 'w')\nclass Evil: pass\n")
    index.write_text(json.dumps({**content, "vae": ["evil", "Evil"]}), encoding="utf-8")

    load(copy, None)

    assert not (tmp_path / "marker").exists()


def test_no_memory_for_a_fast_lora_is_no_fault_of_its_file(
    model_folder: Path, adapter_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object, **__: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory.")

    monkeypatch.setattr(Ex4dPipeline, "load_lora_weights", full)
    fast = save_fast_lora_file(tmp_path / "fast.safetensors")
    with pytest.raises(Ex4dError, match="does not fit") as caught:
        load_pipeline(model_folder, adapter_file, dtype=torch.float32, device="cpu", reporter=Silent(), fast_lora=fast)
    assert caught.value.code == "out_of_memory"


def test_cancel_between_components(model_folder: Path) -> None:
    class Impatient(Recorder):
        def progress(self, stage: str, done: int, total: int) -> None:
            super().progress(stage, done, total)
            self.cancelled.set()

    reporter = Impatient()
    with pytest.raises(Cancelled):
        load_pipeline(model_folder, None, dtype=torch.float32, device="cpu", reporter=reporter)
    assert len(reporter.reports) == 1
