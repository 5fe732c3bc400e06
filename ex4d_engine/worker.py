# SPDX-License-Identifier: GPL-3.0-or-later
"""The engine as a child process: requests come in on stdin, protocol lines go out on stdout (protocol.py).

Threads: the main thread runs one job at a time, since torch and OpenGL want one thread for good; a
reader listens to stdin, so that a cancel is heard in the middle of a step; a pulse sends heartbeats
while a job runs and notices when the parent is gone. Only the jobs import anything heavy, so the
engine says hello in well under a second, or as soon as a slow graphics driver has answered (devices.py).

What can be asked for is in methods.py.
"""

from __future__ import annotations

import contextlib
import faulthandler
import os
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import Final

import psutil

from . import __version__, protocol
from .devices import main_device
from .diffusion.keeper import Keeper, keeping
from .errors import Ex4dError
from .files import explain_os_error
from .methods import KEEPING, bad_request, check_params, run_method
from .places import keep_models_s
from .progress import Silent

PRESETS: Final = ("preview", "draft", "final", "fast")
DEPTH_SOURCES: Final = (
    "rough-pictorial",
    "file",
    "bundled",
    "depth-anything-v2",
    "depth-anything-3",
    "video-depth-anything",
    "depth-pro",
    "depthcrafter",
)
HEARTBEAT_S: Final = 1.0
PROGRESS_INTERVAL_S: Final = 0.1
EXIT_GRACE_S: Final = 5.0
PARENT_VARIABLE: Final = "EX4D_PARENT_PID"  # whose death ends the engine; its direct parent when not set

Send = Callable[[protocol.Message], None]


# ---------------------------------------------------------------------------------------------- jobs


class PipeReporter(Silent):
    """Turns a stage's calls into messages about one job, at most ten progress lines a second."""

    def __init__(self, send: Send, job: int) -> None:
        super().__init__()
        self._send, self._job = send, job
        self._stage = ""
        self._stage_began = self._sent = 0.0
        self._done_before = 0

    def progress(self, stage: str, done: int, total: int) -> None:
        now = time.monotonic()
        if stage != self._stage:
            # a resumed stage begins in the middle: what was there before says nothing about its speed
            self._stage, self._stage_began, self._done_before = stage, now, done
        elif done < total and now - self._sent < PROGRESS_INTERVAL_S:
            return
        self._sent = now
        self._send(protocol.Progress(self._job, stage, done, total, self._eta_s(now, done, total)))

    def _eta_s(self, now: float, done: int, total: int) -> float | None:
        if done >= total:
            return 0.0
        advanced = done - self._done_before
        return round((now - self._stage_began) / advanced * (total - done), 1) if advanced > 0 else None

    def log(self, message: str) -> None:
        self._send(protocol.Log(self._job, message))

    def preview(self, path: Path) -> None:
        self._send(protocol.Preview(self._job, str(path.absolute())))


def explain(error: BaseException) -> Ex4dError:
    """Any exception of a job as an error for a person; the traceback of one we did not foresee goes to stderr."""
    if isinstance(error, Ex4dError):
        return error
    if _is_out_of_memory(error):
        return Ex4dError(
            "out_of_memory",
            "The memory of this machine is not enough for this job.",
            "Close other programs, or choose a lower preset or a smaller output size.",
            "preset:preview",
        )
    traceback.print_exception(error)
    if isinstance(error, ImportError):
        return Ex4dError(
            "missing_package",
            f"The engine's Python lacks a package: {error}.",
            "Install the engine again with tools/bootstrap.py.",
        )
    if isinstance(error, OSError) and error.filename:
        return explain_os_error(error, Path(os.fsdecode(error.filename)))
    first_line = (str(error).strip().splitlines() or [""])[0]
    return Ex4dError(
        "internal",
        f"The engine failed unexpectedly: {type(error).__name__}: {first_line}",
        "Copy the report and file it as a bug; the shot folder is intact.",
    )


def _is_out_of_memory(error: BaseException) -> bool:
    # by name and words, as torch's exceptions may only be imported with torch and differ by device
    words = str(error).lower()
    return (
        isinstance(error, MemoryError)
        or type(error).__name__ == "OutOfMemoryError"
        or (isinstance(error, RuntimeError) and ("out of memory" in words or "can't allocate memory" in words))
    )


class Worker:
    """Runs requests one after another until told to stop.

    Args:
        send: writes one message to the pipe; called from several threads.
    """

    def __init__(self, send: Send) -> None:
        self._send = send
        # SimpleQueue: its put may be called from a signal handler that interrupted its get
        self._waiting: SimpleQueue[tuple[protocol.Request, PipeReporter] | None] = SimpleQueue()
        self._reporters: dict[int, PipeReporter] = {}  # waiting and running jobs
        self._running: int | None = None
        self.stopping = threading.Event()

    def receive(self, line: bytes) -> None:
        """Takes one line from the pipe; anything that is no message of ours is answered, never fatal."""
        try:
            message = protocol.decode(line)
        except Ex4dError as error:
            self._send(_error(0, error))
            return
        match message:
            case protocol.Request():
                self._accept(message)
            case protocol.Cancel():
                reporter = self._reporters.get(message.id)
                if reporter is not None:  # else it has just ended, and its answer is on its way
                    reporter.cancelled.set()
            case protocol.Shutdown():
                self.stop()
            case _:
                self._send(_error(0, bad_request(f"{message.type!r} is a message to Blender.", "Send requests.")))

    def _accept(self, request: protocol.Request) -> None:
        if request.id < 1 or request.id in self._reporters:
            self._send(
                _error(0, bad_request(f"The id {request.id} is not free.", "Give each request its own, from 1."))
            )
            return
        reporter = PipeReporter(self._send, request.id)
        self._reporters[request.id] = reporter
        self._waiting.put((request, reporter))

    def run(self) -> None:
        """Works until `stop`; must be the main thread."""
        with keeping(Keeper(keep_models_s())) as keeper:
            while not self.stopping.is_set():
                try:
                    job = self._waiting.get(timeout=keeper.seconds_left())
                except Empty:
                    keeper.release()  # nobody has asked for the models for long
                    continue
                if job is None:
                    break
                request, reporter = job
                self._running = request.id
                if request.method not in KEEPING:
                    keeper.release()
                answer = self._answer(request, reporter)
                self._running = None
                del self._reporters[request.id]
                self._send(answer)

    def _answer(self, request: protocol.Request, reporter: PipeReporter) -> protocol.Done | protocol.Error:
        try:
            params = check_params(request.method, request.params)
            reporter.check()  # cancelled while it waited
            return protocol.Done(request.id, run_method(request.method, params, reporter))
        except Exception as error:  # the top of every job: a failure of one must not end the engine
            return _error(request.id, explain(error))

    def heartbeat(self) -> None:
        running = self._running
        if running is not None:
            self._send(protocol.Heartbeat(running))

    def stop(self) -> None:
        """Cancels what runs and waits, and lets `run` return; safe in any thread and in a signal handler."""
        self.stopping.set()
        for reporter in list(self._reporters.values()):
            reporter.cancelled.set()
        self._waiting.put(None)


