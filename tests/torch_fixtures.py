# SPDX-License-Identifier: GPL-3.0-or-later
"""Fixtures of the tests that run a tiny model; a folder's conftest imports those it wants."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from tests import tiny_model


@pytest.fixture(autouse=True, scope="session")
def one_thread() -> Iterator[None]:
    """Sums come out the same each time, and tests that run side by side do not fight for cores."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="session")
def model_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny random model in diffusers' layout, below a folder with a space and letters of two scripts."""
    return tiny_model.save_model_folder(tmp_path_factory.mktemp("Ünï 作業 model") / "wan")
