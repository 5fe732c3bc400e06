# SPDX-License-Identifier: GPL-3.0-or-later
"""What graphics cards share that train one small network on different clips: its gradient and the clock.

Each holds the whole network, which is small, and so they stay equal by taking the same steps.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
import torch.distributed as dist
from torch import Tensor, nn


def shared_clock(clock: Callable[[], float], world_size: int) -> Callable[[], float]:
    """A clock that all ranks read at once and that tells all of them the first one's time.

    So whatever they decide by it they decide alike. It waits for the other ranks' processes, not for their cards.
    """
    if world_size == 1:
        return clock
    group = dist.new_group(backend="gloo")

    def read() -> float:
        now = torch.tensor([clock()], dtype=torch.float64)
        dist.broadcast(now, 0, group=group)
        return float(now)

    return read


@torch.no_grad()
def share_weights(modules: Sequence[nn.Module], world_size: int) -> None:
    """Makes the ranks' weights those of the first, as they all have made or read their own."""
    if world_size == 1:
        return
    for parameter in [parameter for module in modules for parameter in module.parameters()]:
        dist.broadcast(parameter.data, 0)


def share_gradient(parameters: Sequence[nn.Parameter], loss: Tensor, world_size: int) -> Tensor:
    """Makes the ranks' gradients their mean. Returns the mean of their losses.

    Args:
        parameters: those with a gradient to be shared; they have one on every rank.
        loss: a scalar.
        world_size: how many ranks.
    """
    if world_size == 1:
        return loss
    parts: list[Tensor] = []
    for parameter in parameters:
        assert parameter.grad is not None
        parts.append(parameter.grad)
    together = torch.cat([part.flatten() for part in (*parts, loss)])
    dist.all_reduce(together)
    together /= world_size
    *gradients, mean = together.split([part.numel() for part in (*parts, loss)])
    torch._foreach_copy_(parts, [mine.view_as(part) for mine, part in zip(gradients, parts, strict=True)])
    return mean[0]
