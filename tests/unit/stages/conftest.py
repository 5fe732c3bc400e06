# SPDX-License-Identifier: GPL-3.0-or-later
"""A shot and a model of random weights for the stages that diffuse."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from ex4d_engine.models import store
from ex4d_engine.progress import Silent
from ex4d_engine.shot import Shot
from ex4d_engine.stages import reconstruct
from ex4d_engine.stages.diffusion_presets import ADAPTER, BASE
from tests import tiny_model
from tests.tiny_shot import settings


@pytest.fixture(autouse=True)
def places(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Models and caches of this test alone, and one thread, so that frames come out the same each time."""
    monkeypatch.setenv("EX4D_MODELS", str(tmp_path / "models"))
    monkeypatch.setenv("EX4D_CACHE", str(tmp_path / "cache"))
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="session")
def weights(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A tiny model folder and its adapter."""
    root = tmp_path_factory.mktemp("Ünï 作業 model")
    return tiny_model.save_model_folder(root / "wan"), tiny_model.save_adapter_file(root / "ex4d.safetensors")


@pytest.fixture
def models(weights: tuple[Path, Path]) -> None:
    """What preset final needs is registered."""
    store.register(BASE, weights[0])
    store.register(ADAPTER, weights[1])


@pytest.fixture
def shot(tmp_path: Path) -> Shot:
    """Six frames of 64 × 48, reconstructed."""
    folder = tmp_path / "Ünï 作業 shot"
    folder.mkdir()
    return reconstruct(settings(folder), folder / "shot", Silent())
