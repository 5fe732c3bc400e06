# SPDX-License-Identifier: GPL-3.0-or-later
"""Training of the bundled depth network on scenes that are drawn as it goes, each seen once.

The run ends in the time given whatever the machine: the learning rate follows the clock, not a count of steps.
"""

from __future__ import annotations

import copy
import dataclasses
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import torch
from torch import Tensor, nn

from ..depth.network import DepthNetwork, NetworkShape
from ..depth.network_weights import load_weights, save_weights
from ..errors import Cancelled, Ex4dError
from ..evaluation.depth_metrics import DepthScores
from ..files import prepare_folder
from ..torch_device import torch_device
from .checkpoint import SLOWER, RunState, go_back, load_checkpoint, save_checkpoint
from .depth_clips import SIZES, ClipSource, KeptClips, Size, StepPlan, draw, predict, question, step_plan
from .depth_drawing import ClipsDrawnAhead, Question
from .depth_losses import LossParts, LossWeights, depth_losses
from .depth_validation import HeldOut, autocast
from .drawn_ahead import AHEAD
from .run_progress import check_end, follow, rate_at, share_done
from .step_timer import StepTimer

if TYPE_CHECKING:
    from ..progress import Reporter

CHECKPOINT_NAME: Final = "checkpoint.safetensors"
DRAWN_FOLDER: Final = "drawn"
WEIGHTS_NAME: Final = "depth_bundled.safetensors"
_LARGEST_GRADIENT: Final = 1.0
_DISK_BYTES: Final = 200 * 2**20  # two checkpoints and the weights, as one is written beside the last


@dataclass(frozen=True)
class DepthTraining:
    """A run.

    out: folder of the checkpoint and the weights.
    minutes: how long it takes, over all sittings; steps: or how many steps. One of them.
    batch: clips a step.
    device: "auto", or torch's name of one.
    repeats, pool: see `step_plan`: for when drawing takes most of the time. On a graphics card a drawing of 16 clips
        takes 0.3 GB for as long as it is in the pool.
    passes: how often a clip is gone through at most, there and back.
    draw_processes: so many draw ahead of the training; 0: it draws itself, between its steps.
    start: weights to begin with, instead of random ones.
    checkpoint_s, log_s: seconds between checkpoints and between lines about progress.
    held_out: clips that are scored at each checkpoint.
    """

    out: Path
    minutes: float | None = None
    steps: int | None = None
    batch: int = 16
    device: str = "auto"
    seed: int = 0
    learning_rate: float = 1e-3
    weight_decay: float = 0.02
    repeats: int = 1
    pool: int = 1
    passes: int = 2
    draw_processes: int = 0
    start: Path | None = None
    checkpoint_s: float = 60.0
    log_s: float = 10.0
    held_out: int = 4
    sizes: tuple[Size, ...] = SIZES
    shape: NetworkShape = field(default_factory=NetworkShape)
    weights: LossWeights = field(default_factory=LossWeights)

    def __post_init__(self) -> None:
        check_end(self.minutes, self.steps, self.batch, self.repeats, self.pool, self.passes)

    def plan(self, step: int) -> StepPlan:
        """What a step sees."""
        return step_plan(self.seed, step, self.batch, self.sizes, self.repeats, self.pool, self.passes)

    def identity(self) -> dict[str, Any]:
        """What a resumed run must have in common with its first sitting, as it comes back from JSON."""
        return {
            "batch": self.batch,
            "seed": self.seed,
            "learning_rate": self.learning_rate,
            "weight_decay": self.weight_decay,
            "repeats": self.repeats,
            "pool": self.pool,
            "passes": self.passes,
            "sizes": [list(size) for size in self.sizes],
            "shape": {key: list(v) if isinstance(v, tuple) else v for key, v in self.shape.to_json().items()},
            "weights": dataclasses.asdict(self.weights),
        }


