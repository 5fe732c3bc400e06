# SPDX-License-Identifier: GPL-3.0-or-later
"""What the sources have in common that look at a clip as a whole, or read it as one: its frames as their network
sees them, and depth known up to one scale and one shift as an answer."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from itertools import repeat
from typing import Final

import numpy as np
import numpy.typing as npt

from ..progress import Reporter
from .affine_depth import read_clip
from .network_frames import ESTIMATE, counted_maps, enlarged, is_blank, resized, usable
from .registry import DepthClip, PlatePass
from .small_maps import SmallMaps

Array = npt.NDArray[np.float32]
Image = npt.NDArray[np.uint8]

_NAMED: Final = 5
"""Blank frames whose numbers are said."""


def shown_frames(plate: PlatePass, size: tuple[int, int], counted: list[bool], reporter: Reporter) -> Iterator[Image]:
    """The clip's frames at (width, height), one at a time; instead of a blank one the nearest that shows something.

    A network that sees frames together carries what it makes of a blank one over to its neighbours. With a neighbour
    in its place it sees a clip that stands still for a moment. In a clip of nothing else a blank frame stays blank.

    Args:
        counted: is added to: for each frame of the clip that was read, whether it shows anything itself.

    Raises:
        Ex4dError: `cancelled`.
    """
    before: Image | None = None
    nothing: Image | None = None
    waiting = 0  # blank frames whose nearest neighbour is not known yet
    for image in plate():
        reporter.check()
        frame = resized(image, size)
        counted.append(not is_blank(frame))
        if not counted[-1]:
            nothing, waiting = frame, waiting + 1
            continue
        earlier = 0 if before is None else (waiting + 1) // 2
        yield from repeat(before if before is not None else frame, earlier)
        yield from repeat(frame, waiting - earlier + 1)
        before, waiting = frame, 0
    last = nothing if before is None else before
    if last is not None:
        yield from repeat(last, waiting)
    _tell(counted, reporter)


def _tell(counted: list[bool], reporter: Reporter) -> None:
    blank = [index + 1 for index, shows in enumerate(counted) if not shows]
    if not blank or not any(counted):
        return
    numbers = ", ".join(map(str, blank[:_NAMED])) + (", …" if len(blank) > _NAMED else "")
    frames = "1 frame shows" if len(blank) == 1 else f"{len(blank)} frames show"
    reporter.log(f"{frames} nothing ({numbers} of the clip): depth is estimated from the nearest that shows something.")


def over_clip(
    plate: PlatePass,
    frame_count: int,
    size: tuple[int, int],
    predict: Callable[[Iterator[Image]], Iterable[Array]],
    title: str,
    reporter: Reporter,
) -> tuple[SmallMaps, list[bool]]:
    """A network that looks at neighbouring frames too, run over the clip; `network_frames.per_frame` for one that does
    not.

    Args:
        size: (width, height) that the network sees.
        predict: the frames at that size → the map (h, w) of each, in order, as soon as it is known.

    Returns:
        The maps, and for each frame whether it showed anything that a clip's scale may rest on.

    Raises:
        Ex4dError: `depth_invalid` for a frame of which nothing is a number; `cancelled`.
    """
    maps = SmallMaps()
    counted: list[bool] = []
    for index, values in enumerate(predict(shown_frames(plate, size, counted, reporter))):
        maps.append(usable(values, title, index))
        reporter.progress(ESTIMATE, index + 1, frame_count)
    return maps, counted


def affine_clip(
    plate: PlatePass, maps: SmallMaps, counted: list[bool], note: str, reporter: Reporter, *, zero_is_far: bool
) -> DepthClip:
    """The answer of a source whose maps are inverse depth up to one scale and one shift of the whole clip.

    Args:
        maps, counted: as `over_clip` and `per_frame` give them.
        note, zero_is_far: of `DepthClip` and of `read_clip`.
    """
    reading = read_clip(counted_maps(maps, counted), zero_is_far=zero_is_far)
    return DepthClip(
        frames=enlarged(plate, maps, lambda _, values: reading.inverse_z(values), reporter),
        intrinsics=None,
        camera_to_world=None,
        scale="relative",
        note=note,
        alignment="affine",
    )
