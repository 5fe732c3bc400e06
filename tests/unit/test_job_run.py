# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from ex4d_extension.ex4d_blender import job_run
from ex4d_extension.ex4d_blender.job_run import EngineRequest, JobRun, Steps
from ex4d_extension.ex4d_engine import protocol
from ex4d_extension.ex4d_engine.errors import Ex4dError

HELLO = protocol.Hello(1, "0", "fake", (1.0, 2.0))


class FakeEngine:
    """Answers what the test puts into `inbox`; remembers what it was asked."""

    def __init__(self) -> None:
        self.hello: protocol.Hello | None = HELLO
        self.asked: list[tuple[int, str, dict[str, Any]]] = []
        self.cancelled: list[int] = []
        self.inbox: list[protocol.Message] = []

    def check_hello(self) -> protocol.Hello | None:
        return self.hello

    def submit(self, method: str, params: dict[str, Any]) -> int:
        self.asked.append((len(self.asked) + 1, method, params))
        return len(self.asked)

    def poll(self) -> list[protocol.Message]:
        messages, self.inbox = self.inbox, []
        return messages

    def cancel(self, job: int) -> None:
        self.cancelled.append(job)


@pytest.fixture
def engine() -> FakeEngine:
    return FakeEngine()


def start(engine: FakeEngine, steps: Callable[[JobRun], Steps]) -> JobRun:
    return JobRun("Job", steps, lambda: engine)  # type: ignore[arg-type, return-value]


def two_requests(run: JobRun) -> Steps:
    first = yield EngineRequest("render", {"take": "take_0001"})
    second = yield EngineRequest("generate", {"take": first["take"]})
    return f"made {second['take']}"


def test_requests_follow_each_other_and_the_answers_reach_the_steps(engine: FakeEngine) -> None:
    run = start(engine, two_requests)
    assert not run.advance()
    assert not run.advance(), "nothing has come: nothing happens"
    engine.inbox = [protocol.Heartbeat(1), protocol.Done(1, {"take": "take_0002"})]
    assert not run.advance()
    engine.inbox = [protocol.Done(2, {"take": "take_0002"})]
    assert run.advance()
    assert [(method, params["take"]) for _, method, params in engine.asked] == [
        ("render", "take_0001"),
        ("generate", "take_0002"),
    ]
    assert (run.message, run.error) == ("made take_0002", None)


def test_progress_preview_and_log_are_shown(engine: FakeEngine) -> None:
    run = start(engine, two_requests)
    run.advance()
    engine.inbox = [
        protocol.Log(1, "A sentence."),
        protocol.Preview(1, "/shot/one.png"),
        protocol.Progress(1, "render", 5, 20, 75.0),
        protocol.Progress(99, "somebody else's", 1, 1, 0.0),
    ]
    run.advance()
    assert (run.text, run.factor, run.preview) == ("Render 5/20, 1:15 min left", 0.25, "/shot/one.png")
    assert run.logs == ["A sentence."]


def test_an_engine_that_starts_slowly_is_waited_for_without_blocking(engine: FakeEngine) -> None:
    engine.hello = None
    run = start(engine, two_requests)
    assert not run.advance()
    assert (engine.asked, run.text) == ([], "Starting the engine")
    engine.hello = HELLO
    run.advance()
    assert len(engine.asked) == 1


def test_silence_is_shown(engine: FakeEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    now = 1000.0
    monkeypatch.setattr(job_run.time, "monotonic", lambda: now)
    run = start(engine, two_requests)
    run.advance()
    engine.inbox = [protocol.Progress(1, "render", 1, 4, 3.0)]
    run.advance()
    now += 12
    run.advance()
    assert run.text == "Render 1/4, no sign of life for 12 s"
    engine.inbox = [protocol.Heartbeat(1)]
    run.advance()
    assert run.text == "Render 1/4, 3 s left"


def test_an_error_of_the_engine_ends_the_job_and_lets_the_steps_clean_up(engine: FakeEngine) -> None:
    cleaned = []

    def steps(run: JobRun) -> Steps:
        try:
            yield EngineRequest("render")
        finally:
            cleaned.append(True)
        return "never"

    run = start(engine, steps)
    run.advance()
    engine.inbox = [protocol.Error(1, "disk_full", "The disk is full.", "Free some.", "ex4d.open")]
    assert run.advance()
    assert run.error is not None
    assert (run.error.code, run.error.hint, run.error.action) == ("disk_full", "Free some.", "ex4d.open")
    assert cleaned == [True]


def test_an_error_in_the_steps_is_the_job_s(engine: FakeEngine) -> None:
    def steps(run: JobRun) -> Steps:
        raise Ex4dError("no_camera", "There is no camera.")
        yield

    run = start(engine, steps)
    assert run.advance()
    assert run.error is not None and run.error.code == "no_camera"


def test_a_bug_in_the_steps_ends_the_job_with_a_traceback_for_the_report(engine: FakeEngine) -> None:
    def steps(run: JobRun) -> Steps:
        yield None
        return str(1 // 0)

    run = start(engine, steps)
    assert not run.advance() and run.is_in_blender
    assert run.advance()
    assert run.error is not None and run.error.code == "internal"
    assert "1 // 0" in run.traceback


def test_cancel_reaches_the_engine_and_the_job_ends_with_its_answer(engine: FakeEngine) -> None:
    run = start(engine, two_requests)
    run.advance()
    run.cancel()
    assert engine.cancelled == [1]
    assert not run.advance(), "the engine has not stopped yet"
    engine.inbox = [protocol.Error(1, "cancelled", "The job was cancelled.")]
    assert run.advance()
    assert run.error is not None and run.error.code == "cancelled"


@pytest.mark.parametrize("when", ["before the request", "while the engine starts", "as it has just finished"])
def test_a_cancel_counts_at_any_moment(engine: FakeEngine, when: str) -> None:
    def steps(run: JobRun) -> Steps:
        yield None
        yield EngineRequest("render")
        return "finished"

    run = start(engine, steps)
    run.advance()
    if when != "before the request":
        engine.hello = None if when == "while the engine starts" else HELLO
        run.advance()
    run.cancel()
    engine.inbox = [protocol.Done(1)]
    assert run.advance()
    assert run.error is not None and run.error.code == "cancelled"


def test_an_abandoned_job_is_cancelled_and_over(engine: FakeEngine) -> None:
    run = start(engine, two_requests)
    run.advance()
    run.abandon()
    assert run.is_finished and engine.cancelled == [1]
    run.abandon()
    assert engine.cancelled == [1]
