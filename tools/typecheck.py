# SPDX-License-Identifier: GPL-3.0-or-later
"""Runs mypy over both programs, the packages `ex4d_blender` and `ex4d_engine`. Standard library only.

The checkout's root is itself a package (Blender wants `__init__.py` beside the manifest), and the add-on
imports its contract from there relatively. mypy names a package by its folder, which here may be called
anything; so it is shown the tree under a fixed name.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PARTS = ("ex4d_blender", "ex4d_engine")


def main() -> int:
    """mypy's exit status over the extension (as one package), the tools and the engine's tests."""
    with tempfile.TemporaryDirectory(prefix="ex4d-types-") as temporary:
        package = Path(temporary) / "ex4d_extension"
        package.mkdir()
        shutil.copy(ROOT / "__init__.py", package)
        for part in PARTS:
            shutil.copytree(ROOT / part, package / part, ignore=shutil.ignore_patterns("__pycache__", "assets"))
        command = [
            sys.executable, "-m", "mypy", "--config-file", str(ROOT / "pyproject.toml"),
            "--cache-dir", str(ROOT / ".mypy_cache"), "-p", "ex4d_extension",
        ]  # fmt: skip
        return subprocess.run(command, cwd=temporary, check=False).returncode


if __name__ == "__main__":
    sys.exit(main())
