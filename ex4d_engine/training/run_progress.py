# SPDX-License-Identifier: GPL-3.0-or-later
"""How far a run has come, and what follows from it: its learning rate, and how fast the averaged weights follow.

A run ends in the time given whatever the machine, or after a number of steps. Resumed, it is as far as it was.
"""

from __future__ import annotations

import math
from typing import Final

import torch
from torch import Tensor, nn

from ..errors import Ex4dError
from .checkpoint import RunState

_WARM_UP: Final = 0.02  # of the run
_AVERAGE_KEPT: Final = 0.999  # of the averaged weights, a step


def check_end(minutes: float | None, steps: int | None, *counts: int) -> None:
    """Raises `bad_request` unless a run has one end, and its counts, such as clips a step, are 1 or more."""
    if (minutes is None) == (steps is None):
        raise Ex4dError("bad_request", "A training run has no single end.", "Give minutes or steps, one of them.")
    if min(counts) < 1 or (minutes or steps or 0) <= 0:
        raise Ex4dError("bad_request", "A training run of nothing is impossible.", "Give 1 or more.")


def share_done(minutes: float | None, steps: int | None, run: RunState) -> float:
    """How much of the run's way is done, from 0; it has ended from 1 on."""
    if steps is not None:
        return run.step / steps
    return run.seconds / (60 * (minutes or 0))


def rate_at(done: float) -> float:
    """The learning rate as a share of its peak, `done` (0…1) of the run's way: a rise, then half a cosine."""
    if done < _WARM_UP:
        return max(done, 1e-3) / _WARM_UP
    return 0.5 * (1 + math.cos(math.pi * min(1.0, (done - _WARM_UP) / (1 - _WARM_UP))))


@torch.no_grad()
def follow(average: nn.Module, network: nn.Module, step: int) -> None:
    """Draws the averaged weights towards the network's, faster while there are few steps to average."""
    share = 1 - min(_AVERAGE_KEPT, (1 + step) / (10 + step))
    weights = zip(average.parameters(), network.parameters(), strict=True)
    moving: list[tuple[Tensor, Tensor]] = [(kept, fresh) for kept, fresh in weights if fresh.requires_grad]
    for kept, fresh in zip(average.buffers(), network.buffers(), strict=True):
        if kept.is_floating_point():
            moving.append((kept, fresh))
        else:
            kept.copy_(fresh)
    torch._foreach_lerp_([kept for kept, _ in moving], [fresh for _, fresh in moving], share)
