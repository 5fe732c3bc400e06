# SPDX-License-Identifier: GPL-3.0-or-later
"""Where and how long the engine keeps what belongs to no shot: downloaded models, and what can be made again."""

from __future__ import annotations

import math
import os
from pathlib import Path
from typing import Final

import platformdirs

KEEP_VARIABLE: Final = "EX4D_KEEP_MINUTES"
KEEP_MINUTES: Final = 5.0


def models_folder() -> Path:
    """The folder of downloaded models: EX4D_MODELS, or the system's place for a user's data."""
    return _named("EX4D_MODELS") or Path(platformdirs.user_data_dir("ex4d", appauthor=False)) / "models"


def cache_folder() -> Path:
    """The folder of what can be computed again, safe to delete: EX4D_CACHE, or the system's place for caches."""
    return _named("EX4D_CACHE") or Path(platformdirs.user_cache_dir("ex4d", appauthor=False))


def keep_models_s() -> float:
    """Seconds that models stay in memory after a job of Blender's: from EX4D_KEEP_MINUTES, 0 for not at all."""
    try:
        minutes = float(os.environ.get(KEEP_VARIABLE, KEEP_MINUTES))
    except ValueError:
        minutes = math.nan
    return 60 * minutes if 0 <= minutes < math.inf else 60 * KEEP_MINUTES


def _named(variable: str) -> Path | None:
    value = os.environ.get(variable)
    return Path(value).expanduser().absolute() if value else None
