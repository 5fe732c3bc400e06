# SPDX-License-Identifier: GPL-3.0-or-later
"""Work done ahead of a training by processes of their own.

Drawing is thousands of small operations, each begun by Python. A thread beside the training gets neither enough of
Python nor of the graphics card for it: on one H100 it drew 0.7 clips a second, where three processes drew 2.7.
"""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable, Hashable
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from typing import Any, Final, Self

import torch

from ..errors import Ex4dError
from .beside import beside_the_training

AHEAD: Final = 3  # pieces for each process: one in work, and others so that it never waits


class DrawnAhead:
    """Pieces of work that are known before they are wanted, done by processes. A context manager.

    Args:
        count: of the processes, 1 or more. Each takes half a gigabyte of a graphics card beside what it draws.
    """

    def __init__(self, count: int) -> None:
        self.count = count
        self._coming: dict[Hashable, Future[None]] = {}
        # spawned, as forking a process that uses a graphics card breaks it
        context = multiprocessing.get_context("spawn")
        self._pool = ProcessPoolExecutor(count, context, initializer=_on_one_core)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self._pool.shutdown(cancel_futures=True)

    def want(self, key: Hashable, work: Callable[..., None], *arguments: Any) -> None:
        """Sees to it that this piece is done or being done."""
        if key not in self._coming:
            self._coming[key] = self._pool.submit(work, *arguments)

    def wait(self, key: Hashable) -> None:
        """Returns once a piece that was wanted is done.

        Raises:
            Ex4dError: what it raised; `out_of_memory` if the process was ended.
        """
        try:
            self._coming.pop(key).result()
        except BrokenProcessPool as error:
            raise Ex4dError(
                "out_of_memory",
                "A process that draws clips was ended by the system.",
                "Use fewer processes (--draw-processes), or a machine with more memory.",
            ) from error


def _on_one_core() -> None:
    beside_the_training()
    torch.set_num_threads(1)
