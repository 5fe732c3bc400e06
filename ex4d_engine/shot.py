# SPDX-License-Identifier: GPL-3.0-or-later
"""The shot folder: what is in it, where, and how it is read and written. Standard library only.

Both programs import this module, so it is the contract for everything that travels as a file. See
docs/shot_folder.md. Paths in the JSON files are relative to the shot; nothing is ever read from or
written to a place outside the shot folder because a JSON file says so.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from fractions import Fraction
from pathlib import Path
from typing import Any, Final

from .errors import Ex4dError
from .files import explain_os_error, write_text

SCHEMA_VERSION: Final = 1
TAKE_NAME: Final = re.compile(r"take_(\d{4,6})")
COMPAT_MODES: Final = ("none", "reference")

Matrix = tuple[tuple[float, ...], ...]

# schema version n -> function that turns a version n document into version n + 1
UPGRADES: Final[dict[int, Callable[[dict[str, Any]], dict[str, Any]]]] = {}


@dataclass(frozen=True)
class CameraFrame:
    """One output frame's camera.

    intrinsics: (3,3) pixels, (0,0) the image's top-left corner, pixel centres at +0.5.
    camera_to_world: (4,4), OpenCV axes: x right, y down, z forward.
    source: which frame of the shot is seen (a shot frame number): constant for a frozen moment.
    """

    source: int
    intrinsics: Matrix
    camera_to_world: Matrix


@dataclass(frozen=True)
class Plate:
    """The decoded clip in `plate/`. Files are numbered `first` … `first + count - 1` without gaps.

    source_first, stride: file number n holds the clip's own frame source_first + (n - first) * stride.
    fps: frames per second of the decoded files (the clip's rate divided by the stride), exact.
    """

    path: str
    fps: Fraction
    first: int
    count: int
    width: int
    height: int
    source_first: int = 1
    stride: int = 1
    notes: tuple[str, ...] = ()

    @property
    def numbers(self) -> range:
        return range(self.first, self.first + self.count)


@dataclass(frozen=True)
class Geometry:
    """What the depth stage and the DW-Mesh stage found out about the whole shot. Depths in scene units.

    far: z of the far surface that closes the mesh, beyond every seen point.
    subject: the median depth of the subject, the default pivot of an orbit.
    repaired: number of depth values that were no usable number and were filled in.
    poses: camera-to-world of the source camera per frame; empty when unknown (taken as identity).
    """

    depth_source: str
    depth_note: str
    intrinsics: Matrix
    near: float
    far: float
    subject: float
    repaired: int = 0
    compat: str = "none"
    poses: tuple[Matrix, ...] = ()


@dataclass(frozen=True)
class Shot:
    """A shot folder on disk. `plate` and `geometry` are None until their stage has finished."""

    root: Path
    plate: Plate | None = None
    geometry: Geometry | None = None
    settings: dict[str, Any] = field(default_factory=dict)

    def plate_file(self, number: int) -> Path:
        return self.root / "plate" / f"plate.{number:04d}.png"

    def depth_file(self, number: int) -> Path:
        return self.root / "depth" / f"depth.{number:04d}.exr"

    def albedo_file(self, number: int) -> Path:
        """(H,W,4) PNG: the plate's colours, alpha 255 where a pixel belongs to a seen face."""
        return self.root / "mesh" / f"albedo.{number:04d}.png"

    def seen_file(self, number: int) -> Path:
        """(quad rows, 2 * quad columns) grey PNG, a texel a face, 255 = seen; see dwmesh/topology.py."""
        return self.root / "mesh" / f"seen.{number:04d}.png"

    @property
    def rays_file(self) -> Path:
        return self.root / "mesh" / "rays.npz"

    @property
    def takes_folder(self) -> Path:
        return self.root / "takes"

    def require_plate(self) -> Plate:
        if self.plate is None:
            raise _not_reconstructed(self.root)
        return self.plate

    def require_geometry(self) -> Geometry:
        if self.geometry is None:
            raise _not_reconstructed(self.root)
        return self.geometry

    def source_pose(self, number: int) -> Matrix:
        """Camera-to-world of the source camera at shot frame `number`."""
        geometry, plate = self.require_geometry(), self.require_plate()
        return geometry.poses[number - plate.first] if geometry.poses else IDENTITY


@dataclass(frozen=True)
class Take:
    """One camera move through a shot and what was made of it; its folder is never overwritten.

    frames: output frame k is file number `first + k`.
    conditioning: who drew colour and mask: "engine" or "blender"; "" before it is done.
    preset: what generated the result; "" before it is done.
    record: everything needed to repeat it: settings, models with checksums, seeds, versions, seconds a stage.
    """

    root: Path
    name: str
    first: int
    width: int
    height: int
    fps: Fraction
    frames: tuple[CameraFrame, ...]
    label: str = ""
    conditioning: str = ""
    preset: str = ""
    record: dict[str, Any] = field(default_factory=dict)

    @property
    def numbers(self) -> range:
        return range(self.first, self.first + len(self.frames))

    def file(self, layer: str, number: int) -> Path:
        """The file of a layer: color, mask, generated, composite, matte (PNG) or depth (EXR)."""
        suffix = "exr" if layer == "depth" else "png"
        return self.root / f"{layer}.{number:04d}.{suffix}"

    def missing(self, layer: str) -> list[int]:
        """Frame numbers whose file of `layer` is not there."""
        return [number for number in self.numbers if not self.file(layer, number).is_file()]

    @property
    def result_file(self) -> Path:
        return self.root / "result.mp4"

    @property
    def lossless_file(self) -> Path:
        return self.root / "result.mkv"

    @property
    def log_file(self) -> Path:
        return self.root / "log.jsonl"

    @property
    def is_finished(self) -> bool:
        return bool(self.preset) and self.result_file.is_file()


IDENTITY: Final[Matrix] = ((1.0, 0.0, 0.0, 0.0), (0.0, 1.0, 0.0, 0.0), (0.0, 0.0, 1.0, 0.0), (0.0, 0.0, 0.0, 1.0))


# ---------------------------------------------------------------------------------------------- shot


def load_shot(root: Path) -> Shot:
    """Reads `<root>/shot.json`.

    Raises:
        Ex4dError: `shot_missing`, `shot_newer` or `shot_invalid`, naming the file and the field.
    """
    path = root / "shot.json"
    document = _read_document(
        path, "shot_missing", "Reconstruct the clip first, or choose the folder that holds shot.json."
    )
    with _Field(path) as read:
        plate = document.get("plate")
        geometry = document.get("geometry")
        return Shot(
            root=root,
            plate=None if plate is None else _plate_from(read.mapping(plate, "plate"), read),
            geometry=None if geometry is None else _geometry_from(read.mapping(geometry, "geometry"), read),
            settings=dict(read.mapping(document.get("settings", {}), "settings")),
        )


def save_shot(shot: Shot) -> None:
    """Writes `shot.json` atomically."""
    document: dict[str, Any] = {"schema": SCHEMA_VERSION, "settings": shot.settings}
    if shot.plate is not None:
        document["plate"] = {
            "path": shot.plate.path,
            "fps": str(shot.plate.fps),
            "first": shot.plate.first,
            "count": shot.plate.count,
            "size": [shot.plate.width, shot.plate.height],
            "source_first": shot.plate.source_first,
            "stride": shot.plate.stride,
            "notes": list(shot.plate.notes),
        }
    if shot.geometry is not None:
        document["geometry"] = {
            "depth_source": shot.geometry.depth_source,
            "depth_note": shot.geometry.depth_note,
            "intrinsics": shot.geometry.intrinsics,
            "near": shot.geometry.near,
            "far": shot.geometry.far,
            "subject": shot.geometry.subject,
            "repaired": shot.geometry.repaired,
            "compat": shot.geometry.compat,
            "poses": shot.geometry.poses,
        }
    write_text(shot.root / "shot.json", _to_json(document))


def _plate_from(data: dict[str, Any], read: _Field) -> Plate:
    width, height = read.size(data)
    return Plate(
        path=read.text(data, "path"),
        fps=read.fps(data),
        first=read.integer(data, "first", 0),
        count=read.integer(data, "count", 1),
        width=width,
        height=height,
        source_first=read.integer(data, "source_first", -(10**9)),
        stride=read.integer(data, "stride", 1),
        notes=tuple(str(note) for note in data.get("notes", [])),
    )


def _geometry_from(data: dict[str, Any], read: _Field) -> Geometry:
    compat = read.text(data, "compat")
    if compat not in COMPAT_MODES:
        raise ValueError(f"compat is {compat!r}, not one of {COMPAT_MODES}")
    return Geometry(
        depth_source=read.text(data, "depth_source"),
        depth_note=read.text(data, "depth_note"),
        intrinsics=read.matrix(data.get("intrinsics"), 3, "intrinsics"),
        near=read.positive(data, "near"),
        far=read.positive(data, "far"),
        subject=read.positive(data, "subject"),
        repaired=read.integer(data, "repaired", 0),
        compat=compat,
        poses=tuple(read.matrix(pose, 4, "poses") for pose in data.get("poses", [])),
    )


# --------------------------------------------------------------------------------------------- takes


def list_takes(shot: Shot) -> list[str]:
    """Names of the shot's takes, oldest first, by number."""
    if not shot.takes_folder.is_dir():
        return []
    found = [entry.name for entry in shot.takes_folder.iterdir() if entry.is_dir() and TAKE_NAME.fullmatch(entry.name)]
    return sorted(found, key=lambda name: int(name.split("_")[1]))


def new_take(
    shot: Shot, frames: tuple[CameraFrame, ...], size: tuple[int, int], *, first: int, fps: Fraction, label: str = ""
) -> Take:
    """Makes the next free take folder with its camera in `take.json`. Two processes never get the same one.

    Args:
        size: (width, height) of the output in pixels.
    """
    if not frames:
        raise Ex4dError("no_camera", "The camera path has no frames.", "Give the camera at least one frame.")
    number = 1 + max((int(name.split("_")[1]) for name in list_takes(shot)), default=0)
    while True:
        root = shot.takes_folder / f"take_{number:04d}"
        try:
            root.mkdir(parents=True, exist_ok=False)
            break
        except FileExistsError:
            number += 1
        except OSError as error:
            raise explain_os_error(error, root) from error
    take = Take(
        root=root, name=root.name, first=first, width=size[0], height=size[1], fps=fps, frames=frames, label=label
    )
    save_take(take)
    return take


def take_root(shot: Shot, name: str | int) -> Path:
    """The folder of a take given as a number (3) or a name ("take_0003"); any other text is refused."""
    text = f"take_{name:04d}" if isinstance(name, int) else name
    if text.isdigit():
        text = f"take_{int(text):04d}"
    if not TAKE_NAME.fullmatch(text):
        raise Ex4dError("take_missing", f"{name!r} is not the name of a take.", "Takes are named like take_0001.")
    return shot.takes_folder / text


def load_take(shot: Shot, name: str | int) -> Take:
    """Reads `takes/<name>/take.json`.

    Raises:
        Ex4dError: `take_missing`, `shot_newer` or `shot_invalid`.
    """
    root = take_root(shot, name)
    path = root / "take.json"
    known = ", ".join(list_takes(shot)) or "none yet"
    document = _read_document(path, "take_missing", f"Takes of this shot: {known}.")
    with _Field(path) as read:
        width, height = read.size(document)
        frames = document.get("camera")
        if not isinstance(frames, list) or not frames:
            raise ValueError("camera is not a list of frames")
        return Take(
            root=root,
            name=root.name,
            first=read.integer(document, "first", 0),
            width=width,
            height=height,
            fps=read.fps(document),
            frames=tuple(camera_frame_from(frame) for frame in frames),
            label=str(document.get("label", "")),
            conditioning=str(document.get("conditioning", "")),
            preset=str(document.get("preset", "")),
            record=dict(read.mapping(document.get("record", {}), "record")),
        )


def save_take(take: Take) -> None:
    """Writes `take.json` atomically."""
    document = {
        "schema": SCHEMA_VERSION,
        "label": take.label,
        "first": take.first,
        "size": [take.width, take.height],
        "fps": str(take.fps),
        "conditioning": take.conditioning,
        "preset": take.preset,
        "record": take.record,
        "camera": [camera_frame_document(frame) for frame in take.frames],
    }
    write_text(take.root / "take.json", _to_json(document))


def with_record(take: Take, **entries: Any) -> Take:
    """The take with more entries in its record."""
    return replace(take, record={**take.record, **entries})


def camera_frame_document(frame: CameraFrame) -> dict[str, Any]:
    """A camera frame as plain JSON values."""
    return {"source": frame.source, "intrinsics": frame.intrinsics, "camera_to_world": frame.camera_to_world}


def camera_frame_from(data: Any) -> CameraFrame:
    """The inverse of `camera_frame_document`; raises ValueError on anything that is not one."""
    read = _Field(Path("camera"))
    mapping = read.mapping(data, "camera frame")
    return CameraFrame(
        source=read.integer(mapping, "source", 0),
        intrinsics=read.matrix(mapping.get("intrinsics"), 3, "intrinsics"),
        camera_to_world=read.matrix(mapping.get("camera_to_world"), 4, "camera_to_world"),
    )


# ----------------------------------------------------------------------------------------- documents


class _Field:
    """Reads typed fields from JSON; a wrong one becomes `shot_invalid` that names file and field."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def __enter__(self) -> _Field:
        return self

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if isinstance(error, (ValueError, TypeError, KeyError, ZeroDivisionError)):
            raise Ex4dError(
                "shot_invalid", f"{self._path} is damaged: {error}.", "Restore it from a copy, or make the shot again."
            ) from error

    @staticmethod
    def mapping(value: Any, name: str) -> dict[str, Any]:
        if not isinstance(value, dict):
            raise ValueError(f"{name} is not an object")
        return value

    @staticmethod
    def text(data: dict[str, Any], name: str) -> str:
        value = data.get(name)
        if not isinstance(value, str):
            raise ValueError(f"{name} is not a text")
        return value

    @staticmethod
    def integer(data: dict[str, Any], name: str, least: int) -> int:
        value = data.get(name)
        if isinstance(value, bool) or not isinstance(value, int) or value < least:
            raise ValueError(f"{name} is not a whole number of at least {least}")
        return value

    @staticmethod
    def positive(data: dict[str, Any], name: str) -> float:
        value = data.get(name)
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value) or value <= 0:
            raise ValueError(f"{name} is not a positive number")
        return float(value)

    @staticmethod
    def fps(data: dict[str, Any]) -> Fraction:
        value = Fraction(_Field.text(data, "fps"))
        if value <= 0:
            raise ValueError("fps is not positive")
        return value

    @staticmethod
    def size(data: dict[str, Any]) -> tuple[int, int]:
        value = data.get("size")
        if not isinstance(value, list) or len(value) != 2:
            raise ValueError("size is not [width, height]")
        named = {"width": value[0], "height": value[1]}
        return _Field.integer(named, "width", 1), _Field.integer(named, "height", 1)

    @staticmethod
    def matrix(value: Any, size: int, name: str) -> Matrix:
        if not isinstance(value, (list, tuple)) or len(value) != size:
            raise ValueError(f"{name} is not a {size} x {size} matrix")
        rows = []
        for row in value:
            if not isinstance(row, (list, tuple)) or len(row) != size:
                raise ValueError(f"{name} is not a {size} x {size} matrix")
            rows.append(tuple(float(entry) for entry in row))
        if not all(math.isfinite(entry) for row in rows for entry in row):
            raise ValueError(f"{name} holds a value that is not finite")
        return tuple(rows)


def _read_document(path: Path, missing_code: str, missing_hint: str) -> dict[str, Any]:
    try:
        text = path.read_text(encoding="utf-8")
    except (FileNotFoundError, NotADirectoryError) as error:
        raise Ex4dError(missing_code, f"{path} does not exist.", missing_hint) from error
    except UnicodeDecodeError as error:
        raise Ex4dError("shot_invalid", f"{path} is not UTF-8 text.", "Restore it from a copy.") from error
    except OSError as error:
        raise explain_os_error(error, path) from error
    with _Field(path) as read:
        # NaN and Infinity are no JSON; json.loads would let them in
        document = read.mapping(json.loads(text, parse_constant=_refuse_constant), "the document")
        version = read.integer(document, "schema", 1)
    if version > SCHEMA_VERSION:
        raise Ex4dError(
            "shot_newer",
            f"{path} was written by a newer EX-4D (format {version}; this one reads up to {SCHEMA_VERSION}).",
            "Update EX-4D.",
        )
    for old in range(version, SCHEMA_VERSION):
        document = UPGRADES[old](document)
    return document


def _refuse_constant(name: str) -> float:
    raise ValueError(f"{name} is not a JSON number")


def _to_json(document: dict[str, Any]) -> str:
    return json.dumps(document, indent=1, ensure_ascii=False, allow_nan=False) + "\n"


def _not_reconstructed(root: Path) -> Ex4dError:
    return Ex4dError("shot_missing", f"{root} is not reconstructed yet.", "Run Reconstruct first.")
