# SPDX-License-Identifier: GPL-3.0-or-later
"""When the engine keeps a model for its next job, and when it gives the memory back."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ex4d_engine import protocol, worker
from ex4d_engine.diffusion import keeper as keepers
from ex4d_engine.diffusion import runtime
from ex4d_engine.models import store
from ex4d_engine.places import KEEP_MINUTES, keep_models_s
from ex4d_engine.progress import Silent
from ex4d_engine.shot import Shot
from ex4d_engine.stages import reconstruct, render
from ex4d_engine.stages.diffusion_presets import ADAPTER, BASE
from tests import tiny_model
from tests.tiny_shot import orbit_take, settings

OPTIONS = {"steps": 1, "area": 1024, "guidance": 1, "prompt": "a camera"}


class Watched(keepers.Keeper):
    """A keeper that says what it was asked, and whose time is up when the test says so."""

    said: list[str]

    def __init__(self, idle_s: float) -> None:
        super().__init__(idle_s)
        self.said = []
        self.when_released: Callable[[], None] = lambda: None
        self.time_is_up = False

    def seconds_left(self) -> float | None:
        return 0.001 if self.time_is_up else None

    def release(self) -> None:
        self.said.append("release")
        super().release()
        self.when_released()


@pytest.fixture
def watched(monkeypatch: pytest.MonkeyPatch) -> Watched:
    keeper = Watched(60.0)
    monkeypatch.setattr(worker, "Keeper", lambda idle_s: keeper)
    return keeper


def served(*requests: tuple[str, dict[str, Any]]) -> list[protocol.Message]:
    """What a worker sends for these requests; it stops after the last one's answer."""
    sent: list[protocol.Message] = []

    def send(message: protocol.Message) -> None:
        sent.append(message)
        if isinstance(message, protocol.Done | protocol.Error) and message.id == len(requests):
            subject.stop()

    subject = worker.Worker(send)
    for number, (method, params) in enumerate(requests, start=1):
        subject.receive(protocol.encode(protocol.Request(number, method, params)))
    subject.run()
    return sent


@pytest.mark.parametrize(
    ("method", "gives_back"),
    [
        ("reconstruct", True),
        ("free_memory", True),
        ("render", False),
        ("generate", False),
        ("check_preset", False),
        ("ping", False),
    ],
)
def test_a_job_that_may_want_the_memory_gets_it(
    watched: Watched, monkeypatch: pytest.MonkeyPatch, method: str, gives_back: bool
) -> None:
    monkeypatch.setattr(worker, "check_params", lambda method, params: params)

    def run_method(method: str, *_: Any) -> dict[str, Any]:
        watched.said.append(method)
        return {}

    monkeypatch.setattr(worker, "run_method", run_method)
    served((method, {}))
    assert watched.said == [*(["release"] if gives_back else []), method, "release"], "and at the end in any case"


def test_an_idle_engine_gives_the_memory_back(watched: Watched) -> None:
    subject = worker.Worker(lambda message: None)
    watched.time_is_up = True
    watched.when_released = subject.stop
    subject.run()
    assert watched.said[0] == "release"


@pytest.mark.parametrize(
    ("said", "seconds"),
    [("0", 0.0), ("1.5", 90.0), ("", 60 * KEEP_MINUTES), ("-1", 60 * KEEP_MINUTES), ("nan", 60 * KEEP_MINUTES)],
)
def test_the_minutes_are_the_user_s(monkeypatch: pytest.MonkeyPatch, said: str, seconds: float) -> None:
    monkeypatch.setenv("EX4D_KEEP_MINUTES", said)
    assert keep_models_s() == seconds


@pytest.fixture
def shot(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Shot:
    """A shot, and beside it the models of preset final."""
    monkeypatch.setenv("EX4D_MODELS", str(tmp_path / "models"))
    monkeypatch.setenv("EX4D_CACHE", str(tmp_path / "cache"))
    store.register(BASE, tiny_model.save_model_folder(tmp_path / "wan"))
    store.register(ADAPTER, tiny_model.save_adapter_file(tmp_path / "ex4d.safetensors"))
    folder = tmp_path / "Ünï 作業 shot"
    folder.mkdir()
    return reconstruct(settings(folder), folder / "shot", Silent())


def test_two_takes_in_one_engine_load_the_model_once(shot: Shot, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EX4D_KEEP_MINUTES", "10")
    loaded: list[weakref.ref[Any]] = []
    load = runtime.load_pipeline

    def loading(*arguments: Any, **named: Any) -> Any:
        pipeline = load(*arguments, **named)
        loaded.append(weakref.ref(pipeline.transformer))
        return pipeline

    monkeypatch.setattr(runtime, "load_pipeline", loading)
    takes = [render(shot, orbit_take(shot, degrees, count=5), Silent()) for degrees in (4.0, 8.0)]
    jobs = [
        ("generate", {"shot": str(shot.root), "take": take.name, "preset": "final", "options": OPTIONS})
        for take in takes
    ]
    sent = served(jobs[0], jobs[1], ("free_memory", {}), jobs[0])
    assert not [message for message in sent if isinstance(message, protocol.Error)]
    assert len([message for message in sent if isinstance(message, protocol.Done)]) == 4
    assert len(loaded) == 2, "once for both takes, once more after the memory was given back"
    kept = [message.id for message in sent if isinstance(message, protocol.Log) and "in place" in message.message]
    assert kept == [2]
    gc.collect()
    assert not [transformer() for transformer in loaded if transformer() is not None]
