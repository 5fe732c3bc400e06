# SPDX-License-Identifier: GPL-3.0-or-later
"""The path of the source camera, read from a file: our JSON or COLMAP's text.

A file may be of a proxy, hold more frames than the shot, or lack some. What is read here is the camera of every frame
of the plate, in pixels of the plate.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

import numpy as np
from numpy.typing import NDArray

from .. import json_fields as fields
from ..camera_frame import camera_frame_from
from ..cameras import scaled_intrinsics, slerp_rotations
from ..errors import Ex4dError
from ..files import explain_os_error
from ..trajectories import TRAJECTORY_SCHEMA
from .colmap import is_colmap, read_colmap

Array = NDArray[np.float64]
MOST_MISSING: Final = 10  # frames in a row that are filled in between two solved ones
SQUARE_WITHIN: Final = 0.02  # of a plate's pixels, which are square


@dataclass(frozen=True)
class SolvedFrames:
    """A camera file as it is: `numbers` rising, poses (N,4,4) camera_to_world, intrinsics (N,3,3) for `size`.

    unit: "scene" where the file's world is one that somebody works in (Blender's), "arbitrary" where its size means
        nothing, as a solver's own.
    """

    numbers: tuple[int, ...]
    poses: Array
    intrinsics: Array
    size: tuple[int, int]
    unit: Literal["scene", "arbitrary"]
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class SourcePoses:
    """The source camera of every frame of a plate.

    camera_to_world: (F,4,4); intrinsics: (F,3,3) in pixels of the plate; unit: as in `SolvedFrames`.
    notes: sentences about what was assumed or filled in.
    """

    camera_to_world: Array
    intrinsics: Array
    unit: Literal["scene", "arbitrary"]
    notes: tuple[str, ...]


def read_poses(path: Path, numbers: Sequence[int], size: tuple[int, int]) -> SourcePoses:
    """The cameras of the clip's own frame `numbers`, for a plate of `size` (width, height) pixels.

    Args:
        path: our `.json` (ex4d.trajectory/1, where `source` is the clip's frame number), or COLMAP's text: the folder
            with cameras.txt and images.txt, or that images.txt.

    Raises:
        Ex4dError: `no_such_file`; `camera_invalid` for a file that is damaged or of another clip;
            `camera_unsupported` for a distorted lens; `no_camera` for frames that it lacks.
    """
    solved = read_colmap(path) if is_colmap(path) else _read_json(path)
    if not solved.numbers:
        raise Ex4dError("no_camera", f"{path} holds no cameras.", "Export the camera again.")
    poses, intrinsics, filled = _at_frames(solved, numbers, path)
    scale = (size[0] / solved.size[0], size[1] / solved.size[1])
    intrinsics = np.array([scaled_intrinsics(lens, *scale) for lens in intrinsics])
    shape = intrinsics[:, 0, 0] / intrinsics[:, 1, 1]
    if np.abs(shape - 1).max() > SQUARE_WITHIN:
        raise Ex4dError(
            "camera_invalid",
            f"{path} is for frames of {solved.size[0]} x {solved.size[1]}, the clip has {size[0]} x {size[1]}: "
            "they differ in shape.",
            "Solve the camera on this clip, uncropped and turned the same way.",
        )
    notes = list(solved.notes)
    if solved.size != size:
        notes.append(f"The camera was solved on frames of {solved.size[0]} x {solved.size[1]}; its lens is scaled.")
    if filled:
        notes.append(f"The camera file lacks {len(filled)} frames ({_ranges(filled)}): they are filled in smoothly.")
    return SourcePoses(poses, intrinsics, solved.unit, tuple(notes))


def _read_json(path: Path) -> SolvedFrames:
    try:
        document = fields.mapping(fields.parse_json(path.read_bytes()), "the document")
        if document.get("schema") != TRAJECTORY_SCHEMA:
            raise ValueError(f"its schema is not {TRAJECTORY_SCHEMA}")
        frames = {}
        for entry in fields.items(document, "frames"):
            frame = camera_frame_from(entry)
            if frame.source in frames:
                raise ValueError(f"frame {frame.source} is there twice; a source camera sees each frame once")
            frames[frame.source] = frame
        size = fields.size(document, "size")
    except OSError as error:
        raise explain_os_error(error, path) from error
    except ValueError as error:
        raise Ex4dError(
            "camera_invalid",
            f"{path} is no solved camera: {error}.",
            "Give our .json, or the folder of COLMAP's text files.",
        ) from error
    numbers = tuple(sorted(frames))
    return SolvedFrames(
        numbers,
        np.array([frames[number].camera_to_world for number in numbers]).reshape(-1, 4, 4),
        np.array([frames[number].intrinsics for number in numbers]).reshape(-1, 3, 3),
        size,
        "scene",
    )


def _at_frames(solved: SolvedFrames, numbers: Sequence[int], path: Path) -> tuple[Array, Array, list[int]]:
    """Poses (F,4,4), intrinsics (F,3,3) and the numbers that were filled in."""
    known = np.array(solved.numbers)
    poses, lenses, filled = [], [], []
    for number in numbers:
        right = int(np.searchsorted(known, number))
        if right < len(known) and known[right] == number:
            poses.append(solved.poses[right])
            lenses.append(solved.intrinsics[right])
            continue
        if right in (0, len(known)) or known[right] - known[right - 1] - 1 > MOST_MISSING:
            raise Ex4dError(
                "no_camera",
                f"{path} has no camera for frame {number}: it holds {_ranges(solved.numbers)}, "
                f"and the clip's frames are {numbers[0]} to {numbers[-1]}.",
                "Solve those frames, choose a range inside, or set the number of the clip's first frame.",
            )
        weight = float(number - known[right - 1]) / float(known[right] - known[right - 1])
        one, two = solved.poses[right - 1], solved.poses[right]
        pose = np.eye(4)
        pose[:3, :3] = slerp_rotations(one[:3, :3], two[:3, :3], weight)
        pose[:3, 3] = one[:3, 3] + weight * (two[:3, 3] - one[:3, 3])
        poses.append(pose)
        lenses.append(solved.intrinsics[right - 1] * (1 - weight) + solved.intrinsics[right] * weight)
        filled.append(number)
    return np.array(poses), np.array(lenses), filled


def _ranges(numbers: Sequence[int]) -> str:
    """1 to 48, 50, 52 to 60; at most four of them."""
    ordered = np.array(sorted(numbers))
    groups = np.split(ordered, np.flatnonzero(np.diff(ordered) > 1) + 1)
    texts = [str(group[0]) if len(group) == 1 else f"{group[0]} to {group[-1]}" for group in groups[:4]]
    return ", ".join(texts) + (", …" if len(groups) > 4 else "")
