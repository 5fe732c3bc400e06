# SPDX-License-Identifier: GPL-3.0-or-later
"""The comparison of simulated masks with true ones, on the smallest of scenes."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest

from tools.benchmarks import simulated_masks


def test_the_whole_of_it_on_one_scene(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    picture, figures = tmp_path / "Bild ü.png", tmp_path / "a" / "figures.json"
    size = ["--scenes", "1", "--frames", "4", "--size", "48", "32"]
    monkeypatch.setattr(sys, "argv", ["simulated_masks.py", *size, "--picture", str(picture), "--json", str(figures)])
    assert simulated_masks.main() == 0
    document = json.loads(figures.read_text("utf-8"))
    assert sum(document["counts"]) == 3 and document["scenes"] == 1
    assert "| 2–10° | " in capsys.readouterr().out
    drawn = cv2.imdecode(np.frombuffer(picture.read_bytes(), np.uint8), cv2.IMREAD_COLOR)
    assert drawn.shape[1] == 960


def test_scenes_that_agree_do_not_swing_and_others_do() -> None:
    angle = np.tile([5.0, 15.0], 40)
    true = np.tile([0.2, 0.4], 40)
    same = {"angle": angle, "true share": true, "simulated share": 1.1 * true}
    low, high = simulated_masks.swings(same, 2)[:2].T
    np.testing.assert_allclose([low, high], 0.1)
    by_scene = np.repeat(np.tile([0.5, 1.5], 20), 2)
    low, high = simulated_masks.swings({**same, "simulated share": by_scene * true}, 2)[:2].T
    assert (low < -0.05).all() and (high > 0.05).all(), "the mean is right, and by luck"
    assert np.isnan(simulated_masks.swings(same, 2)[2:]).all(), "where no frame is"
