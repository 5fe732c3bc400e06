# SPDX-License-Identifier: GPL-3.0-or-later
"""Clips for the depth network drawn ahead by processes, and handed over in files."""

from __future__ import annotations

import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import Final, NamedTuple, Self

import torch
from safetensors.torch import load
from torch import Tensor

from ..files import prepare_folder
from ..tensor_saving import save_tensors
from .depth_clips import ClipSource
from .drawn_ahead import DrawnAhead

Question = tuple[int, int, int, int, int, torch.device]
"""What a `ClipSource` is asked: seed, batch, frames, height, width, device."""
_MOST: Final = 6e4  # metres or pixels: what is more is no number in half precision


class DrawnClips(NamedTuple):
    """As `depth_clips.Clips`: images in 256 steps, depth and flow in half precision, which a network cannot tell."""

    images: Tensor
    depth: Tensor
    flow: Tensor
    flow_valid: Tensor


class ClipsDrawnAhead:
    """A `ClipSource` whose clips are drawn before they are wanted. A context manager.

    Args:
        source: draws clips; picklable.
        folder: where they lie until they are taken: 10 bytes a pixel. It is made anew, and removed at the end.
        count: of the processes.

    Raises:
        Ex4dError: `read_only`, `disk_full`.
    """

    def __init__(self, source: ClipSource, folder: Path, count: int) -> None:
        shutil.rmtree(folder, ignore_errors=True)  # what a killed run left
        prepare_folder(folder)
        self._source, self._folder = source, folder
        self._pool = DrawnAhead(count)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self._pool.__exit__(*error)
        shutil.rmtree(self._folder, ignore_errors=True)

    def want(self, questions: Iterable[Question]) -> None:
        """Sees to it that these are drawn or being drawn."""
        for question in questions:
            self._pool.want(question, _draw, self._source, question, self._path(question))

    def __call__(self, seed: int, batch: int, frames: int, height: int, width: int, device: torch.device) -> DrawnClips:
        """Clips as `source` draws them, waited for.

        Raises:
            Ex4dError: what drawing them raised; `out_of_memory` if the process was ended.
        """
        question = (seed, batch, frames, height, width, device)
        self.want([question])
        self._pool.wait(question)
        path = self._path(question)
        # read, not mapped: Windows deletes no file that is in use
        parts = {name: value.to(device) for name, value in load(path.read_bytes()).items()}
        path.unlink()
        return DrawnClips(
            parts["images"].float() / 255, parts["depth"].float(), parts["flow"].float(), parts["flow_valid"]
        )

    def _path(self, question: Question) -> Path:
        seed, batch, frames, height, width, _ = question
        return self._folder / f"clips_{seed}_{batch}x{frames}_{width}x{height}.safetensors"


def _draw(source: ClipSource, question: Question, path: Path) -> None:
    clips = source(*question)
    save_tensors(
        path,
        {
            "images": (clips.images.nan_to_num().clamp(0, 1) * 255).round().byte(),
            "depth": torch.where(torch.isfinite(clips.depth), clips.depth.clamp_max(_MOST), clips.depth).half(),
            "flow": clips.flow.clamp(-_MOST, _MOST).half(),
            "flow_valid": clips.flow_valid,
        },
    )
