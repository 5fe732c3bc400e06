# SPDX-License-Identifier: GPL-3.0-or-later
"""What the sources have in common that look at a clip as a whole, or read it as one: its frames as their network
sees them, and depth known up to one scale and one shift as an answer."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

import numpy as np
import numpy.typing as npt

from ..progress import Reporter
from .affine_depth import read_clip
from .network_frames import ESTIMATE, counted_maps, enlarged, is_blank, resized, usable
from .registry import DepthClip, PlatePass
from .small_maps import SmallMaps

Array = npt.NDArray[np.float32]
Image = npt.NDArray[np.uint8]


def resized_frames(plate: PlatePass, size: tuple[int, int], reporter: Reporter) -> Iterator[Image]:
    """The clip's frames at (width, height), one at a time.

    Raises:
        Ex4dError: `cancelled`.
    """
    for image in plate():
        reporter.check()
        yield resized(image, size)


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
    maps, counted = SmallMaps(), []

    def frames() -> Iterator[Image]:
        for frame in resized_frames(plate, size, reporter):
            counted.append(not is_blank(frame))
            yield frame

    for index, values in enumerate(predict(frames())):
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
