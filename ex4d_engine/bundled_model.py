# SPDX-License-Identifier: GPL-3.0-or-later
"""The small diffusion model that comes with the engine, for preset `draft`: where it lies, and whether it is there.

Standard library only: the add-on asks too, before there is an engine to ask.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Final

DEFAULT_PRESET: Final = "draft"
"""What the demo and a new scene begin with, on any machine."""

BUNDLED: Final = "ex4d-draft"
"""What takes and trainings call the model; it is in no registry, as nobody has to get it."""

FOLDER: Final = Path(__file__).resolve().parent / "assets" / "bundled"
"""In diffusers' layout; absent in a checkout whose model has not been trained yet."""

PARAMETERS: Final = 25_000_000
"""Of its transformer, about."""


def bundled_folder() -> Path:
    """The folder of the model, which may not be there."""
    return FOLDER


def has_bundled_model() -> bool:
    """Whether the model is there; whether it is whole is seen when it is loaded."""
    return (bundled_folder() / "model_index.json").is_file()


def smaller_preset(parameters: float = math.inf) -> str:
    """The preset to offer where a transformer of so many parameters cannot run: `draft` where its model is here and
    far smaller than that, else `preview`, which needs none."""
    return "draft" if parameters > 10 * PARAMETERS and has_bundled_model() else "preview"
