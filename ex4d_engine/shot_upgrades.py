# SPDX-License-Identifier: GPL-3.0-or-later
"""What has to change in the JSON files of a shot that an older version wrote. Standard library only."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

_SETTINGS_OF_2: Final[dict[str, Any]] = {
    "focal_mm": None,
    "sensor_mm": None,
    "poses": None,
    "poses_stamp": None,
    "scene_scale": None,
    "measured": None,
    "cuts": "refuse",
}


def _with_source_camera(document: dict[str, Any]) -> dict[str, Any]:
    """Version 2 knows a solved source camera, a lens in millimetres, a scale, and what to do with a cut.

    Without its settings said, an old shot would be taken for one of other settings and made anew.
    """
    upgraded = dict(document)
    if "settings" in upgraded:
        upgraded["settings"] = _with_settings(upgraded["settings"])
    record = upgraded.get("record")
    if isinstance(record, dict) and "reconstruction" in record:  # a take remembers the settings of its shot
        upgraded["record"] = {**record, "reconstruction": _with_settings(record["reconstruction"])}
    return upgraded


def _with_settings(settings: Any) -> Any:
    return {**_SETTINGS_OF_2, **settings} if isinstance(settings, dict) and settings else settings


# schema version n -> function that turns a version n document into version n + 1, or raises ValueError
UPGRADES: Final[dict[int, Callable[[dict[str, Any]], dict[str, Any]]]] = {1: _with_source_camera}
