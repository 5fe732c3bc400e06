# SPDX-License-Identifier: GPL-3.0-or-later
"""Camera paths: real moves in real degrees, and camera files. numpy only: shared with the add-on.

A path is a list of `CameraFrame`s, one an output frame, for any number of frames. Every path starts at
the source view unless it is asked not to, as video diffusion is anchored on the first frame. The
reference's own presets are in reference_paths.py.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from .cameras import (
    as_matrix,
    camera_to_world_from_reference,
    check_camera,
    fitted_intrinsics,
    reference_extrinsics,
    rotation_about,
    slerp_rotations,
)
from .errors import Ex4dError
from .files import atomic_path, explain_os_error, write_text
from .shot import CameraFrame, Shot, camera_frame_document, camera_frame_from

Array = NDArray[np.float64]
TRAJECTORY_SCHEMA = "ex4d.trajectory/1"
MAX_ORBIT_DEG = 90.0


@dataclass(frozen=True)
class Trajectory:
    """frames: one camera an output frame; size: (width, height) in pixels that the intrinsics are for."""

    frames: tuple[CameraFrame, ...]
    size: tuple[int, int]
    fps: Fraction

    def resized(self, size: tuple[int, int]) -> Trajectory:
        """The same cameras for another output size; the whole view is kept and pixels stay square."""
        if size == self.size:
            return self
        frames = tuple(
            CameraFrame(
                frame.source,
                as_matrix(fitted_intrinsics(np.array(frame.intrinsics), self.size, size)),
                frame.camera_to_world,
            )
            for frame in self.frames
        )
        return Trajectory(frames, size, self.fps)


# ------------------------------------------------------------------------------------ pure geometry
# Each function gives poses relative to the first frame's camera: (F,4,4), the first one identity.


def ease(count: int, smooth: bool = True) -> Array:
    """(count,) from 0 to 1; smooth: slow start and end (3t² − 2t³), so that a move can be cut to."""
    linear = np.linspace(0.0, 1.0, count) if count > 1 else np.zeros(1)
    return linear * linear * (3 - 2 * linear) if smooth else linear


def orbit(count: int, degrees: float, pivot_z: float, *, pitch_deg: float = 0.0, smooth: bool = True) -> Array:
    """Poses (count,4,4) turning by `degrees` about a pivot at (0, 0, pivot_z), always looking at it.

    Args:
        degrees: the angle between the first and the last line of sight, −90 … 90; positive moves the
            camera to the right (+x).
        pitch_deg: rise above the pivot at the end of the path, −80 … 80; positive is up.

    Raises:
        Ex4dError: `camera_invalid` for angles outside these ranges or a pivot that is not in front.
    """
    if not -MAX_ORBIT_DEG <= degrees <= MAX_ORBIT_DEG:
        raise Ex4dError("camera_invalid", f"An orbit of {degrees:g}° is out of range.", "Give −90 to 90 degrees.")
    if not -80 <= pitch_deg <= 80:
        raise Ex4dError("camera_invalid", f"A pitch of {pitch_deg:g}° is out of range.", "Give −80 to 80 degrees.")
    if not (math.isfinite(pivot_z) and pivot_z > 0):
        raise Ex4dError("camera_invalid", "The orbit's pivot is not in front of the camera.", "Give a positive depth.")
    pivot = np.array([0.0, 0.0, pivot_z])
    poses = np.tile(np.eye(4), (count, 1, 1))
    for index, share in enumerate(ease(count, smooth)):
        # y is down: a camera that swings to +x turns by a negative angle about y, one that rises by a negative x
        turn = rotation_about([0, 1, 0], -math.radians(degrees) * share) @ rotation_about(
            [1, 0, 0], -math.radians(pitch_deg) * share
        )
        poses[index, :3, :3] = turn
        poses[index, :3, 3] = pivot - turn @ pivot
    return poses


def dolly(count: int, distance: float, *, smooth: bool = True) -> Array:
    """Poses (count,4,4) moving `distance` scene units along the line of sight; positive is forward."""
    return _shifted(count, np.array([0.0, 0.0, distance]), smooth)


def truck(count: int, distance: float, *, smooth: bool = True) -> Array:
    """Poses (count,4,4) moving sideways; positive is right."""
    return _shifted(count, np.array([distance, 0.0, 0.0]), smooth)


def crane(count: int, height: float, pivot_z: float, *, smooth: bool = True) -> Array:
    """Poses (count,4,4) rising by `height` scene units (positive is up) while looking at (0, 0, pivot_z)."""
    poses = _shifted(count, np.array([0.0, -height, 0.0]), smooth)
    for pose in poses:
        poses_tilt = math.atan2(-pose[1, 3], pivot_z)
        pose[:3, :3] = rotation_about([1, 0, 0], -poses_tilt)
    return poses


def still(count: int) -> Array:
    """Poses (count,4,4) that do not move: the source view."""
    return np.tile(np.eye(4), (count, 1, 1))


def spline(keys: Sequence[tuple[float, Array]], count: int) -> Array:
    """Poses (count,4,4) through keyed poses: centripetal Catmull–Rom in place, slerp in rotation.

    Args:
        keys: (time, camera_to_world (4,4)) with strictly rising times; at least two. Frames are spread
            evenly from the first time to the last, and pass each key exactly at its time.
    """
    times = np.array([time for time, _ in keys], dtype=np.float64)
    if len(keys) < 2 or not (np.diff(times) > 0).all():
        raise Ex4dError("no_camera", "A spline needs two or more keys at rising times.", "Set more camera keys.")
    poses = np.array([pose for _, pose in keys], dtype=np.float64)
    places = poses[:, :3, 3]
    result = np.tile(np.eye(4), (count, 1, 1))
    for index, time in enumerate(np.linspace(times[0], times[-1], count)):
        left = int(np.clip(np.searchsorted(times, time, side="right") - 1, 0, len(times) - 2))
        weight = float((time - times[left]) / (times[left + 1] - times[left]))
        around = [places[int(np.clip(left + offset, 0, len(places) - 1))] for offset in (-1, 0, 1, 2)]
        result[index, :3, 3] = _catmull_rom(around, weight)
        result[index, :3, :3] = slerp_rotations(poses[left, :3, :3], poses[left + 1, :3, :3], weight)
    return result


def _shifted(count: int, offset: Array, smooth: bool) -> Array:
    poses = np.tile(np.eye(4), (count, 1, 1))
    poses[:, :3, 3] = ease(count, smooth)[:, None] * offset
    return poses


def _catmull_rom(points: Sequence[Array], weight: float) -> Array:
    """A place between points[1] and points[2] (Barry and Goldman's form, centripetal: no loops or cusps)."""
    first, start, end, last = points
    # at either end of the path a neighbour is missing: mirror, which keeps a straight path straight
    first = 2 * start - end if np.array_equal(first, start) else first
    last = 2 * end - start if np.array_equal(last, end) else last
    knots = [0.0]
    for one, two in ((first, start), (start, end), (end, last)):
        knots.append(knots[-1] + max(float(np.linalg.norm(two - one)) ** 0.5, 1e-9))
    time = knots[1] + weight * (knots[2] - knots[1])

    def between(one: Array, two: Array, low: float, high: float) -> Array:
        return one + (two - one) * ((time - low) / (high - low))

    a, b, c = (
        between(points_, next_, knots[i], knots[i + 1])
        for i, (points_, next_) in enumerate(((first, start), (start, end), (end, last)))
    )
    return between(between(a, b, knots[0], knots[2]), between(b, c, knots[1], knots[3]), knots[1], knots[2])


# --------------------------------------------------------------------------------------- on a shot


def along(shot: Shot, poses: Array, *, frozen: int | None = None, size: tuple[int, int] | None = None) -> Trajectory:
    """Places a path of poses (F,4,4), relative to the source view, in the shot's world.

    The path is laid out from the source camera at the first frame. Output frame k sees shot frame k, and
    where the path is longer than the clip it sees the last one.

    Args:
        frozen: a shot frame number that is seen all the time (bullet time), from which the path starts.
        size: output (width, height); the plate's by default.
    """
    plate, geometry = shot.require_plate(), shot.require_geometry()
    numbers = plate.numbers
    if frozen is not None and frozen not in numbers:
        raise Ex4dError(
            "camera_invalid",
            f"Frame {frozen} cannot be frozen: the shot holds {numbers[0]} to {numbers[-1]}.",
            "Choose a frame of the shot.",
        )
    start = np.array(shot.source_pose(numbers[0] if frozen is None else frozen))
    source_size = (plate.width, plate.height)
    frames = tuple(
        CameraFrame(
            source=frozen if frozen is not None else numbers[min(index, len(numbers) - 1)],
            intrinsics=geometry.intrinsics,
            camera_to_world=as_matrix(start @ pose),
        )
        for index, pose in enumerate(poses)
    )
    return Trajectory(frames, source_size, plate.fps).resized(size or source_size)


PRESETS: dict[str, str] = {
    "orbit": "Orbit about the subject by AMOUNT degrees",
    "dolly": "Dolly forward by AMOUNT of the subject's distance",
    "truck": "Truck right by AMOUNT of the subject's distance",
    "crane": "Crane up by AMOUNT of the subject's distance",
    "still": "Stay at the source view",
}


def preset(name: str, amount: float, count: int, pivot_z: float, *, smooth: bool = True) -> Array:
    """Poses (count,4,4) of a named move; lengths are shares of the pivot's distance, so they fit any scene."""
    makers: dict[str, Callable[[], Array]] = {
        "orbit": lambda: orbit(count, amount, pivot_z, smooth=smooth),
        "dolly": lambda: dolly(count, amount * pivot_z, smooth=smooth),
        "truck": lambda: truck(count, amount * pivot_z, smooth=smooth),
        "crane": lambda: crane(count, amount * pivot_z, pivot_z, smooth=smooth),
        "still": lambda: still(count),
    }
    if name not in makers:
        raise Ex4dError("camera_invalid", f"There is no camera move {name!r}.", f"Choose one of {', '.join(makers)}.")
    return makers[name]()


# --------------------------------------------------------------------------------------- camera files


def save_trajectory(trajectory: Trajectory, path: Path) -> None:
    """Writes our JSON: schema, size, fps and one camera a frame."""
    document = {
        "schema": TRAJECTORY_SCHEMA,
        "size": list(trajectory.size),
        "fps": str(trajectory.fps),
        "frames": [camera_frame_document(frame) for frame in trajectory.frames],
    }
    write_text(path, json.dumps(document, indent=1, allow_nan=False) + "\n")


def load_trajectory(path: Path, *, shot: Shot) -> Trajectory:
    """Reads a camera file: our `.json`, or the reference's `.npz` (extrinsics, intrinsics).

    Raises:
        Ex4dError: `no_such_file`, `camera_invalid` (what is wrong), or `no_camera` when it holds none.
    """
    try:
        trajectory = _load_reference(path, shot) if path.suffix.lower() == ".npz" else _load_json(path)
    except OSError as error:
        raise explain_os_error(error, path) from error
    except (ValueError, KeyError, TypeError, ZeroDivisionError) as error:
        raise Ex4dError(
            "camera_invalid", f"{path} is not a camera file: {error}.", "Export the camera again."
        ) from error
    if not trajectory.frames:
        raise Ex4dError("no_camera", f"{path} holds no cameras.", "Export the camera again.")
    numbers = shot.require_plate().numbers
    for frame in trajectory.frames:
        check_camera(np.array(frame.intrinsics), np.array(frame.camera_to_world))
        if frame.source not in numbers:
            raise Ex4dError(
                "camera_invalid",
                f"{path} asks for frame {frame.source}; the shot holds {numbers[0]} to {numbers[-1]}.",
                "Reconstruct that range, or export the camera again.",
            )
    return trajectory


def save_reference_npz(trajectory: Trajectory, path: Path) -> None:
    """Writes the reference's camera file: extrinsics (F,4,4) float32 and one intrinsics (3,3) float32.

    K loses its half-pixel here: the reference puts pixel centres at whole numbers.
    """
    poses = [reference_extrinsics(np.array(frame.camera_to_world)) for frame in trajectory.frames]
    with atomic_path(path) as temporary, temporary.open("wb") as file:
        np.savez(
            file,
            extrinsics=np.array(poses, dtype=np.float32),
            intrinsics=np.array(trajectory.frames[0].intrinsics, dtype=np.float32),
        )


def _load_json(path: Path) -> Trajectory:
    document = json.loads(path.read_text(encoding="utf-8"))
    if not isinstance(document, dict) or document.get("schema") != TRAJECTORY_SCHEMA:
        raise ValueError(f"its schema is not {TRAJECTORY_SCHEMA}")
    width, height = (int(value) for value in document["size"])
    fps = Fraction(str(document["fps"]))
    if width < 1 or height < 1 or fps <= 0:
        raise ValueError("its size or rate is not positive")
    return Trajectory(tuple(camera_frame_from(frame) for frame in document["frames"]), (width, height), fps)


def _load_reference(path: Path, shot: Shot) -> Trajectory:
    plate = shot.require_plate()
    with np.load(path, allow_pickle=False) as data:
        extrinsics, intrinsics = np.array(data["extrinsics"], dtype=np.float64), np.array(data["intrinsics"])
    if extrinsics.ndim != 3 or extrinsics.shape[1:] != (4, 4) or intrinsics.shape != (3, 3):
        raise ValueError(f"extrinsics {extrinsics.shape}, intrinsics {intrinsics.shape}; wanted (F, 4, 4) and (3, 3)")
    if not np.isfinite(extrinsics).all():
        raise ValueError("extrinsics hold values that are not finite")
    # the file says no size: its principal point is the centre of the frame it was made for
    size = (max(1, round(2 * float(intrinsics[0, 2]))), max(1, round(2 * float(intrinsics[1, 2]))))
    numbers = plate.numbers
    frames = tuple(
        CameraFrame(
            numbers[min(index, len(numbers) - 1)],
            as_matrix(intrinsics),
            as_matrix(camera_to_world_from_reference(pose)),
        )
        for index, pose in enumerate(extrinsics)
    )
    return Trajectory(frames, size, plate.fps)
