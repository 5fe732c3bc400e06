# SPDX-License-Identifier: GPL-3.0-or-later
"""A package that is there and fails as it loads, such as a torchao that was made for another PyTorch.

transformers imports torchao wherever it is installed, so a broken one stands in the way of every diffusion preset.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import REPOSITORY

ASK = """
from ex4d_engine import doctor
from ex4d_engine.errors import Ex4dError
from ex4d_engine.stages.diffusion_presets import check_preset
from ex4d_engine.stages.generate_options import GenerateOptions

print(doctor._torchao())
try:
    check_preset("draft", GenerateOptions())
except Ex4dError as error:
    print(error.code, error.action, error.message, error.hint, sep="\\n")
"""


@pytest.mark.parametrize("error", ["ImportError('no name X\\nin torch')", "OSError('undefined symbol')"])
def test_a_broken_torchao_is_named_and_preview_offered(tmp_path: Path, error: str) -> None:
    (tmp_path / "torchao").mkdir()
    (tmp_path / "torchao" / "__init__.py").write_text(f"raise {error}\n", encoding="utf-8")
    (tmp_path / "torchao-0.18.0.dist-info").mkdir()
    metadata = "Metadata-Version: 2.1\nName: torchao\nVersion: 0.18.0\n"
    (tmp_path / "torchao-0.18.0.dist-info" / "METADATA").write_text(metadata, encoding="utf-8")
    paths = os.pathsep.join([str(tmp_path), str(REPOSITORY)])
    answer = subprocess.run(
        [sys.executable, "-c", ASK],
        env={**os.environ, "PYTHONPATH": paths, "PYTHONIOENCODING": "utf-8"},
        capture_output=True,
        encoding="utf-8",
        timeout=300,
        check=False,
    )
    assert answer.returncode == 0, answer.stderr
    line, code, action, message, hint = answer.stdout.splitlines()
    reason = error.split("'")[1].split("\\n")[0]
    assert line.startswith("  broken   torchao 0.18.0") and reason in line and "pip uninstall torchao" in line
    assert (code, action) == ("missing_package", "preset:preview")
    assert reason in message and "None" not in message
    assert "pip uninstall torchao" in hint and "preset preview" in hint
