# SPDX-License-Identifier: GPL-3.0-or-later
"""The take's log: sentences, starts, ends and failures, one JSON object a line."""

from __future__ import annotations

import json
from fractions import Fraction
from pathlib import Path

import pytest

from ex4d_engine.errors import Cancelled, Ex4dError
from ex4d_engine.progress import Silent
from ex4d_engine.take import Take
from ex4d_engine.take_log import logged
from tests.shot_material import still_frames


def a_take(root: Path) -> Take:
    return Take(root, "take_0001", 7, 8, 6, Fraction(24), still_frames(2))


def lines(root: Path) -> list[dict[str, str]]:
    return [json.loads(line) for line in (root / "log.jsonl").read_text(encoding="utf-8").splitlines()]


class Listening(Silent):
    def __init__(self) -> None:
        super().__init__()
        self.heard: list[str] = []

    def log(self, message: str) -> None:
        self.heard.append(message)


def test_sentences_are_kept_and_passed_on(tmp_path: Path) -> None:
    root = tmp_path / "Ünï 作業 take"
    root.mkdir()
    reporter = Listening()
    with logged(a_take(root), "render", reporter) as log:
        log.log("Frame 7 – größer")
    assert reporter.heard == ["Frame 7 – größer"]
    assert [line.get("event") for line in lines(root)] == ["started", None, "finished"]
    assert lines(root)[1]["message"] == "Frame 7 – größer"
    assert {line["stage"] for line in lines(root)} == {"render"}


def test_failures_and_cancels_are_told_and_a_second_run_is_added(tmp_path: Path) -> None:
    take = a_take(tmp_path)
    reporter = Silent()
    reporter.cancelled.set()
    with pytest.raises(Cancelled), logged(take, "generate", reporter) as log:
        log.check()
    with logged(take, "generate", Silent()):
        pass
    assert [line["event"] for line in lines(tmp_path)] == ["started", "failed", "started", "finished"]
    assert lines(tmp_path)[1]["code"] == "cancelled"


def test_a_full_disk_is_told_once_and_not_again_by_the_log(tmp_path: Path) -> None:
    full = Ex4dError("disk_full", "The disk is full.", "Free some space.")
    with pytest.raises(Ex4dError) as caught, logged(a_take(tmp_path), "render", Silent()):
        raise full
    assert caught.value is full
    assert [line["event"] for line in lines(tmp_path)] == ["started"]
