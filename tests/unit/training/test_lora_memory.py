# SPDX-License-Identifier: GPL-3.0-or-later
"""What training takes of a machine is known before it starts, and what cannot work is refused."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from ex4d_engine.diffusion.checkpoints import WAN_I2V_14B
from ex4d_engine.diffusion.transformer_size import TransformerSize, transformer_size
from ex4d_engine.errors import Ex4dError
from ex4d_engine.progress import Silent
from ex4d_engine.training import lora_memory
from ex4d_engine.training.lora_config import LoraTraining, parse_config
from ex4d_engine.training.lora_memory import check_machine, training_need_gib
from ex4d_engine.training.lora_training import train_lora
from tests.unit.training.lora_material import config

CPU, CARD = torch.device("cpu"), torch.device("cuda", 0)


@pytest.fixture
def large_folder(model_folder: Path, tmp_path: Path) -> Path:
    """A folder that says it is the 14B and has none of its weights."""
    folder = tmp_path / "wan 14B"
    for part in model_folder.iterdir():
        if part.is_dir():
            (folder / part.name).mkdir(parents=True)
            config = {**WAN_I2V_14B, "_class_name": "AutoencoderKLWan"} if part.name == "vae" else WAN_I2V_14B
            (folder / part.name / "config.json").write_text(json.dumps(config), encoding="utf-8")
            (folder / part.name / "weights.safetensors").write_bytes(b"")
    return folder


def training(**optimiser: Any) -> LoraTraining:
    return parse_config({"data": {"scenes": 9}, "optimiser": optimiser}, Path())


def test_what_the_14b_is_reckoned_to_need_follows_from_options_and_ranks(large_folder: Path) -> None:
    size = transformer_size(large_folder)
    # 49 frames of 512 × 512, one at a time, with checkpointing
    assert 42 < training_need_gib(training(), size, 1, 2) < 52
    assert training_need_gib(training(gradient_checkpointing=False), size, 1, 2) > 200
    assert training_need_gib(training(batch=8, micro_batch=8), size, 1, 2) > 80
    shared = [training_need_gib(training(), size, ranks, 2) for ranks in (1, 2, 4)]
    assert shared[0] > shared[1] + 13 > shared[2] + 20


def test_without_a_graphics_card_a_small_model_trains_and_the_large_one_does_not(
    model_folder: Path, large_folder: Path, tmp_path: Path
) -> None:
    assert check_machine(config(model_folder, tmp_path), model_folder, CPU, 1) < 3
    with pytest.raises(Ex4dError, match=r"16\.\d billion parameters: .* about 3\d GiB, and there is none") as caught:
        train_lora(config(large_folder, tmp_path), tmp_path / "out", Silent(), device="cpu")
    assert caught.value.code == "out_of_memory" and not (tmp_path / "out").exists()


def test_a_card_that_is_too_small_is_told_what_would_help(large_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda _: (24 * 2**30, 24 * 2**30))
    asked = training(batch=2, micro_batch=2, gradient_checkpointing=False)
    with pytest.raises(Ex4dError, match=r"which has 24\.0 GiB free") as caught:
        check_machine(asked, large_folder, CARD, 1)
    assert caught.value.code == "out_of_memory"
    assert caught.value.hint.startswith("Choose gradient_checkpointing, a smaller micro_batch")
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda _: (79 * 2**30, 80 * 2**30))
    assert 40 < check_machine(training(), large_folder, CARD, 1) < 60


def test_a_small_machine_is_told_too(model_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lora_memory.psutil, "virtual_memory", lambda: SimpleNamespace(available=2**20))
    with pytest.raises(Ex4dError, match=r"million parameters\) .* of cpu, which has 0\.0 GiB free"):
        check_machine(config(model_folder, tmp_path), model_folder, CPU, 1)


def test_the_estimate_follows_the_adapters_size() -> None:
    size = TransformerSize(16_000_000_000, 40, 5120, 40)
    small = parse_config({"data": {"scenes": 9}, "adapter": {"rank": 16}}, Path())
    large = parse_config({"data": {"scenes": 9}, "adapter": {"rank": 128, "alpha": 128}}, Path())
    more = training_need_gib(large, size, 1, 2) - training_need_gib(small, size, 1, 2)
    # seven times the 76.7 million values of rank 16, five copies of four bytes each
    assert more == pytest.approx(7 * 76.7e6 * 20 / 2**30, rel=0.05)
