# SPDX-License-Identifier: GPL-3.0-or-later
"""A camera that COLMAP solved, from its text files cameras.txt and images.txt.

COLMAP's pixels count from the image's corner as ours do, its axes are OpenCV's, and it stores world-to-camera as a
quaternion (w, x, y, z) and a translation. See "Output Format" in COLMAP's documentation.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

import numpy as np
from numpy.typing import NDArray

from ..errors import Ex4dError
from ..files import explain_os_error

if TYPE_CHECKING:
    from .poses import SolvedFrames

Array = NDArray[np.float64]
NEGLIGIBLE_PX: Final = 0.5  # a distortion that moves no pixel by more does not show
_NUMBER: Final = re.compile(r"(\d+)(?!.*\d)", re.ASCII | re.DOTALL)
# model → positions of (fx, fy, cx, cy), and of (k1, k2, p1, p2) as far as it has them
_MODELS: Final[dict[str, tuple[tuple[int, int, int, int], tuple[int, ...]]]] = {
    "SIMPLE_PINHOLE": ((0, 0, 1, 2), ()),
    "PINHOLE": ((0, 1, 2, 3), ()),
    "SIMPLE_RADIAL": ((0, 0, 1, 2), (3,)),
    "RADIAL": ((0, 0, 1, 2), (3, 4)),
    "OPENCV": ((0, 1, 2, 3), (4, 5, 6, 7)),
}


@dataclass(frozen=True)
class _Camera:
    intrinsics: Array
    size: tuple[int, int]
    distortion_px: float


def is_colmap(path: Path) -> bool:
    """Whether a path is meant as COLMAP's: a folder, or one of its files by name."""
    return path.is_dir() or path.name.lower() in {"images.txt", "cameras.txt", "images.bin", "cameras.bin"}


def read_colmap(path: Path) -> SolvedFrames:
    """Every image of a model; the frame's number is the last number in the image's name.

    Args:
        path: the folder, or a file in it.

    Raises:
        Ex4dError: `no_such_file`; `camera_invalid` for damaged files, naming the line; `camera_unsupported` for a
            binary model, a lens model that is not known, and a distortion that shows.
    """
    from .poses import SolvedFrames

    folder = path if path.is_dir() else path.parent
    if not (folder / "images.txt").is_file():
        if (folder / "images.bin").is_file():
            raise Ex4dError(
                "camera_unsupported",
                f"{folder} holds a binary COLMAP model.",
                "Export it as text: colmap model_converter --output_type TXT.",
            )
        raise Ex4dError("no_such_file", f"There is no images.txt in {folder}.", "Choose the folder of COLMAP's text.")
    cameras = _read_cameras(folder / "cameras.txt")
    frames: dict[int, tuple[str, Array, _Camera]] = {}
    for name, pose, camera in _read_images(folder / "images.txt", cameras):
        digits = _NUMBER.search(Path(name.replace("\\", "/")).stem)
        if digits is None or len(digits[1]) > 9:
            raise Ex4dError(
                "camera_invalid", f"The image {name} of {folder} has no frame number.", "Name images like frame.0001."
            )
        number = int(digits[1])
        if number in frames:
            raise Ex4dError(
                "camera_invalid",
                f"{frames[number][0]} and {name} of {folder} are both frame {number}.",
                "Solve one clip at a time.",
            )
        frames[number] = (name, pose, camera)
    sizes = {camera.size for _, _, camera in frames.values()}
    if len(sizes) > 1:
        raise Ex4dError("camera_invalid", f"The images of {folder} differ in size.", "Solve one clip at a time.")
    distortion = max((camera.distortion_px for _, _, camera in frames.values()), default=0.0)
    if distortion > NEGLIGIBLE_PX:
        raise Ex4dError(
            "camera_unsupported",
            f"The lens in {folder} is distorted: it moves pixels by up to {distortion:.1f}.",
            "Undistort the clip first (colmap image_undistorter) and use the undistorted frames and model.",
        )
    numbers = tuple(sorted(frames))
    return SolvedFrames(
        numbers=numbers,
        poses=np.array([frames[number][1] for number in numbers]).reshape(-1, 4, 4),
        intrinsics=np.array([frames[number][2].intrinsics for number in numbers]).reshape(-1, 3, 3),
        size=sizes.pop() if sizes else (1, 1),
        unit="arbitrary",
        notes=(f"The lens's distortion of up to {distortion:.2f} pixels is left aside.",) if distortion else (),
    )


