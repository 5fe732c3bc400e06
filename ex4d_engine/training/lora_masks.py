# SPDX-License-Identifier: GPL-3.0-or-later
"""The simulated masks of an adapter's training, as its configuration mixes them."""

from __future__ import annotations

from typing import Final

import numpy as np
import numpy.typing as npt

from .clip_folder import Frames
from .lora_config import MaskMix
from .random_paths import PathSettings
from .simulated_masks import MaskSettings, simulated_masks

_VERSION: Final = 1  # to be raised where the same settings and seed would give other masks


class MixedMasks:
    """A `latent_cache.MaskSource` that draws from `simulated_masks`.

    Args:
        mix: which kinds, and how wide the cameras swing.
    """

    def __init__(self, mix: MaskMix) -> None:
        self._settings = mask_settings(mix)
        self.version = f"{_VERSION} {self._settings}"

    def __call__(
        self, frames: Frames, depth: npt.NDArray[np.float32], intrinsics: npt.NDArray[np.float64], seed: int
    ) -> npt.NDArray[np.uint8]:
        """(F, H, W) uint8, see `MaskSource`. One lens a window: that of its first frame."""
        drawn = simulated_masks(seed, frames, depth, intrinsics[0], self._settings)
        return drawn.keep


def mask_settings(mix: MaskMix) -> MaskSettings:
    """The settings of `simulated_masks` that a configuration asks for.

    Raises:
        Ex4dError: `bad_request` if all ratios are zero or a range is the wrong way round.
    """
    return MaskSettings(
        ratios=(mix.rendering, mix.tracking, mix.both, mix.none),
        paths=PathSettings(orbit_deg=(mix.least_orbit_deg, mix.most_orbit_deg)),
        erosion=(mix.least_erosion, mix.most_erosion),
    )
