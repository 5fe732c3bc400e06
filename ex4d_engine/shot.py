# SPDX-License-Identifier: GPL-3.0-or-later
"""The shot folder: what is in it, where, and how it is read and written. Standard library only.

Both programs import this module, so it is the contract for everything that travels as a file. See
docs/shot_folder.md. Nothing is ever read from or written to a place outside the shot folder because a
JSON file says so: it names no files but the clip the shot was made from, and that only as a record.
Whatever a JSON file holds, reading it gives checked values or an `Ex4dError`; what could not be read
back is not written.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field, replace
from fractions import Fraction
from pathlib import Path
from typing import Any, Final

from . import json_fields as fields
from .camera_frame import (
    IDENTITY,
    CameraFrame,
    Matrix,
    camera_frame_document,
    camera_frame_from,
    intrinsics_from,
    pose_from,
)
from .dwmesh.walls import CLOSED
from .errors import Ex4dError
from .files import explain_os_error, write_bytes
from .shot_upgrades import UPGRADES

SCHEMA_VERSION: Final = 2
TAKE_NAME: Final = re.compile(r"take_(\d{4,6})", re.ASCII)
COMPAT_MODES: Final = ("none", "reference")
CONDITIONED_BY: Final = ("", "engine", "blender")
WALLS_FIELD: Final = "wall_share"  # of a take's record


@dataclass(frozen=True)
class Plate:
    """The decoded clip in `plate/`. Files are numbered `first` … `first + count - 1` without gaps.

    source_first, stride: file number n holds the clip's own frame source_first + (n - first) * stride.
    fps: frames per second of the decoded files (the clip's rate divided by the stride), exact.
    cuts: file numbers that begin another shot of an edited clip, rising; empty for one shot.
    dissolves: (first, last) file numbers between two shots that are of neither; the cut is after the last.
    """

    path: str  # of the clip, as a record; never opened again
    fps: Fraction
    first: int
    count: int
    width: int
    height: int
    source_first: int = 1
    stride: int = 1
    notes: tuple[str, ...] = ()
    cuts: tuple[int, ...] = ()
    dissolves: tuple[tuple[int, int], ...] = ()

    @property
    def numbers(self) -> range:
        return range(self.first, self.first + self.count)


@dataclass(frozen=True)
class DepthPlacement:
    """How the depth got into the world of a solved camera: 1/z there = scale · 1/z of the source + shift.

    alignment: what was fitted: "none" (the depth keeps its own scale), "scale" or "affine".
    agreement: typical difference between depth and cameras after it; tracks: points it was fitted to.
    flicker: change of the depth's scale from frame to frame, as a share of the depth, before and after; None where
        it could not be measured.
    """

    alignment: str
    scale: float
    shift: float
    agreement: float
    tracks: int
    flicker: tuple[float, float] | None


@dataclass(frozen=True)
class Geometry:
    """What the depth stage and the DW-Mesh stage found out about the whole shot. Depths in scene units.

    intrinsics: (3,3) of the source camera at the first frame, in pixels of the plate.
    far: z of the far surface that closes the mesh, beyond every seen point.
    subject: the median depth of the subject, the default pivot of an orbit.
    repaired: number of depth values that were no usable number and were filled in.
    poses: camera-to-world of the source camera per frame; empty when unknown (taken as identity).
    zoom: focal length of every frame as a multiple of the first one's; empty for a lens that does not zoom.
    lens_note: one sentence that says where the lens came from.
    placement: how depth and poses were brought together; None where they came together or there are no poses.
    scale: what depth and poses were multiplied with at the end, as the user asked for.
    is_metric: scene units are metres.
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
    zoom: tuple[float, ...] = ()
    lens_note: str = ""
    placement: DepthPlacement | None = None
    scale: float = 1.0
    is_metric: bool = False


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
        """Camera-to-world of the source camera at shot frame `number`.

        Raises:
            Ex4dError: `missing_frame` for a number that the shot does not hold.
        """
        index = self._index(number)
        poses = self.require_geometry().poses
        return poses[index] if poses else IDENTITY

    def source_intrinsics(self, number: int) -> Matrix:
        """K (3,3) of the source camera at shot frame `number`, zoom included; `missing_frame` as `source_pose`."""
        lens, zoom = self.require_geometry().intrinsics, self._zoom(number)
        (fx, skew, cx), (_, fy, cy), last = lens
        return lens if zoom == 1 else ((fx * zoom, skew * zoom, cx), (0.0, fy * zoom, cy), last)

    def mesh_to_world(self, number: int) -> Matrix:
        """(4,4) from the mesh's own space to the world at shot frame `number`; `missing_frame` as `source_pose`.

        The mesh's rays are those of the first frame's lens. A zoom makes all of them steeper by one factor, so the
        mesh is squeezed across by it and then put where the source camera is.
        """
        pose, zoom = self.source_pose(number), self._zoom(number)
        return pose if zoom == 1 else tuple((x / zoom, y / zoom, z, place) for x, y, z, place in pose)

    def _zoom(self, number: int) -> float:
        index = self._index(number)
        zoom = self.require_geometry().zoom
        return zoom[index] if zoom else 1.0

    def _index(self, number: int) -> int:
        plate = self.require_plate()
        if number not in plate.numbers:
            raise Ex4dError(
                "missing_frame",
                f"The shot has no frame {number}: it holds {plate.first} to {plate.numbers[-1]}.",
                "Choose a frame of the shot, or reconstruct that range.",
            )
        return number - plate.first


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
    def wall_share(self) -> float:
        """How deep the walls of its conditioning are, as a share of the depth where they begin (dwmesh/walls.py)."""
        return float(self.record.get(WALLS_FIELD, CLOSED))

    @property
    def is_finished(self) -> bool:
        return bool(self.preset) and self.result_file.is_file()


# ---------------------------------------------------------------------------------------------- shot


def load_shot(root: Path) -> Shot:
    """Reads `<root>/shot.json`.

    Raises:
        Ex4dError: `shot_missing`, `shot_newer` or `shot_invalid`, naming the file and the field.
    """
    path = root / "shot.json"
    with _explained(path):
        document = _read_document(path)
        if document is None:
            raise Ex4dError(
                "shot_missing",
                f"{path} does not exist.",
                "Reconstruct the clip first, or choose the folder that holds shot.json.",
            )
        return _shot_from(root, document)


def save_shot(shot: Shot) -> None:
    """Writes `shot.json` atomically.

    Raises:
        Ex4dError: `shot_invalid` for values that could not be read back; `disk_full`, `read_only`.
    """
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
            "cuts": list(shot.plate.cuts),
            "dissolves": [list(numbers) for numbers in shot.plate.dissolves],
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
            "zoom": shot.geometry.zoom,
            "lens_note": shot.geometry.lens_note,
            "placement": None if shot.geometry.placement is None else asdict(shot.geometry.placement),
            "scale": shot.geometry.scale,
            "is_metric": shot.geometry.is_metric,
        }
    _write_document(shot.root / "shot.json", document, lambda data: _shot_from(shot.root, data))


