# SPDX-License-Identifier: GPL-3.0-or-later
"""One thread for all, and one tiny model, one folder of clips and one cache of their latents a session."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.torch_fixtures import model_folder, one_thread
from tests.unit.training import lora_material

__all__ = ["model_folder", "one_thread"]


@pytest.fixture(scope="session")
def clips(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return lora_material.save_clips(tmp_path_factory.mktemp("clips ö"))


@pytest.fixture(scope="session")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")
