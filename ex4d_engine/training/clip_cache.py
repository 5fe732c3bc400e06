# SPDX-License-Identifier: GPL-3.0-or-later
"""Drawn clips in files, so that the next stage of a training on the same machine need not draw them again."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from ..files import prepare_folder
from ..tensor_saving import save_tensors

_VERSION: Final = 1  # to be raised where the same seed would give other clips


class ClipCache:
    """Groups of clips in a folder, one file each.

    Args:
        folder: it is made. A clip of 61 frames at 216 × 378 takes 25 MB.
        drawn_as: how the clips are drawn, apart from seed and size: clips drawn otherwise are not taken for these.

    Raises:
        Ex4dError: `read_only`, `disk_full`.
    """

    def __init__(self, folder: Path, drawn_as: str) -> None:
        prepare_folder(folder)
        self._folder = folder
        self._digest = hashlib.sha256(f"{_VERSION} {drawn_as}".encode()).hexdigest()[:12]

    def load(self, seed: int, size: tuple[int, int]) -> tuple[Tensor, NDArray[np.float32], NDArray[np.float64]] | None:
        """Images (N, 3, F, H, W) uint8, depth (N, F, H, W), intrinsics (N, F, 3, 3); None where they are not there."""
        try:
            tensors = load_file(self._path(seed, size))
            return tensors["images"], tensors["depth"].float().numpy(), tensors["intrinsics"].numpy()
        except (OSError, KeyError, SafetensorError):
            return None  # drawn again, then

    def save(
        self,
        seed: int,
        size: tuple[int, int],
        images: Tensor,
        depth: NDArray[np.float32],
        intrinsics: NDArray[np.float64],
    ) -> None:
        """Keeps a group; arguments as `load` returns them. Depth is kept at half precision.

        Raises:
            Ex4dError: `disk_full`, `read_only`.
        """
        tensors = {
            "images": images,
            "depth": torch.from_numpy(depth).half(),
            "intrinsics": torch.from_numpy(intrinsics),
        }
        save_tensors(self._path(seed, size), tensors)

    def _path(self, seed: int, size: tuple[int, int]) -> Path:
        return self._folder / f"clips_{self._digest}_{seed:010}_{size[1]}x{size[0]}.safetensors"
