# SPDX-License-Identifier: GPL-3.0-or-later
"""Depth, and a path, that a source estimated together with a lens, where the shot's lens is known to be another.

What such a source reads off the pictures is z / f, the depth for a lens as long as the frame is wide: metric networks
multiply it with their focal length in widths of the frame. Another focal length f' makes it z · f' / f.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import Final

import numpy as np
from numpy.typing import NDArray

from ..depth import DepthClip, DepthFrame
from ..progress import Reporter
from ..source_cameras.lens import SourceLens, described

Array = NDArray[np.float64]

_WORTH_SAYING: Final = 0.01
"""Difference of focal length, as a share: less than any source knows its own by."""


def through_lens(
    clip: DepthClip, lens: SourceLens, size: tuple[int, int], count: int, solved: bool, reporter: Reporter
) -> DepthClip:
    """The clip as its source would have seen it with the lens of the shot; itself where nothing depends on that.

    Args:
        clip: its frames are changed one at a time, when they are asked for.
        size: (width, height) of the plate; count: its frames.
        solved: the path comes from a file, and the clip's own is not used.
    """
    if not clip.lens_is_estimate or clip.intrinsics is None:
        return clip
    has_path = clip.camera_to_world is not None
    if has_path and solved:
        # Its frames were seen together and agree about their depth, zoom or not. What the lens changes is one factor,
        # which the placement finds.
        return clip
    lenses = np.array([lens.of_frame(index) for index in range(count)])
    ratios = lenses[:, [0, 1], [0, 1]] / clip.intrinsics[[0, 1], [0, 1]]
    if np.array_equal(ratios, np.ones_like(ratios)):
        return clip
    note = clip.note
    if np.abs(ratios - 1).max() > _WORTH_SAYING:
        said = _said(ratios[:, 0], described(clip.intrinsics, size), has_path)
        reporter.log(said)
        note = f"{note} {said}"
    poses = None if clip.camera_to_world is None else path_through_lens(clip.camera_to_world, *ratios[0])
    return dataclasses.replace(clip, frames=_farther(clip.frames, ratios[:, 0]), camera_to_world=poses, note=note)


def path_through_lens(camera_to_world: Array, across: float, down: float) -> Array:
    """The path (F,4,4) on which another lens shows what this one showed on `camera_to_world`, from the same start.

    The motion of a picture is f (x' / z) from moving and f · turn from turning, so to first order a lens `across` times
    as long, with all depth `across` times as great, has moved as far sideways, `across` times as far forwards, and
    turned by 1 / `across`. A path that only moves is exactly right. Of a turn the terms of second order stay: by these
    the source found its own lens, and no path through another has them. That is why it is done from frame to frame,
    where they are small. The alternatives are worse: to keep the path makes all that stands still slide by the whole
    difference, and to keep the source's lens, in which everything agrees, would ignore what the user knows.

    Args:
        across, down: focal length in pixels over that of the estimate, horizontally and vertically.
    """
    from scipy.spatial.transform import Rotation

    before = np.asarray(camera_to_world, np.float64)
    steps = np.linalg.inv(before[:-1]) @ before[1:]  # each frame as the one before it sees it
    turns = Rotation.from_matrix(steps[:, :3, :3]).as_rotvec() / (down, across, 1.0)
    steps[:, :3, :3] = Rotation.from_rotvec(turns).as_matrix()
    steps[:, :3, 3] *= (1.0, across / down, across)
    poses = [before[0]]
    for step in steps:
        poses.append(poses[-1] @ step)
    return np.array(poses)


def _farther(frames: Iterator[DepthFrame], ratios: Array) -> Iterator[DepthFrame]:
    # not strict: too few frames are refused where they are counted, and more than the plate has are not asked for
    for frame, ratio in zip(frames, ratios, strict=False):
        yield dataclasses.replace(frame, depth=np.asarray(frame.depth * np.float32(ratio), np.float32))


def _said(ratios: Array, estimate: str, has_path: bool) -> str:
    low, high = f"{ratios.min():.4g}", f"{ratios.max():.4g}"
    factor = low if low == high else f"{low} to {high}"
    if not has_path:
        return f"The depth was estimated for another lens ({estimate}): for the shot's it is multiplied by {factor}."
    return (
        f"Depth and the camera's path were estimated for another lens ({estimate}): for the shot's the depth is "
        f"multiplied by {factor} and the path adapted, which is exact where the camera only moves and approximate "
        "where it turns."
    )
