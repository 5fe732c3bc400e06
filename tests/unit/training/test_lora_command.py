# SPDX-License-Identifier: GPL-3.0-or-later
"""`ex4d train lora` from its file to an adapter that a preset finds by name, with the project's own masks."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path

import numpy as np
import pytest
import torch

from ex4d_engine import cli
from ex4d_engine.diffusion.loading import load_pipeline
from ex4d_engine.errors import Ex4dError
from ex4d_engine.progress import Silent, Terminal
from ex4d_engine.stages.diffusion_presets import preset_models
from ex4d_engine.stages.generate_options import GenerateOptions
from ex4d_engine.training.commands import stopped_by_signals
from ex4d_engine.training.lora_checkpoint import checkpoint_files
from ex4d_engine.training.lora_config import MaskMix
from ex4d_engine.training.lora_masks import MixedMasks, mask_settings
from tests.unit.training.lora_material import HEIGHT, WIDTH, config, picture

TRACKING_ONLY = {"rendering": 0, "both": 0, "none": 0, "tracking": 1, "least_erosion": 2, "most_erosion": 3}


def test_an_adapter_of_ones_own_by_name(
    model_folder: Path, clips: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("EX4D_MODELS", str(tmp_path / "models"))
    file = tmp_path / "mein Training ü.toml"
    file.write_text(
        config(model_folder, clips, masks=TRACKING_ONLY, optimiser={"steps": 2}).printed(), encoding="utf-8"
    )
    arguments = ["train", "lora", "--config", str(file), "--out", str(tmp_path / "out"), "--device", "cpu"]
    assert cli.main([*arguments, "--name", "my-look"]) == 0
    said = capsys.readouterr()
    result = json.loads(said.out.splitlines()[-1])
    assert result["name"] == "my-look" and Path(result["adapter"]).is_file()
    assert "learning_rate = 0.01" in said.err and "targets = [" in said.err

    options = GenerateOptions(model=str(model_folder), adapter="my-look")
    models = preset_models("final", options)
    assert models.adapter == Path(result["adapter"])
    pipeline = load_pipeline(models.folder, models.adapter, dtype=torch.float32, device="cpu", reporter=Silent())
    assert pipeline.camera_encoder.config.hidden_channels == 20

    assert cli.main(arguments) == 1
    assert "--resume" in capsys.readouterr().err
    file.write_text(
        config(model_folder, clips, masks=TRACKING_ONLY, optimiser={"steps": 3}).printed(), encoding="utf-8"
    )
    assert cli.main([*arguments, "--resume"]) == 1
    assert "optimiser.steps was 2 and is 3 now" in capsys.readouterr().err


def test_what_is_wrong_is_said_before_anything_is_made(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "t.toml"
    file.write_text("[data]\nscenes = 0\n", encoding="utf-8")
    arguments = ["train", "lora", "--config", str(file), "--out", str(tmp_path / "out")]
    assert cli.main(arguments) == 1
    assert "data.clips and data.scenes are alternatives" in capsys.readouterr().err
    assert cli.main([*arguments, "--name", "../x"]) == 1
    assert "no name for an adapter" in capsys.readouterr().err
    file.write_text('[data]\nclips = "none"\n[model]\nname = "no-such"\n', encoding="utf-8")
    assert cli.main(arguments) == 1
    assert "no-such" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


@pytest.mark.skipif(os.name != "posix", reason="Windows sends no signals to one process alone")
def test_a_signal_cancels_once(model_folder: Path) -> None:
    reporter = Terminal()
    # what a shell starts in the background begins with the signal ignored
    found = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with stopped_by_signals(reporter):
            os.kill(os.getpid(), signal.SIGINT)
            assert reporter.cancelled.is_set()
            with pytest.raises(KeyboardInterrupt):
                os.kill(os.getpid(), signal.SIGINT)
        assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    finally:
        signal.signal(signal.SIGINT, found)
    assert checkpoint_files(model_folder) == []


def test_masks_are_as_the_configuration_mixes_them() -> None:
    frames = np.stack([picture(number, 0) for number in range(9)])
    depth = np.full((9, HEIGHT, WIDTH), 4.0, np.float32)
    intrinsics = np.repeat(np.array([[[40.0, 0, WIDTH / 2], [0, 40.0, HEIGHT / 2], [0, 0, 1]]]), 9, axis=0)

    def drawn(mix: MaskMix, seed: int) -> np.ndarray:
        return MixedMasks(mix)(frames, depth, intrinsics, seed)

    nothing = MaskMix(rendering=0, tracking=0, both=0, none=1)
    assert (drawn(nothing, 3) == 255).all()
    holes = MaskMix(**TRACKING_ONLY)  # type: ignore[arg-type]
    mask = drawn(holes, 3)
    assert mask.shape == (9, HEIGHT, WIDTH) and set(np.unique(mask)) == {0, 255}
    assert (mask == drawn(holes, 3)).all() and not (mask == drawn(holes, 4)).all()
    assert MixedMasks(holes).version != MixedMasks(nothing).version
    assert mask_settings(MaskMix(most_orbit_deg=30)).paths.orbit_deg == (5.0, 30.0)
    with pytest.raises(Ex4dError):
        mask_settings(MaskMix(rendering=0, tracking=0, both=0, none=0))
