# SPDX-License-Identifier: GPL-3.0-or-later
"""`ex4d train lora` as a function: from a configuration and clips to an adapter file."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import torch
from filelock import FileLock, Timeout

from ..bundled_model import BUNDLED, bundled_folder, has_bundled_model
from ..diffusion.parallel_launch import run_parallel
from ..diffusion.ranks import DeviceKind, ParallelJob, Ranks
from ..errors import Ex4dError
from ..files import prepare_folder
from ..library_talk import hide_library_bars
from ..models import store
from ..progress import Reporter
from ..torch_device import torch_device
from .clip_folder import Skips
from .latent_cache import MaskSource, build_cache
from .lora_checkpoint import checkpoint_files, require_settings
from .lora_config import LoraTraining
from .lora_masks import MixedMasks
from .lora_memory import check_machine
from .lora_network import start_adapter
from .lora_trainer import TrainingJob, train_rank

CACHE_FOLDER: Final = "cache"
_JOB: Final = "ex4d_engine.training.lora_trainer:train_rank"


def train_lora(
    training: LoraTraining,
    out: Path,
    reporter: Reporter,
    *,
    masks: MaskSource | None = None,
    resume: bool = False,
    device: str = "auto",
    gpus: int = 1,
    cache: Path | None = None,
) -> Path:
    """Trains an adapter and returns its file, in the published checkpoint's layout.

    Args:
        training: what is trained.
        out: folder of checkpoints, records and the adapter.
        reporter: told of everything; its `check` is called at every sample.
        masks: draws the simulated masks; those of the configuration if None.
        resume: whether to go on with the run in `out`.
        device: "auto", "cuda" or "cpu".
        gpus: devices that share each step; with "cpu" processes.
        cache: folder of latents, depth and text, which several runs may share; in `out` if None.

    Raises:
        Ex4dError: `bad_request` for a folder that holds a run already, or another run than the one to resume;
            `model_busy`; `no_such_file`, `no_frames`; `model_missing`, `model_invalid`; `out_of_memory`; `disk_full`;
            `cancelled`, after a checkpoint.
    """
    _check_folder(out, resume)
    _check_batch(training, gpus)
    where = torch_device(device, with_mps=False)
    model_folder = model_folder_of(training)
    need = check_machine(training, model_folder, where, gpus)
    start_adapter(training.model, model_folder)  # before hours of encoding for what is not there
    job_masks = masks or MixedMasks(training.masks)
    prepare_folder(out)
    hide_library_bars()
    with _alone_in(out):
        if resume:
            require_settings(out, training.identity())  # before hours of encoding for what will be refused
        reporter.log(training.printed())
        reporter.log(f"About {need:.1f} GiB of {where} will be needed.")
        skips = Skips()
        try:
            data = build_cache(training, model_folder, cache or out / CACHE_FOLDER, job_masks, where, skips, reporter)
            if data.padded:
                reporter.log(f"Windows that are longer than their clip and repeat its last frame: {data.padded}")
            dtype = torch.bfloat16 if where.type == "cuda" else torch.float32
            return _run(TrainingJob(training, model_folder, data, out, dtype, resume), where, gpus, reporter)
        finally:
            for line in skips.report():
                reporter.log(line)


def _run(job: TrainingJob, device: torch.device, gpus: int, reporter: Reporter) -> Path:
    if gpus == 1:
        return train_rank(Ranks(0, 1, device, reporter), job)
    kind: DeviceKind = "cuda" if device.type == "cuda" else "cpu"
    adapter: Path = run_parallel(ParallelJob(_JOB, {"job": job}), gpus, kind, reporter)
    return adapter


@contextmanager
def _alone_in(folder: Path) -> Iterator[None]:
    """Raises `model_busy` while another process trains in `folder`; the system lets the lock go if it is killed."""
    lock = FileLock(folder / ".lock", timeout=0)
    try:
        lock.acquire()
    except Timeout as error:
        raise Ex4dError(
            "model_busy", f"Another run is training in {folder}.", "Wait for it, or choose another folder."
        ) from error
    try:
        yield
    finally:
        lock.release()


def model_folder_of(training: LoraTraining) -> Path:
    """The folder of the model that is trained on.

    Raises:
        Ex4dError: `unknown_model`, `model_missing`; `bad_request` for a model that is no pipeline.
    """
    if training.model.folder:
        return Path(training.model.folder)
    if training.model.name == BUNDLED:
        if not has_bundled_model():
            raise Ex4dError(
                "model_missing",
                "The small model that comes with the engine is not installed: this version ships without it.",
                "Name another model with model.name or model.folder.",
            )
        return bundled_folder()
    folder = store.find(training.model.name)
    if not folder.is_dir():
        raise Ex4dError(
            "bad_request", f"{training.model.name} is no video model.", "Name one that `ex4d models list` calls so."
        )
    return folder


def _check_batch(training: LoraTraining, gpus: int) -> None:
    batch, micro = training.optimiser.batch, training.optimiser.micro_batch
    if gpus < 1 or batch % (micro * gpus):
        raise Ex4dError(
            "bad_request",
            f"A batch of {batch} in micro-batches of {micro} does not divide among {gpus} graphics cards.",
            "Change optimiser.batch, or use another number of cards.",
        )


def _check_folder(out: Path, resume: bool) -> None:
    there = checkpoint_files(out)
    if there and not resume:
        raise Ex4dError(
            "bad_request",
            f"{out} holds a training run already.",
            "Give --resume to go on with it, or another folder.",
        )
    if resume and not there:
        raise Ex4dError("no_such_file", f"There is no checkpoint in {out}.", "Start anew, without --resume.")
