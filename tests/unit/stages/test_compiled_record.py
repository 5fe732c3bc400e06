# SPDX-License-Identifier: GPL-3.0-or-later
"""A take says that it was compiled only where it was: what cannot be compiled goes on without."""

from __future__ import annotations

import dataclasses
from functools import partial
from typing import Any

import pytest
import torch

from ex4d_engine.diffusion.keeper import Keeper, keeping
from ex4d_engine.shot import Shot
from ex4d_engine.stages import GenerateOptions, generate, render, repeat
from ex4d_engine.take import Take
from tests.tiny_shot import Listener, orbit_take

OPTIONS = GenerateOptions(steps=1, guidance=1.0, area=1024, prompt="a camera", compile="on")

pytestmark = pytest.mark.usefixtures("models")


def made(shot: Shot, listener: Listener) -> Take:
    return generate(shot, render(shot, orbit_take(shot, 12.0), listener), "final", listener, options=OPTIONS)


def is_compiled(take: Take) -> bool:
    return bool(take.record["diffusion"]["runtime"]["compiled"])


@pytest.fixture
def compiler(monkeypatch: pytest.MonkeyPatch) -> dict[str, bool]:
    """One that gives graphs back as they are, or is not there."""
    state = {"is_there": True}

    def backend(graph: torch.fx.GraphModule, _: object) -> Any:
        if not state["is_there"]:
            raise FileNotFoundError("no C++ compiler found")
        return graph.forward

    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend=backend))
    torch._dynamo.reset()
    return state


def test_what_was_compiled_says_so(shot: Shot, compiler: dict[str, bool]) -> None:
    assert is_compiled(made(shot, Listener()))


def test_what_could_not_be_compiled_says_so_and_is_repeated_without(shot: Shot, compiler: dict[str, bool]) -> None:
    compiler["is_there"] = False
    listener = Listener()
    with keeping(Keeper(60.0)):
        first, second = made(shot, listener), made(shot, listener)
    assert not is_compiled(first)
    assert not is_compiled(second), "whose models failed to compile in the job before"
    assert sum("Compiling failed" in line for line in listener.logs) == 1
    compiler["is_there"] = True
    torch._dynamo.reset()
    again = repeat(shot, dataclasses.replace(second), Listener())
    assert again.record["generation"]["compile"] == "off" and not is_compiled(again)
