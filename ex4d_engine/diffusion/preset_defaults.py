# SPDX-License-Identifier: GPL-3.0-or-later
"""What each diffusion preset's weights were made for.

Apart from the stages, whose package reads movies: a benchmark or a training on a bare machine asks here too.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from .sizes import DRAFT_AREA, TRAINED_AREA


@dataclass(frozen=True)
class PresetDefaults:
    """What a preset's weights were made for.

    steps, guidance, area, erosion: as of `stages.GenerateOptions`; erosion keeps its share of the frame at every area.
    knows_text: whether its model takes prompts.
    """

    steps: int
    guidance: float
    area: int = TRAINED_AREA
    erosion: int = 4
    knows_text: bool = True


DEFAULTS: Final = {
    "draft": PresetDefaults(2, 1.0, area=DRAFT_AREA, erosion=2, knows_text=False),
    "final": PresetDefaults(25, 5.0),
    "fast": PresetDefaults(4, 1.0),
}
