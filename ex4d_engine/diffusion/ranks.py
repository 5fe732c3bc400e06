# SPDX-License-Identifier: GPL-3.0-or-later
"""What runs in a rank: one of several processes that work on one job together, started by `parallel_launch`."""

from __future__ import annotations

import importlib
import multiprocessing
import multiprocessing.connection
import os
import pickle
import shutil
import signal
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from multiprocessing.connection import Connection
from multiprocessing.context import SpawnContext
from pathlib import Path
from typing import Any, Final, Literal

import torch
import torch.distributed as dist

from ..errors import Cancelled
from ..progress import Reporter

DeviceKind = Literal["cuda", "cpu"]
BACKENDS: Final[dict[DeviceKind, str]] = {"cuda": "nccl", "cpu": "gloo"}
COLLECTIVE_TIMEOUT: Final = timedelta(minutes=15)
"""How long a rank waits for the others; they may compile or read a model from a slow disk meanwhile."""

Message = tuple[str, tuple[Any, ...]]
"""What a rank tells its parent: a method of the reporter, "done" or "failed", and its arguments."""


def send(connection: Connection, message: Message) -> None:
    """Sends bytes, as the connection's own `send` hands on a tensor by reference, which ends with the sender."""
    connection.send_bytes(pickle.dumps(message))


def receive(connection: Connection) -> Message:
    """The next message of a rank, which is a process of ours.

    Raises:
        EOFError, OSError: the rank has ended.
    """
    return pickle.loads(connection.recv_bytes())  # noqa: S301 - written by `send`


@dataclass(frozen=True)
class ParallelJob:
    """What every rank calls.

    Attributes:
        function: "package.module:name" of a function (ranks: Ranks, **kwargs); the first rank's return value, which
            must be picklable, is the job's.
        kwargs: picklable arguments.
        has_children: whether ranks start processes of their own, which a daemon may not.
    """

    function: str
    kwargs: Mapping[str, Any] = field(default_factory=dict)
    has_children: bool = False

    def resolve(self) -> Callable[..., Any]:
        module, _, name = self.function.partition(":")
        return getattr(importlib.import_module(module), name)


@dataclass(frozen=True)
class Ranks:
    """A rank's place among the others. torch.distributed is ready, and torch's seed is the same in all.

    Attributes:
        rank: 0 is the first, which alone writes files.
        world_size: how many there are.
        device: where this one computes.
        reporter: what the first rank says reaches the job's caller, what others say is dropped. After a cancel
            `check` raises at the same call on all ranks, so in a loop that holds collectives all have to call it.
    """

    rank: int
    world_size: int
    device: torch.device
    reporter: Reporter

    @property
    def is_first(self) -> bool:
        return self.rank == 0


class StopAgreement:
    """Lets all ranks stop at the same check, however far one has run ahead of another, without a collective.

    Every rank counts its checks in shared memory. The first to see the request fixes the count to stop at: the
    lowest that no rank has passed.
    """

    def __init__(self, ranks: int, context: SpawnContext) -> None:
        self._requested = context.RawValue("b", 0)  # without a lock, which a killed rank could hold
        self._stop_at = context.RawValue("q", 0)
        self._checks = context.RawArray("q", ranks)
        self._lock = context.Lock()

    def request(self) -> None:
        self._requested.value = 1

    def must_stop(self, rank: int) -> bool:
        """To be asked once a check."""
        with self._lock:
            self._checks[rank] += 1
            own = self._checks[rank]
            if self._requested.value and not self._stop_at.value:
                passed = max((count for other, count in enumerate(self._checks) if other != rank), default=0)
                self._stop_at.value = max(own, passed + 1)
            return 0 < self._stop_at.value <= own

    def leave(self, rank: int) -> None:
        """The rank has finished: the others need not catch up with its checks."""
        with self._lock:
            self._checks[rank] = 0


class RankReporter:
    """A `Reporter` that writes to the parent's pipe on the first rank and says nothing on the others."""

    def __init__(self, rank: int, connection: Connection, stop: StopAgreement) -> None:
        self._rank, self._connection, self._stop = rank, connection, stop

    def progress(self, stage: str, done: int, total: int) -> None:
        self._tell("progress", stage, done, total)

    def log(self, message: str) -> None:
        self._tell("log", message)

    def preview(self, path: Path) -> None:
        self._tell("preview", path)

    def check(self) -> None:
        if self._stop.must_stop(self._rank):
            raise Cancelled

    def _tell(self, method: str, *arguments: Any) -> None:
        if self._rank == 0:
            send(self._connection, (method, arguments))


def rank_main(
    rank: int,
    job: ParallelJob,
    device_kind: DeviceKind,
    seed: int,
    folder: Path,
    connections: Sequence[Connection],
    stop: StopAgreement,
) -> None:
    """The whole life of a rank.

    Args:
        rank: which one.
        job: what to do.
        device_kind: "cuda" computes on the card of the rank's number.
        seed: of torch's default generators.
        folder: where the ranks find each other; removed should the parent die.
        connections: to the parent, one a rank.
        stop: shared by all.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches all processes of a terminal; the parent decides
    _end_with_parent(folder)
    connection = connections[rank]
    for other in connections:
        if other is not connection:
            other.close()
    world_size = len(connections)
    device = torch.device("cuda", rank) if device_kind == "cuda" else torch.device("cpu")
    torch.set_num_threads(max(1, torch.get_num_threads() // world_size))
    torch.manual_seed(seed)
    try:
        _join(rank, world_size, device, folder)
        result = job.resolve()(Ranks(rank, world_size, device, RankReporter(rank, connection, stop)), **job.kwargs)
        stop.leave(rank)
        send(connection, ("done", (result if rank == 0 else None,)))
    except Exception as error:  # the top of the process: the parent tells the user
        from ..worker import explain

        send(connection, ("failed", (explain(error),)))
        # Had it ended, the others would fail for want of it, and their errors would hide this one.
        threading.Event().wait()
    dist.destroy_process_group()


def _join(rank: int, world_size: int, device: torch.device, folder: Path) -> None:
    if device.type == "cuda":
        torch.cuda.set_device(device)
    dist.init_process_group(
        BACKENDS["cuda" if device.type == "cuda" else "cpu"],
        # by its path, as a URL of it would need escapes
        store=dist.FileStore(str(folder / "rendezvous"), world_size),
        rank=rank,
        world_size=world_size,
        timeout=COLLECTIVE_TIMEOUT,
        device_id=device if device.type == "cuda" else None,
    )


def _end_with_parent(folder: Path) -> None:
    """Ends this process, whatever it is doing, as soon as the parent's has ended."""
    parent = multiprocessing.parent_process()
    assert parent is not None

    def watch() -> None:
        multiprocessing.connection.wait([parent.sentinel])
        shutil.rmtree(folder, ignore_errors=True)
        os._exit(1)

    threading.Thread(target=watch, name="parent watch", daemon=True).start()
