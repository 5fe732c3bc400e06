# SPDX-License-Identifier: GPL-3.0-or-later
"""The way of a shot: reconstruct → render → generate (→ composite), each a plain function on a shot folder.

A stage skips what is already there and valid, so a killed run resumes where it stopped.
"""

from .find_shots import find_shots
from .generate import PRESETS, generate, generation_settings, require_preset
from .generate_options import GenerateOptions
from .interrupted import take_along
from .reconstruct import reconstruct
from .reconstruct_settings import ReconstructSettings
from .reference_move import reference_move
from .render import render
from .repeat import repeat

__all__ = [
    "PRESETS",
    "GenerateOptions",
    "ReconstructSettings",
    "find_shots",
    "generate",
    "generation_settings",
    "reconstruct",
    "reference_move",
    "render",
    "repeat",
    "require_preset",
    "take_along",
]
