# SPDX-License-Identifier: GPL-3.0-or-later
"""The benchmark of training runs, with its toy model on the CPU."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def test_a_table_and_its_numbers(tmp_path: Path) -> None:
    script = ROOT / "tools" / "benchmarks" / "training.py"
    done = subprocess.run(
        [sys.executable, script, "--tiny", "--steps", "2", "--batch", "2"],
        cwd=tmp_path,
        capture_output=True,
        encoding="utf-8",
        timeout=240,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    *table, line = done.stdout.splitlines()
    document = json.loads(line)
    assert len(table) == 2 and "s a step" in table[0]
    (row,) = document["rows"]
    assert row["cards"] == 1 and row["seconds"] > 0 and len(row["losses"]) == 3
    assert row["seconds_a_clip"] * 2 - row["seconds"] < 0.01
    assert document["layers"] == 2
