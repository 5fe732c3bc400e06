# SPDX-License-Identifier: GPL-3.0-or-later
"""The engine's side of the pipe: what it sends when, and that nothing else ever reaches stdout."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from ex4d_engine import methods, protocol, stages, worker
from ex4d_engine.depth import depth_sources
from ex4d_engine.errors import Cancelled, Ex4dError
from ex4d_engine.progress import Silent

ENGINE = Path(worker.__file__).parent
COMMAND = [sys.executable, "-I", str(ENGINE / "__main__.py"), "worker"]


class Clock:
    """A clock that only moves when told."""

    def __init__(self) -> None:
        self.now = 100.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(worker.time, "monotonic", clock.monotonic)
    return clock


def run_lines(*messages: protocol.Message | bytes, timeout: float = 30) -> list[protocol.Message]:
    """Starts the real engine, writes everything at once, closes its stdin; every line of its stdout, decoded."""
    data = b"".join(m if isinstance(m, bytes) else protocol.encode(m) for m in messages)
    ended = subprocess.run(COMMAND, input=data, capture_output=True, timeout=timeout, check=False)
    assert ended.returncode == 0, ended.stderr.decode()
    return [protocol.decode(line) for line in ended.stdout.splitlines()]  # decode refuses anything else


# ------------------------------------------------------------------------------------------ progress


def test_progress_is_throttled_but_the_last_step_and_a_new_stage_are_always_told(clock: Clock) -> None:
    sent: list[protocol.Message] = []
    reporter = worker.PipeReporter(sent.append, 7)
    for done in range(101):
        reporter.progress("depth", done, 100)
        clock.now += 0.01
    reporter.progress("mesh", 0, 5)
    steps = [m for m in sent if isinstance(m, protocol.Progress)]
    assert [(s.stage, s.done) for s in steps[:2]] == [("depth", 0), ("depth", 10)]
    assert [(s.stage, s.done) for s in steps[-2:]] == [("depth", 100), ("mesh", 0)]
    assert len(steps) <= 12  # one second at ten a second, and the new stage


def test_eta_is_measured_from_where_a_resumed_stage_began(clock: Clock) -> None:
    sent: list[protocol.Message] = []
    reporter = worker.PipeReporter(sent.append, 1)
    reporter.progress("depth", 80, 100)  # eighty frames were there already
    clock.now += 2.0
    reporter.progress("depth", 84, 100)
    clock.now += 8.0
    reporter.progress("depth", 100, 100)
    assert [m.eta_s for m in sent if isinstance(m, protocol.Progress)] == [None, 8.0, 0.0]


def test_a_preview_carries_an_absolute_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    sent: list[protocol.Message] = []
    worker.PipeReporter(sent.append, 3).preview(Path("composite.0001.png"))
    assert sent == [protocol.Preview(3, str(tmp_path / "composite.0001.png"))]


# -------------------------------------------------------------------------------------------- errors


class OutOfMemoryError(RuntimeError):
    """Named as torch's."""


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (Ex4dError("no_frames", "None."), "no_frames"),
        (Cancelled(), "cancelled"),
        (MemoryError(), "out_of_memory"),
        (OutOfMemoryError("CUDA"), "out_of_memory"),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried"), "out_of_memory"),
        (OSError(errno.ENOSPC, "No space left", "/shot/plate.png"), "disk_full"),
        (PermissionError(errno.EACCES, "Permission denied", "/shot"), "read_only"),
        (ModuleNotFoundError("No module named 'cv2'"), "missing_package"),
        (ZeroDivisionError("division\nby zero"), "internal"),
        (ValueError("a file that is out of memory's reach"), "internal"),
    ],
)
def test_every_exception_becomes_a_sentence_with_advice(error: Exception, code: str) -> None:
    explained = worker.explain(error)
    assert explained.code == code
    assert "\n" not in explained.message
    assert explained.hint or code == "no_frames"


def test_the_traceback_of_a_bug_goes_to_stderr(capfd: pytest.CaptureFixture[str]) -> None:
    def fail() -> None:
        raise KeyError("depth_note")

    try:
        fail()
    except KeyError as error:
        worker.explain(error)
    out, err = capfd.readouterr()
    assert not out and "in fail" in err and "KeyError" in err


# ---------------------------------------------------------------------------------------------- jobs


def test_stopping_cancels_the_running_job_and_drops_the_waiting_one(monkeypatch: pytest.MonkeyPatch) -> None:
    sent: list[protocol.Message] = []
    subject = worker.Worker(sent.append)
    ran: list[str] = []

    def job(method: str, params: dict[str, Any], reporter: Silent) -> dict[str, Any]:
        ran.append(method)
        subject.stop()  # as the reader thread does at the end of stdin
        reporter.check()
        return {}

    monkeypatch.setattr(worker, "run_method", job)
    for number in (1, 2):
        subject.receive(protocol.encode(protocol.Request(number, "ping")))
    subject.run()
    assert ran == ["ping"]
    assert [(m.id, m.code) for m in sent if isinstance(m, protocol.Error)] == [(1, "cancelled")]


