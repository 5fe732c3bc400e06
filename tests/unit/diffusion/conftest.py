# SPDX-License-Identifier: GPL-3.0-or-later
"""One thread for all, and one tiny model folder and adapter a session."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from ex4d_engine.diffusion.loading import load_pipeline
from ex4d_engine.diffusion.pipeline import Ex4dPipeline
from ex4d_engine.progress import Silent
from tests import tiny_model
from tests.torch_fixtures import model_folder, one_thread

__all__ = ["model_folder", "one_thread"]


@pytest.fixture(scope="session")
def adapter_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_model.save_adapter_file(tmp_path_factory.mktemp("adapter") / "ex4d.safetensors")


@pytest.fixture(scope="module")
def pipeline(model_folder: Path, adapter_file: Path) -> Ex4dPipeline:
    return load_pipeline(model_folder, adapter_file, dtype=torch.float32, device="cpu", reporter=Silent())
