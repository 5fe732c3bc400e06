# SPDX-License-Identifier: GPL-3.0-or-later
"""tools/train_bundled.py takes the bundled model through all its stages, each starting where the last one ended."""

from __future__ import annotations

import functools
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from ex4d_engine.diffusion.folder_adapter import folder_adapter
from ex4d_engine.training import bundled_base, bundled_parts, clip_bank
from tests.unit.training.bundled_material import SHAPE, SIZES, small_clips
from tools import train_bundled


def small_source(seed, batch, frames, height, width, device, *, compiled=False):  # type: ignore[no-untyped-def]
    return small_clips(seed, batch, frames, height, width, device)


@pytest.fixture
def tool(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):  # type: ignore[no-untyped-def]
    monkeypatch.setattr("ex4d_engine.synthetic.random_clips", small_source)
    monkeypatch.setattr(clip_bank, "BankSettings", functools.partial(clip_bank.BankSettings, sizes=SIZES))
    monkeypatch.setattr(bundled_base, "TRANSFORMER_SHAPE", SHAPE)

    def run(*options: str) -> int:
        common = ["--device", "cpu", "--clip-frames", "6", "--first-clips", "8", "--most-clips", "8", "--batch", "2"]
        monkeypatch.setattr(sys, "argv", ["train_bundled.py", *common, "--frames", "5", *options])
        monkeypatch.chdir(tmp_path)
        return train_bundled.main()

    return run


def test_all_stages_one_after_the_other(tool, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:  # type: ignore[no-untyped-def]
    assert tool("--stage", "vae", "--out", "vae", "--steps", "2", "--clips", "kept clips") == 0
    assert tool("--stage", "base", "--out", "base", "--steps", "2", "--start", "vae", "--clips", "kept clips") == 0
    adapter = ("--stage", "adapter", "--out", "adapter", "--start", "base/model", "--rank", "4", "--workers", "0")
    assert tool(*adapter, "--steps", "1", "--masks", "tracking") == 0
    assert tool(*adapter, "--steps", "2", "--masks", "tracking", "--resume") == 0
    model = tmp_path / "adapter" / "model"
    assert folder_adapter(model) == model / "ex4d.safetensors"
    assert bundled_parts.has_transformer(model) and (model / "vae" / "config.json").is_file()
    said = capsys.readouterr().err
    assert "held-out loss" in said and "from step 1" in said


def test_a_codec_goes_on_from_its_model_files(tool, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    for learning_rate, out, start in ((1e-3, "first", ()), (1e-12, "more", ("--start", "first"))):
        rate = ("--learning-rate", str(learning_rate))
        assert tool("--stage", "vae", "--out", out, "--steps", "3", *rate, *start) == 0
    kept, more = (load_file(next((tmp_path / out / "vae").glob("*.safetensors"))) for out in ("first", "more"))
    assert all(torch.equal(value, more[name]) for name, value in kept.items())


def test_a_codec_is_not_trained_on_clips_of_several_lengths(tool, capsys: pytest.CaptureFixture[str]) -> None:  # type: ignore[no-untyped-def]
    assert tool("--stage", "vae", "--out", "vae", "--steps", "1", "--frames", "5", "9") == 1
    assert "one length" in capsys.readouterr().err


def test_a_stage_without_a_start_is_refused(tool, capsys: pytest.CaptureFixture[str]) -> None:  # type: ignore[no-untyped-def]
    assert tool("--stage", "base", "--out", "base", "--steps", "2") == 1
    assert "Give --start" in capsys.readouterr().err
