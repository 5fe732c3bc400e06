# SPDX-License-Identifier: GPL-3.0-or-later
"""What worker processes do for a comparison of fills. Loads no diffusion model, so that they start quickly."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable, Sequence
from concurrent.futures import Executor, Future, ProcessPoolExecutor
from typing import Any

import cv2
import numpy as np
import torch
from numpy.typing import NDArray

from .fill_conditioning import FillConditioning, conditioning
from .fill_folder import FillFolder
from .fill_metrics import fill_scores
from .fill_rows import CLASSICAL


def fill_without_model(folder: FillFolder, name: str) -> None:
    """Fills and scores a case by all rows without a model that it lacks."""
    case = folder.load_case(name)
    known = conditioning(case, "mesh")
    for row, fill in CLASSICAL.items():
        if not folder.has_row(row, name):
            filled = fill(case, known)
            folder.save_row(row, case, fill_scores(filled, case.truth, known.holes, case.visible), filled)


def condition(folder: FillFolder, name: str, kinds: Sequence[str]) -> dict[str, FillConditioning]:
    """A case's conditioning of several kinds."""
    case = folder.load_case(name)
    return {kind: conditioning(case, kind) for kind in kinds}


def score(folder: FillFolder, name: str, row: str, filled: NDArray[np.uint8], holes: NDArray[np.bool_]) -> None:
    """Scores a case's fill (F,H,W,3) in holes (F,H,W) and keeps it under the row's name."""
    case = folder.load_case(name)
    folder.save_row(row, case, fill_scores(filled, case.truth, holes, case.visible), filled)


class _Here(Executor):
    """Runs what is submitted at once, in this process."""

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        job: Future[Any] = Future()
        job.set_result(fn(*args, **kwargs))
        return job


def worker_pool(workers: int) -> Executor:
    """So many processes that start afresh, as a fork would share this one's graphics card; none runs all here."""
    if workers < 1:
        return _Here()
    return ProcessPoolExecutor(workers, multiprocessing.get_context("spawn"), initializer=_one_thread)


def _one_thread() -> None:
    cv2.setNumThreads(1)
    torch.set_num_threads(1)
