# SPDX-License-Identifier: GPL-3.0-or-later
"""The engine as Blender sees it: a child process that is asked for jobs and answers with messages. No bpy.

Everything here returns at once but `wait_hello` and `stop`, so a timer can call it on Blender's main
thread. The engine may die at any moment; its jobs then end with an `Error` like any other failed job, and
`start` begins anew.
"""

from __future__ import annotations

import contextlib
import os
import queue
import signal
import subprocess
import sys
import threading
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any, Final

from ..ex4d_engine import protocol
from ..ex4d_engine.errors import Ex4dError

ENGINE_FOLDER: Final = Path(__file__).resolve().parents[1] / "ex4d_engine"
PYTHON_VARIABLE: Final = "EX4D_ENGINE_PYTHON"
PARENT_VARIABLE: Final = "EX4D_PARENT_PID"
OLDEST_PYTHON: Final = (3, 11)
STDERR_LINES: Final = 200
STOP_GRACE_S: Final = 3.0
HELLO_TIMEOUT_S: Final = 30.0
_WINDOWS: Final = sys.platform == "win32"


def find_engine_python(preference: str, environment: Mapping[str, str] = os.environ) -> Path:
    """The engine's Python: the one set in the preferences, else the variable EX4D_ENGINE_PYTHON.

    Args:
        preference: an interpreter, or the folder of a virtual environment; "" when not set.

    Raises:
        Ex4dError: `engine_missing` when none is set or the one that is set is not there.
    """
    said = preference.strip() or environment.get(PYTHON_VARIABLE, "").strip()
    if not said:
        raise _missing("The engine's Python is not set.", "Run tools/bootstrap.py, then choose it in the preferences.")
    path = Path(said).expanduser()
    if path.is_dir():
        path = path / "Scripts" / "python.exe" if _WINDOWS else path / "bin" / "python"
    if not path.is_file():
        raise _missing(f"The engine's Python {path} does not exist.", "Choose another one in the preferences.")
    # absolute, but not resolved: a virtual environment's python is a link whose own place matters
    return path.absolute()


def engine_command(engine_python: Path) -> list[str]:
    """Starts the sources beside the add-on, so that both ends of the pipe are of one version."""
    return [str(engine_python), "-I", str(ENGINE_FOLDER / "__main__.py"), "worker"]


def engine_environment(environment: Mapping[str, str] = os.environ) -> dict[str, str]:
    """The environment without what Blender's or the user's own Python set for itself."""
    kept = {name: value for name, value in environment.items() if not name.upper().startswith("PYTHON")}
    return kept | {PARENT_VARIABLE: str(os.getpid())}


@dataclass
class _Run:
    """One life of the child. The reader threads know only their own, so a restart cannot mix two."""

    process: subprocess.Popen[bytes]
    messages: queue.SimpleQueue[protocol.Message | None]  # None: the pipe has ended, nothing follows
    said: deque[str]  # the last lines of stderr, and lines on the pipe that were no messages
    hello: protocol.Hello | None = None
    garbage: int = 0
    ready: threading.Event = field(default_factory=threading.Event)  # hello has come, or never will


