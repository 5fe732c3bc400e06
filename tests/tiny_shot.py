# SPDX-License-Identifier: GPL-3.0-or-later
"""A clip of a few small frames with its depth, and what tests ask of the stages that run on it."""

from __future__ import annotations

import hashlib
from fractions import Fraction
from pathlib import Path

import numpy as np

from ex4d_engine.errors import Cancelled
from ex4d_engine.image_files import write_exr_depth, write_png
from ex4d_engine.movie_writer import MovieWriter
from ex4d_engine.progress import Silent
from ex4d_engine.shot import Shot
from ex4d_engine.stages import ReconstructSettings
from ex4d_engine.take import Take, new_take
from ex4d_engine.trajectories import along, preset
from ex4d_engine.video import probe

NTSC_FILM = Fraction(24000, 1001)
NEAR, FAR = 4.0, 10.0


class Listener(Silent):
    """Keeps what it is told; stops the stage at the given call of `check` after `stage` began."""

    def __init__(self, stop_in: str = "", after: int = 0) -> None:
        super().__init__()
        self.logs: list[str] = []
        self.previews: list[Path] = []
        self.stages: list[str] = []
        self._stop_in, self._left, self._now = stop_in, after, ""

    def progress(self, stage: str, done: int, total: int) -> None:
        assert 0 <= done <= total
        self._now = stage
        if stage not in self.stages:
            self.stages.append(stage)

    def log(self, message: str) -> None:
        self.logs.append(message)

    def preview(self, path: Path) -> None:
        assert path.is_file()
        self.previews.append(path)

    def check(self) -> None:
        if self._stop_in and self._now == self._stop_in:
            self._left -= 1
            if self._left < 0:
                raise Cancelled


def picture(index: int, width: int = 64, height: int = 48) -> np.ndarray:
    """(H,W,3) uint8: a striped ground and a square that walks to the right in front of it."""
    column, row = np.meshgrid(np.arange(width), np.arange(height))
    ground = np.stack([60 + 2 * column % 120, 90 + 2 * row % 100, np.full_like(row, 120)], axis=-1)
    return np.where(square(index, width, height)[..., None], (210, 60, 40), ground).astype(np.uint8)


def depth_map(index: int, width: int = 64, height: int = 48) -> np.ndarray:
    """(H,W) float32: the ground far away, the square near."""
    return np.where(square(index, width, height), NEAR, FAR).astype(np.float32)


def square(index: int, width: int, height: int) -> np.ndarray:
    mask = np.zeros((height, width), bool)
    left = width // 4 + index
    mask[height // 4 : 3 * height // 4, left : left + width // 3] = True
    return mask


def write_clip(path: Path, count: int = 6, width: int = 64, height: int = 48, fps: Fraction = NTSC_FILM) -> Path:
    with MovieWriter(path, fps, width, height) as movie:
        for index in range(count):
            movie.write(picture(index, width, height))
    return path


def write_sequence(folder: Path, count: int = 6, width: int = 64, height: int = 48, first: int = 1001) -> Path:
    """Lossless frames `plate.####.png`."""
    folder.mkdir(parents=True, exist_ok=True)
    for index in range(count):
        write_png(folder / f"plate.{first + index:04d}.png", picture(index, width, height))
    return folder


def write_depth(folder: Path, count: int = 6, width: int = 64, height: int = 48) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for index in range(count):
        write_exr_depth(folder / f"depth.{index + 1:04d}.exr", depth_map(index, width, height))
    return folder


def settings(folder: Path, count: int = 6, width: int = 64, height: int = 48, **more: object) -> ReconstructSettings:
    """Writes clip and depth under `folder` where they are not yet, and asks for them."""
    clip, depth = folder / "clip", folder / "depth maps"
    if not clip.is_dir():
        write_sequence(clip, count, width, height)
        write_depth(depth, count, width, height)
    wanted: dict[str, object] = {"source": str(clip), "depth": "file", "depth_options": {"path": str(depth)}}
    return ReconstructSettings(**{**wanted, **more})  # type: ignore[arg-type]


def orbit_take(shot: Shot, degrees: float = 12.0, count: int | None = None, **placing: object) -> Take:
    """A new take that swings about the square."""
    plate = shot.require_plate()
    poses = preset("orbit", degrees, plate.count if count is None else count, shot.require_geometry().subject)
    path = along(shot, poses, **placing)  # type: ignore[arg-type]
    return new_take(shot, path.frames, path.size, first=plate.first, fps=path.fps)


def contents(root: Path) -> dict[str, str]:
    """Every file below `root` that is no record (JSON), by its relative name: a digest of its bytes.

    Of a movie, only the number of its frames: the encoder may decide otherwise on a busy machine.
    """
    files = (path for path in sorted(root.rglob("*")) if path.is_file() and path.suffix not in (".json", ".jsonl"))
    return {path.relative_to(root).as_posix(): _digest(path) for path in files}


def _digest(path: Path) -> str:
    if path.suffix == ".mp4":
        return f"{probe(path).frame_count} frames"
    return hashlib.sha256(path.read_bytes()).hexdigest()


def times(root: Path) -> dict[str, int]:
    """Every file below `root` that is no record (JSON): when it was written."""
    files = (path for path in sorted(root.rglob("*")) if path.is_file() and path.suffix not in (".json", ".jsonl"))
    return {path.relative_to(root).as_posix(): path.stat().st_mtime_ns for path in files}
