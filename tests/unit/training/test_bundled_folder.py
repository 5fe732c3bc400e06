# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from ex4d_engine.diffusion.bundled_codec import BundledCodec
from ex4d_engine.diffusion.transformer import Ex4dTransformer3DModel
from ex4d_engine.errors import Ex4dError
from ex4d_engine.training.bundled_folder import write_bundled_folder
from tests import tiny_model

PROMPT = torch.zeros(1, 1, 8)


def parts() -> tuple[BundledCodec, Ex4dTransformer3DModel]:
    torch.manual_seed(0)
    codec = BundledCodec(encoder_widths=(4, 4, 8), decoder_widths=(8, 4, 4), decoder_blocks=1)
    return codec, Ex4dTransformer3DModel(**tiny_model.BUNDLED_TRANSFORMER)


def test_weights_are_halves_but_for_those_that_stay_exact(tmp_path: Path) -> None:
    codec, transformer = parts()
    kept = transformer.scale_shift_table.detach().clone()
    write_bundled_folder(tmp_path / "Ünï 作業", codec, transformer, None, PROMPT)
    tensors = load_file(tmp_path / "Ünï 作業" / "transformer" / "diffusion_pytorch_model.safetensors")
    assert tensors["blocks.0.attn1.to_q.weight"].dtype == torch.float16
    assert torch.equal(tensors["scale_shift_table"], kept)
    tensors = load_file(tmp_path / "Ünï 作業" / "vae" / "diffusion_pytorch_model.safetensors")
    assert {value.dtype for value in tensors.values()} == {torch.float16}
    assert not (tmp_path / "Ünï 作業" / "ex4d.safetensors").exists()


def test_a_folder_with_something_in_it_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine", encoding="utf-8")
    with pytest.raises(Ex4dError) as caught:
        write_bundled_folder(tmp_path, *parts(), None, PROMPT)
    assert caught.value.code == "bad_request" and [path.name for path in tmp_path.iterdir()] == ["notes.txt"]


@pytest.mark.parametrize("value", [float("nan"), 1e6])
def test_numbers_that_half_precision_does_not_hold_are_named(tmp_path: Path, value: float) -> None:
    codec, transformer = parts()
    transformer.proj_out.bias.data[0] = value
    with pytest.raises(Ex4dError, match=r"proj_out\.bias of the transformer") as caught:
        write_bundled_folder(tmp_path / "model", codec, transformer, None, PROMPT)
    assert caught.value.code == "model_invalid"
    assert not (tmp_path / "model" / "model_index.json").exists(), "so nothing takes it for a model"


def test_what_is_written_does_not_say_where_it_was_read(tmp_path: Path) -> None:
    """The first weights that were shipped named a folder of the machine they were put together on."""
    write_bundled_folder(tmp_path / "one", *parts(), None, PROMPT)
    read = [
        kind.from_pretrained(tmp_path / "one" / name)
        for kind, name in ((BundledCodec, "vae"), (Ex4dTransformer3DModel, "transformer"))
    ]
    write_bundled_folder(tmp_path / "two", *read, None, PROMPT)
    for name in ("vae", "transformer"):
        assert str(tmp_path) not in (tmp_path / "two" / name / "config.json").read_text(encoding="utf-8"), name
