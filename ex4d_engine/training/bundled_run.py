# SPDX-License-Identifier: GPL-3.0-or-later
"""The loop that trains the bundled model's transformer and its adapter: by the clock, resumable, saving as it goes.

What is trained and how its loss comes about is a `Stage`; this file knows neither.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Protocol

import torch
from torch import Tensor

from ..errors import Cancelled, Ex4dError
from ..files import prepare_folder
from .bundled_ranks import share_gradient, share_weights, shared_clock
from .checkpoint import SLOWER, RunState, go_back, load_checkpoint, save_checkpoint
from .clip_bank import ClipBank
from .depth_validation import autocast
from .run_progress import check_end, follow, rate_at, share_done
from .step_timer import StepTimer

if TYPE_CHECKING:
    from ..progress import Reporter

CHECKPOINT_NAME: Final = "checkpoint.safetensors"
_LARGEST_GRADIENT: Final = 1.0
_RANK_SEEDS: Final = 1_000_003  # from one rank to the next
_DISK_BYTES: Final = 1500 * 2**20  # two checkpoints and the model, as one is written beside the last


@dataclass(frozen=True)
class BundledTraining:
    """How a stage is trained.

    out: folder of the checkpoint and the model files.
    minutes: how long it takes, over all sittings; steps: or how many steps. One of them.
    batch: clips a step.
    frames: of a step's clips, 4k + 1; of several numbers, steps take one by chance.
    device: of the training.
    compiled: whether the transformer's blocks are compiled, which takes a minute or two once.
    hole_weight: how much a block that is not shown counts in the loss, where one that is shown counts 1.
    rank, world_size: which of how many graphics cards this is; each takes `batch` clips of its own a step.
    checkpoint_s, save_s, log_s, sheet_s: seconds between checkpoints, model files, lines and pictures; 0 is always.
    """

    out: Path
    device: torch.device
    minutes: float | None = None
    steps: int | None = None
    batch: int = 24
    frames: tuple[int, ...] = (49,)
    seed: int = 0
    learning_rate: float = 5e-4
    weight_decay: float = 0.01
    hole_weight: float = 3.0
    compiled: bool = False
    rank: int = 0
    world_size: int = 1
    checkpoint_s: float = 120.0
    save_s: float = 60.0
    log_s: float = 10.0
    sheet_s: float = 120.0

    def __post_init__(self) -> None:
        check_end(self.minutes, self.steps, self.batch)
        if not self.frames or any(frames % 4 != 1 for frames in self.frames):
            raise Ex4dError("bad_request", f"Clips of {self.frames} frames do not fit the codec.", "Give 4k + 1.")

    def identity(self) -> dict[str, Any]:
        """What a resumed run must have in common with its first sitting, as it comes back from JSON."""
        return {
            "batch": self.batch,
            "frames": list(self.frames),
            "seed": self.seed,
            "learning_rate": self.learning_rate,
            "weight_decay": self.weight_decay,
            "hole_weight": self.hole_weight,
        }

    @property
    def own_seed(self) -> int:
        """Of what a rank's clips, noise and levels are drawn by; the weights' is the same for all."""
        return self.seed + _RANK_SEEDS * self.rank


class Stage(Protocol):
    """What is trained."""

    run: RunState

    def identity(self) -> dict[str, Any]:
        """What makes it this stage and no other, as JSON."""
        ...

    def material(self, step: int, frames: int) -> Any:
        """The step's clips, as `loss` takes them, on the device."""
        ...

    def loss(self, step: int, material: Any) -> Tensor:
        """The step's loss, with its gradient."""
        ...

    def save_model(self) -> list[Path]:
        """Writes the averaged weights. Returns the files and folders."""
        ...

    def held_out(self) -> float:
        """The averaged weights' loss on clips that are never trained on."""
        ...

    def write_sheet(self) -> Path:
        """Writes a picture of what the averaged weights make of such clips."""
        ...