def _lines(path: Path) -> Iterator[tuple[int, str]]:
    try:
        with path.open(encoding="utf-8") as file:
            for number, line in enumerate(file, 1):
                if not line.startswith("#"):
                    yield number, line.strip()
    except OSError as error:
        raise explain_os_error(error, path) from error
    except UnicodeDecodeError as error:
        raise _damaged(path, "it is not UTF-8 text") from error


def _damaged(path: Path, reason: str) -> Ex4dError:
    return Ex4dError("camera_invalid", f"{path} is damaged: {reason}.", "Export the model from COLMAP again.")


def _numbers(words: list[str]) -> list[float]:
    values = [float(word) for word in words]
    if not all(math.isfinite(value) for value in values):
        raise ValueError("not finite")
    return values


def _read_cameras(path: Path) -> dict[str, _Camera]:
    cameras = {}
    for number, line in _lines(path):
        if not line:
            continue
        name, model, *rest = [*line.split(), "", ""]
        if model not in _MODELS:
            raise Ex4dError(
                "camera_unsupported",
                f"{path} holds a lens of the model {model[:30]!r}.",
                f"Undistort the clip, or solve with one of {', '.join(_MODELS)}.",
            )
        lens, distortion = _MODELS[model]
        try:
            width, height, *values = _numbers([word for word in rest if word])
            fx, fy, cx, cy = (values[place] for place in lens)
            k1, k2, p1, p2 = (values[place] for place in distortion) if len(distortion) == 4 else (
                *(values[place] for place in distortion), *(0.0,) * (4 - len(distortion))
            )  # fmt: skip
        except (ValueError, IndexError) as error:
            raise _damaged(path, f"line {number} is no camera") from error
        if min(fx, fy, width, height) <= 0 or width != int(width) or height != int(height):
            raise _damaged(path, f"line {number} is no camera")
        intrinsics = np.array([[fx, 0, cx], [0, fy, cy], [0, 0, 1]])
        size = (int(width), int(height))
        cameras[name] = _Camera(intrinsics, size, _distortion_px(intrinsics, size, (k1, k2, p1, p2)))
    return cameras


def _distortion_px(intrinsics: Array, size: tuple[int, int], k: tuple[float, float, float, float]) -> float:
    """How far the distortion moves the corners and the middles of the sides, at most."""
    across, down = np.meshgrid([0, size[0] / 2, size[0]], [0, size[1] / 2, size[1]])
    x = (across - intrinsics[0, 2]) / intrinsics[0, 0]
    y = (down - intrinsics[1, 2]) / intrinsics[1, 1]
    k1, k2, p1, p2 = k
    r2 = x * x + y * y
    radial = k1 * r2 + k2 * r2 * r2
    dx = x * radial + 2 * p1 * x * y + p2 * (r2 + 2 * x * x)
    dy = y * radial + 2 * p2 * x * y + p1 * (r2 + 2 * y * y)
    return float(np.hypot(dx * intrinsics[0, 0], dy * intrinsics[1, 1]).max())


def _read_images(path: Path, cameras: dict[str, _Camera]) -> Iterator[tuple[str, Array, _Camera]]:
    """(name, camera_to_world, camera) of each image; the line of points that follows each may be empty."""
    wants_image = True
    for number, line in _lines(path):
        if not wants_image:
            wants_image = True
            continue
        if not line:
            continue
        words = line.split(maxsplit=9)
        try:
            values = _numbers(words[1:8])
            w, x, y, z, *translation = values
            camera, name = cameras[words[8]], words[9]
            pose = _camera_to_world((w, x, y, z), translation)
        except (ValueError, IndexError, KeyError) as error:
            raise _damaged(path, f"line {number} is no image of a known camera") from error
        yield name, pose, camera
        wants_image = False


def _camera_to_world(quaternion: tuple[float, float, float, float], translation: list[float]) -> Array:
    length = math.sqrt(sum(value * value for value in quaternion))
    if not 0.5 < length < 2 or len(translation) != 3:
        raise ValueError("no rotation")
    w, x, y, z = (value / length for value in quaternion)
    rotation = np.array(
        [
            [1 - 2 * (y * y + z * z), 2 * (x * y - z * w), 2 * (x * z + y * w)],
            [2 * (x * y + z * w), 1 - 2 * (x * x + z * z), 2 * (y * z - x * w)],
            [2 * (x * z - y * w), 2 * (y * z + x * w), 1 - 2 * (x * x + y * y)],
        ]
    )
    pose = np.eye(4)
    pose[:3, :3] = rotation.T
    pose[:3, 3] = -rotation.T @ np.array(translation)
    return pose
