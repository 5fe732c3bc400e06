# SPDX-License-Identifier: GPL-3.0-or-later
"""One step of an adapter's training, on one device or sharded over several: plain functions on a `LoraRun`.

Weights are sharded by torch's own `fully_shard`. accelerate would call the same function, but it takes the ranks from
the environment of its launcher and keeps them for the whole process; ours are started and cancelled by
`parallel_launch`, and the process that starts them also generates.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, fully_shard

from ..progress import Reporter
from .adapter_network import AdapterNetwork, trained_parameters
from .flow_matching import velocity_error
from .lora_batches import MicroBatch
from .lora_checkpoint import LoraRun, whole
from .lora_config import Optimiser
from .lora_validation import predicted


def rate_at(optimiser: Optimiser, step: int) -> float:
    """The learning rate of a step, counted from 0: a linear rise, then half a cosine down to nothing, or constant."""
    if step < optimiser.warm_up_steps:
        return optimiser.learning_rate * (step + 1) / optimiser.warm_up_steps
    if optimiser.schedule == "constant":
        return optimiser.learning_rate
    done = (step - optimiser.warm_up_steps) / max(1, optimiser.steps - optimiser.warm_up_steps)
    return optimiser.learning_rate * 0.5 * (1 + math.cos(math.pi * min(1.0, done)))


def placed(network: AdapterNetwork, optimiser: Optimiser, ranks: int, device: torch.device) -> AdapterNetwork:
    """The network ready to train on `device`, sharded if there are several ranks."""
    if optimiser.gradient_checkpointing:
        network.transformer.enable_gradient_checkpointing()
    if ranks > 1:
        shard(network, ranks, device)
    return network.to(device)


def shard(network: AdapterNetwork, ranks: int, device: torch.device) -> None:
    """Shares all weights out among the ranks, block by block; each is whole only while it computes."""
    mesh = init_device_mesh(device.type, (ranks,))
    for block in network.transformer.blocks:
        fully_shard(block, mesh=mesh)
    fully_shard(network, mesh=mesh)


def new_run(network: nn.Module, optimiser: Optimiser, device: torch.device) -> LoraRun:
    """A run before its first step. A sharded network has to be sharded by now."""
    parameters = trained_parameters(network)
    adam = torch.optim.AdamW(
        list(parameters.values()),
        lr=optimiser.learning_rate,
        weight_decay=optimiser.weight_decay,
        fused=device.type == "cuda",
    )
    average = {name: p.detach().clone() for name, p in parameters.items()} if optimiser.average_kept else {}
    return LoraRun(parameters, adam, average)


def train_step(
    network: nn.Module,
    run: LoraRun,
    batches: Iterator[MicroBatch],
    count: int,
    optimiser: Optimiser,
    device: torch.device,
    reporter: Reporter,
) -> tuple[float, float]:
    """One step: the loss over all ranks, and its gradient's norm. A step without a finite one changes no weight.

    Args:
        network: from `placed`.
        run: whose weights, averages and counts of updates change; not its `step`.
        batches: this rank's micro-batches, of which `count` are taken.
        optimiser: how.
        device: this rank's.
        reporter: its `check` is called at every micro-batch; what it raises leaves the run as it was.
    """
    ranks = dist.get_world_size() if isinstance(network, FSDPModule) else 1
    total = torch.zeros((), device=device)
    run.optimizer.zero_grad(set_to_none=True)
    for number in range(count):
        reporter.check()
        batch = next(batches).to(device)
        if isinstance(network, FSDPModule):
            network.set_requires_gradient_sync(number == count - 1)
        error = velocity_error(predicted(network, batch), batch.target, batch.noise)
        loss = (batch.weight * error).mean() / count
        loss.backward()
        total += loss.detach()
    if ranks > 1:
        dist.all_reduce(total)
    norm = torch.nn.utils.clip_grad_norm_(list(run.parameters.values()), optimiser.largest_gradient)
    reached = float(whole(norm))
    if math.isfinite(reached):
        for group in run.optimizer.param_groups:
            group["lr"] = rate_at(optimiser, run.step)
        run.optimizer.step()
        run.updates += 1
        _follow(run, optimiser.average_kept)
    return float(total) / ranks, reached


@contextlib.contextmanager
def averaged(network: nn.Module, run: LoraRun) -> Iterator[None]:
    """The averaged weights in place of the trained ones inside the block, which are put back bit by bit."""
    kept: dict[str, Tensor] = {name: run.parameters[name].detach().clone() for name in run.average}
    try:
        _put(network, run, run.average)
        yield
    finally:
        _put(network, run, kept)


@torch.no_grad()
def _put(network: nn.Module, run: LoraRun, values: dict[str, Tensor]) -> None:
    for name, value in values.items():
        run.parameters[name].copy_(value)
    if isinstance(network, FSDPModule):
        # After a forward without a backward the root's weights stay gathered, and the next one would use them again.
        network.reshard()


@torch.no_grad()
def _follow(run: LoraRun, kept: float) -> None:
    """Draws the averages towards the weights, faster while there are few steps to average."""
    share = 1 - min(kept, (1 + run.updates) / (10 + run.updates))
    for name, average in run.average.items():
        average.lerp_(run.parameters[name].detach(), share)
