# SPDX-License-Identifier: GPL-3.0-or-later
"""Camera paths: real moves in real degrees, and camera files. numpy only: shared with the add-on.

A path is a list of `CameraFrame`s, one an output frame, for any number of frames. Every move starts at the
source view, as video diffusion is anchored on the first frame. The reference's own presets are in
reference_paths.py.
"""

from __future__ import annotations

import math
import zipfile
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from . import json_fields as fields
from .camera_frame import CameraFrame, camera_frame_document, camera_frame_from, intrinsics_from, pose_from
from .cameras import (
    as_matrix,
    camera_to_world_from_reference,
    fitted_intrinsics,
    reference_extrinsics,
    rotation_about,
    slerp_rotations,
)
from .errors import Ex4dError
from .files import atomic_path, explain_os_error, write_bytes
from .shot import Shot

Array = NDArray[np.float64]
TRAJECTORY_SCHEMA = "ex4d.trajectory/1"
KEYS_SCHEMA = "ex4d.keys/1"
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
# Moves are poses relative to the source camera: (F,4,4), the first one identity. A spline starts at its first key.
# Any number of frames from one on gives the same move, ends included; a single frame is its start.


def ease(count: int, smooth: bool = True) -> Array:
    """(count,) from 0 to 1; smooth: slow start and end (3t² − 2t³), so that a move can be cut to.

    Raises:
        Ex4dError: `camera_invalid` for fewer frames than one, as from all moves below.
    """
    _check_count(count)
    linear = np.linspace(0.0, 1.0, count)
    return linear * linear * (3 - 2 * linear) if smooth else linear


def orbit(count: int, degrees: float, pivot_z: float, *, pitch_deg: float = 0.0, smooth: bool = True) -> Array:
    """Poses (count,4,4) turning by `degrees` about a pivot at (0, 0, pivot_z), always looking at it.

    Args:
        degrees: the turn about the vertical axis, −90 … 90; positive moves the camera to the right (+x).
            Without pitch it is the angle between the first and the last line of sight.
        pitch_deg: rise above the pivot at the end of the path, −80 … 80; positive is up.

    Raises:
        Ex4dError: `camera_invalid` for angles outside these ranges or a pivot that is not in front.
    """
    if not -MAX_ORBIT_DEG <= degrees <= MAX_ORBIT_DEG:
        raise Ex4dError("camera_invalid", f"An orbit of {degrees:g}° is out of range.", "Give −90 to 90 degrees.")
    if not -80 <= pitch_deg <= 80:
        raise Ex4dError("camera_invalid", f"A pitch of {pitch_deg:g}° is out of range.", "Give −80 to 80 degrees.")
    _check_pivot(pivot_z)
    shares = ease(count, smooth)
    pivot = np.array([0.0, 0.0, pivot_z])
    poses = np.tile(np.eye(4), (count, 1, 1))
    for index, share in enumerate(shares):
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
    _check_pivot(pivot_z)
    poses = _shifted(count, np.array([0.0, -height, 0.0]), smooth)
    for pose in poses:
        tilt = math.atan2(pose[1, 3], pivot_z)  # negative above the axis, which turns the view down
        pose[:3, :3] = rotation_about([1, 0, 0], tilt)
    return poses


def still(count: int) -> Array:
    """Poses (count,4,4) that do not move: the source view."""
    _check_count(count)
    return np.tile(np.eye(4), (count, 1, 1))


def spline(keys: Sequence[tuple[float, Array]], count: int) -> Array:
    """Poses (count,4,4) through keyed poses: centripetal Catmull–Rom in place, slerp in rotation.

    Args:
        keys: (time, camera_to_world (4,4)) with strictly rising times; at least two. Frames are spread
            evenly from the first time to the last, and a frame at a key's time has that key's pose.

    Raises:
        Ex4dError: `no_camera` for fewer keys or times that do not rise; `camera_invalid` for a key that is
            no rotation and place.
    """
    _check_count(count)
    times = np.array([time for time, _ in keys], dtype=np.float64)
    if len(keys) < 2 or not (np.isfinite(times).all() and (np.diff(times) > 0).all()):
        raise Ex4dError("no_camera", "A spline needs two or more keys at rising times.", "Set more camera keys.")
    for time, pose in keys:
        try:
            pose_from(as_matrix(pose))
        except ValueError as error:
            raise Ex4dError(
                "camera_invalid", f"The key at {time:g} cannot be used: {error}.", "Set it anew."
            ) from error
    poses = np.array([pose for _, pose in keys], dtype=np.float64)
    places = poses[:, :3, 3]
    # the neighbours that the ends lack: mirrored, which keeps a straight path straight
    places = np.concatenate([[2 * places[0] - places[1]], places, [2 * places[-1] - places[-2]]])
    result = np.tile(np.eye(4), (count, 1, 1))
    for index, time in enumerate(np.linspace(times[0], times[-1], count)):
        left = int(np.clip(np.searchsorted(times, time, side="right") - 1, 0, len(times) - 2))
        weight = float((time - times[left]) / (times[left + 1] - times[left]))
        result[index, :3, 3] = _catmull_rom(places[left : left + 4], weight)
        result[index, :3, :3] = slerp_rotations(poses[left, :3, :3], poses[left + 1, :3, :3], weight)
    return result


