# SPDX-License-Identifier: GPL-3.0-or-later
"""Encoding files on other threads while the next frame is drawn. Bounded, so memory does not grow."""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, Self


class BackgroundWriter:
    """Runs calls on a few threads (PNG and EXR encoders release Python's lock).

    `submit` waits while too many are queued. A failure is raised by the next `submit` after it, or at the
    end of the block, where all that was queued is finished first.
    """

    def __init__(self, threads: int | None = None) -> None:
        count = threads or min(4, os.cpu_count() or 1)
        self._pool = ThreadPoolExecutor(count, thread_name_prefix="ex4d-write")
        self._limit = 2 * count
        self._pending: list[Future[Any]] = []

    def __enter__(self) -> Self:
        return self

    def submit(self, call: Callable[..., Any], *arguments: Any) -> None:
        """Queues `call(*arguments)`.

        Raises:
            Exception: what an earlier call raised.
        """
        for future in [future for future in self._pending if future.done()]:
            self._pending.remove(future)
            future.result()
        if len(self._pending) >= self._limit:
            self._pending.pop(0).result()
        self._pending.append(self._pool.submit(call, *arguments))

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        self._pool.shutdown(wait=True)
        if error is None:
            for future in self._pending:
                future.result()
