# SPDX-License-Identifier: GPL-3.0-or-later
"""Raw values out of depth files, one frame at a time, whatever the container.

No meaning is given to the numbers here; `from_files.py` does that. Nothing is unpickled, and a stack
of any length is read frame by frame.
"""

from __future__ import annotations

import re
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Final

import numpy as np
import numpy.typing as npt

from ...errors import Ex4dError
from ...image_files import read_exr, read_png
from ...video import read_frames

Map = npt.NDArray[Any]
IMAGE_SUFFIXES: Final = (".exr", ".png")
ARRAY_SUFFIXES: Final = (".npy", ".npz")
VIDEO_SUFFIXES: Final = (".mp4", ".mkv", ".mov", ".avi", ".webm", ".m4v")
_DEPTH_KEYS: Final = ("depth", "depths", "z", "disparity", "disparities", "disp")
_INTRINSICS_KEYS: Final = ("intrinsics", "K")
_POSE_KEYS: Final = ("camera_to_world", "c2w")


@dataclass(frozen=True)
class RawDepth:
    """Files that are found and counted, not yet read.

    frames: starts a pass of (name of the frame for messages, values (H, W) of the file's own type).
    intrinsics: (3, 3) where an NPZ carries them, its first row in widths of a map and its second in heights.
    camera_to_world: (F, 4, 4) where an NPZ carries them.
    """

    count: int
    frames: Callable[[], Iterator[tuple[str, Map]]]
    intrinsics: npt.NDArray[np.float64] | None = None
    camera_to_world: npt.NDArray[np.float64] | None = None


def open_depth_files(path: Path, key: str | None = None) -> RawDepth:
    """Finds what `path` (folder, pattern, stack, image or video) stands for.

    Args:
        key: the array in an NPZ, or the channel in an EXR.

    Raises:
        Ex4dError: "no_such_file", or "depth_invalid" for files that are no depth.
    """
    if path.is_dir():
        return _sequence(_depth_files_in(path), key)
    if path.is_file():
        suffix = path.suffix.lower()
        if suffix in VIDEO_SUFFIXES:
            return _video(path)
        if suffix in ARRAY_SUFFIXES:
            return _stack(path, key)
        if suffix in IMAGE_SUFFIXES:
            return _sequence([path], key)
        raise _invalid(f"{path.name} is no depth file.")
    return _sequence(_matching(path), key)


def _depth_files_in(folder: Path) -> list[Path]:
    files = [p for p in folder.iterdir() if p.is_file() and not p.name.startswith(".")]
    by_suffix = {s: [p for p in files if p.suffix.lower() == s] for s in IMAGE_SUFFIXES + ARRAY_SUFFIXES}
    present = {s: found for s, found in by_suffix.items() if found}
    if not present:
        raise Ex4dError("no_such_file", f"There are no depth files in {folder.name}.", f"It may hold {_kinds()}.")
    if len(present) > 1:
        raise _invalid(f"The folder {folder.name} holds depth of several kinds ({', '.join(present)}).")
    return sorted(next(iter(present.values())), key=_natural)


def _matching(pattern: Path) -> list[Path]:
    """Files of a pattern in which `####`, `%04d`, `*` or `?` stands for the frame number."""
    glob = re.sub(r"#+|%0?\d*d", "*", pattern.name)
    # Without a wildcard the name is a missing file. Brackets are common in shot names and no wildcard here.
    found = [] if glob == pattern.name and not set("*?") & set(glob) else _glob(pattern.parent, glob)
    if not found:
        raise Ex4dError("no_such_file", f"No depth file matches {pattern.name}.", f"Check the path {pattern.parent}.")
    return sorted(found, key=_natural)


def _glob(folder: Path, glob: str) -> list[Path]:
    return list(folder.glob(re.sub(r"\[", "[[]", glob))) if folder.is_dir() else []


def _natural(path: Path) -> list[tuple[int, str]]:
    """Sort key by which frame 10 follows frame 9 with or without leading zeros."""
    return [(int(part), "") if part.isdigit() else (-1, part) for part in re.split(r"(\d+)", path.name)]


def _kinds() -> str:
    return "EXR, PNG, NPY or NPZ files"


def _invalid(message: str) -> Ex4dError:
    return Ex4dError("depth_invalid", message, f"Give {_kinds()} of one kind, or a depth video.")


def _sequence(files: list[Path], key: str | None) -> RawDepth:
    def one(path: Path) -> Map:
        match path.suffix.lower():
            case ".exr":
                return read_exr(path, key)
            case ".png":
                return _grey(read_png(path))
            case ".npy" | ".npz":
                stack = _stack(path, key)
                if stack.count != 1:
                    raise _invalid(f"{path.name} holds {stack.count} depth maps, but it is one of a sequence of files.")
                return next(stack.frames())[1]
        raise _invalid(f"{path.name} is no depth file.")

    return RawDepth(len(files), lambda: ((path.name, one(path)) for path in files))