def test_heartbeats_name_the_running_job_and_stop_with_it(monkeypatch: pytest.MonkeyPatch) -> None:
    sent: list[protocol.Message] = []
    subject = worker.Worker(sent.append)

    def job(method: str, params: dict[str, Any], reporter: Silent) -> dict[str, Any]:
        subject.heartbeat()
        subject.receive(protocol.encode(protocol.Shutdown()))
        return {"fine": True}

    monkeypatch.setattr(worker, "run_method", job)
    subject.heartbeat()
    subject.receive(protocol.encode(protocol.Request(5, "ping")))
    subject.run()
    subject.heartbeat()
    assert sent == [protocol.Heartbeat(5), protocol.Done(5, {"fine": True})]


def test_an_id_is_taken_once_at_a_time() -> None:
    sent: list[protocol.Message] = []
    subject = worker.Worker(sent.append)
    for number in (1, 1, 0):
        subject.receive(protocol.encode(protocol.Request(number, "ping")))
    assert [(m.id, m.code) for m in sent if isinstance(m, protocol.Error)] == [(0, "bad_request")] * 2


def test_what_the_hello_offers_is_what_there_is() -> None:
    assert set(worker.DEPTH_SOURCES) == set(depth_sources())
    assert set(worker.PRESETS) == set(stages.PRESETS)
    assert set(methods.PARAMETERS) == set(protocol.METHODS)


def test_reconstruct_takes_every_setting_there_is() -> None:
    fields = set(stages.ReconstructSettings.__dataclass_fields__)
    assert set(methods.PARAMETERS["reconstruct"]) == fields | {"shot"}


def test_null_means_not_said() -> None:
    assert methods.check_params("reconstruct", {"shot": "/s", "source": "/c", "first": None}) == {
        "shot": "/s",
        "source": "/c",
    }


# --------------------------------------------------------------------------------------- the process


def test_the_end_of_stdin_ends_the_engine() -> None:
    first, *_ = run_lines()
    assert isinstance(first, protocol.Hello)


def test_garbage_between_requests_is_answered_and_survived() -> None:
    hello, *answers = run_lines(
        b"\xff\xfe not utf-8\n",
        b"[]\n",
        b'{"type": "request", "id": "one", "method": "ping"}\n',
        b'{"type": "heartbeat", "id": 1}\n',
        b"[" * 100_000 + b"\n",
        b"x" * (protocol.MAX_LINE_BYTES + 70_000) + b"\n",
        protocol.Cancel(99),
        b"\n",
        b'{"type": "request"',  # the end of stdin in the middle of a line
    )
    assert isinstance(hello, protocol.Hello)
    assert [(m.id, m.code) for m in answers if isinstance(m, protocol.Error)] == [(0, "bad_request")] * 6
    assert len(answers) == 6


NOISY_JOB = """
import ctypes, os, subprocess, sys
sys.path.insert(0, sys.argv[1])
from ex4d_engine import worker

def noisy(method, params, reporter):
    print("a print")
    os.write(1, b"a write to fd 1\\n")
    libc = ctypes.CDLL(None)
    libc.puts(b"a C library")
    libc.fflush(None)
    subprocess.run([sys.executable, "-c", "print('a child', input('its stdin: '))"])
    return {"said": "enough"}

worker.run_method = noisy
sys.exit(worker.serve())
"""


@pytest.mark.skipif(os.name != "posix", reason="needs the C library by its POSIX name")
def test_nothing_but_protocol_lines_reaches_stdout_and_no_child_reads_the_pipe() -> None:
    process = subprocess.Popen(
        [sys.executable, "-c", NOISY_JOB, str(ENGINE.parent)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    assert process.stdin is not None and process.stdout is not None
    try:
        process.stdin.write(protocol.encode(protocol.Request(1, "ping")))
        process.stdin.flush()
        assert isinstance(protocol.decode(process.stdout.readline()), protocol.Hello)
        answer = protocol.decode(process.stdout.readline())
        while isinstance(answer, protocol.Heartbeat):
            answer = protocol.decode(process.stdout.readline())
        assert answer == protocol.Done(1, {"said": "enough"})
        rest, errors = process.communicate(timeout=20)
    finally:
        process.kill()
    assert rest == b""
    for said in (b"a print", b"a write to fd 1", b"a C library", b"EOFError"):
        assert said in errors
