# SPDX-License-Identifier: GPL-3.0-or-later
"""How stages report, are cancelled, and write in the background."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

from ex4d_engine.background import BackgroundWriter
from ex4d_engine.errors import Cancelled, Ex4dError
from ex4d_engine.progress import Reporter, Silent, Terminal


def three_frames(reporter: Reporter) -> int:
    """A stage as all stages are."""
    for done in range(3):
        reporter.check()
        reporter.progress("mesh", done, 3)
    reporter.log("a sentence")
    reporter.preview(Path("composite.0001.png"))
    reporter.progress("mesh", 3, 3)
    return 3


def test_silent_says_nothing(capfd: pytest.CaptureFixture[str]) -> None:
    assert three_frames(Silent()) == 3
    assert capfd.readouterr() == ("", "")


def test_a_cancel_from_another_thread_is_heard_at_the_next_check() -> None:
    reporter = Silent()
    thread = threading.Thread(target=reporter.cancelled.set)
    thread.start()
    thread.join()
    with pytest.raises(Cancelled) as caught:
        three_frames(reporter)
    assert caught.value.code == "cancelled"


def test_terminal_writes_to_stderr_only(capfd: pytest.CaptureFixture[str]) -> None:
    reporter = Terminal()
    three_frames(reporter)
    out, err = capfd.readouterr()
    assert out == ""
    assert "mesh" in err and "3/3" in err and "a sentence" in err


@pytest.mark.parametrize(("stage", "unit"), [("download", "MB"), ("mesh", "frame")])
def test_terminal_counts_downloads_in_megabytes_and_the_rest_in_frames(
    stage: str, unit: str, capfd: pytest.CaptureFixture[str]
) -> None:
    reporter = Terminal()
    reporter.progress(stage, 0, 2)
    reporter.progress(stage, 2, 2)
    assert f"{unit}/s" in capfd.readouterr().err


def test_terminal_shows_a_finished_stage_once(capfd: pytest.CaptureFixture[str]) -> None:
    reporter = Terminal()
    reporter.progress("decode", 1, 2)
    for _ in range(3):  # stages say their end, and then once more after their loop
        reporter.progress("decode", 2, 2)
    assert capfd.readouterr().err.count("2/2") == 1


def test_terminal_shows_a_stage_that_runs_again(capfd: pytest.CaptureFixture[str]) -> None:
    reporter = Terminal()
    for stage in ("render", "generate", "render"):
        reporter.progress(stage, 0, 1)
        reporter.progress(stage, 1, 1)
    assert capfd.readouterr().err.count("render                : 100%") == 2


def test_terminal_closed_in_the_middle_leaves_its_line(capfd: pytest.CaptureFixture[str]) -> None:
    reporter = Terminal()
    reporter.progress("depth", 3, 10)
    reporter.close()
    reporter.close()
    assert capfd.readouterr().err.endswith("\n")


def test_terminal_takes_a_total_of_nothing(capfd: pytest.CaptureFixture[str]) -> None:
    Terminal().progress("depth", 0, 0)
    assert "depth" in capfd.readouterr().err


# ---------------------------------------------------------------------------------------- background


def test_all_that_was_queued_is_done_at_the_end_of_the_block() -> None:
    written: list[int] = []
    with BackgroundWriter(2) as writer:
        for number in range(50):
            writer.submit(written.append, number)
    assert sorted(written) == list(range(50))


def test_the_queue_is_bounded() -> None:
    gate, threads = threading.Event(), 2
    writer = BackgroundWriter(threads)
    submitted = threading.Semaphore(0)

    def produce() -> None:
        with writer:
            for _ in range(10):
                writer.submit(gate.wait)
                submitted.release()

    producer = threading.Thread(target=produce)
    producer.start()
    for _ in range(2 * threads):
        assert submitted.acquire(timeout=10)
    assert not submitted.acquire(timeout=0.2)  # the next one waits for a free place
    gate.set()
    producer.join(10)
    assert not producer.is_alive()


def fail() -> None:
    raise Ex4dError("disk_full", "The disk is full.")


def test_a_failure_is_raised_by_the_next_submit_not_hundreds_of_frames_later() -> None:
    failed, other = threading.Event(), threading.Event()

    def fail_and_tell() -> None:
        try:
            fail()
        finally:
            failed.set()

    with pytest.raises(Ex4dError, match="full"), BackgroundWriter(2) as writer:
        writer.submit(other.wait)  # an earlier, slow one does not hide it
        writer.submit(fail_and_tell)
        assert failed.wait(10)
        try:
            for _ in range(3):  # the future is marked a moment after the call has ended; the queue holds four
                writer.submit(int)
        finally:
            other.set()


def test_a_failure_of_the_last_call_is_raised_at_the_end() -> None:
    with pytest.raises(Ex4dError, match="full"), BackgroundWriter(1) as writer:
        writer.submit(fail)


def test_an_error_of_the_block_itself_is_not_replaced() -> None:
    with pytest.raises(Cancelled), BackgroundWriter(1) as writer:
        writer.submit(fail)
        raise Cancelled