def train_depth(
    settings: DepthTraining,
    reporter: Reporter,
    source: ClipSource,
    *,
    resume: bool = False,
    clock: Callable[[], float] = time.monotonic,
) -> Path:
    """Trains, and writes checkpoints and weights as it goes.

    Returns: the weight file: averaged weights in half precision.

    Raises:
        Ex4dError: `bad_request` for a folder that holds a run already, or another run than the one to resume;
            `cancelled`, after a checkpoint.
    """
    checkpoint = settings.out / CHECKPOINT_NAME
    if checkpoint.exists() and not resume:
        raise Ex4dError(
            "bad_request",
            f"{settings.out} holds a training run already.",
            "Give --resume to go on with it, or another folder.",
        )
    prepare_folder(settings.out, need_bytes=_DISK_BYTES)
    device = torch_device(settings.device, with_mps=False)
    if device.type == "cuda":
        # The CPU's part is small; more threads only get in each other's way: drawing took three times as long.
        torch.set_num_threads(min(4, torch.get_num_threads()))
    run = new_run(settings, device)
    if resume:
        load_checkpoint(checkpoint, run, settings.identity())
    reporter.log(
        f"Training {sum(p.numel() for p in run.network.parameters()) / 1e6:.1f} M parameters on {device}, "
        f"{settings.batch} clips a step" + (f", from step {run.step}." if run.step else ".")
    )
    try:
        with _drawn_ahead(settings, source) as ahead:
            _train(settings, run, device, reporter, ahead or source, clock)
    except Cancelled:
        _save(settings, run)
        raise
    return _save(settings, run)


def _drawn_ahead(settings: DepthTraining, source: ClipSource) -> AbstractContextManager[ClipsDrawnAhead | None]:
    if settings.draw_processes < 1:
        return nullcontext()
    return ClipsDrawnAhead(source, settings.out / DRAWN_FOLDER, settings.draw_processes)


