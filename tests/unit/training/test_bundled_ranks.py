# SPDX-License-Identifier: GPL-3.0-or-later
"""Several cards train one network: as one card with all their clips would, and by one clock."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import torch.distributed as dist

from ex4d_engine.diffusion.loading import folder_adapter
from ex4d_engine.diffusion.parallel_launch import run_parallel
from ex4d_engine.diffusion.ranks import ParallelJob, Ranks
from ex4d_engine.errors import Ex4dError
from ex4d_engine.progress import Silent
from ex4d_engine.training.bank_masks import BankMasks
from ex4d_engine.training.bundled_base import BaseSettings
from ex4d_engine.training.bundled_launch import BundledJob, train_bundled
from ex4d_engine.training.bundled_parts import load_transformer
from ex4d_engine.training.bundled_run import BundledTraining
from tests.unit.training.bundled_material import ADAPTER, CPU, SHAPE, save_codec, small_bank, small_clips
from tests.unit.training.rank_jobs import fit_line

pytestmark = pytest.mark.skipif(not dist.is_available(), reason="this PyTorch has no torch.distributed")


def on_two(name: str, **arguments: object) -> object:
    return run_parallel(ParallelJob(f"tests.unit.training.rank_jobs:{name}", arguments), 2, "cpu", Silent())


def test_two_ranks_train_as_one_with_all_their_clips(tmp_path: Path) -> None:
    alone = fit_line(Ranks(0, 1, CPU, Silent()), tmp_path / "one", 5)
    together = on_two("fit_line", out=tmp_path / "two", steps=5)
    assert isinstance(together, dict)
    for name, value in alone.items():
        torch.testing.assert_close(together[name], value, rtol=0, atol=1e-6, msg=name)
    # and go on together, or alone, from the checkpoint of the first
    further = fit_line(Ranks(0, 1, CPU, Silent()), tmp_path / "one", 7, resume=True)
    more = on_two("fit_line", out=tmp_path / "two", steps=7, resume=True)
    assert isinstance(more, dict)
    for name, value in further.items():
        torch.testing.assert_close(more[name], value, rtol=0, atol=1e-6, msg=name)


def test_all_ranks_are_told_the_first_ones_time() -> None:
    assert on_two("told_time") == [10.0, 10.0]


def test_both_stages_run_on_two_ranks_with_mask_drawers_of_their_own(tmp_path: Path) -> None:
    lines: list[str] = []

    class Watch(Silent):
        def log(self, message: str) -> None:
            lines.append(message)

    def job(stage: str, start: Path) -> BundledJob:
        training = BundledTraining(tmp_path / stage, CPU, steps=2, batch=2, frames=(5,), log_s=0.0)
        return BundledJob(
            stage,  # type: ignore[arg-type]
            training,
            small_bank(),
            small_clips,
            start,
            BaseSettings(shape=SHAPE),
            ADAPTER,
            BankMasks("tracking", frames=5, per_clip=1),
            workers=2,
            draw_device="same",
        )

    (base,) = train_bundled(job("base", save_codec(tmp_path / "start")), 2, Watch())
    (model,) = train_bundled(job("adapter", base), 2, Watch())
    load_transformer(model)
    assert folder_adapter(model) is not None
    assert "on 2 × cpu, 2 clips a step" in "".join(lines)


def test_several_cards_draw_on_their_own(tmp_path: Path) -> None:
    training = BundledTraining(tmp_path, CPU, steps=1)
    with pytest.raises(Ex4dError, match="cannot all draw on cuda:1"):
        train_bundled(
            BundledJob("base", training, small_bank(), small_clips, tmp_path, draw_device="cuda:1"), 2, Silent()
        )
