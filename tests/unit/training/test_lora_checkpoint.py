# SPDX-License-Identifier: GPL-3.0-or-later
"""Checkpoints: complete or not there, the newest that can be read, and never of another run."""

from __future__ import annotations

import errno
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import SafetensorError
from torch import nn

from ex4d_engine import tensor_saving
from ex4d_engine.errors import Ex4dError
from ex4d_engine.tensor_saving import save_tensors
from ex4d_engine.training.lora_checkpoint import LoraRun, checkpoint_files, load_newest, save_checkpoint

IDENTITY = {"adapter.rank": 4, "data": "abc", "optimiser.learning_rate": 0.1}


def new_run(seed: int = 0, average: bool = True) -> LoraRun:
    generator = torch.Generator().manual_seed(seed)
    parameters = {name: nn.Parameter(torch.randn(3, 2, generator=generator)) for name in ("a.lora_A", "a.lora_B")}
    averages = {name: value.detach().clone() for name, value in parameters.items()} if average else {}
    return LoraRun(parameters, torch.optim.AdamW(list(parameters.values()), lr=0.1), averages)


def advance(run: LoraRun, steps: int = 1) -> None:
    for _ in range(steps):
        run.optimizer.zero_grad()
        loss = sum((parameter**2).sum() * (run.step + 1) for parameter in run.parameters.values())
        assert isinstance(loss, torch.Tensor)
        loss.backward()
        run.optimizer.step()
        for name, average in run.average.items():
            average.lerp_(run.parameters[name].detach(), 0.5)
        run.step += 1
        run.updates += 1


def same(one: LoraRun, other: LoraRun) -> bool:
    return (one.step, one.updates) == (other.step, other.updates) and all(
        torch.equal(one.parameters[name], other.parameters[name])
        and (not one.average or torch.equal(one.average[name], other.average[name]))
        for name in one.parameters
    )


@pytest.mark.parametrize("average", [True, False])
@pytest.mark.parametrize("steps", [0, 3])
def test_a_run_that_was_kept_goes_on_as_if_it_had_not_stopped(tmp_path: Path, steps: int, average: bool) -> None:
    run = new_run(average=average)
    advance(run, steps)
    run.seconds = 12.5
    save_checkpoint(tmp_path, run, IDENTITY, 2, writes=True)
    resumed = new_run(seed=9, average=average)
    assert load_newest(tmp_path, resumed, IDENTITY) == []
    assert same(run, resumed) and resumed.seconds == 12.5
    advance(run, 3)
    advance(resumed, 3)
    assert same(run, resumed)


def test_the_newest_are_kept(tmp_path: Path) -> None:
    run = new_run()
    for _ in range(4):
        advance(run)
        save_checkpoint(tmp_path, run, IDENTITY, 2, writes=True)
    assert [path.name for path in checkpoint_files(tmp_path)] == [
        "step_00000004.safetensors",
        "step_00000003.safetensors",
    ]
    assert len(list((tmp_path / "checkpoints").iterdir())) == 2


def test_a_rank_that_does_not_write_writes_nothing(tmp_path: Path) -> None:
    save_checkpoint(tmp_path, new_run(), IDENTITY, 2, writes=False)
    assert list(tmp_path.iterdir()) == []


def test_another_run_is_refused_with_the_difference(tmp_path: Path) -> None:
    save_checkpoint(tmp_path, new_run(), IDENTITY, 2, writes=True)
    run = new_run(seed=5)
    before = {name: value.detach().clone() for name, value in run.parameters.items()}
    with pytest.raises(Ex4dError) as caught:
        load_newest(tmp_path, run, {**IDENTITY, "adapter.rank": 8, "new.setting": True})
    assert caught.value.code == "bad_request"
    assert "adapter.rank was 4 and is 8 now; new.setting was None and is True now" in caught.value.message
    assert all(torch.equal(before[name], value) for name, value in run.parameters.items())


def test_a_damaged_checkpoint_is_passed_over(tmp_path: Path) -> None:
    run = new_run()
    for _ in range(2):
        advance(run)
        save_checkpoint(tmp_path, run, IDENTITY, 2, writes=True)
    newest = checkpoint_files(tmp_path)[0]
    newest.write_bytes(newest.read_bytes()[:-5])
    resumed = new_run()
    assert load_newest(tmp_path, resumed, IDENTITY) == [newest.name]
    assert resumed.step == 1
    for path in checkpoint_files(tmp_path):
        path.write_bytes(b"torn")
    with pytest.raises(Ex4dError, match="None of the 2 checkpoints") as caught:
        load_newest(tmp_path, new_run(), IDENTITY)
    assert caught.value.code == "model_invalid"
    shutil.rmtree(tmp_path / "checkpoints")
    with pytest.raises(Ex4dError) as caught:
        load_newest(tmp_path, new_run(), IDENTITY)
    assert caught.value.code == "no_such_file"


def test_a_full_disk_leaves_the_last_good_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = new_run()
    advance(run)
    save_checkpoint(tmp_path, run, IDENTITY, 1, writes=True)
    good = checkpoint_files(tmp_path)[0].read_bytes()

    def half_written(tensors: Any, path: Path, header: Any) -> None:
        Path(path).write_bytes(b"half")
        raise SafetensorError(f"Error while serializing: I/O error: No space left on device (os error {errno.ENOSPC})")

    monkeypatch.setattr(tensor_saving, "save_file", half_written)
    advance(run)
    with pytest.raises(Ex4dError) as caught:
        save_checkpoint(tmp_path, run, IDENTITY, 1, writes=True)
    assert caught.value.code == "disk_full"
    assert [path.read_bytes() for path in (tmp_path / "checkpoints").iterdir()] == [good]
    resumed = new_run()
    load_newest(tmp_path, resumed, IDENTITY)
    assert resumed.step == 1


def test_the_library_tells_a_systems_error_as_expected(tmp_path: Path) -> None:
    # the number in its words is what `save_tensors` goes by
    with pytest.raises(Ex4dError) as caught:
        save_tensors(tmp_path / "none" / "file.safetensors", {"a": torch.zeros(1)})
    assert caught.value.code == "no_such_file"
