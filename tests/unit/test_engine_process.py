# SPDX-License-Identifier: GPL-3.0-or-later
"""The real engine over real pipes, driven by the add-on's own end of them; and engines that misbehave."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable, Iterator
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import psutil
import pytest
from ex4d_extension.ex4d_blender import engine_process
from ex4d_extension.ex4d_blender.engine_process import EngineProcess, engine_command, find_engine_python
from ex4d_extension.ex4d_engine import protocol
from ex4d_extension.ex4d_engine.errors import Ex4dError
from ex4d_extension.ex4d_engine.shot import load_shot

from ex4d_engine import worker

SHOT_NAME = "Ünï 作業 shot"
DEADLINE_S = 60.0
posix = pytest.mark.skipif(os.name != "posix", reason="needs POSIX signals and named pipes")


def make_clip(path: Path, frames: int, size: tuple[int, int] = (64, 48)) -> Path:
    """A bright square that drifts over a dim gradient, lossless."""
    width, height = size
    row = np.linspace(30, 120, width, dtype=np.uint8)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("ffv1", rate=Fraction(24))
        stream.width, stream.height, stream.pix_fmt = width, height, "bgr0"
        for index in range(frames):
            image = np.repeat(np.tile(row, (height, 1))[..., None], 3, axis=2)
            left = 4 + index % (width // 2)
            image[height // 3 : height // 3 * 2, left : left + width // 4] = (220, 160, 60)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
        container.mux(stream.encode(None))
    return path


def wait_for(condition: Callable[[], object], what: str, deadline_s: float = DEADLINE_S) -> None:
    end = time.monotonic() + deadline_s
    while not condition():
        assert time.monotonic() < end, f"waited {deadline_s:g} s for {what}"
        time.sleep(0.01)


def messages_until(
    engine: EngineProcess, wanted: Callable[[protocol.Message], bool], deadline_s: float = DEADLINE_S
) -> list[protocol.Message]:
    """Everything up to and with the first message that `wanted` accepts."""
    seen: list[protocol.Message] = []
    end = time.monotonic() + deadline_s
    while True:
        for message in engine.poll():
            seen.append(message)
            if wanted(message):
                return seen
        assert time.monotonic() < end, f"waited {deadline_s:g} s; saw {seen[-5:]}\n{engine.report()}"
        time.sleep(0.005)


def ends(job: int) -> Callable[[protocol.Message], bool]:
    return lambda message: isinstance(message, (protocol.Done, protocol.Error)) and message.id == job


def answer(engine: EngineProcess, job: int) -> protocol.Message:
    return messages_until(engine, ends(job))[-1]


def reconstruct(engine: EngineProcess, shot: Path, clip: Path) -> int:
    return engine.submit("reconstruct", {"shot": str(shot), "source": str(clip)})


@pytest.fixture
def engine() -> Iterator[EngineProcess]:
    process = EngineProcess(engine_command(Path(sys.executable)))
    process.start()
    yield process
    process.stop(grace_s=0.5)


@pytest.fixture
def stuck_shot(tmp_path: Path) -> Path:
    """A shot folder whose shot.json is a named pipe: reading it never ends, in the middle of a step."""
    folder = tmp_path / "stuck"
    folder.mkdir()
    os.mkfifo(folder / "shot.json")
    return folder


def get_stuck(engine: EngineProcess, stuck_shot: Path) -> int:
    """Sends the engine into a job that never ends and waits until it is in it."""
    job = engine.submit("render", {"shot": str(stuck_shot), "take": "take_0001"})
    messages_until(engine, lambda message: isinstance(message, protocol.Heartbeat) and message.id == job)
    return job


def test_hello_comes_within_a_second_and_says_what_the_engine_offers(engine: EngineProcess) -> None:
    began = time.monotonic()
    hello = engine.wait_hello(20)
    # a cold disk and a busy machine are no fault of ours; importing torch (several seconds) would be
    assert time.monotonic() - began < 3.0
    assert hello.protocol == protocol.PROTOCOL_VERSION
    assert "preview" in hello.presets and "file" in hello.depth_sources
    assert 0 < hello.memory_gib[0] <= hello.memory_gib[1]


def test_two_jobs_in_a_row_in_a_folder_with_a_hard_name(engine: EngineProcess, tmp_path: Path) -> None:
    folder = tmp_path / SHOT_NAME
    folder.mkdir()
    clip = make_clip(folder / "clip 作業.mkv", 8)
    first = reconstruct(engine, folder / "one", clip)
    second = reconstruct(engine, folder / "two", clip)
    seen = messages_until(engine, ends(second))

    done = [message for message in seen if isinstance(message, protocol.Done)]
    assert [message.id for message in done] == [first, second]
    assert done[0].result == {"shot": str(folder / "one"), "frames": 8, "size": [64, 48]}
    assert load_shot(folder / "two").require_plate().count == 8
    # the second one waited for the first: no message about it comes before the first one's end
    assert seen.index(done[0]) < min(seen.index(message) for message in seen if message.id == second)
    for job in (first, second):
        steps = [message for message in seen if isinstance(message, protocol.Progress) and message.id == job]
        stages = {step.stage for step in steps}
        assert len(stages) >= 2
        for stage in stages:
            last = [step for step in steps if step.stage == stage][-1]
            assert last.done == last.total, "the last step of a stage is always told"
            assert last.eta_s == 0.0
    assert engine.garbage_lines == 0


def test_a_cancelled_job_stops_leaves_nothing_half_written_and_resumes(engine: EngineProcess, tmp_path: Path) -> None:
    clip, shot = make_clip(tmp_path / "clip.mkv", 150), tmp_path / "shot"
    job = reconstruct(engine, shot, clip)
    messages_until(engine, lambda message: isinstance(message, protocol.Progress) and message.done >= 1)
    engine.cancel(job)
    asked = time.monotonic()
    error = answer(engine, job)
    assert isinstance(error, protocol.Error) and error.code == "cancelled"
    assert time.monotonic() - asked < 5.0
    assert load_shot(shot).geometry is None, "cancelled during the first stage, so the others have not begun"
    assert not [path for path in shot.rglob(".*") if path.is_file()], "temporary files are gone"

    again = answer(engine, reconstruct(engine, shot, clip))
    assert isinstance(again, protocol.Done)
    assert load_shot(shot).require_plate().count == 150


def test_a_job_that_waits_can_be_cancelled(engine: EngineProcess, tmp_path: Path) -> None:
    clip = make_clip(tmp_path / "clip.mkv", 60)
    first, second = reconstruct(engine, tmp_path / "one", clip), reconstruct(engine, tmp_path / "two", clip)
    engine.cancel(second)
    seen = messages_until(engine, ends(second))
    assert [message.code for message in seen if isinstance(message, protocol.Error)] == ["cancelled"]
    assert [message.id for message in seen if isinstance(message, protocol.Done)] == [first]
    assert not (tmp_path / "two").exists()


def test_a_failed_job_says_why_and_the_next_one_works(engine: EngineProcess, tmp_path: Path) -> None:
    error = answer(engine, reconstruct(engine, tmp_path / "shot", tmp_path / "not there.mkv"))
    assert isinstance(error, protocol.Error)
    assert (error.code, "not there.mkv" in error.message) == ("no_such_file", True)
    assert isinstance(answer(engine, engine.submit("ping", {})), protocol.Done)


@pytest.mark.parametrize(
    ("method", "params", "named"),
    [
        ("dance", {}, "dance"),
        ("ping", {"loud": 1}, "loud"),
        ("render", {"shot": "/s"}, "take"),
        ("render", {"shot": "relative/shot", "take": "take_0001"}, "relative/shot"),
        ("generate", {"shot": "/s", "take": "take_0001", "preset": "preview", "seed": "seven"}, "seed"),
        ("reconstruct", {"shot": "/s", "source": "/c.mkv", "stride": True}, "stride"),
    ],
)
def test_wrong_requests_are_refused_by_name(
    engine: EngineProcess, method: str, params: dict[str, object], named: str
) -> None:
    error = answer(engine, engine.submit(method, params))
    assert isinstance(error, protocol.Error)
    assert error.code == "bad_request" and named in error.message


@posix
def test_heartbeats_come_every_second_while_a_step_is_long(engine: EngineProcess, stuck_shot: Path) -> None:
    job = get_stuck(engine, stuck_shot)
    began = time.monotonic()
    for _ in range(3):
        messages_until(engine, lambda message: isinstance(message, protocol.Heartbeat) and message.id == job, 10)
    assert 2.0 < time.monotonic() - began < 6.0


@posix
def test_a_killed_engine_is_reported_and_starts_again(engine: EngineProcess, stuck_shot: Path) -> None:
    job = get_stuck(engine, stuck_shot)
    assert engine.pid is not None
    os.kill(engine.pid, signal.SIGKILL)
    error = answer(engine, job)
    assert isinstance(error, protocol.Error)
    assert error.code == "engine_died" and "SIGKILL" in error.message
    assert not engine.is_alive
    with pytest.raises(Ex4dError) as refused:
        engine.submit("ping", {})
    assert refused.value.code == "engine_died"

    engine.start()
    engine.wait_hello()
    assert isinstance(answer(engine, engine.submit("ping", {})), protocol.Done)


@posix
def test_stop_ends_even_an_engine_that_is_stuck(engine: EngineProcess, stuck_shot: Path) -> None:
    job = get_stuck(engine, stuck_shot)
    began = time.monotonic()
    engine.stop(grace_s=0.5)
    assert time.monotonic() - began < 3.0
    assert not engine.is_alive
    error = answer(engine, job)
    assert isinstance(error, protocol.Error) and error.code == "cancelled"


def test_stop_ends_an_idle_engine_without_force(engine: EngineProcess) -> None:
    engine.wait_hello()
    engine.stop(grace_s=20)
    assert "exit status: 0" in engine.report()


def test_stop_in_the_middle_of_a_job_leaves_nothing_half_written(engine: EngineProcess, tmp_path: Path) -> None:
    clip, shot = make_clip(tmp_path / "clip.mkv", 150), tmp_path / "shot"
    job = reconstruct(engine, shot, clip)
    messages_until(engine, lambda message: isinstance(message, protocol.Progress) and message.done >= 1)
    engine.stop(grace_s=20)
    assert "exit status: 0" in engine.report()
    error = answer(engine, job)
    assert isinstance(error, protocol.Error) and error.code == "cancelled"
    assert not [path for path in shot.rglob(".*") if path.is_file()]


PARENT = """
import os, subprocess, sys
held, command = sys.argv[1] == "held", sys.argv[2:]
environment = dict(os.environ, EX4D_PARENT_PID=str(os.getpid()))
engine = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment)
engine.stdout.readline()
if held:
    # somebody else inherits the pipe's end, so that the engine never sees it close
    holder = subprocess.Popen(
        [sys.executable, "-c", "import time; time.sleep(120)"], pass_fds=[engine.stdin.fileno()]
    ).pid
