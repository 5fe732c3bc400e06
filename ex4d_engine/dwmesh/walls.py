# SPDX-License-Identifier: GPL-3.0-or-later
"""How far the walls reach that bridge a jump in depth: all the way, which closes the mesh, or a share of their depth.

A face that the plate did not see goes from the surface in front to the one behind, as if everything in front went on
to the horizon along the lines of sight. That never shows what it does not know, and hides much that the plate did
see: beside a flower before a far hedge it is the hedge. Cards without any thickness hide too little. Between them lie
objects about as thick as their distance times a share; one share fits the holes of generated scenes within 15 % at
every angle (docs/walls.md); and nothing is taken to be deeper than it is wide (edges.py). The mesh stays what it is:
its walls are drawn that far, no further.
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

CARD_PIXELS: Final = 1.5
"""A card's side in pixels of the plate. Under 2, so that the source camera sees each pixel's own colour at its centre;
over 1, so that cards of a surface that leans still meet."""

CARD_SETBACK: Final = 1e-4
"""Share of its depth by which a card is set back a pixel from its centre (with the distance's square) where it is
asked what hides what. So of cards at one depth, which overlap, the one whose pixel is nearest shows, and before either
a face of the grid; else rounding would choose. More than a depth buffer's rounding, far less than a pixel's size."""

WHOLE: Final = 255
EDGE: Final = 128
UNSEEN: Final = 0
"""The albedo's alpha: all faces around a pixel were seen; some were not, so that it has a card; the plate is
transparent there. Shots made before December 2026 have `UNSEEN` where no face was seen, else `WHOLE`, and no cards."""

WIDE: Final = 65535
"""In `wall_widths`: too wide to limit its walls."""


def preset_walls(preset: str) -> float:
    """The share that a preset is shown where nobody chose another."""
    return WALL_SHARE if preset in SHORT_WALLED else CLOSED