def _questions(settings: DepthTraining, step: int, device: torch.device) -> Iterator[Question]:
    """What this step and the next ones see that is new."""
    first = -(-step // settings.repeats)
    for drawing in range(first, first + AHEAD * settings.draw_processes):
        yield question(settings.plan(drawing * settings.repeats), settings.batch, device)


def new_run(settings: DepthTraining, device: torch.device) -> RunState:
    """A run before its first step."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(settings.seed)
        network = load_weights(settings.start) if settings.start else DepthNetwork(settings.shape)
    # Channels last is what a graphics card's convolutions want; on a CPU it changes nothing.
    network.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]  # the stubs do not know it
    average = copy.deepcopy(network).eval().requires_grad_(False)
    decayed = [p for p in network.parameters() if p.ndim > 1]
    others = [p for p in network.parameters() if p.ndim <= 1]
    optimizer = torch.optim.AdamW(
        [{"params": decayed, "weight_decay": settings.weight_decay}, {"params": others, "weight_decay": 0.0}],
        lr=settings.learning_rate,
        fused=device.type == "cuda",
    )
    return RunState(network, average, optimizer)


def _train(
    settings: DepthTraining,
    run: RunState,
    device: torch.device,
    reporter: Reporter,
    source: ClipSource,
    clock: Callable[[], float],
) -> None:
    timer = StepTimer(device)
    # It skips steps of infinite gradients without asking the card for them, which would make it wait.
    scaler = torch.amp.GradScaler(device.type, init_scale=1.0, growth_interval=2**30, enabled=device.type == "cuda")
    height, width, frames = settings.sizes[0]
    held_out = HeldOut(source, settings.held_out, frames, height, width, device) if settings.held_out else None
    ahead = source if isinstance(source, ClipsDrawnAhead) else None
    source = KeptClips(source, settings.pool)
    # the clock, set back by what earlier sittings took
    started = clock() - run.seconds
    logged = saved = clock()
    since: list[Tensor] = []
    pace = 1.0
    while (done := share_done(settings.minutes, settings.steps, run)) < 1:
        reporter.check()
        for group in run.optimizer.param_groups:
            group["lr"] = pace * settings.learning_rate * rate_at(done)
        if ahead is not None and run.step % settings.repeats == 0:
            ahead.want(_questions(settings, run.step, device))
        since.append(_step(settings, run, device, source, scaler, timer))
        run.step += 1
        run.seconds = clock() - started
        to_log, to_save = clock() - logged >= settings.log_s, clock() - saved >= settings.checkpoint_s
        if (to_log or to_save) and not torch.isfinite(since[-1]).all():
            go_back(settings.out / CHECKPOINT_NAME, run, settings.identity(), reporter)
            pace *= SLOWER
            since.clear()
            logged = clock()
            continue
        if to_log:
            reporter.log(_line(run, since, timer, settings.batch))
            logged = clock()
        if to_save:
            _save(settings, run)
            if held_out:
                reporter.log(_score_line(held_out.scores(_depth_network(run.average))))
            saved = clock()
        if to_log:
            since.clear()
        reporter.progress("train depth", int(100 * min(1.0, share_done(settings.minutes, settings.steps, run))), 100)
    if since:
        reporter.log(_line(run, since, timer, settings.batch))
    if held_out:
        reporter.log(_score_line(held_out.scores(_depth_network(run.average))))


def _step(
    settings: DepthTraining,
    run: RunState,
    device: torch.device,
    source: ClipSource,
    scaler: torch.amp.GradScaler,
    timer: StepTimer,
) -> Tensor:
    """One step. Returns the loss and its parts, (8,), still on the device: reading them would make it wait."""
    plan = settings.plan(run.step)
    timer.start()
    with torch.no_grad():
        images, target = draw(plan, settings.batch, source, device)
    timer.data_made()
    with autocast(device):
        maps = predict(_depth_network(run.network), images, plan)
    parts = depth_losses(maps, target, settings.weights.standing_out)
    loss = parts.total(settings.weights)
    run.optimizer.zero_grad(set_to_none=True)
    scaler.scale(loss).backward()
    scaler.unscale_(run.optimizer)
    norm = torch.nn.utils.clip_grad_norm_(run.network.parameters(), _LARGEST_GRADIENT)
    if device.type == "cuda":
        scaler.step(run.optimizer)
        scaler.update()
    elif torch.isfinite(norm):
        run.optimizer.step()
    follow(run.average, run.network, run.step)
    timer.stop()
    return torch.stack([loss, *parts]).detach()


def _depth_network(module: nn.Module) -> DepthNetwork:
    assert isinstance(module, DepthNetwork)
    return module


def _line(run: RunState, since: list[Tensor], timer: StepTimer, batch: int) -> str:
    loss = torch.stack(since).float().mean(0).tolist()
    seconds, data = timer.take()
    parts = ", ".join(f"{name} {value:.3f}" for name, value in zip(LossParts._fields, loss[1:], strict=True))
    return (
        f"step {run.step}, {run.seconds:.0f} s: loss {loss[0]:.4f} ({parts}); "
        f"{len(since) * batch / max(seconds, 1e-9):.1f} clips/s, {100 * data / max(seconds, 1e-9):.0f} % of it drawing"
    )


def _score_line(scores: DepthScores) -> str:
    return (
        f"On scenes never seen: AbsRel {scores.abs_rel:.3f}, δ1 {scores.delta1:.3f}, temporal {scores.temporal:.4f}, "
        f"edges F1 {scores.edge_f1:.3f}, sky {scores.sky:.3f}"
    )


def _save(settings: DepthTraining, run: RunState) -> Path:
    save_checkpoint(settings.out / CHECKPOINT_NAME, run, settings.identity())
    weights = settings.out / WEIGHTS_NAME
    trained = {
        "clips": run.step * settings.batch,
        "steps": run.step,
        "seconds": round(run.seconds, 1),
        "seed": settings.seed,
        "data": "ex4d_engine.synthetic",
    }
    save_weights(_depth_network(run.average), weights, trained)
    return weights
