# SPDX-License-Identifier: GPL-3.0-or-later
"""One job on several devices: a process for each, watched until the job's end, whatever that is."""

from __future__ import annotations

import multiprocessing
import signal
import tempfile
import time
from collections.abc import Iterator, Sequence
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any, Final

import torch
import torch.distributed as dist
from torch.multiprocessing import start_processes

from ..errors import Cancelled, Ex4dError
from ..progress import Reporter
from .ranks import BACKENDS, DeviceKind, Message, ParallelJob, StopAgreement, rank_main, receive

POLL_S: Final = 0.1
CANCEL_GRACE_S: Final = 30.0  # a step may be long; then the ranks are killed, which no file minds
EXIT_GRACE_S: Final = 15.0
SETTLE_S: Final = 2.0


def run_parallel(job: ParallelJob, ranks: int, device_kind: DeviceKind, reporter: Reporter) -> Any:
    """Runs `job` on `ranks` processes at once and returns what it returned on the first of them.

    The processes are children of this one and end with it. They find each other through a file in a temporary
    folder, not through a port; NCCL and gloo then open connections of their own between them on this machine.
    Which transports those use is left to the environment (NCCL_NVLS_ENABLE and the like are handed on as they are).

    Args:
        job: called on every rank with its `Ranks`.
        ranks: 1 or more; `parallel.usable_ranks` says how many are of use.
        device_kind: "cuda" with one graphics card a rank through NCCL, or "cpu" through gloo.
        reporter: hears what the first rank reports; its `check` is called ten times a second.

    Raises:
        Ex4dError: what a rank raised, under the same code and with the rank's name; `engine_died` for a rank that
            ended without a word; `bad_request` for more ranks than devices; `missing_package` where PyTorch cannot
            join them; `cancelled`.
    """
    _require_devices(ranks, device_kind)
    context = multiprocessing.get_context("spawn")
    stop = StopAgreement(ranks, context)
    readers, writers = zip(*(context.Pipe(duplex=False) for _ in range(ranks)), strict=True)
    with tempfile.TemporaryDirectory(prefix="ex4d-ranks-", ignore_cleanup_errors=True) as folder:
        processes: list[BaseProcess] = []
        try:
            processes = _started((job, device_kind, torch.initial_seed(), Path(folder), writers, stop), ranks)
            for writer in writers:
                writer.close()  # so that a pipe ends with its rank
            return _Watch(processes, readers, device_kind).result(stop, reporter)
        finally:
            _kill(processes)
            for connection in (*readers, *writers):
                connection.close()


def _started(arguments: tuple[Any, ...], ranks: int) -> list[BaseProcess]:
    earlier = set(multiprocessing.active_children())
    try:
        # daemons: an orderly end of this process ends them too; the others end themselves when it has ended
        daemon = not arguments[0].has_children
        started = start_processes(rank_main, arguments, ranks, join=False, daemon=daemon, start_method="spawn")
    except BaseException:
        # those that did start wait for the others, and nothing but this list knows them
        _kill([process for process in multiprocessing.active_children() if process not in earlier])
        raise
    return list(started.processes)


class _Watch:
    """The ranks from their start to their end."""

    def __init__(self, processes: Sequence[BaseProcess], readers: Sequence[Connection], device_kind: str) -> None:
        self._processes, self._readers, self._device_kind = processes, readers, device_kind
        self._working = list(range(len(processes)))

    def result(self, stop: StopAgreement, reporter: Reporter) -> Any:
        """The first rank's result, once all have ended."""
        result = None
        deadline: float | None = None  # of a cancelled job
        while self._working:
            wait([*(self._readers[rank] for rank in self._working), *self._sentinels()], POLL_S)
            if deadline is None:
                try:
                    reporter.check()
                except Cancelled:
                    stop.request()
                    deadline = time.monotonic() + CANCEL_GRACE_S
            elif time.monotonic() > deadline:
                raise Cancelled
            for rank in tuple(self._working):
                has_ended = self._processes[rank].exitcode is not None
                for method, arguments in self._messages(rank):
                    match method:
                        case "done":
                            self._working.remove(rank)
                            if rank == 0:
                                (result,) = arguments
                        case "failed" if rank > 0 and isinstance(arguments[0], Cancelled):
                            self._working.remove(rank)  # the first rank may still be finishing a file
                            deadline = deadline or time.monotonic() + CANCEL_GRACE_S
                        case "failed":
                            raise self._cause(rank, arguments[0])
                        case _:
                            getattr(reporter, method)(*arguments)
                if has_ended and rank in self._working:
                    raise self._died(rank)
        end = time.monotonic() + EXIT_GRACE_S
        for process in self._processes:
            process.join(max(0.0, end - time.monotonic()))
        return result

    def _messages(self, rank: int) -> Iterator[Message]:
        """What the rank has said by now."""
        reader = self._readers[rank]
        while True:
            try:
                message = receive(reader) if reader.poll() else None
            except (EOFError, OSError):  # it has ended, perhaps in the middle of a message
                return
            if message is None:
                return
            yield message

    def _sentinels(self) -> list[int]:
        return [self._processes[rank].sentinel for rank in self._working]

    def _cause(self, rank: int, error: Ex4dError) -> Ex4dError:
        """The job's error. A rank that loses its connection to another fails a moment before the other is seen dead."""
        if isinstance(error, Cancelled):
            return error
        if error.code == "internal" and wait(self._sentinels(), SETTLE_S):
            for other in self._working:
                if self._processes[other].exitcode is not None:
                    return self._died(other)
        return Ex4dError(error.code, f"{self._name(rank)} failed: {error.message}", error.hint, error.action)

    def _died(self, rank: int) -> Ex4dError:
        code = self._processes[rank].exitcode or 0
        how = f"by signal {_signal_name(-code)}" if code < 0 else f"with status {code}"
        return Ex4dError(
            "engine_died",
            f"{self._name(rank)} ended unexpectedly {how}.",
            "Close other programs, as memory may have run out, and run again; or use fewer graphics cards.",
        )

    def _name(self, rank: int) -> str:
        device = f" (cuda:{rank})" if self._device_kind == "cuda" else ""
        return f"Rank {rank} of {len(self._processes)}{device}"


def _require_devices(ranks: int, device_kind: DeviceKind) -> None:
    if ranks < 1:
        raise Ex4dError("bad_request", f"A job cannot run on {ranks} devices.", "Ask for 1 or more.")
    backend = BACKENDS[device_kind]
    if not dist.is_available() or not dist.is_backend_available(backend):
        raise Ex4dError(
            "missing_package",
            f"This PyTorch comes without {backend}, through which several devices work together "
            "(PyTorch for Windows and macOS has no nccl).",
            "Use one graphics card here, or several on Linux.",
        )
    if device_kind == "cuda" and torch.cuda.device_count() < ranks:
        raise Ex4dError(
            "bad_request",
            f"The job asks for {ranks} graphics cards and this machine has {torch.cuda.device_count()}.",
            "Ask for as many as there are.",
        )


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return str(number)


def _kill(processes: Sequence[BaseProcess]) -> None:
    for process in processes:
        process.kill()
    for process in processes:
        process.join()
