# SPDX-License-Identifier: GPL-3.0-or-later
"""Graphics cards and packages that this machine does not have."""

from __future__ import annotations

import sys
from importlib.machinery import ModuleSpec
from types import ModuleType, SimpleNamespace
from typing import Any

import psutil
import pytest
import torch

from ex4d_engine.diffusion.tiers import GIB


def give_card(monkeypatch: pytest.MonkeyPatch, free_gib: float, capability: tuple[int, int] = (9, 0)) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: None)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda *_: (int(free_gib * GIB), int(8 * GIB)))
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda *_: capability)
    for name in ("memory_reserved", "memory_allocated"):
        monkeypatch.setattr(torch.cuda, name, lambda *_: 0)


def give_main(monkeypatch: pytest.MonkeyPatch, free_gib: float) -> None:
    monkeypatch.setattr(psutil, "virtual_memory", lambda: SimpleNamespace(available=int(free_gib * GIB)))


def give_torchao(monkeypatch: pytest.MonkeyPatch, *, is_whole: bool = True) -> list[tuple[Any, ...]]:
    """A torchao that does nothing; without its `quantize_`, where it is not whole. Returns what that is called with."""
    calls: list[tuple[Any, ...]] = []
    modules = {name: ModuleType(name) for name in ("torchao", "torchao.quantization")}
    for name, module in modules.items():
        module.__spec__ = ModuleSpec(name, None)
        monkeypatch.setitem(sys.modules, name, module)
    quantization: Any = modules["torchao.quantization"]
    quantization.Float8DynamicActivationFloat8WeightConfig = lambda **settings: settings
    quantization.PerRow = lambda: "a scale a row"
    if is_whole:
        quantization.quantize_ = lambda block, config, device: calls.append((block, config, device))
    return calls


def take_torchao(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torchao", None)  # as Python does for what is not to be found
    monkeypatch.delitem(sys.modules, "torchao.quantization", raising=False)