def _shot_from(root: Path, document: dict[str, Any]) -> Shot:
    plate, geometry = document.get("plate"), document.get("geometry")
    if plate is None and geometry is not None:
        raise ValueError("there is a geometry without a plate")
    shot = Shot(
        root=root,
        plate=None if plate is None else _plate_from(fields.mapping(plate, "plate")),
        geometry=None if geometry is None else _geometry_from(fields.mapping(geometry, "geometry")),
        settings=fields.mapping(document.get("settings", {}), "settings"),
    )
    if shot.plate and shot.geometry and len(shot.geometry.poses) not in (0, shot.plate.count):
        raise ValueError(f"there are {len(shot.geometry.poses)} poses for {shot.plate.count} frames")
    if shot.plate and shot.geometry and len(shot.geometry.zoom) not in (0, shot.plate.count):
        raise ValueError(f"there are {len(shot.geometry.zoom)} zoom factors for {shot.plate.count} frames")
    return shot


def _plate_from(data: dict[str, Any]) -> Plate:
    width, height = fields.size(data, "size")
    return Plate(
        path=fields.text(data, "path"),
        fps=fields.rate(data, "fps"),
        first=fields.integer(data, "first", 0),
        count=fields.integer(data, "count", 1),
        width=width,
        height=height,
        source_first=fields.integer(data, "source_first", -fields.MOST),
        stride=fields.integer(data, "stride", 1),
        notes=tuple(fields.as_text(note, "notes") for note in fields.items(data, "notes")),
        cuts=tuple(fields.integer({"cuts": cut}, "cuts", 0) for cut in fields.items(data, "cuts")),
        dissolves=tuple(_dissolve_from(pair) for pair in fields.items(data, "dissolves")),
    )


def _dissolve_from(pair: Any) -> tuple[int, int]:
    if not isinstance(pair, list) or len(pair) != 2:
        raise ValueError("dissolves is not a list of pairs")
    first, last = (fields.integer({"dissolves": number}, "dissolves", 0) for number in pair)
    return first, last


