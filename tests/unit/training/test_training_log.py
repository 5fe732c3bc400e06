# SPDX-License-Identifier: GPL-3.0-or-later
"""What a run keeps of itself, with TensorBoard and without it."""

from __future__ import annotations

import json
import sys
import types
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ex4d_engine.training.training_log import LOSSES_NAME, TrainingLog
from tests.unit.training.lora_material import Watch

TENSORBOARD = "torch.utils.tensorboard"


class Writer:
    """Takes what TensorBoard's would."""

    def __init__(self, folder: str, purge_step: int) -> None:
        self.folder, self.purge_step = folder, purge_step
        self.scalars: list[tuple[str, float, int]] = []
        self.images: list[tuple[str, tuple[int, ...], int]] = []
        self.is_closed = False
        written.append(self)

    def add_scalar(self, name: str, value: float, step: int) -> None:
        self.scalars.append((name, value, step))

    def add_image(self, name: str, image: np.ndarray, step: int, dataformats: str) -> None:
        assert dataformats == "HWC"
        self.images.append((name, image.shape, step))

    def close(self) -> None:
        self.is_closed = True


written: list[Writer] = []


def losses(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / LOSSES_NAME).read_text("utf-8").splitlines()]


def test_without_tensorboard_one_sentence_says_what_is_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, TENSORBOARD, None)  # as if it could not be imported
    watch = Watch()
    with TrainingLog(tmp_path, 0, watch) as log:
        log.values(1, loss=2.0)
        log.clip(1, 0, np.zeros((3, 32, 96, 3), np.uint8))
    (said,) = watch.lines
    assert "TensorBoard is not installed" in said and LOSSES_NAME in said and "pip install tensorboard" in said
    assert losses(tmp_path) == [{"step": 1, "loss": 2.0}]
    assert [path.name for path in (tmp_path / "validation").iterdir()] == ["step_00000001_clip_0.mp4"]


def test_tensorboard_gets_every_number_and_three_frames_of_a_clip(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = types.ModuleType(TENSORBOARD)
    module.SummaryWriter = Writer  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, TENSORBOARD, module)
    watch = Watch()
    (tmp_path / "Lauf ü").mkdir()
    with TrainingLog(tmp_path / "Lauf ü", 7, watch) as log:
        log.values(8, loss=2.0, learning_rate=0.1)
        log.clip(8, 1, np.zeros((9, 32, 96, 3), np.uint8))
    writer = written.pop()
    assert watch.lines == [] and writer.is_closed and writer.purge_step == 8
    assert Path(writer.folder) == tmp_path / "Lauf ü" / "tensorboard"
    assert writer.scalars == [("loss", 2.0, 8), ("learning_rate", 0.1, 8)]
    assert writer.images == [("validation clip 1", (96, 96, 3), 8)]


def test_what_came_after_the_step_that_is_gone_on_from_is_taken_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, TENSORBOARD, None)
    with TrainingLog(tmp_path, 0, Watch()) as log:
        for step in (1, 2, 3):
            log.values(step, loss=float(step))
    with (tmp_path / LOSSES_NAME).open("a", encoding="utf-8") as file:
        file.write('{"step": 4, "lo')  # what a killed process leaves
    with TrainingLog(tmp_path, 2, Watch()) as log:
        log.values(3, loss=9.0)
    assert [line["loss"] for line in losses(tmp_path)] == [1, 2, 9]
