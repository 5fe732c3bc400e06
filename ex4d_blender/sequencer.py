# SPDX-License-Identifier: GPL-3.0-or-later
"""A take in the video sequencer: plate, result above it, and its layers as muted strips between the two.

Nothing that is there is moved, replaced or muted: a second take goes above the first.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import bpy

from ..ex4d_engine.errors import Ex4dError
from ..ex4d_engine.shot import Shot, Take
from . import compat

LAYERS = ("color", "mask", "depth", "matte", "generated", "composite")  # from the lowest channel up
TAKE_PROPERTY = "ex4d_take"
MAX_CHANNEL = 128


@dataclass(frozen=True)
class LoadedTake:
    """The strips of a take, and what the user should know about the scene they are in."""

    plate: bpy.types.Strip
    result: bpy.types.Strip
    layers: tuple[bpy.types.Strip, ...]
    notes: tuple[str, ...]


def load_take(scene: bpy.types.Scene, shot: Shot, take: Take, *, start_frame: int | None = None) -> LoadedTake:
    """Puts a finished take on the scene's timeline. The scene's rate, size and range stay as they are.

    Args:
        scene: the one that the sequencer shows: `compat.sequencer_scene(context)`.
        start_frame: where output frame one goes; by default its own number.

    Raises:
        Ex4dError: `take_incomplete` when there is no result yet, or no room for its strips.
    """
    if not take.result_file.is_file():
        raise Ex4dError("take_incomplete", f"{take.name} has no result yet.", "Generate it first.")
    start = take.first if start_frame is None else start_frame
    length = len(take.frames)
    layers = [layer for layer in LAYERS if not take.missing(layer)]
    editor = scene.sequence_editor or scene.sequence_editor_create()
    strips = compat.strips(editor)
    channel = _first_free_channel(strips, start, start + length)
    if channel + 1 + len(layers) > MAX_CHANNEL:
        raise Ex4dError(
            "take_incomplete", "The sequencer has no free channels left.", "Remove strips you no longer need."
        )

    def images(name: str, files: Sequence[Path], channel: int) -> bpy.types.Strip:
        strip = strips.new_image(name, str(files[0].absolute()), channel, start)
        for file in files[1:]:
            strip.elements.append(file.name)
        compat.set_strip_length(strip, len(files))
        strip.directory = _folder_path(files[0].parent)
        strip[TAKE_PROPERTY] = take.name
        return strip

    plate = images(f"EX-4D {take.name} plate", [shot.plate_file(frame.source) for frame in take.frames], channel)
    made = []
    for offset, layer in enumerate(layers, start=1):
        files = [take.file(layer, number) for number in take.numbers]
        strip = images(f"EX-4D {take.name} {layer}", files, channel + offset)
        strip.mute = True
        made.append(strip)
    result = strips.new_movie(
        f"EX-4D {take.name} result", str(take.result_file.absolute()), channel + 1 + len(layers), start
    )
    result.filepath = compat.blend_path(take.result_file)
    result[TAKE_PROPERTY] = take.name
    return LoadedTake(plate, result, tuple(made), _notes(scene, take))


def _first_free_channel(strips: Sequence[bpy.types.Strip], start: int, end: int) -> int:
    """The lowest channel with nothing in frames `start` … `end` - 1, on it or above it."""
    highest = 0
    for strip in strips:
        first, after_last = compat.strip_range(strip)
        if first < end and after_last > start:
            highest = max(highest, strip.channel)
    return highest + 1


def _folder_path(folder: Path) -> str:
    path = compat.blend_path(folder)
    return path if path.endswith(("/", "\\")) else path + ("\\" if "\\" in path else "/")


def _notes(scene: bpy.types.Scene, take: Take) -> tuple[str, ...]:
    notes = []
    render = scene.render
    rate = Fraction(render.fps) / Fraction(render.fps_base).limit_denominator(1001 * 1000)
    if abs(rate - take.fps) > Fraction(1, 1000):
        notes.append(
            f"The scene runs at {float(rate):.6g} frames a second, the take at {take.fps} ({float(take.fps):.6g}): "
            "set the scene's rate to play it at its own speed."
        )
    size = (
        render.resolution_x * render.resolution_percentage // 100,
        render.resolution_y * render.resolution_percentage // 100,
    )
    if size != (take.width, take.height):
        notes.append(f"The scene is {size[0]} x {size[1]} pixels, the take {take.width} x {take.height}.")
    if scene.view_settings.view_transform not in ("Standard", "Raw"):
        notes.append(
            f"The scene's view transform is {scene.view_settings.view_transform}: plate and result look as they were "
            "filmed with Standard."
        )
    return tuple(notes)