def _error(job: int, error: Ex4dError) -> protocol.Error:
    return protocol.Error(job, error.code, error.message, error.hint, error.action)


# ---------------------------------------------------------------------------------------- the process


class Pipe:
    """The real stdin and stdout. From here on fd 1 is stderr and fd 0 is empty, so that nothing a C
    library prints can spoil the pipe and no child process can read from it or hold it open."""

    def __init__(self) -> None:
        sys.stdout.flush()
        self._input, self._output = os.dup(0), os.dup(1)
        nothing = os.open(os.devnull, os.O_RDONLY)
        os.dup2(nothing, 0)
        os.close(nothing)
        os.dup2(2, 1)
        sys.stdout = sys.stderr
        if sys.platform == "win32":
            import msvcrt

            msvcrt.setmode(self._input, os.O_BINARY)
            msvcrt.setmode(self._output, os.O_BINARY)
        self._lock = threading.Lock()

    def send(self, message: protocol.Message) -> None:
        """Writes one line; silently nothing when nobody listens any more, as stdin ends at the same time."""
        data = memoryview(protocol.encode(message))
        with self._lock, contextlib.suppress(OSError):  # Windows says EINVAL where others say EPIPE
            while data:
                data = data[os.write(self._output, data) :]

    def lines(self) -> Iterator[bytes]:
        """Lines from stdin until its end; one that is too long comes cut, and is then refused by decode.

        Read without Python's buffered stdin, whose lock a daemon thread would hold while Python exits.
        """
        line = bytearray()
        while chunk := os.read(self._input, 65536):
            *ended, rest = chunk.split(b"\n")
            for piece in ended:
                yield bytes(line + piece)
                line.clear()
            # one byte past the limit is kept, so that decode sees a line too long and says so
            line += rest[: max(0, protocol.MAX_LINE_BYTES + 1 - len(line))]


def serve() -> int:
    """Speaks the protocol on this process's stdin and stdout until told to stop; returns the exit status."""
    pipe = Pipe()
    worker = Worker(pipe.send)
    parent = _parent()
    device = main_device()
    pipe.send(
        protocol.Hello(
            protocol.PROTOCOL_VERSION,
            __version__,
            device.name,
            (device.free_gib, device.total_gib),
            PRESETS,
            DEPTH_SOURCES,
        )
    )

    def stop() -> None:
        if not worker.stopping.is_set():
            # a step that neither ends nor lets go of the interpreter must not outlive the parent: this
            # timer is C code and needs neither; `_kill_children` covers the ordinary case before it
            faulthandler.dump_traceback_later(EXIT_GRACE_S + 1, exit=True, file=sys.stderr)
            threading.Thread(target=_exit_after_grace, daemon=True).start()
        worker.stop()

    def read() -> None:
        for line in pipe.lines():
            if line.strip():
                worker.receive(line)
            if worker.stopping.is_set():
                break
        stop()

    def pulse() -> None:
        while not worker.stopping.wait(HEARTBEAT_S):
            worker.heartbeat()
            if not _is_alive(parent):
                stop()

    # a signal ends the engine the same gentle way; a second one after the grace is the sender's business
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda _number, _frame: stop())
    threading.Thread(target=read, name="pipe reader", daemon=True).start()
    threading.Thread(target=pulse, name="pulse", daemon=True).start()
    worker.run()
    _kill_children()
    return 0


def _exit_after_grace() -> None:
    time.sleep(EXIT_GRACE_S)
    _kill_children()
    os._exit(1)


def _kill_children() -> None:
    for child in psutil.Process().children(recursive=True):
        with contextlib.suppress(psutil.NoSuchProcess):
            child.kill()


def _parent() -> psutil.Process | None:
    """Who to live with. Named by its id, as a virtual environment's python.exe is a launcher in between."""
    number = int(os.environ.get(PARENT_VARIABLE, "") or os.getppid())
    if number == 0:
        return None  # outside this container and not to be seen: the end of stdin has to do
    try:
        return psutil.Process(number)
    except psutil.NoSuchProcess:
        sys.exit("The program that started the engine has ended already.")


def _is_alive(parent: psutil.Process | None) -> bool:
    if parent is None:
        return True
    try:
        # a killed parent that nobody has waited for is a zombie; is_running also knows a reused id
        return parent.is_running() and parent.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False
