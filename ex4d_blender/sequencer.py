# SPDX-License-Identifier: GPL-3.0-or-later
"""A take in the video sequencer: plate, result above it, and its layers in a muted meta strip between the two.

Nothing that is there is moved, replaced or muted: a second take goes above the first. The layers share one channel
because Blender has no more than 128, which would be full after sixteen takes of the same frames.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import bpy

from ..ex4d_engine.errors import Ex4dError
from ..ex4d_engine.shot import Shot
from ..ex4d_engine.take import Take
from . import compat

LAYERS = ("color", "mask", "depth", "matte", "generated", "composite")  # from the lowest channel up
TAKE_PROPERTY = "ex4d_take"
MAX_CHANNEL = 128
CHANNELS_OF_TAKE = 3  # plate, layers, result


@dataclass(frozen=True)
class LoadedTake:
    """The strips of a take, and what the user should know about the scene they are in.

    `layers` are in the meta strip `layers_meta`, which is None where the take has no layers.
    """

    plate: bpy.types.Strip
    result: bpy.types.Strip
    layers_meta: bpy.types.Strip | None
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
    channel = _free_channels(strips, start, start + length)

    def images(into: Any, name: str, files: Sequence[Path], channel: int) -> bpy.types.Strip:
        strip = into.new_image(f"EX-4D {take.name} {name}", str(files[0].absolute()), channel, start)
        for file in files[1:]:
            strip.elements.append(file.name)
        compat.set_strip_length(strip, length)
        strip.directory = _folder_path(files[0].parent)
        strip[TAKE_PROPERTY] = take.name
        return strip

    plate = images(strips, "plate", [shot.plate_file(frame.source) for frame in take.frames], channel)
    meta, made = None, []
    if layers:
        meta = strips.new_meta(f"EX-4D {take.name} layers", channel + 1, start)
        meta[TAKE_PROPERTY] = take.name
        inside = compat.strips(meta)
        for layer_channel, layer in enumerate(layers, start=1):
            files = [take.file(layer, number) for number in take.numbers]
            made.append(images(inside, layer, files, layer_channel))
        compat.set_strip_length(meta, length)  # does not follow what is put into it
        meta.mute = True  # and not its layers: without it the uppermost shows, as in any stack of strips
    result = strips.new_movie(f"EX-4D {take.name} result", str(take.result_file.absolute()), channel + 2, start)
    result.filepath = compat.blend_path(take.result_file)
    result[TAKE_PROPERTY] = take.name
    return LoadedTake(plate, result, meta, tuple(made), _notes(scene, take))


def _free_channels(strips: Sequence[bpy.types.Strip], start: int, end: int) -> int:
    """The lowest channel of the first that are free, for a take, in frames `start` … `end` - 1.

    Above everything that is there in those frames; where there is no room, in the highest gap.

    Raises:
        Ex4dError: `take_incomplete` when there is none.
    """
    taken = set()
    for strip in strips:
        first, after_last = compat.strip_range(strip)
        if first < end and after_last > start:
            taken.add(strip.channel)
    above = max(taken, default=0) + 1
    if above + CHANNELS_OF_TAKE - 1 <= MAX_CHANNEL:
        return above
    for channel in range(MAX_CHANNEL - CHANNELS_OF_TAKE + 1, 0, -1):
        if taken.isdisjoint(range(channel, channel + CHANNELS_OF_TAKE)):
            return channel
    raise Ex4dError(
        "take_incomplete",
        "The sequencer has no free channels left in these frames.",
        "Remove strips that you no longer need; then load the take from the list of takes.",
    )


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