def _geometry_from(data: dict[str, Any]) -> Geometry:
    near, far = fields.positive(data, "near"), fields.positive(data, "far")
    if near > far:
        raise ValueError("near is beyond far")
    return Geometry(
        depth_source=fields.text(data, "depth_source"),
        depth_note=fields.text(data, "depth_note"),
        intrinsics=intrinsics_from(data.get("intrinsics")),
        near=near,
        far=far,
        subject=fields.positive(data, "subject"),
        repaired=fields.integer(data, "repaired", 0, most=2**63),
        compat=_one_of(COMPAT_MODES, data, "compat"),
        poses=tuple(pose_from(pose) for pose in fields.items(data, "poses")),
        zoom=tuple(fields.positive({"zoom": factor}, "zoom") for factor in fields.items(data, "zoom")),
        lens_note=fields.text(data, "lens_note", ""),
        placement=None if data.get("placement") is None else _placement_from(data["placement"]),
        scale=fields.positive({"scale": data.get("scale", 1.0)}, "scale"),
        is_metric=data.get("is_metric") is True,
    )


def _placement_from(value: Any) -> DepthPlacement:
    data = fields.mapping(value, "placement")
    flicker = data.get("flicker")
    if flicker is not None and (not isinstance(flicker, (list, tuple)) or len(flicker) != 2):
        raise ValueError("flicker is not two numbers")
    return DepthPlacement(
        alignment=_one_of(("none", "scale", "affine"), data, "alignment"),
        scale=fields.positive(data, "scale"),
        shift=fields.as_number(data.get("shift"), "shift"),
        agreement=fields.as_number(data.get("agreement"), "agreement"),
        tracks=fields.integer(data, "tracks", 0),
        flicker=None
        if flicker is None
        else (fields.as_number(flicker[0], "flicker"), fields.as_number(flicker[1], "flicker")),
    )


# --------------------------------------------------------------------------------------------- takes


def list_takes(shot: Shot) -> list[str]:
    """Names of the shot's takes, oldest first, by number. A folder without `take.json` is none.

    Raises:
        Ex4dError: `read_only` when the folder may not be read.
    """
    return [name for name in _take_folders(shot) if (shot.takes_folder / name / "take.json").is_file()]


def _take_folders(shot: Shot) -> list[str]:
    try:
        found = [entry.name for entry in shot.takes_folder.iterdir() if TAKE_NAME.fullmatch(entry.name)]
    except (FileNotFoundError, NotADirectoryError):
        return []
    except OSError as error:
        raise explain_os_error(error, shot.takes_folder) from error
    return sorted(found, key=_take_number)


def _take_number(name: str) -> int:
    return int(name.removeprefix("take_"))


def new_take(
    shot: Shot,
    frames: tuple[CameraFrame, ...],
    size: tuple[int, int],
    *,
    first: int,
    fps: Fraction,
    label: str = "",
    wall_share: float = CLOSED,
) -> Take:
    """Makes the next free take folder with its camera in `take.json`. Two processes never get the same one.

    Args:
        size: (width, height) of the output in pixels.
        wall_share: as `Take.wall_share`; see `walls_for`.

    Raises:
        Ex4dError: `no_camera`, `camera_invalid`, `bad_request` for the walls, `disk_full`, `read_only`; there is no
            new folder then.
    """
    if not frames:
        raise Ex4dError("no_camera", "The camera path has no frames.", "Give the camera at least one frame.")
    for number, frame in enumerate(frames, first):
        try:
            intrinsics_from(frame.intrinsics)
            pose_from(frame.camera_to_world)
        except ValueError as error:
            raise Ex4dError(
                "camera_invalid", f"The camera of frame {number} cannot be used: {error}.", "Check the camera."
            ) from error
    record = walls_record(walls_for(shot, wall_share))
    root = _new_take_folder(shot)
    take = Take(
        root=root,
        name=root.name,
        first=first,
        width=size[0],
        height=size[1],
        fps=fps,
        frames=frames,
        label=label,
        record=record,
    )
    try:
        save_take(take)
    except BaseException:
        with contextlib.suppress(OSError):
            root.rmdir()
        raise
    return take


def walls_for(shot: Shot, wall_share: float) -> float:
    """The walls that a take of this shot gets where `wall_share` is asked for: the reference's mesh has closed ones."""
    is_reference = shot.geometry is not None and shot.geometry.compat == "reference"
    return CLOSED if is_reference else wall_share


def walls_record(wall_share: float) -> dict[str, Any]:
    """What a take's record says of its walls: nothing where they are closed, as in takes of before there were others.

    Raises:
        Ex4dError: `bad_request` for what is no positive share.
    """
    if not wall_share > 0:
        raise Ex4dError("bad_request", f"A wall share of {wall_share:g} is impossible.", "Give a positive number.")
    return {} if wall_share == CLOSED else {WALLS_FIELD: wall_share}