class EngineProcess:
    """A child process that speaks protocol.py on its stdin and stdout.

    Args:
        command: what to run; see `engine_command`.
    """

    def __init__(self, command: list[str]) -> None:
        self.command = command
        self._run: _Run | None = None
        self._next_id = 1
        self._open: list[int] = []  # submitted jobs without an answer
        self._late: list[protocol.Message] = []  # ends of jobs of an earlier life, for the next poll
        self._stop_asked = False

    @property
    def is_alive(self) -> bool:
        return self._run is not None and self._run.process.poll() is None

    @property
    def hello(self) -> protocol.Hello | None:
        """What the engine said of itself; None before it did."""
        return self._run.hello if self._run else None

    @property
    def pid(self) -> int | None:
        return self._run.process.pid if self._run else None

    @property
    def garbage_lines(self) -> int:
        """How many lines on the pipe were no messages; they are in the report."""
        return self._run.garbage if self._run else 0

    def start(self) -> None:
        """Starts the child, or starts it again after its death; does not wait for it.

        Raises:
            Ex4dError: `engine_missing` when the program cannot be run.
        """
        if self.is_alive:
            return
        group: dict[str, Any] = {"start_new_session": True}
        if sys.platform == "win32":
            group = {"creationflags": subprocess.CREATE_NEW_PROCESS_GROUP | subprocess.CREATE_NO_WINDOW}
        try:
            process = subprocess.Popen(
                self.command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                env=engine_environment(),
                **group,
            )
        except OSError as error:
            raise _missing(
                f"The engine's Python {self.command[0]} cannot be run: {error.strerror or error}.",
                "Choose another one in the preferences.",
            ) from error
        assert process.stdout is not None and process.stderr is not None
        run = _Run(process, queue.SimpleQueue(), deque(maxlen=STDERR_LINES))
        errors = threading.Thread(target=_read_stderr, args=(run, process.stderr), daemon=True)
        errors.start()
        threading.Thread(target=_read_stdout, args=(run, process.stdout, errors), daemon=True).start()
        self._late += self._deaths()
        self._run, self._stop_asked = run, False

    def wait_hello(self, timeout_s: float = HELLO_TIMEOUT_S) -> protocol.Hello:
        """Waits until the engine has said hello; messages that follow stay for `poll`.

        Raises:
            Ex4dError: `engine_missing` when it ended or kept silent instead; it is then stopped.
        """
        if self._run is not None:
            self._run.ready.wait(timeout_s)
        hello = self.check_hello()
        if hello is None:
            self.stop(grace_s=0.0)
            raise _missing(f"The engine did not answer within {timeout_s:g} s.", "Check it in the preferences.")
        return hello

    def check_hello(self) -> protocol.Hello | None:
        """What the engine said of itself, or None while it is still starting; never waits for it.

        Raises:
            Ex4dError: `engine_missing` when it ended instead, or is of another version; it is then stopped.
        """
        run = self._run
        if run is None:
            raise _missing("The engine is not started.", "Start it.")
        if not run.ready.is_set():
            return None
        if run.hello is not None and run.hello.protocol == protocol.PROTOCOL_VERSION:
            return run.hello
        reason = self._why_no_hello(run)
        self.stop(grace_s=0.0)
        raise reason

    def _why_no_hello(self, run: _Run) -> Ex4dError:
        if run.hello is not None:
            return _missing(
                f"The engine speaks protocol {run.hello.protocol}; this add-on {protocol.PROTOCOL_VERSION}.",
                "Install the add-on and the engine from one release.",
            )
        version = _python_version(self.command[0])
        if version is not None and version < OLDEST_PYTHON:
            return _missing(
                f"{self.command[0]} is Python {version[0]}.{version[1]}; the engine needs 3.11 or newer.",
                "Run tools/bootstrap.py with a newer Python, then choose its environment in the preferences.",
            )
        return _missing(
            f"The engine did not start: {_last_line(run)}",
            "Run tools/bootstrap.py again, or choose another engine Python in the preferences.",
        )

    def submit(self, method: str, params: dict[str, Any]) -> int:
        """Asks for a job and returns its id; the answer comes through `poll`.

        Raises:
            Ex4dError: `engine_died` when the engine does not run.
        """
        if not self.is_alive:
            raise Ex4dError("engine_died", "The engine is not running.", "Start it again.")
        number = self._next_id
        self._next_id += 1
        self._open.append(number)
        self._send(protocol.Request(number, method, params))
        return number

    def cancel(self, job: int) -> None:
        """Asks the engine to stop a job at its next step; the job then ends with the error `cancelled`."""
        self._send(protocol.Cancel(job))

    def poll(self) -> list[protocol.Message]:
        """Everything that came since the last call, in order; never waits.

        When the engine has died, the list ends with one `Error` (`engine_died`) for each of its open jobs.
        """
        found, self._late = self._late, []
        run = self._run
        while run is not None:
            try:
                message = run.messages.get_nowait()
            except queue.Empty:
                break
            if message is None:
                found += self._deaths()
                break
            if isinstance(message, (protocol.Done, protocol.Error)) and message.id in self._open:
                self._open.remove(message.id)
            found.append(message)
        return found

    def _deaths(self) -> list[protocol.Message]:
        """The errors that end the open jobs of an engine that is gone."""
        jobs, self._open = self._open, []
        return [self._death_of(self._run, job) for job in jobs if self._run is not None]

    def _death_of(self, run: _Run, job: int) -> protocol.Error:
        if self._stop_asked:
            return protocol.Error(job, "cancelled", "The engine was stopped.", "Finished frames are kept.")
        status = run.process.poll()
        reason = "it closed its pipe" if status is None else f"exit status {status}"
        if status is not None and status < 0:
            with contextlib.suppress(ValueError):  # a real-time signal has no name
                reason = f"ended by {signal.Signals(-status).name}"
            if status == -9:
                reason += ", as the system does when memory runs out"
        return protocol.Error(
            job,
            "engine_died",
            f"The engine stopped unexpectedly ({reason}). Its last words: {_last_line(run)}",
            "Run it again: the engine is started anew and finished frames are kept.",
        )

    def stop(self, grace_s: float = STOP_GRACE_S) -> None:
        """Ends the engine and its children: by asking, then with a signal, then by force."""
        run = self._run
        if run is None:
            return
        self._stop_asked = True
        self._send(protocol.Shutdown())
        with contextlib.suppress(OSError):
            if run.process.stdin is not None:
                run.process.stdin.close()
        if not _ended_within(run.process, grace_s):
            _signal_group(run.process, force=False)
            _ended_within(run.process, min(grace_s, 1.0))
        # always: a child of the engine may outlive it, and a dead group costs nothing
        _signal_group(run.process, force=True)
        run.process.wait()

    def report(self) -> str:
        """What to paste into a bug report: the engine, how it ended, and its last lines."""
        run = self._run
        if run is None:
            return "The engine was not started."
        status = run.process.poll()
        lines = [
            f"command: {self.command}",
            f"hello: {run.hello}",
            "running" if status is None else f"exit status: {status}",
            f"lines on the pipe that were no messages: {run.garbage}",
            "",
            *list(run.said),
        ]
        return "\n".join(lines)

    def _send(self, message: protocol.Message) -> None:
        # a pipe that broke means that the engine has died, and `poll` reports that
        if self._run is not None and self._run.process.stdin is not None:
            with contextlib.suppress(OSError, ValueError):
                self._run.process.stdin.write(protocol.encode(message))
                self._run.process.stdin.flush()


