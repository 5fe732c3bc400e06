# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from ex4d_engine.library_talk import quiet_libraries

ROOT = Path(__file__).resolve().parents[2]


def said_on_import(before: str = "") -> str:
    """What a process says that runs `before` through the command line's way in, then imports what diffusion needs."""
    code = (
        "from ex4d_engine.cli import run_explained\n"
        f"{before}\n"
        "def work(reporter):\n"
        "    import ex4d_engine.diffusion.pipeline\n"
        "    return 0\n"
        "raise SystemExit(run_explained('ex4d', work))"
    )
    environment = {name: value for name, value in os.environ.items() if not name.endswith("_VERBOSITY")}
    done = subprocess.run(
        [sys.executable, "-c", code], check=True, capture_output=True, text=True, cwd=ROOT, env=environment, timeout=300
    )
    return done.stdout + done.stderr


@pytest.mark.parametrize("before", ["", "import transformers, diffusers"])
def test_the_libraries_say_nothing_where_diffusion_begins(before: str) -> None:
    assert said_on_import(before) == ""


def test_what_the_user_set_stays() -> None:
    environment = {"TRANSFORMERS_VERBOSITY": "info"}
    quiet_libraries(environment)
    assert environment == {"TRANSFORMERS_VERBOSITY": "info", "DIFFUSERS_VERBOSITY": "error"}
