# SPDX-License-Identifier: GPL-3.0-or-later
"""A whole training of the tiny model: it learns, stops when told, and goes on exactly where it was killed."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from filelock import FileLock
from safetensors.torch import load_file

from ex4d_engine.diffusion.loading import load_pipeline
from ex4d_engine.errors import Cancelled, Ex4dError
from ex4d_engine.progress import Silent
from ex4d_engine.training import lora_step, lora_trainer
from ex4d_engine.training.lora_checkpoint import checkpoint_files
from ex4d_engine.training.lora_config import Optimiser
from ex4d_engine.training.lora_step import rate_at
from ex4d_engine.training.lora_training import train_lora
from tests.conftest import REPOSITORY
from tests.unit.training.lora_material import BoxMasks, Watch, config, losses


def train(out: Path, cache: Path, training: Any, reporter: Silent | None = None, **options: Any) -> Path:
    return train_lora(training, out, reporter or Silent(), masks=BoxMasks(), device="cpu", cache=cache, **options)


def refuse(*_: Any) -> Any:
    raise AssertionError("nothing was to be masked")


def test_the_next_losses_after_a_kill_are_those_of_a_run_that_was_not_killed(
    model_folder: Path, clips: Path, cache: Path, tmp_path: Path
) -> None:
    training = config(model_folder, clips, optimiser={"steps": 16})
    file = tmp_path / "training ü.toml"
    file.write_text(training.printed(), encoding="utf-8")
    killed = tmp_path / "killed"
    answer = subprocess.run(
        [sys.executable, "-m", "tests.unit.training.lora_material", str(file), str(killed), "6"],
        cwd=REPOSITORY,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        timeout=300,
        check=False,
    )
    assert answer.returncode in (-9, 9), answer.stderr.decode("utf-8", "replace")[-2000:]
    assert len(losses(killed)) == 6 and not (killed / "adapter.safetensors").exists()
    assert [path.name for path in checkpoint_files(killed)] == ["step_00000004.safetensors"]

    watch = Watch()
    resumed = train_lora(training, killed, watch, masks=BoxMasks(), device="cpu", resume=True)
    assert "Going on from step 4 of 16." in watch.lines
    whole = train(tmp_path / "whole", cache, training)
    assert losses(killed) == losses(tmp_path / "whole") and len(losses(killed)) == 16
    one, other = load_file(whole), load_file(resumed)
    assert one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def test_a_cancel_keeps_every_step(model_folder: Path, clips: Path, cache: Path, tmp_path: Path) -> None:
    training = config(model_folder, clips)
    with pytest.raises(Cancelled):
        train(tmp_path / "a", cache, training, Watch(cancel_at=3))
    assert [path.name for path in checkpoint_files(tmp_path / "a")] == ["step_00000003.safetensors"]
    train(tmp_path / "a", cache, training, resume=True)
    train(tmp_path / "b", cache, training)
    assert losses(tmp_path / "a") == losses(tmp_path / "b")


def test_it_learns_and_what_it_made_is_what_the_pipeline_then_does(
    model_folder: Path, clips: Path, cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    networks = []
    load = lora_trainer.load_network

    def kept(*arguments: Any) -> Any:
        networks.append(load(*arguments))
        return networks[-1]

    monkeypatch.setattr(lora_trainer, "load_network", kept)
    training = config(
        model_folder,
        clips,
        adapter={"rank": 3, "alpha": 6, "targets": ["to_q", "to_v", "ffn.net.2"]},
        optimiser={"steps": 16, "batch": 4, "micro_batch": 2, "average_kept": 0.0},
        run={"validate_every": 2, "validation_steps": 1},
    )
    watch = Watch()
    adapter = train(tmp_path / "out ü", cache, training, watch)
    lines = [json.loads(line) for line in (tmp_path / "out ü" / "losses.jsonl").read_text("utf-8").splitlines()]
    validation = [line["validation_loss"] for line in lines if "validation_loss" in line]
    assert validation[-1] < 0.93 * validation[0]
    assert [path.name for path in watch.previews] == [f"step_{step:08}_clip_0.mp4" for step in range(2, 17, 2)]

    (network,) = networks
    stock = load_file(next((model_folder / "transformer").glob("*.safetensors")))
    now = network.transformer.state_dict()
    frozen = {name: now.get(name, now.get(name.replace(".weight", ".base_layer.weight"))) for name in stock}
    frozen |= {n: now[n.replace(".bias", ".base_layer.bias")] for n, value in frozen.items() if value is None}
    assert all(torch.equal(frozen[name], value) for name, value in stock.items()), "the base stays as it is"

    pipeline = load_pipeline(model_folder, adapter, dtype=torch.float32, device="cpu", reporter=Silent())
    latents, colour, mask = (torch.randn(1, 16, 3, 4, 6) for _ in range(3))
    condition, text, image = torch.randn(1, 20, 3, 4, 6), torch.randn(1, 512, 24), torch.randn(1, 257, 32)
    with torch.no_grad():
        rays = pipeline.camera_encoder(colour, mask)
        wanted = network(latents, torch.tensor([700.0]), condition, image, text, colour, mask)
        found = pipeline.predict_velocity(latents, condition, torch.tensor(700.0), (text, None), image, rays)
        plain = pipeline.predict_velocity(latents, condition, torch.tensor(700.0), (text, None), image, None)
    torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-5)
    assert not torch.allclose(found, plain, atol=1e-2)


def test_the_average_is_exported_and_settings_that_save_memory_change_nothing(
    model_folder: Path, clips: Path, cache: Path, tmp_path: Path
) -> None:
    made = {
        name: load_file(train(tmp_path / name, cache, config(model_folder, clips, optimiser={"batch": 4, **changes})))
        for name, changes in {
            "one by one": {"average_kept": 0.0},
            "at once": {"average_kept": 0.0, "micro_batch": 4},
            "remembered": {"average_kept": 0.0, "gradient_checkpointing": False},
            "averaged": {},
        }.items()
    }
    first = torch.tensor(losses(tmp_path / "one by one"))
    for other in ("at once", "remembered", "averaged"):
        torch.testing.assert_close(torch.tensor(losses(tmp_path / other)), first, rtol=1e-3, atol=1e-4)
    name = "latent_patch_embedding.weight"
    assert made["one by one"][name].norm() > 1.02 * made["averaged"][name].norm() > 0


def test_a_second_run_needs_another_folder_or_the_same_settings(
    model_folder: Path, clips: Path, cache: Path, tmp_path: Path
) -> None:
    training = config(model_folder, clips, optimiser={"steps": 1})
    with pytest.raises(Ex4dError, match="no checkpoint") as caught:
        train(tmp_path, cache, training, resume=True)
    assert caught.value.code == "no_such_file"
    train(tmp_path, cache, training)
    with pytest.raises(Ex4dError, match="--resume") as caught:
        train(tmp_path, cache, training)
    assert caught.value.code == "bad_request"
    other = config(model_folder, clips, optimiser={"steps": 1, "learning_rate": 0.5}, adapter={"rank": 4})
    with pytest.raises(Ex4dError, match=r"optimiser.learning_rate was 0.01 and is 0.5 now"):
        train(tmp_path, cache, other, resume=True)
    assert "learning_rate = 0.01" in (tmp_path / "config.toml").read_text("utf-8")
    # settings are compared before anything is encoded, data after
    masked = config(model_folder, clips, optimiser={"steps": 1}, data={"masks_per_clip": 3})
    with pytest.raises(Ex4dError, match=r"data.masks_per_clip was 2 and is 3 now"):
        train_lora(masked, tmp_path, Silent(), masks=refuse, device="cpu", resume=True)  # type: ignore[arg-type]
    fewer = shutil.copytree(clips, tmp_path / "clips")
    next(fewer.iterdir()).unlink()
    with pytest.raises(Ex4dError, match="another configuration: data was"):
        train(tmp_path, cache, config(model_folder, fewer, optimiser={"steps": 1}), resume=True)
    again = train(tmp_path, cache, training, resume=True)
    assert again.is_file(), "a finished run only exports again"


def test_one_run_at_a_time_trains_in_a_folder(model_folder: Path, clips: Path, cache: Path, tmp_path: Path) -> None:
    held = FileLock(tmp_path / ".lock")
    with held, pytest.raises(Ex4dError, match="Another run is training in") as caught:
        train(tmp_path, cache, config(model_folder, clips))
    assert caught.value.code == "model_busy" and not checkpoint_files(tmp_path)


def test_an_adapter_can_be_trained_further(model_folder: Path, clips: Path, cache: Path, tmp_path: Path) -> None:
    first = train(tmp_path / "first", cache, config(model_folder, clips, optimiser={"steps": 2}))
    start = {"start_from": str(first), "folder": str(model_folder)}
    nothing = {"steps": 1, "learning_rate": 1e-9, "weight_decay": 0.0}
    second = train(tmp_path / "second", cache, config(model_folder, clips, model=start, optimiser=nothing))
    one, other = load_file(first), load_file(second)
    assert one.keys() == other.keys()
    for name in one:
        torch.testing.assert_close(one[name], other[name], rtol=0, atol=1e-6)
    with pytest.raises(Ex4dError, match=r"has rank 4.*wants rank 2") as caught:
        train(tmp_path / "third", cache, config(model_folder, clips, model=start, adapter={"rank": 2, "alpha": 2}))
    assert caught.value.code == "bad_request"


def test_a_step_without_a_finite_gradient_changes_nothing_and_many_end_the_run(
    model_folder: Path, clips: Path, cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    error = lora_step.velocity_error
    monkeypatch.setattr(lora_step, "velocity_error", lambda *a: error(*a) * float("nan"))
    training = config(model_folder, clips, optimiser={"steps": 30}, run={"checkpoint_every": 1})
    with pytest.raises(Ex4dError, match="diverged: 11 steps") as caught:
        train(tmp_path, cache, training)
    assert caught.value.code == "internal"
    tensors = load_file(checkpoint_files(tmp_path)[0])
    assert all(value.isfinite().all() for value in tensors.values())
    assert not any(name.startswith("first_moment.") for name in tensors)


def test_the_rate_rises_and_falls() -> None:
    cosine = Optimiser(steps=110, warm_up_steps=10, learning_rate=2.0)
    rates = [rate_at(cosine, step) for step in range(110)]
    assert rates[:10] == pytest.approx([0.2 * step for step in range(1, 11)])
    assert rates[10] == 2.0 and rates[60] == pytest.approx(1.0) and 0 < rates[109] < 0.001
    constant = Optimiser(steps=110, warm_up_steps=0, learning_rate=2.0, schedule="constant")
    assert {rate_at(constant, step) for step in range(110)} == {2.0}
