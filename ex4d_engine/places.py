# SPDX-License-Identifier: GPL-3.0-or-later
"""Where the engine keeps what belongs to no shot: downloaded models, and results that can be made again."""

from __future__ import annotations

import os
from pathlib import Path

import platformdirs


def models_folder() -> Path:
    """The folder of downloaded models: EX4D_MODELS, or the system's place for a user's data."""
    return _named("EX4D_MODELS") or Path(platformdirs.user_data_dir("ex4d", appauthor=False)) / "models"


def cache_folder() -> Path:
    """The folder of what can be computed again, safe to delete: EX4D_CACHE, or the system's place for caches."""
    return _named("EX4D_CACHE") or Path(platformdirs.user_cache_dir("ex4d", appauthor=False))


def _named(variable: str) -> Path | None:
    value = os.environ.get(variable)
    return Path(value).expanduser().absolute() if value else None
