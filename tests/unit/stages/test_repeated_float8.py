# SPDX-License-Identifier: GPL-3.0-or-later
"""What of its record a take asks for by name when it is made once more: float8, of which old ones say less, tiers."""

from __future__ import annotations

import dataclasses
import sys
from typing import Any

import pytest

from ex4d_engine.progress import Silent
from ex4d_engine.shot import Shot
from ex4d_engine.stages import GenerateOptions, generation_settings, render, repeat
from ex4d_engine.stages.repeat import differences
from ex4d_engine.take import Take
from tests.tiny_shot import Listener, orbit_take

RUNTIME: dict[str, Any] = {"tier": "24", "precision": "float8", "attention": "native", "compiled": False}


def repeated(
    shot: Shot, monkeypatch: pytest.MonkeyPatch, asked: GenerateOptions, then: dict[str, Any], now: dict[str, Any]
) -> tuple[GenerateOptions, list[str]]:
    """With which options a take is generated again, and what the log says of it."""
    take = render(shot, orbit_take(shot, 12.0), Silent())
    settings = generation_settings("final", 3, asked)
    chosen: list[GenerateOptions] = []

    def generate(_: Shot, take: Take, *__: object, options: GenerateOptions, **___: object) -> Take:
        chosen.append(options)
        return dataclasses.replace(take, record={"generation": settings, "diffusion": {"runtime": now}})

    module = sys.modules[repeat.__module__]
    monkeypatch.setattr(module, "generate", generate)
    monkeypatch.setattr(module, "require_preset", lambda *_: None)
    take = dataclasses.replace(take, preset="final", record={"generation": settings, "diffusion": {"runtime": then}})
    listener = Listener()
    repeat(shot, take, listener)
    return chosen[0], listener.logs


@pytest.mark.parametrize("kept", [{"float8": "storage"}, {}], ids=["new record", "old record"])
def test_float8_that_the_tier_chose_is_not_asked_for_by_name(
    shot: Shot, monkeypatch: pytest.MonkeyPatch, kept: dict[str, str]
) -> None:
    """By name it is refused without torchao, which the take may have been made without."""
    runtime = {**RUNTIME, **kept}
    options, logs = repeated(shot, monkeypatch, GenerateOptions(), runtime, runtime)
    assert (options.tier, options.precision, options.compile) == ("24", "auto", "off") and not logs
    named, _ = repeated(shot, monkeypatch, GenerateOptions(precision="float8"), runtime, runtime)
    assert named.precision == "float8"
    exact, _ = repeated(shot, monkeypatch, GenerateOptions(), {**RUNTIME, "precision": "exact"}, runtime)
    assert exact.precision == "exact"


def test_what_float8_is_now_is_compared_with_what_it_was(shot: Shot, monkeypatch: pytest.MonkeyPatch) -> None:
    then, now = {**RUNTIME, "float8": "storage"}, {**RUNTIME, "float8": "products"}
    (line,) = repeated(shot, monkeypatch, GenerateOptions(), then, now)[1]
    assert line.startswith("Float8 was storage and is products") and "may differ" in line
    assert not differences({"runtime": RUNTIME}, {"runtime": now}), "an older record does not say"


def test_a_tier_that_a_cpu_did_not_heed_is_not_asked_for(shot: Shot, monkeypatch: pytest.MonkeyPatch) -> None:
    """By name it would keep a small model from the CPU where others fill the graphics card, as they did then."""
    runtime = {**RUNTIME, "tier": "48", "precision": "exact", "device": "CPU, 8 threads"}
    options, _ = repeated(shot, monkeypatch, GenerateOptions(), runtime, runtime)
    assert options.tier == "auto"
    named, _ = repeated(shot, monkeypatch, GenerateOptions(tier="24"), runtime, runtime)
    assert named.tier == "24", "what was asked for then is asked for again"
    card, _ = repeated(shot, monkeypatch, GenerateOptions(), {**runtime, "device": "NVIDIA H200"}, runtime)
    assert card.tier == "48"
