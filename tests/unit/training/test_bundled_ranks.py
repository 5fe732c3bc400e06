# SPDX-License-Identifier: GPL-3.0-or-later
"""Several cards train one network: as one card with all their clips would, and by one clock."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
import torch
import torch.distributed as dist

from ex4d_engine.diffusion.folder_adapter import folder_adapter
from ex4d_engine.diffusion.parallel_launch import run_parallel
from ex4d_engine.diffusion.ranks import ParallelJob, Ranks
from ex4d_engine.errors import Ex4dError
from ex4d_engine.progress import Silent
from ex4d_engine.training.bank_masks import BankMasks
from ex4d_engine.training.bundled_launch import BundledJob, train_bundled
from ex4d_engine.training.bundled_parts import load_transformer, new_transformer
from ex4d_engine.training.bundled_run import BundledTraining
from tests.unit.training.bundled_material import ADAPTER, CPU, SHAPE, save_codec, small_bank, small_clips, small_codec
from tests.unit.training.rank_jobs import stop_and_go_on

pytestmark = pytest.mark.skipif(not dist.is_available(), reason="this PyTorch has no torch.distributed")


def test_two_ranks_train_as_one_with_all_their_clips(tmp_path: Path) -> None:
    """Also from a checkpoint on; and both are told the first one's time."""
    *alone, _ = stop_and_go_on(Ranks(0, 1, CPU, Silent()), tmp_path / "one")
    job = ParallelJob("tests.unit.training.rank_jobs:stop_and_go_on", {"out": tmp_path / "two"})
    *together, told = run_parallel(job, 2, "cpu", Silent())
    for one, two in zip(alone, together, strict=True):
        for name, value in one.items():
            torch.testing.assert_close(two[name], value, rtol=0, atol=1e-6, msg=name)
    assert told == [10.0, 10.0]


def test_a_stage_runs_on_two_ranks_with_mask_drawers_of_their_own(tmp_path: Path) -> None:
    lines: list[str] = []

    class Watch(Silent):
        def log(self, message: str) -> None:
            lines.append(message)

    start = save_codec(tmp_path / "start")
    new_transformer(small_codec(), SHAPE, 0).save_pretrained(start / "transformer")
    training = BundledTraining(tmp_path / "run", CPU, steps=2, batch=2, frames=(5,), log_s=0.0)
    job = BundledJob(
        "adapter",
        training,
        small_bank(),
        small_clips,
        start,
        shape=ADAPTER,
        masks=BankMasks("tracking", frames=5, per_clip=1),
        workers=2,
        draw_device="same",
    )
    (model,) = train_bundled(job, 2, Watch())
    load_transformer(model)
    assert folder_adapter(model) is not None
    assert "on 2 × cpu, 2 clips a step" in "".join(lines)
    # each rank's bank has a seed of its own, and the checkpoint is the first one's
    more = dataclasses.replace(job, training=dataclasses.replace(training, steps=3), resume=True)
    train_bundled(more, 2, Watch())
    assert "from step 2" in "".join(lines)


def test_several_cards_draw_on_their_own(tmp_path: Path) -> None:
    training = BundledTraining(tmp_path, CPU, steps=1)
    with pytest.raises(Ex4dError, match="cannot all draw on cuda:1"):
        train_bundled(
            BundledJob("base", training, small_bank(), small_clips, tmp_path, draw_device="cuda:1"), 2, Silent()
        )
