# SPDX-License-Identifier: GPL-3.0-or-later
"""Clips, masks and a configuration for a training of the tiny model; run as a program, a training that kills itself."""

from __future__ import annotations

import json
import os
import signal
import sys
from fractions import Fraction
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from ex4d_engine.image_files import write_png
from ex4d_engine.movie_writer import MovieWriter
from ex4d_engine.progress import Silent
from ex4d_engine.training.lora_config import LoraTraining, parse_config
from ex4d_engine.training.training_log import LOSSES_NAME

HEIGHT, WIDTH, FRAMES = 32, 48, 9


class BoxMasks:
    """Hides a box that grows from frame to frame; its place follows from the seed."""

    version = "boxes"

    def __init__(self) -> None:
        self.calls = 0

    def __call__(
        self, frames: npt.NDArray[Any], depth: npt.NDArray[Any], intrinsics: npt.NDArray[Any], seed: int
    ) -> npt.NDArray[np.uint8]:
        assert depth.shape == frames.shape[:3] and intrinsics.shape == (len(frames), 3, 3)
        self.calls += 1
        keep = np.full(frames.shape[:3], 255, np.uint8)
        left = seed % (frames.shape[2] // 2)
        for number in range(len(frames)):
            keep[number, 4 : 8 + number, left : left + 8] = 0
        return keep


class Watch(Silent):
    """Keeps log lines and movies; cancels, or calls `at_step`, when a step of the training is done."""

    def __init__(self, cancel_at: int | None = None) -> None:
        super().__init__()
        self.lines: list[str] = []
        self.previews: list[Path] = []
        self.stages: list[str] = []
        self.cancel_at = cancel_at

    def log(self, message: str) -> None:
        self.lines.append(message)

    def preview(self, path: Path) -> None:
        self.previews.append(path)

    def progress(self, stage: str, done: int, total: int) -> None:
        if stage not in self.stages:
            self.stages.append(stage)
        if stage == "train lora" and done == self.cancel_at:
            self.cancelled.set()


def picture(number: int, seed: int, height: int = HEIGHT, width: int = WIDTH) -> npt.NDArray[np.uint8]:
    """A gradient that slides, with a disc on it."""
    x, y = np.meshgrid(np.arange(width), np.arange(height))
    image = np.stack([(x * 4 + number * 3 + seed * 40) % 256, y * 6 % 256, (x + y + seed * 9) % 256], axis=-1)
    image = np.ascontiguousarray(image.astype(np.uint8))
    cv2.circle(image, (8 + 2 * number, height // 2), 6, (255, 255, 255), -1)
    return image


def save_movie(path: Path, frames: int, seed: int = 0, height: int = HEIGHT, width: int = WIDTH) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with MovieWriter(path, Fraction(24), width, height) as movie:
        for number in range(frames):
            movie.write(picture(number, seed, height, width))
    return path


def save_images(folder: Path, frames: int, seed: int = 0) -> Path:
    folder.mkdir(parents=True)
    for number in range(1, frames + 1):
        write_png(folder / f"shot.{number:04}.png", picture(number, seed))
    return folder


def save_clips(folder: Path, count: int = 4) -> Path:
    """Movies as long as a window."""
    for number in range(count):
        save_movie(folder / f"clip {number} ü.mp4", FRAMES, number)
    return folder


def config(model_folder: Path, clips: Path, **changes: dict[str, Any]) -> LoraTraining:
    """A small training; `changes` are settings by section."""
    document: dict[str, dict[str, Any]] = {
        "model": {"folder": str(model_folder)},
        "data": {
            "clips": str(clips),
            "frames": FRAMES,
            "height": HEIGHT,
            "width": WIDTH,
            "masks_per_clip": 2,
            "depth": "rough-pictorial",
            "prompt": "a camera moves around a quiet street",
        },
        "adapter": {"rank": 4, "alpha": 4, "camera_channels": 20},
        "optimiser": {"steps": 6, "batch": 2, "learning_rate": 1e-2, "warm_up_steps": 2, "average_kept": 0.9},
        "run": {"checkpoint_every": 4, "validate_every": 0, "validation_clips": 1, "log_every": 1},
    }
    for section, settings in changes.items():
        document.setdefault(section, {}).update(settings)
    return parse_config(document, Path())


def losses(out: Path) -> list[float]:
    """The training losses that a run recorded, step by step."""
    lines = [json.loads(line) for line in (out / LOSSES_NAME).read_text("utf-8").splitlines()]
    found = [(line["step"], line["loss"]) for line in lines if "loss" in line]
    assert [step for step, _ in found] == list(range(1, len(found) + 1))
    return [loss for _, loss in found]


class KilledAtStep(Silent):
    """Ends its own process without any farewell once a step is done."""

    def __init__(self, step: int) -> None:
        super().__init__()
        self._step = step

    def progress(self, stage: str, done: int, total: int) -> None:
        if stage == "train lora" and done == self._step:
            if os.name == "posix":
                os.kill(os.getpid(), signal.SIGKILL)
            os._exit(9)


def train_until_killed(config_file: Path, out: Path, step: int) -> None:
    import torch

    from ex4d_engine.training.lora_config import read_config
    from ex4d_engine.training.lora_training import train_lora

    torch.set_num_threads(1)
    train_lora(read_config(config_file), out, KilledAtStep(step), masks=BoxMasks(), device="cpu")


if __name__ == "__main__":
    train_until_killed(Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3]))