def _shifted(count: int, offset: Array, smooth: bool) -> Array:
    shares = ease(count, smooth)
    if not np.isfinite(offset).all():
        raise Ex4dError("camera_invalid", "A camera cannot move by an endless distance.", "Give a number.")
    poses = np.tile(np.eye(4), (count, 1, 1))
    poses[:, :3, 3] = shares[:, None] * offset
    return poses


def _catmull_rom(points: Array, weight: float) -> Array:
    """A place between points[1] and points[2] of (4,3): Barry and Goldman's form, centripetal: no loops or cusps."""
    spans = np.sqrt(np.linalg.norm(np.diff(points, axis=0), axis=1))
    if spans[1] == 0:
        return points[1]  # the camera holds its place
    # A held place beside this span: no span of time there, so the move starts or ends at rest. In spans of this one,
    # and bounded, as next to an endlessly longer neighbour this span's two ends would be one number.
    knots = np.concatenate([[0.0], np.cumsum(np.clip(spans / spans[1], 1e-6, 1e6))])
    time = knots[1] + weight * (knots[2] - knots[1])

    def between(one: Array, two: Array, low: int, high: int) -> Array:
        return one + (two - one) * ((time - knots[low]) / (knots[high] - knots[low]))

    a, b, c = (between(points[i], points[i + 1], i, i + 1) for i in range(3))
    return between(between(a, b, 0, 2), between(b, c, 1, 3), 1, 2)


def _check_count(count: int) -> None:
    if count < 1:
        raise Ex4dError("camera_invalid", f"A path of {count} frames is impossible.", "Give 1 or more.")


def _check_pivot(pivot_z: float) -> None:
    if not (math.isfinite(pivot_z) and pivot_z > 0):
        raise Ex4dError("camera_invalid", "The pivot is not in front of the camera.", "Give a positive depth.")


# --------------------------------------------------------------------------------------- on a shot


def along(shot: Shot, poses: Array, *, frozen: int | None = None, size: tuple[int, int] | None = None) -> Trajectory:
    """Places a path of poses (F,4,4), relative to the source view, in the shot's world.

    The path is laid out from the source camera at the first frame and keeps the lens it has there, where the clip
    zooms. Output frame k sees shot frame k, and where the path is longer than the clip it sees the last one.

    Args:
        frozen: a shot frame number that is seen all the time (bullet time), from which the path starts.
        size: output (width, height); the plate's by default.

    Raises:
        Ex4dError: `camera_invalid` for a frozen frame that the shot does not hold; `shot_missing`.
    """
    plate = shot.require_plate()
    numbers = plate.numbers
    if frozen is not None and frozen not in numbers:
        raise Ex4dError(
            "camera_invalid",
            f"Frame {frozen} cannot be frozen: the shot holds {numbers[0]} to {numbers[-1]}.",
            "Choose a frame of the shot.",
        )
    begin = numbers[0] if frozen is None else frozen
    start, lens = np.array(shot.source_pose(begin)), shot.source_intrinsics(begin)
    source_size = (plate.width, plate.height)
    frames = tuple(
        CameraFrame(
            source=frozen if frozen is not None else numbers[min(index, len(numbers) - 1)],
            intrinsics=lens,
            camera_to_world=as_matrix(start @ pose),
        )
        for index, pose in enumerate(poses)
    )
    return Trajectory(frames, source_size, plate.fps).resized(size or source_size)


def preset(name: str, amount: float, count: int, pivot_z: float, *, smooth: bool = True) -> Array:
    """Poses (count,4,4) of a named move: orbit, dolly, truck, crane or still.

    Args:
        amount: degrees of an orbit, else a length as a share of `pivot_z`, so that it fits any scene.
        pivot_z: depth of what the camera moves about, in scene units.

    Raises:
        Ex4dError: `camera_invalid` for an unknown name, or an amount or a count that is out of range.
    """
    _check_pivot(pivot_z)
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
    write_bytes(path, fields.to_json(document, indent=1) + b"\n")


def load_trajectory(path: Path, *, shot: Shot) -> Trajectory:
    """Reads a camera file: our `.json`, or the reference's `.npz` (extrinsics, intrinsics).

    Raises:
        Ex4dError: `no_such_file`, `camera_invalid` (what is wrong), or `no_camera` when it holds none.
    """
    try:
        trajectory = _load_reference(path, shot) if path.suffix.lower() == ".npz" else _load_json(path)
    except OSError as error:
        raise explain_os_error(error, path) from error
    except (ValueError, *_DAMAGED_NPZ) as error:
        raise Ex4dError(
            "camera_invalid", f"{path} is not a camera file: {error}.", "Export the camera again."
        ) from error
    if not trajectory.frames:
        raise Ex4dError("no_camera", f"{path} holds no cameras.", "Export the camera again.")
    numbers = shot.require_plate().numbers
    for frame in trajectory.frames:
        if frame.source not in numbers:
            raise Ex4dError(
                "camera_invalid",
                f"{path} asks for frame {frame.source}; the shot holds {numbers[0]} to {numbers[-1]}.",
                "Reconstruct that range, or export the camera again.",
            )
    return trajectory


