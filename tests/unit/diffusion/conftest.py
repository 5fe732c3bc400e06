# SPDX-License-Identifier: GPL-3.0-or-later
"""One thread for all, and one tiny model folder and adapter a session."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from ex4d_engine.diffusion.loading import load_pipeline
from ex4d_engine.diffusion.pipeline import Ex4dPipeline
from ex4d_engine.progress import Silent
from tests import tiny_model


@pytest.fixture(autouse=True, scope="session")
def one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="session")
def model_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_model.save_model_folder(tmp_path_factory.mktemp("Ünï 作業 model") / "wan")


@pytest.fixture(scope="session")
def adapter_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_model.save_adapter_file(tmp_path_factory.mktemp("adapter") / "ex4d.safetensors")


@pytest.fixture(scope="module")
def pipeline(model_folder: Path, adapter_file: Path) -> Ex4dPipeline:
    return load_pipeline(model_folder, adapter_file, dtype=torch.float32, device="cpu", reporter=Silent())
