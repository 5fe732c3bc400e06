# SPDX-License-Identifier: GPL-3.0-or-later
"""How far the walls reach that bridge a jump in depth: all the way, which closes the mesh, or a share of their depth.

A face that the plate did not see goes from the surface in front to the one behind, as if everything in front went on
to the horizon along the lines of sight. That never shows what it does not know, and hides much that the plate did
see: beside a flower before a far hedge it is the hedge. Cards without any thickness hide too little. Between them lie
objects about as thick as their distance times a share; one share fits the holes of generated scenes within 15 % at
every angle (docs/walls.md). The mesh stays what it is: its walls are drawn as far as that share, no further.
"""

from __future__ import annotations

import math
from typing import Final

CLOSED: Final = math.inf
"""The share of walls that reach the surface behind."""
WALL_SHARE: Final = 0.15
"""A wall's depth as a share of that where it begins: what fits generated scenes best (docs/walls.md)."""
SHORT_WALLED: Final = frozenset({"draft", "preview"})
"""Presets that are best shown short walls: draft's model learnt from masks drawn with them, and
preview fills every hole from its rim. The published weights behind the others learnt with closed ones."""


def preset_walls(preset: str) -> float:
    """The share that a preset is shown where nobody chose another."""
    return WALL_SHARE if preset in SHORT_WALLED else CLOSED
