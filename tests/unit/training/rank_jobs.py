# SPDX-License-Identifier: GPL-3.0-or-later
"""What the ranks of test_bundled_ranks.py do; imported by them."""

from __future__ import annotations

import copy
import hashlib
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from ex4d_engine.diffusion.ranks import Ranks
from ex4d_engine.training.bundled_run import BundledTraining, new_state, train_stage
from tests.unit.training.bundled_material import CPU, small_bank, small_clips

ROWS = 8


class Line:
    """A stage that fits a small network to a few points, of which each rank sees its share."""

    def __init__(self, settings: BundledTraining) -> None:
        torch.manual_seed(0)
        network = nn.Sequential(nn.Linear(3, 8), nn.Tanh(), nn.Linear(8, 2))
        self._settings = settings
        self.run = new_state(network, copy.deepcopy(network), settings)

    def identity(self) -> dict[str, Any]:
        return {}

    def material(self, step: int, frames: int) -> tuple[Tensor, Tensor]:
        generator = torch.Generator().manual_seed(step)
        rows, batch = torch.randn(ROWS, 3, generator=generator), self._settings.batch
        mine = rows[self._settings.rank * batch :][:batch]
        return mine, mine.roll(1, 1)[:, :2]

    def loss(self, step: int, material: tuple[Tensor, Tensor]) -> Tensor:
        given, wanted = material
        loss: Tensor = (self.run.network(given) - wanted).square().mean()
        return loss

    def save_model(self) -> list[Path]:
        return []

    def held_out(self) -> float:
        return 0.0

    def write_sheet(self) -> Path:
        return self._settings.out


def fit_line(ranks: Ranks, out: Path, steps: int, resume: bool = False) -> dict[str, Tensor]:
    """The weights of a line fitted by all ranks, each with its share of the points."""
    from ex4d_engine.training.clip_bank import ClipBank

    settings = BundledTraining(
        out,
        CPU,
        steps=steps,
        batch=ROWS // ranks.world_size,
        learning_rate=1e-2,
        rank=ranks.rank,
        world_size=ranks.world_size,
        log_s=0.0,
        checkpoint_s=0.0,
    )
    stage = Line(settings)
    train_stage(settings, stage, ClipBank(small_bank(), small_clips, CPU), ranks.reporter, resume=resume)
    weights = {name: value.detach() for name, value in stage.run.network.state_dict().items()}
    if ranks.world_size > 1:
        digests: list[Any] = [None] * ranks.world_size
        mine = b"".join(value.numpy().tobytes() for value in weights.values())
        dist.all_gather_object(digests, hashlib.sha256(mine).hexdigest())
        assert len(set(digests)) == 1, "the ranks' weights differ"
    return weights


def stop_and_go_on(ranks: Ranks, out: Path) -> tuple[dict[str, Tensor], dict[str, Tensor], list[Any]]:
    """The weights after five steps, after two more, and what time the ranks are told."""
    from ex4d_engine.training.bundled_ranks import shared_clock

    five, seven = fit_line(ranks, out, 5), fit_line(ranks, out, 7, resume=True)
    told: list[Any] = [10.0]
    if ranks.world_size > 1:
        clock = shared_clock(lambda: 10.0 + ranks.rank, ranks.world_size)
        told = [None] * ranks.world_size
        dist.all_gather_object(told, clock())
    return five, seven, told