def load_keys(path: Path) -> list[tuple[float, Array]]:
    """Reads camera keys for `spline`: {"schema": "ex4d.keys/1", "keys": [{"time": 0, "camera_to_world": …}, …]}.

    Poses are relative to the source view at the shot's first frame, which is the identity; times have any unit.

    Raises:
        Ex4dError: `no_such_file`, `camera_invalid`, or `no_camera` as `spline`.
    """
    try:
        document = fields.mapping(fields.parse_json(path.read_bytes()), "the document")
        if document.get("schema") != KEYS_SCHEMA:
            raise ValueError(f"its schema is not {KEYS_SCHEMA}")
        entries = [fields.mapping(entry, "a key") for entry in fields.items(document, "keys")]
        keys = [
            (
                fields.as_number(entry.get("time"), "time"),
                np.array(fields.matrix(entry.get("camera_to_world"), 4, "camera_to_world")),
            )
            for entry in entries
        ]
    except OSError as error:
        raise explain_os_error(error, path) from error
    except ValueError as error:
        raise Ex4dError(
            "camera_invalid", f"{path} holds no camera keys: {error}.", "See docs/shot_folder.md."
        ) from error
    spline(keys, 1)  # refuses what is no path
    return keys


def save_reference_npz(trajectory: Trajectory, path: Path) -> None:
    """Writes the reference's camera file: extrinsics (F,4,4) float32 and one intrinsics (3,3) float32.

    K goes as it is: the reference too draws with its principal point at W/2, the middle of the image. Half
    a pixel is lost where it takes the plate apart, not in its cameras. Its world is the shot's.

    Raises:
        Ex4dError: `camera_unsupported` for a lens that changes, as the file holds one for all frames.
    """
    if not trajectory.frames:
        raise Ex4dError("no_camera", "The camera path has no frames.", "Give the camera at least one frame.")
    intrinsics = trajectory.frames[0].intrinsics
    if any(frame.intrinsics != intrinsics for frame in trajectory.frames):
        raise Ex4dError(
            "camera_unsupported",
            "The lens changes along the path; the reference's camera file holds one lens.",
            "Save the camera as .json.",
        )
    poses = [reference_extrinsics(np.array(frame.camera_to_world)) for frame in trajectory.frames]
    with atomic_path(path) as temporary, temporary.open("wb") as file:
        np.savez(
            file,
            extrinsics=np.array(poses, dtype=np.float32),
            intrinsics=np.array(intrinsics, dtype=np.float32),
        )


def _load_json(path: Path) -> Trajectory:
    document = fields.mapping(fields.parse_json(path.read_bytes()), "the document")
    if document.get("schema") != TRAJECTORY_SCHEMA:
        raise ValueError(f"its schema is not {TRAJECTORY_SCHEMA}")
    frames = tuple(camera_frame_from(frame) for frame in fields.items(document, "frames"))
    return Trajectory(frames, fields.size(document, "size"), fields.rate(document, "fps"))


# what numpy and zipfile raise for a file that is cut, encrypted or no .npz at all, besides ValueError and OSError
_DAMAGED_NPZ = (
    EOFError, KeyError, TypeError, NotImplementedError, RuntimeError, MemoryError, zipfile.BadZipFile, zlib.error,
)  # fmt: skip


def _load_reference(path: Path, shot: Shot) -> Trajectory:
    plate = shot.require_plate()
    with np.load(path, allow_pickle=False) as data:
        extrinsics, intrinsics = (np.array(data[name], dtype=np.float64) for name in ("extrinsics", "intrinsics"))
    if extrinsics.ndim != 3 or extrinsics.shape[1:] != (4, 4) or intrinsics.shape != (3, 3):
        raise ValueError(f"extrinsics {extrinsics.shape}, intrinsics {intrinsics.shape}; wanted (F, 4, 4) and (3, 3)")
    lens = intrinsics_from(as_matrix(intrinsics))
    # the file says no size: its principal point is the centre of the frame it was made for
    size = fields.size({"size": [round(2 * lens[0][2]), round(2 * lens[1][2])]}, "size")
    numbers = plate.numbers
    frames = tuple(
        CameraFrame(
            numbers[min(index, len(numbers) - 1)],
            lens,
            as_matrix(camera_to_world_from_reference(pose)),
        )
        for index, pose in enumerate(extrinsics)
    )
    return Trajectory(frames, size, plate.fps)
