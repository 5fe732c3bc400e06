# SPDX-License-Identifier: GPL-3.0-or-later
"""What a run says of itself: a file of losses, TensorBoard where it is installed, and validation clips as movies."""

from __future__ import annotations

import json
from fractions import Fraction
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

import numpy as np
import numpy.typing as npt

from ..files import explain_os_error, write_bytes
from ..movie_writer import MovieWriter
from ..progress import Reporter

LOSSES_NAME: Final = "losses.jsonl"
TENSORBOARD_FOLDER, VALIDATION_FOLDER = "tensorboard", "validation"
_RATE: Final = Fraction(15)  # of validation movies, as of the published results


class TrainingLog:
    """Records of a run in its folder. What an interrupted sitting wrote after `step` is taken back.

    Args:
        folder: the run's.
        step: steps done so far.
        reporter: told where there is no TensorBoard.
    """

    def __init__(self, folder: Path, step: int, reporter: Reporter) -> None:
        self._folder, self._path = folder, folder / LOSSES_NAME
        earlier = [line for line in _lines(self._path) if _step(line) <= step]
        write_bytes(self._path, "".join(f"{line}\n" for line in earlier).encode("utf-8"))
        self._writer = _tensorboard(folder / TENSORBOARD_FOLDER, step, reporter)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._writer is not None:
            self._writer.close()

    def values(self, step: int, **values: float) -> None:
        """Keeps numbers of a step, on the disk when this returns.

        Raises:
            Ex4dError: `disk_full`, `read_only`.
        """
        try:
            with self._path.open("a", encoding="utf-8") as file:
                file.write(json.dumps({"step": step, **values}) + "\n")
        except OSError as error:
            raise explain_os_error(error, self._path) from error
        if self._writer is not None:
            for name, value in values.items():
                self._writer.add_scalar(name, value, step)

    def clip(self, step: int, number: int, frames: npt.NDArray[np.uint8]) -> Path:
        """Keeps a validation clip (F, H, W, 3) uint8 as a movie, and some of its frames for TensorBoard."""
        path = self._folder / VALIDATION_FOLDER / f"step_{step:08}_clip_{number}.mp4"
        path.parent.mkdir(parents=True, exist_ok=True)
        with MovieWriter(path, _RATE, frames.shape[2], frames.shape[1]) as movie:
            for frame in frames:
                movie.write(frame)
        if self._writer is not None:
            shown = np.concatenate([frames[0], frames[len(frames) // 2], frames[-1]])
            self._writer.add_image(f"validation clip {number}", shown, step, dataformats="HWC")
        return path


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text(encoding="utf-8").splitlines()
    except FileNotFoundError:
        return []
    except OSError as error:
        raise explain_os_error(error, path) from error


def _step(line: str) -> float:
    """A line's step; infinite for one that a killed process left unfinished."""
    try:
        return float(json.loads(line)["step"])
    except (ValueError, KeyError, TypeError):
        return float("inf")


def _tensorboard(folder: Path, step: int, reporter: Reporter) -> Any:
    """A writer whose earlier entries after `step` are hidden, or None."""
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        reporter.log(
            f"TensorBoard is not installed, so losses are in {LOSSES_NAME} only; `pip install tensorboard` adds it."
        )
        return None
    return SummaryWriter(str(folder), purge_step=step + 1)
