# SPDX-License-Identifier: GPL-3.0-or-later
"""The same training on one rank and sharded over two: the same losses, the same adapter, the same checkpoints."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from safetensors.torch import load_file

from ex4d_engine.errors import Ex4dError
from ex4d_engine.progress import Silent
from ex4d_engine.training.lora_training import train_lora
from tests.unit.training.lora_material import BoxMasks, Watch, config, losses

pytestmark = pytest.mark.skipif(not dist.is_available(), reason="this PyTorch has no torch.distributed")


def share_apart(one: dict[str, torch.Tensor], two: dict[str, torch.Tensor], tolerance: float) -> float:
    """The share of all numbers that differ by more than `tolerance`.

    Not the largest difference: where a gradient is nothing but the rounding of a sum, its sign follows the order of the
    sum, and AdamW goes a whole step in that direction all the same.
    """
    assert one.keys() == two.keys()
    differences = torch.cat([(two[name] - value).abs().flatten() for name, value in one.items()])
    return float((differences > tolerance).double().mean())


def test_two_ranks_train_as_one(model_folder: Path, clips: Path, cache: Path, tmp_path: Path) -> None:
    training = config(
        model_folder,
        clips,
        optimiser={"steps": 4, "batch": 4, "learning_rate": 1e-3},
        run={"checkpoint_every": 2, "validate_every": 2, "validation_steps": 1},
    )
    watch = Watch()
    one = train_lora(training, tmp_path / "one", Silent(), masks=BoxMasks(), device="cpu", cache=cache)
    two = train_lora(training, tmp_path / "two", watch, masks=BoxMasks(), device="cpu", gpus=2, cache=cache)

    assert "2 × cpu" in "".join(watch.lines) and "2 micro-batches a step each" in "".join(watch.lines)
    assert len(watch.previews) == 2 and watch.previews[0].is_file()
    assert len(losses(tmp_path / "two")) == 4
    torch.testing.assert_close(losses(tmp_path / "two"), losses(tmp_path / "one"), rtol=0, atol=1e-5)
    apart = share_apart(load_file(one), load_file(two), 2e-5)
    assert apart < 0.01, f"{apart:.2%} of the adapter"

    # what two ranks kept is whole: one goes on with it
    (tmp_path / "two" / "checkpoints" / "step_00000004.safetensors").unlink()
    train_lora(training, tmp_path / "two", Silent(), masks=BoxMasks(), device="cpu", cache=cache, resume=True)
    torch.testing.assert_close(losses(tmp_path / "two"), losses(tmp_path / "one"), rtol=0, atol=1e-5)


def test_a_batch_that_does_not_divide_is_refused(model_folder: Path, clips: Path, tmp_path: Path) -> None:
    training = config(model_folder, clips, optimiser={"batch": 3})
    with pytest.raises(Ex4dError, match="A batch of 3 in micro-batches of 1 does not divide among 2") as caught:
        train_lora(training, tmp_path, Silent(), masks=BoxMasks(), device="cpu", gpus=2)
    assert caught.value.code == "bad_request"
