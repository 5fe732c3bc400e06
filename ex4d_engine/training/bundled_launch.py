# SPDX-License-Identifier: GPL-3.0-or-later
"""The stages `base` and `adapter` of the bundled model's training, on one graphics card or on several of one machine.

On several, each draws clips of its own and trains on them; `bundled_ranks` keeps the networks equal.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

import torch

from ..diffusion.parallel_launch import run_parallel
from ..diffusion.ranks import DeviceKind, ParallelJob, Ranks
from ..errors import Ex4dError
from ..progress import Reporter
from ..torch_device import torch_device
from .bank_masks import BankMasks, MaskDrawer
from .bundled_adapter import AdapterStage
from .bundled_base import BaseSettings, BaseStage
from .bundled_parts import has_transformer, load_codec
from .bundled_run import BundledTraining, train_stage
from .clip_bank import BankSettings, ClipBank, held_out_clips
from .clip_cache import ClipCache
from .clip_drawing import preferred_queue
from .depth_clips import ClipSource
from .drawing_processes import DrawingProcesses
from .lora_config import AdapterShape

HELD_OUT_CLIPS: Final = 4


@dataclass(frozen=True)
class BundledJob:
    """What every rank is told.

    stage: which.
    training: on `device` and as `rank` are for one card; each rank gets its own.
    bank: of clips; each rank's has a seed of its own.
    source: draws the clips; picklable.
    start: folder of the stage before.
    base: of stage base. shape, masks: of stage adapter. workers: processes that draw masks, over all ranks.
    clips: folder of drawn clips, or None.
    draw_device: where a thread draws clips beside the training: "same" is the training's own device, None draws them
        between the steps.
    draw_processes: that draw clips ahead into `clips`, for each rank; 0 for none. They imply a thread.
    resume: whether to go on with the run in `training.out`.
    """

    stage: Literal["base", "adapter"]
    training: BundledTraining
    bank: BankSettings
    source: ClipSource
    start: Path
    base: BaseSettings = dataclasses.field(default_factory=BaseSettings)
    shape: AdapterShape = dataclasses.field(default_factory=AdapterShape)
    masks: BankMasks = dataclasses.field(default_factory=BankMasks)
    workers: int = 0
    clips: Path | None = None
    draw_device: str | None = None
    draw_processes: int = 0
    resume: bool = False


def train_bundled(job: BundledJob, gpus: int, reporter: Reporter) -> list[Path]:
    """Trains a stage on so many graphics cards, or with device "cpu" in so many processes. Returns the model files.

    Raises:
        Ex4dError: as `bundled_run.train_stage` and, of several cards, `parallel_launch.run_parallel`.
    """
    if job.draw_processes and job.clips is None:
        raise Ex4dError("bad_request", "Clips that processes draw have to be kept somewhere.", "Give --clips DIR too.")
    if gpus == 1:
        return train_rank(Ranks(0, 1, job.training.device, reporter), job)
    if job.draw_device not in (None, "same"):
        raise Ex4dError(
            "bad_request",
            f"{gpus} graphics cards cannot all draw on {job.draw_device}.",
            "Leave the device out, or train on one card.",
        )
    kind: DeviceKind = "cuda" if job.training.device.type == "cuda" else "cpu"
    # each rank starts processes that draw its masks
    parallel = ParallelJob(f"{__name__}:train_rank", {"job": job}, has_children=True)
    written: list[Path] = run_parallel(parallel, gpus, kind, reporter)
    return written


def train_rank(ranks: Ranks, job: BundledJob) -> list[Path]:
    """One rank's part of a training. Returns the model files on the first."""
    device = ranks.device
    preferred_queue(device)
    training = dataclasses.replace(job.training, device=device, rank=ranks.rank, world_size=ranks.world_size)
    settings = dataclasses.replace(job.bank, seed=training.own_seed)
    cache = ClipCache(job.clips, settings.drawn_as) if job.clips else None
    beside = _drawn_on(job, device)
    with contextlib.ExitStack() as stack:
        masks = None
        if job.stage == "adapter":
            masks = stack.enter_context(MaskDrawer(job.masks, -(-job.workers // ranks.world_size)))
        ahead = None
        if beside is not None and job.clips is not None and job.draw_processes:
            drawing = DrawingProcesses(settings, job.source, beside, job.clips, job.draw_processes)
            ahead = stack.enter_context(drawing)
        bank = ClipBank(
            settings, job.source, device, masks, cache, beside=beside, ahead=ahead, compiled=training.compiled
        )
        held_out = held_out_clips(job.source, HELD_OUT_CLIPS, max(training.frames), settings.sizes[0], device, masks)
        codec = load_codec(job.start, device)
        trained: BaseStage | AdapterStage
        if job.stage == "base":
            start = job.start if has_transformer(job.start) else None
            trained = BaseStage(training, job.base, codec, bank, held_out, start)
        else:
            trained = AdapterStage(training, job.shape, job.masks, codec, bank, held_out, job.start)
        return train_stage(training, trained, bank, ranks.reporter, resume=job.resume)


def _drawn_on(job: BundledJob, device: torch.device) -> torch.device | None:
    """Where clips are drawn beside the training on `device`; None to draw them between its steps."""
    if job.draw_device is None:
        return device if job.draw_processes else None
    return device if job.draw_device == "same" else torch_device(job.draw_device, with_mps=False)


def mask_workers() -> int:
    """Processes that draw masks, of a machine with nothing else to do but to train."""
    return max(0, (os.cpu_count() or 1) - 2)
