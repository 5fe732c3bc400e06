# SPDX-License-Identifier: GPL-3.0-or-later
"""Scripts for a machine that is lent for training or measuring: they do without the engine's movie and EXR readers."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import REPOSITORY

SCRIPTS = {
    "tools/benchmarks/fill.py": ["ex4d_engine.evaluation.fill_models"],
    "tools/benchmarks/draft.py": [],
    "tools/train_bundled.py": ["ex4d_engine.training.bundled_run"],
    "tools/train_depth.py": ["ex4d_engine.training.depth_trainer"],
}
"""With what they import late, by way of others."""

WITHOUT = """
import contextlib, importlib.util, runpy, sys

class Without:
    \"\"\"A finder that finds neither package, as if they were not installed.\"\"\"
    def __init__(self, finder):
        self.finder = finder
    def find_spec(self, name, path=None, target=None):
        return None if name.split(".")[0] in ("av", "OpenEXR") else self.finder.find_spec(name, path, target)
    def __getattr__(self, name):
        return getattr(self.finder, name)

sys.meta_path[:] = [Without(finder) for finder in sys.meta_path]
assert importlib.util.find_spec("av") is importlib.util.find_spec("OpenEXR") is None
script, *modules = sys.argv[1:]
sys.argv = [script, "--help"]
with contextlib.suppress(SystemExit):
    runpy.run_path(script, run_name="__main__")
for module in modules:
    importlib.import_module(module)
print("all there")
"""


def imported(script: Path) -> list[str]:
    """Every module of the engine that a script names, also inside its functions."""
    nodes = ast.walk(ast.parse(script.read_text("utf-8")))
    found = {node.module for node in nodes if isinstance(node, ast.ImportFrom) and node.module}
    return sorted(name for name in found if name.startswith("ex4d_engine."))


@pytest.mark.parametrize("name", SCRIPTS)
def test_it_starts_without_movie_and_exr_readers(name: str) -> None:
    script = REPOSITORY / name
    modules = [*imported(script), *SCRIPTS[name]]
    answer = subprocess.run(
        [sys.executable, "-c", WITHOUT, str(script), *modules],
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert answer.returncode == 0, answer.stderr
    assert "usage:" in answer.stdout and "all there" in answer.stdout