def _grey(image: Map) -> Map:
    return image if image.ndim == 2 else image[..., 0]


def _video(path: Path) -> RawDepth:
    # Containers lie about their frame count; depth against the wrong frame is worse than a second pass.
    count = sum(1 for _ in read_frames(path))
    return RawDepth(count, lambda: ((f"frame {f.number} of {path.name}", f.image[..., 0]) for f in read_frames(path)))


def _stack(path: Path, key: str | None) -> RawDepth:
    """One NPY, or one array of an NPZ: (H, W) or (F, H, W), with a singleton channel allowed."""
    try:
        if path.suffix.lower() == ".npy":
            array = np.load(path, mmap_mode="r", allow_pickle=False)
            shape = _stack_shape(array.shape, path)
            return RawDepth(
                shape[0],
                lambda: ((_label(path, i, shape[0]), np.array(m)) for i, m in enumerate(array.reshape(shape))),
            )
        return _npz(path, key)
    except (ValueError, OSError, EOFError, zipfile.BadZipFile) as error:
        raise Ex4dError("depth_invalid", f"{path.name} cannot be read: {error}.", "Write the file again.") from error


def _npz(path: Path, key: str | None) -> RawDepth:
    with zipfile.ZipFile(path) as archive:
        headers = {name[:-4]: _header(archive, name) for name in archive.namelist() if name.endswith(".npy")}
    key = _depth_key(headers, key, path)
    shape = _stack_shape(headers[key][0], path)
    with np.load(path, allow_pickle=False) as arrays:
        intrinsics = _side_array(arrays, headers, _INTRINSICS_KEYS, (3, 3))
        if intrinsics is not None:
            intrinsics = intrinsics / np.array([[shape[2]], [shape[1]], [1.0]])
        poses = _side_array(arrays, headers, _POSE_KEYS, (shape[0], 4, 4))
    return RawDepth(shape[0], lambda: _npz_frames(path, key, shape), intrinsics, poses)


def _npz_frames(path: Path, key: str, shape: tuple[int, int, int]) -> Iterator[tuple[str, Map]]:
    """Frames straight from the zip stream: np.load would hold the whole stack."""
    with zipfile.ZipFile(path) as archive, archive.open(f"{key}.npy") as stream:
        _, fortran, dtype = _read_header(stream)
        if fortran:
            raise _invalid(f"{path.name} is stored column by column (Fortran order) and cannot be streamed.")
        size = shape[1] * shape[2] * dtype.itemsize
        for index in range(shape[0]):
            label = _label(path, index, shape[0])
            data = stream.read(size)
            if len(data) != size:
                raise Ex4dError("depth_invalid", f"{path.name} ends before {label}.", "Write the file again.")
            yield label, np.frombuffer(data, dtype).reshape(shape[1:])


def _header(archive: zipfile.ZipFile, name: str) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    with archive.open(name) as stream:
        return _read_header(stream)


def _read_header(stream: IO[bytes]) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    version = np.lib.format.read_magic(stream)
    reader = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    shape, fortran, dtype = reader(stream)
    return shape, fortran, dtype


def _depth_key(headers: dict[str, tuple[tuple[int, ...], bool, np.dtype[Any]]], key: str | None, path: Path) -> str:
    if key is not None:
        if key in headers:
            return key
        raise Ex4dError(
            "depth_invalid", f"{path.name} has no array {key!r}.", f"It has: {', '.join(headers) or 'none'}."
        )
    known = [name for name in _DEPTH_KEYS if name in headers]
    only = [n for n, (shape, _, dtype) in headers.items() if len(shape) in (2, 3, 4) and dtype.kind in "fui"]
    if not known and len(only) != 1:
        raise Ex4dError(
            "depth_invalid",
            f"It is not clear which array of {path.name} is the depth: {', '.join(headers) or 'it has none'}.",
            "Name it with the key option.",
        )
    return (known or only)[0]


def _side_array(
    arrays: Any, headers: dict[str, tuple[tuple[int, ...], bool, np.dtype[Any]]], keys: tuple[str, ...], shape: Any
) -> npt.NDArray[np.float64] | None:
    for key in keys:
        if key in headers and headers[key][0] == shape:
            return np.asarray(arrays[key], np.float64)
    return None


def _stack_shape(shape: tuple[int, ...], path: Path) -> tuple[int, int, int]:
    """(F, H, W) of a stored shape: a missing frame axis or a singleton channel axis (…, 1) / (F, 1, …) is allowed."""
    if len(shape) == 4 and shape[3] == 1:
        shape = shape[:3]
    elif len(shape) == 4 and shape[1] == 1:
        shape = (shape[0], *shape[2:])
    if len(shape) == 2:
        shape = (1, *shape)
    if len(shape) != 3 or 0 in shape:
        raise _invalid(f"{path.name} has the shape {shape}; depth is (frames, height, width).")
    return shape[0], shape[1], shape[2]


def _label(path: Path, index: int, count: int) -> str:
    return path.name if count == 1 else f"frame {index} of {path.name}"
