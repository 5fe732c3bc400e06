# SPDX-License-Identifier: GPL-3.0-or-later
"""The comparison of walls, on the smallest of scenes."""

from __future__ import annotations

import sys
from pathlib import Path

import cv2
import numpy as np
import pytest

from tools.benchmarks import walls


def test_the_whole_of_it_on_one_scene(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    picture = tmp_path / "Bild ü.png"
    size = ["--scenes", "1", "--frames", "5", "--size", "48", "32", "--examples", "0"]
    monkeypatch.setattr(sys, "argv", ["walls.py", *size, "--picture", str(picture)])
    assert walls.main() == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split("|")[1].strip() for line in lines[2:]] == [name for name, _ in walls.conditionings()]
    assert cv2.imdecode(np.frombuffer(picture.read_bytes(), np.uint8), cv2.IMREAD_COLOR) is not None
