# SPDX-License-Identifier: GPL-3.0-or-later
"""Training of an EX-4D adapter: LoRA and camera encoder of a frozen Wan model, from a cache to an adapter file.

A step's samples are shared out among the devices, so the same configuration means the same training on any number of
them. Processes are started and watched by `parallel_launch`, as for generation.
"""

from __future__ import annotations

import contextlib
import dataclasses
import math
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import torch

from ..diffusion.ranks import Ranks
from ..errors import Cancelled, Ex4dError
from ..files import prepare_folder, write_bytes
from .adapter_export import export_adapter, layer_sizes
from .latent_cache import CachedData, fingerprint
from .lora_batches import BatchSource, MicroBatch
from .lora_checkpoint import load_newest, save_checkpoint, state_bytes, whole
from .lora_config import LoraTraining
from .lora_levels import validation_levels
from .lora_network import load_network
from .lora_step import averaged, new_run, placed, rate_at, train_step
from .lora_validation import generated_latents, side_by_side, validation_loss
from .training_log import TrainingLog

ADAPTER_FILE: Final = "adapter.safetensors"
CONFIG_NAME: Final = "config.toml"
_MOST_LOST_STEPS: Final = 10
"""Steps in a row without a finite gradient after which a run has failed."""


@dataclasses.dataclass(frozen=True)
class TrainingJob:
    """What every rank is told.

    out: the run's folder. dtype: of the frozen base. resume: whether to go on from the newest checkpoint.
    """

    training: LoraTraining
    model_folder: Path
    data: CachedData
    out: Path
    dtype: torch.dtype
    resume: bool


def train_rank(ranks: Ranks, job: TrainingJob) -> Path:
    """One rank's part of a training, from loading the model to the adapter file, whose path it returns.

    Raises:
        Ex4dError: `model_missing`, `model_invalid`; `bad_request` for a run with another configuration;
            `out_of_memory`; `disk_full`; `internal` if the training diverges; `cancelled`, after a checkpoint.
    """
    try:
        return _Trainer(ranks, job).train()
    except torch.OutOfMemoryError as error:
        raise Ex4dError(
            "out_of_memory",
            f"{ranks.device} ran out of memory while training.",
            "Choose a smaller micro_batch, size or number of frames, or more graphics cards.",
        ) from error.with_traceback(None)


class _Trainer:
    def __init__(self, ranks: Ranks, job: TrainingJob) -> None:
        self._ranks, self._job, self._training = ranks, job, job.training
        self._device, self._reporter = ranks.device, ranks.reporter
        self._source = BatchSource(job.training, job.data)
        self._count = self._source.count(ranks.world_size)
        optimiser = job.training.optimiser
        self._reporter.progress("load model", 0, 1)
        network = load_network(job.training, job.model_folder, job.dtype)
        self._layers = layer_sizes(network.transformer)
        self._network = placed(network, optimiser, ranks.world_size, ranks.device)
        self._run = new_run(network, optimiser, ranks.device)
        self._identity = job.training.identity() | {
            "data": job.data.digest,
            "base model": fingerprint(job.model_folder, "transformer"),
        }
        if ranks.is_first:
            # one checkpoint more than is kept, as it is written beside them, and the adapter
            prepare_folder(job.out, (job.training.run.checkpoints_kept + 2) * state_bytes(self._run))
        self._reporter.progress("load model", 1, 1)

    def train(self) -> Path:
        run, job, reporter = self._run, self._job, self._reporter
        steps = self._training.optimiser.steps
        if job.resume:
            for name in load_newest(job.out, run, self._identity):
                reporter.log(f"{name} is damaged; the checkpoint before it is used.")
            reporter.log(f"Going on from step {run.step} of {steps}.")
        if self._ranks.is_first:
            write_bytes(job.out / CONFIG_NAME, self._training.printed().encode("utf-8"))
        count = sum(p.numel() for p in run.parameters.values())
        reporter.log(
            f"Training {count / 1e6:.1f} M parameters on {self._ranks.world_size} × {self._device.type}, "
            f"{len(job.data.training)} windows, {self._count} micro-batches a step each."
        )
        with contextlib.ExitStack() as stack:
            log = stack.enter_context(TrainingLog(job.out, run.step, reporter)) if self._ranks.is_first else None
            batches = self._source.ahead(run.step, steps, self._ranks.rank, self._ranks.world_size)
            stack.enter_context(contextlib.closing(batches))
            try:
                self._steps(batches, log)
            except Cancelled:
                self._save()
                reporter.log(f"Stopped after step {run.step}, which is kept; --resume goes on from there.")
                raise
        self._save()
        return self._export()

    def _steps(self, batches: Iterator[MicroBatch], log: TrainingLog | None) -> None:
        run, upkeep, optimiser = self._run, self._training.run, self._training.optimiser
        lost = 0
        while run.step < optimiser.steps:
            started = time.monotonic()
            rate = rate_at(optimiser, run.step)
            loss, norm = train_step(self._network, run, batches, self._count, optimiser, self._device, self._reporter)
            lost = 0 if math.isfinite(norm) else lost + 1
            if lost > _MOST_LOST_STEPS:
                raise Ex4dError(
                    "internal",
                    f"The training diverged: {lost} steps up to {run.step} had no finite gradient.",
                    "Start anew with a smaller optimiser.learning_rate.",
                )
            run.step += 1
            run.seconds += time.monotonic() - started
            if log is not None:
                log.values(run.step, loss=loss, gradient_norm=norm, learning_rate=rate)
            if run.step % upkeep.log_every == 0:
                self._reporter.log(
                    f"step {run.step}: loss {loss:.4f}, gradient {norm:.3g}, {run.seconds / run.step:.2f} s a step"
                )
            if upkeep.validate_every and run.step % upkeep.validate_every == 0 and self._job.data.validation:
                self._validate(log)
            if run.step % upkeep.checkpoint_every == 0:
                self._save()
            self._reporter.progress("train lora", run.step, optimiser.steps)

    @torch.no_grad()
    def _validate(self, log: TrainingLog | None) -> None:
        run, job, training = self._run, self._job, self._training
        with averaged(self._network, run):
            levels = validation_levels(training.objective, job.data.shift)
            loss = validation_loss(self._network, job.data, levels, self._device, self._reporter)
            clips = [
                generated_latents(
                    self._network, job.data, number, training.run.validation_steps, self._device, self._reporter
                )
                for number in range(len(job.data.validation))
            ]
        self._reporter.log(f"step {run.step}: validation loss {loss:.4f}")
        if log is None:
            return
        log.values(run.step, validation_loss=loss)
        for number, latents in enumerate(clips):
            try:
                frames = side_by_side(latents, job.data, number, job.model_folder, self._device)
            except torch.OutOfMemoryError:
                self._reporter.log("There is no room to decode validation clips beside the training; none are made.")
                return
            self._reporter.preview(log.clip(run.step, number, frames))

    def _save(self) -> None:
        save_checkpoint(
            self._job.out,
            self._run,
            self._identity,
            self._training.run.checkpoints_kept,
            writes=self._ranks.is_first,
        )

    def _export(self) -> Path:
        """The adapter of the averaged weights, where there are some."""
        path = self._job.out / ADAPTER_FILE
        source: dict[str, Any] = self._run.average or self._run.parameters
        tensors = {name: whole(value) for name, value in source.items()}
        if self._ranks.is_first:
            export_adapter(path, tensors, self._training.adapter, self._layers)
        return path