def _new_take_folder(shot: Shot) -> Path:
    takes = shot.takes_folder
    number = 1 + max((_take_number(name) for name in _take_folders(shot)), default=0)
    try:
        takes.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise _no_folder(error, takes) from error
    while True:
        root = takes / f"take_{number:04d}"
        try:
            root.mkdir()  # fails when another process was faster
        except FileExistsError:
            number += 1
        except OSError as error:
            raise explain_os_error(error, root) from error
        else:
            return root


def _no_folder(error: OSError, path: Path) -> Ex4dError:
    if isinstance(error, (FileExistsError, NotADirectoryError)):
        return Ex4dError("read_only", f"{path} cannot be a folder: a file is in the way.", "Move the file away.")
    return explain_os_error(error, path)


def take_root(shot: Shot, name: str | int) -> Path:
    """The folder of a take given as a number (3) or a name ("take_0003"); any other text is refused."""
    text = str(name)
    if text.isascii() and text.isdecimal() and len(text) <= 6:
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
    with _explained(path):
        document = _read_document(path)
        if document is None:
            known = ", ".join(list_takes(shot)) or "none yet"
            raise Ex4dError("take_missing", f"{path} does not exist.", f"Takes of this shot: {known}.")
        return _take_from(root, document)


def save_take(take: Take) -> None:
    """Writes `take.json` atomically.

    Raises:
        Ex4dError: `shot_invalid` for values that could not be read back; `disk_full`, `read_only`.
    """
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
    _write_document(take.root / "take.json", document, lambda data: _take_from(take.root, data))


def _take_from(root: Path, document: dict[str, Any]) -> Take:
    width, height = fields.size(document, "size")
    frames = fields.items(document, "camera")
    if not frames:
        raise ValueError("camera has no frames")
    record = fields.mapping(document.get("record", {}), "record")
    if WALLS_FIELD in record:
        fields.positive(record, WALLS_FIELD)
    return Take(
        root=root,
        name=root.name,
        first=fields.integer(document, "first", 0),
        width=width,
        height=height,
        fps=fields.rate(document, "fps"),
        frames=tuple(camera_frame_from(frame) for frame in frames),
        label=fields.text(document, "label", ""),
        conditioning=_one_of(CONDITIONED_BY, document, "conditioning", ""),
        preset=fields.text(document, "preset", ""),
        record=record,
    )


def with_record(take: Take, **entries: Any) -> Take:
    """The take with more entries in its record."""
    return replace(take, record={**take.record, **entries})


# ----------------------------------------------------------------------------------------- documents


@contextlib.contextmanager
def _explained(path: Path) -> Iterator[None]:
    try:
        yield
    except ValueError as error:
        raise Ex4dError(
            "shot_invalid", f"{path} is damaged: {error}.", "Restore it from a copy, or make the shot again."
        ) from error


def _read_document(path: Path) -> dict[str, Any] | None:
    """The document in the version of today; None where there is no such file."""
    try:
        data = path.read_bytes()
    except (FileNotFoundError, NotADirectoryError, ValueError):  # ValueError: a path that no file can have
        return None
    except OSError as error:
        raise explain_os_error(error, path) from error
    document = fields.mapping(fields.parse_json(data), "the document")
    version = fields.integer(document, "schema", 1)
    if version > SCHEMA_VERSION:
        raise Ex4dError(
            "shot_newer",
            f"{path} was written by a newer EX-4D (format {version}; this one reads up to {SCHEMA_VERSION}).",
            "Update EX-4D.",
        )
    for old in range(version, SCHEMA_VERSION):
        document = UPGRADES[old](document)
    return document


def _write_document(path: Path, document: dict[str, Any], read: Callable[[dict[str, Any]], object]) -> None:
    try:
        data = fields.to_json(document, indent=1)
        read(fields.parse_json(data))
    except ValueError as error:
        raise Ex4dError(
            "shot_invalid", f"{path} was not written, as it could not be read back: {error}.", "Check the settings."
        ) from error
    write_bytes(path, data + b"\n")


def _one_of(choices: tuple[str, ...], data: dict[str, Any], name: str, default: str | None = None) -> str:
    value = fields.text(data, name, default)
    if value not in choices:
        raise ValueError(f"{name} is {value!r}, not one of {choices}")
    return value


def _not_reconstructed(root: Path) -> Ex4dError:
    return Ex4dError("shot_missing", f"{root} is not reconstructed yet.", "Run Reconstruct first.")