def new_state(network: torch.nn.Module, average: torch.nn.Module, settings: BundledTraining) -> RunState:
    """A run before its first step, of the parameters that want a gradient. Biases and norms do not decay."""
    trained = [parameter for parameter in network.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(
        [
            {"params": [p for p in trained if p.ndim > 1], "weight_decay": settings.weight_decay},
            {"params": [p for p in trained if p.ndim <= 1], "weight_decay": 0.0},
        ],
        lr=settings.learning_rate,
        betas=(0.9, 0.98),
        fused=settings.device.type == "cuda",
    )
    return RunState(network, average.eval().requires_grad_(False), optimizer)


def train_stage(
    settings: BundledTraining,
    stage: Stage,
    bank: ClipBank,
    reporter: Reporter,
    *,
    resume: bool = False,
    clock: Callable[[], float] = time.monotonic,
) -> list[Path]:
    """Trains a stage, and writes checkpoints, model files and pictures as it goes.

    Returns: the model files.

    Raises:
        Ex4dError: `bad_request` for a folder that holds a run already, or another run than the one to resume;
            `cancelled`, after a checkpoint; `disk_full`.
    """
    checkpoint = settings.out / CHECKPOINT_NAME
    if checkpoint.exists() and not resume:
        raise Ex4dError(
            "bad_request",
            f"{settings.out} holds a training run already.",
            "Give --resume to go on with it, or another folder.",
        )
    if settings.rank == 0:
        prepare_folder(settings.out, need_bytes=_DISK_BYTES)
    run, identity = stage.run, _identity(settings, stage, bank)
    if resume:
        load_checkpoint(checkpoint, run, identity)
    share_weights([run.network, run.average], settings.world_size)
    count = sum(p.numel() for p in run.network.parameters() if p.requires_grad)
    cards = f"{settings.world_size} × " if settings.world_size > 1 else ""
    reporter.log(
        f"Training {count / 1e6:.1f} M parameters on {cards}{settings.device}, {settings.batch} clips a step"
        + (f", from step {run.step}." if run.step else ".")
    )
    try:
        _train(settings, stage, bank, reporter, identity, shared_clock(clock, settings.world_size))
    except Cancelled:
        if settings.rank == 0:
            save_checkpoint(checkpoint, run, identity)
            stage.save_model()
        raise
    if settings.rank > 0:
        return []
    save_checkpoint(checkpoint, run, identity)
    written = stage.save_model()
    reporter.log(f"step {run.step}: held-out loss {stage.held_out():.4f}")
    reporter.preview(stage.write_sheet())
    return written


def _identity(settings: BundledTraining, stage: Stage, bank: ClipBank) -> dict[str, Any]:
    """What the run must have in common with the checkpoint, which is the first rank's.

    Each rank's bank has a seed of its own; the others' follow from the first one's.
    """
    of_bank = bank.identity()
    if settings.rank > 0:
        del of_bank["bank.seed"]
    return settings.identity() | of_bank | stage.identity()


def _train(
    settings: BundledTraining,
    stage: Stage,
    bank: ClipBank,
    reporter: Reporter,
    identity: dict[str, Any],
    clock: Callable[[], float],
) -> None:
    run, device = stage.run, settings.device
    timer = StepTimer(device)
    # It skips steps of infinite gradients without asking the card for them, which would make it wait.
    scaler = torch.amp.GradScaler(device.type, init_scale=1.0, growth_interval=2**30, enabled=device.type == "cuda")
    started = clock() - run.seconds
    waits = _waits(settings)
    due = {name: started + run.seconds + wait for name, wait in waits.items()}
    since: list[Tensor] = []
    pace = 1.0
    while (done := share_done(settings.minutes, settings.steps, run)) < 1:
        reporter.check()
        for group in run.optimizer.param_groups:
            group["lr"] = pace * settings.learning_rate * rate_at(done)
        since.append(_step(settings, stage, scaler, timer))
        run.step += 1
        now = clock()
        run.seconds = now - started
        now_due = {name for name, moment in due.items() if now >= moment}
        due |= {name: now + waits[name] for name in now_due}
        if not now_due:
            continue
        # the mean over the ranks, so that they all see it
        if not torch.isfinite(since[-1]):
            go_back(settings.out / CHECKPOINT_NAME, run, identity, reporter)
            pace *= SLOWER
            since.clear()
            timer.take()
            continue
        if "log" in now_due:
            reporter.log(_line(run, since, timer, settings, bank))
            reporter.progress("train", int(100 * min(1.0, share_done(settings.minutes, settings.steps, run))), 100)
            since.clear()
        if settings.rank == 0:
            _keep(now_due, settings, stage, reporter, identity)
        run.seconds = clock() - started
    if since:
        reporter.log(_line(run, since, timer, settings, bank))


def _keep(due: set[str], settings: BundledTraining, stage: Stage, reporter: Reporter, identity: dict[str, Any]) -> None:
    """Writes what is due."""
    if "save" in due:
        stage.save_model()
        reporter.log(f"step {stage.run.step}: held-out loss {stage.held_out():.4f}")
    if "sheet" in due:
        reporter.preview(stage.write_sheet())
    if "checkpoint" in due:
        save_checkpoint(settings.out / CHECKPOINT_NAME, stage.run, identity)


def _waits(settings: BundledTraining) -> dict[str, float]:
    return {
        "log": settings.log_s,
        "save": settings.save_s,
        "sheet": settings.sheet_s,
        "checkpoint": settings.checkpoint_s,
    }


def _step(settings: BundledTraining, stage: Stage, scaler: torch.amp.GradScaler, timer: StepTimer) -> Tensor:
    """One step. Returns the loss, the ranks' mean, still on the device: reading it would make it wait."""
    run = stage.run
    timer.start()
    material = stage.material(run.step, settings.frames[_chosen(settings, run.step)])
    timer.data_made()
    with autocast(settings.device):
        loss = stage.loss(run.step, material)
    run.optimizer.zero_grad(set_to_none=True)
    scaler.scale(loss).backward()
    trained = [parameter for parameter in run.network.parameters() if parameter.requires_grad]
    shared = share_gradient(trained, loss.detach(), settings.world_size)
    scaler.unscale_(run.optimizer)
    norm = torch.nn.utils.clip_grad_norm_(trained, _LARGEST_GRADIENT)
    if settings.device.type == "cuda":
        scaler.step(run.optimizer)
        scaler.update()
    elif torch.isfinite(norm):
        run.optimizer.step()
    follow(run.average, run.network, run.step)
    timer.stop()
    return shared


def _chosen(settings: BundledTraining, step: int) -> int:
    """Which of the lengths a step has: in turn, but out of step with the sizes, which are drawn by chance."""
    return step % len(settings.frames)


def _line(run: RunState, since: list[Tensor], timer: StepTimer, settings: BundledTraining, bank: ClipBank) -> str:
    loss = float(torch.stack(since).float().mean())
    seconds, data = timer.take()
    seconds, clips = max(seconds, 1e-9), len(since) * settings.batch * settings.world_size
    return (
        f"step {run.step}, {run.seconds:.0f} s: loss {loss:.4f}; {clips / seconds:.1f} clips/s, "
        f"{100 * data / seconds:.0f} % of it making data, {100 * bank.drawing_share:.0f} % of all time drawing; "
        f"{bank.clips} clips in the bank"
    )
