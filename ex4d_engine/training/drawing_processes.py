# SPDX-License-Identifier: GPL-3.0-or-later
"""Clips drawn ahead of a training by processes of their own, into the cache that its bank takes them from.

Drawing is thousands of small operations, each begun by Python. A thread beside the training gets neither enough of
Python nor of the graphics card for it: on one H100 it drew 0.7 clips a second, where three processes drew 2.7.
"""

from __future__ import annotations

import multiprocessing
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import Final, Self

import torch

from ..errors import Ex4dError
from .bank_masks import beside_the_training
from .clip_bank import BankSettings
from .clip_cache import ClipCache
from .clip_drawing import group_clips
from .depth_clips import ClipSource

_AHEAD: Final = 3  # groups for each process: one in work, and others so that it never waits


class DrawingProcesses:
    """Draws a bank's groups into a cache before they are wanted. A context manager.

    Args:
        settings: of the bank; the cache's files are told apart by it.
        source: draws clips; picklable.
        device: where to draw.
        folder: of the cache.
        count: of the processes, 1 or more. Each takes half a gigabyte of a graphics card beside what it draws.
    """

    def __init__(
        self, settings: BankSettings, source: ClipSource, device: torch.device, folder: Path, count: int
    ) -> None:
        self._settings, self._source, self._device, self._folder = settings, source, device, folder
        self._count = count
        self._coming: dict[int, Future[None]] = {}
        # spawned, as forking a process that uses a graphics card breaks it
        context = multiprocessing.get_context("spawn")
        self._pool = ProcessPoolExecutor(count, context, initializer=_on_one_core)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self._pool.shutdown(cancel_futures=True)

    def want(self, number: int) -> None:
        """Sees to it that this group and the next ones are drawn or being drawn."""
        for ahead in range(number, number + _AHEAD * self._count):
            if ahead not in self._coming:
                self._coming[ahead] = self._pool.submit(
                    _draw, self._settings, self._source, ahead, self._device, self._folder
                )

    def wait(self, number: int) -> None:
        """Returns once a group that was wanted lies in the cache.

        Raises:
            Ex4dError: what drawing it raised; `out_of_memory` if the process was ended.
        """
        try:
            self._coming.pop(number).result()
        except BrokenProcessPool as error:
            raise Ex4dError(
                "out_of_memory",
                "A process that draws clips was ended by the system.",
                "Use fewer processes (--draw-processes), or a machine with more memory.",
            ) from error


def _on_one_core() -> None:
    beside_the_training()
    torch.set_num_threads(1)


def _draw(settings: BankSettings, source: ClipSource, number: int, device: torch.device, folder: Path) -> None:
    group_clips(settings, source, number, device, ClipCache(folder, settings.drawn_as))
