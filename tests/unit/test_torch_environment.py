# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

import subprocess
import sys

import pytest

from ex4d_engine.torch_environment import prepare_torch


def test_what_the_user_set_stays() -> None:
    environment = {"OMP_WAIT_POLICY": "ACTIVE", "PYTORCH_CUDA_ALLOC_CONF": "max_split_size_mb:128"}

    prepare_torch(environment)

    assert environment == {"OMP_WAIT_POLICY": "ACTIVE", "PYTORCH_CUDA_ALLOC_CONF": "max_split_size_mb:128"}


@pytest.mark.skipif(sys.platform == "win32", reason="segments do not grow on Windows")
def test_memory_grows_in_segments() -> None:
    environment: dict[str, str] = {}

    prepare_torch(environment)

    assert environment["PYTORCH_ALLOC_CONF"] == "expandable_segments:True"


def test_the_command_line_sets_it_before_torch_is_there() -> None:
    code = (
        "import os, sys; os.environ.pop('OMP_WAIT_POLICY', None); from ex4d_engine.cli import run_explained\n"
        "assert 'torch' not in sys.modules and run_explained('ex4d', lambda reporter: 0) == 0\n"
        "assert os.environ['OMP_WAIT_POLICY'] == 'PASSIVE' and 'torch' not in sys.modules"
    )

    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, timeout=60)