else:
    holder = 0
REQUEST
print(engine.pid, holder, flush=True)
engine.wait()
"""


@posix
@pytest.mark.parametrize("busy", [False, True], ids=["idle", "busy"])
@pytest.mark.parametrize("pipe", ["closed", "held"])
def test_no_engine_outlives_its_parent(pipe: str, busy: bool, stuck_shot: Path) -> None:
    line = protocol.encode(protocol.Request(1, "render", {"shot": str(stuck_shot), "take": "take_0001"}))
    # the line that comes back is its first heartbeat: it is in the middle of the job
    request = f"engine.stdin.write({line!r}); engine.stdin.flush(); engine.stdout.readline()" if busy else ""
    parent = subprocess.Popen(
        [sys.executable, "-c", PARENT.replace("REQUEST", request), pipe, *engine_command(Path(sys.executable))],
        stdout=subprocess.PIPE,
    )
    assert parent.stdout is not None
    engine_pid, holder_pid = (int(word) for word in parent.stdout.readline().split())
    engine = psutil.Process(engine_pid)
    try:
        parent.send_signal(signal.SIGKILL)
        parent.wait()
        # the watch looks once a second, and a stuck job is given five seconds
        wait_for(lambda: not engine.is_running() or engine.status() == psutil.STATUS_ZOMBIE, "its end", 20)
    finally:
        for pid in (engine_pid, holder_pid):
            if pid and psutil.pid_exists(pid):
                os.kill(pid, signal.SIGKILL)


# ------------------------------------------------------------------------- engines that are none


def fake(body: str) -> EngineProcess:
    """An engine made of a few lines, to which `say(bytes)` and a proper hello are given."""
    hello = protocol.encode(protocol.Hello(protocol.PROTOCOL_VERSION, "0", "fake", (1.0, 2.0)))
    head = (
        f"import sys, time\ndef say(data):\n    sys.stdout.buffer.write(data); sys.stdout.flush()\nhello = {hello!r}\n"
    )
    process = EngineProcess([sys.executable, "-c", head + textwrap.dedent(body)])
    process.start()
    return process


def test_garbage_on_the_pipe_is_counted_and_survived() -> None:
    process = fake(
        """
        say(b"Hello from some C library\\n\\xff\\xfe\\x00\\n[1, 2]\\n" + hello)
        sys.stdin.readline()
        say(b'{"type": "progress", "id": "one"}\\n' + b"x" * 9_000_000 + b"\\n")
        say(b'{"type": "done", "id": 1}\\n')
        sys.stdin.readline()
        """
    )
    try:
        process.wait_hello()
        assert isinstance(answer(process, process.submit("ping", {})), protocol.Done)
        assert process.garbage_lines >= 5
        assert "Hello from some C library" in process.report()
    finally:
        process.stop(grace_s=0.5)


def test_the_error_of_a_dead_engine_carries_its_last_words() -> None:
    process = fake("say(hello); sys.stdin.readline(); sys.exit('Ünï: no more memory in the 作業 pool')")
    process.wait_hello()
    error = answer(process, process.submit("ping", {}))
    assert isinstance(error, protocol.Error)
    assert error.code == "engine_died" and error.hint
    assert "no more memory in the 作業 pool" in error.message


@posix
def test_an_engine_that_closes_its_pipe_and_goes_on_is_ended() -> None:
    process = fake("import os\nsay(hello); sys.stdin.readline(); os.close(1)\nwhile True: time.sleep(1)")
    process.wait_hello()
    error = answer(process, process.submit("ping", {}))
    assert isinstance(error, protocol.Error) and error.code == "engine_died"
    assert not process.is_alive


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ("raise ModuleNotFoundError('no psutil here')", "no psutil here"),
        ("say(hello.replace(b'\"protocol\": 1', b'\"protocol\": 99')); sys.stdin.readline()", "protocol 99"),
        ("sys.stdin.read()", "did not answer"),
    ],
    ids=["crashes", "other protocol", "silent"],
)
def test_an_engine_without_a_proper_hello_is_refused_and_stopped(body: str, said: str) -> None:
    process = fake(body)
    with pytest.raises(Ex4dError) as refused:
        process.wait_hello(timeout_s=3.0)
    assert refused.value.code == "engine_missing" and said in refused.value.message and refused.value.hint
    assert not process.is_alive


@posix
def test_an_engine_python_that_is_too_old_is_named(tmp_path: Path) -> None:
    old = tmp_path / "python3.8"
    old.write_text('#!/bin/sh\ncase "$2" in -c) echo 3 8;; *) echo "SyntaxError" >&2; exit 1;; esac\n')
    old.chmod(0o755)
    process = EngineProcess(engine_command(old))
    process.start()
    with pytest.raises(Ex4dError) as refused:
        process.wait_hello()
    assert refused.value.code == "engine_missing" and "Python 3.8" in refused.value.message


def test_an_engine_python_that_cannot_be_run_is_named(tmp_path: Path) -> None:
    program = tmp_path / "python"
    program.write_text("not a program")
    with pytest.raises(Ex4dError) as refused:
        EngineProcess(engine_command(program)).start()
    assert refused.value.code == "engine_missing" and str(program) in refused.value.message


def test_the_engine_python_is_found_by_preference_then_by_variable(tmp_path: Path) -> None:
    python = tmp_path / SHOT_NAME / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
    python.parent.mkdir(parents=True)
    python.touch()
    assert find_engine_python(str(python), {}) == python
    assert find_engine_python(str(tmp_path / SHOT_NAME), {}) == python, "a virtual environment's folder will do"
    assert find_engine_python("", {"EX4D_ENGINE_PYTHON": str(python)}) == python
    for preference, environment in (("", {}), (str(tmp_path / "none"), {"EX4D_ENGINE_PYTHON": str(python)})):
        with pytest.raises(Ex4dError) as refused:
            find_engine_python(preference, environment)
        assert refused.value.code == "engine_missing" and refused.value.hint


def test_python_variables_of_the_host_do_not_reach_the_engine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", "/nowhere")
    monkeypatch.setenv("PYTHONHOME", "/nowhere")
    process = fake("import os; say(hello); print([n for n in os.environ if n.startswith('PYTHON')], file=sys.stderr)")
    process.wait_hello()
    wait_for(lambda: not process.is_alive, "its end")
    wait_for(lambda: "[]" in process.report(), "its words", 5)


def test_both_ends_call_the_parent_s_variable_the_same() -> None:
    assert engine_process.PARENT_VARIABLE == worker.PARENT_VARIABLE
    assert engine_process.engine_environment({})[worker.PARENT_VARIABLE] == str(os.getpid())
