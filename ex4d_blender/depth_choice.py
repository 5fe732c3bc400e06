# SPDX-License-Identifier: GPL-3.0-or-later
"""Variants of the depth sources that have several, and what licences ask for. No bpy."""

from __future__ import annotations

from typing import Any, Final

# identifiers are the engine's own names; new ones go last, as .blend files keep the place
DEPTH_ANYTHING_V2: Final = (
    ("small", "Small", "Quick; its scale is assumed. Apache-2.0"),
    ("base", "Base", "Finer and slower; its scale is assumed. CC-BY-NC-4.0"),
    ("small-metric-indoor", "Small, in Metres, Indoors", "Trained on rooms. Apache-2.0"),
    ("small-metric-outdoor", "Small, in Metres, Outdoors", "Trained on streets. Apache-2.0"),
    ("base-metric-indoor", "Base, in Metres, Indoors", "Trained on rooms. CC-BY-NC-4.0"),
    ("base-metric-outdoor", "Base, in Metres, Outdoors", "Trained on streets. CC-BY-NC-4.0"),
)
DEPTH_ANYTHING_3: Final = (
    ("base", "Base", "Finer. Apache-2.0"),
    ("small", "Small", "Quicker. Apache-2.0"),
)
VARIANT_PROPERTIES: Final = {
    "depth-anything-v2": "depth_anything_v2_variant",
    "depth-anything-3": "depth_anything_3_variant",
}
"""The scene's setting of each source that has variants."""
_RESTRICTED_SOURCES: Final = {"depth-pro": "for research only", "depthcrafter": "for academic use only"}
_NON_COMMERCIAL: Final = "not for commercial use"


def variant_options(settings: Any) -> dict[str, Any]:
    """The engine's `depth_options` of the chosen variant; none for a source that has one only."""
    name = VARIANT_PROPERTIES.get(settings.depth_source)
    return {} if name is None else {"variant": getattr(settings, name)}


def is_in_metres(settings: Any) -> bool:
    """Whether the chosen network knows how large things are."""
    if settings.depth_source == "depth-anything-v2":
        return "-metric-" in str(settings.depth_anything_v2_variant)
    return bool(settings.depth_source == "depth-pro")


def restriction(settings: Any) -> str:
    """What the chosen network's licence restricts its use to; "" where it does not.

    The engine downloads such a model only with `--accept-licence`.
    """
    if settings.depth_source == "depth-anything-v2" and settings.depth_anything_v2_variant.startswith("base"):
        return _NON_COMMERCIAL
    return _RESTRICTED_SOURCES.get(settings.depth_source, "")