# ------------------------------------------------------------------------------------- reader threads


def _read_stdout(run: _Run, pipe: IO[bytes], errors: threading.Thread) -> None:
    while line := pipe.readline(protocol.MAX_LINE_BYTES + 1):
        try:
            message = protocol.decode(line)
        except Ex4dError:
            run.garbage += 1
            run.said.append("[on the pipe] " + line[:200].decode("utf-8", "replace").rstrip())
            continue
        if isinstance(message, protocol.Hello):
            run.hello = message
            run.ready.set()
        else:
            run.messages.put(message)
    # an engine that closed its pipe is of no use any more, even if it goes on in some endless loop
    if not _ended_within(run.process, 2.0):
        _signal_group(run.process, force=True)
        run.process.wait()
    errors.join(1.0)  # for its last words
    run.messages.put(None)
    run.ready.set()


def _read_stderr(run: _Run, pipe: IO[bytes]) -> None:
    while line := pipe.readline(65536):
        run.said.append(line.decode("utf-8", "replace").rstrip())


# ------------------------------------------------------------------------------------------ processes


def _ended_within(process: subprocess.Popen[bytes], seconds: float) -> bool:
    try:
        process.wait(seconds)
    except subprocess.TimeoutExpired:
        return False
    return True


def _signal_group(process: subprocess.Popen[bytes], *, force: bool) -> None:
    if sys.platform == "win32":
        process.kill()  # its children end by its own watch on the pipe
        return
    with contextlib.suppress(ProcessLookupError, PermissionError):  # macOS: EPERM for a group of zombies
        os.killpg(process.pid, signal.SIGKILL if force else signal.SIGTERM)


def _python_version(program: str) -> tuple[int, int] | None:
    """(major, minor) of an interpreter, None when the program does not answer like one."""
    code = "import sys; print('%d %d' % sys.version_info[:2])"
    try:
        answer = subprocess.run(
            [program, "-I", "-c", code], env=engine_environment(), capture_output=True, timeout=10, check=True
        )
        major, minor = answer.stdout.split()
        return int(major), int(minor)
    except (OSError, subprocess.SubprocessError, ValueError):
        return None


def _last_line(run: _Run) -> str:
    # list() first: the readers may append meanwhile
    return next((line for line in reversed(list(run.said)) if line.strip()), "nothing was said.")


def _missing(message: str, hint: str) -> Ex4dError:
    return Ex4dError("engine_missing", message, hint, "ex4d.open_preferences")
