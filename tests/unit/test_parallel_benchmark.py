# SPDX-License-Identifier: GPL-3.0-or-later
"""The benchmark of several graphics cards runs, with its toy model on the CPU."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


def test_two_ranks_beside_one(tmp_path: Path) -> None:
    pytest.importorskip("torch")
    script = ROOT / "tools" / "benchmarks" / "parallel.py"
    done = subprocess.run(
        [sys.executable, script, "--tiny", "--gpus", "2", "--steps", "3"],
        cwd=tmp_path,
        capture_output=True,
        encoding="utf-8",
        timeout=240,
        check=False,
    )

    assert done.returncode == 0, done.stderr
    *table, line = done.stdout.splitlines()
    document = json.loads(line)
    rows = document["rows"]
    assert len(table) == 1 + len(rows)
    assert [tuple(row["layout"].values()) for row in rows] == [(1, 1), (2, 1), (1, 2)]
    assert all(row["finite"] and row["max_deviation"] < 1e-4 and row["seconds"] > 0 for row in rows)
    assert rows[0]["speed_up"] == 1
    assert document["tokens"] == 24
