# SPDX-License-Identifier: GPL-3.0-or-later
"""The shot folder: what is in it, where, and how it is read and written. Standard library only.

Both programs import this module, so it is the contract for everything that travels as a file. See
docs/shot_folder.md. Nothing is ever read from or written to a place outside the shot folder because a
JSON file says so: it names no files but the clip the shot was made from, and that only as a record.
Whatever a JSON file holds, reading it gives checked values or an `Ex4dError`; what could not be read
back is not written.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import Any, Final

from . import json_fields as fields
from .camera_frame import IDENTITY, Matrix, intrinsics_from, pose_from
from .errors import Ex4dError
from .shot_documents import SCHEMA_VERSION, explained, one_of, read_document, write_document

COMPAT_MODES: Final = ("none", "reference")


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
        """(H,W,4) PNG: the plate's colours; alpha as in dwmesh/edges.py."""
        return self.root / "mesh" / f"albedo.{number:04d}.png"

    def seen_file(self, number: int) -> Path:
        """(quad rows, 2 * quad columns) grey PNG, a texel a face, 255 = seen; see dwmesh/topology.py."""
        return self.root / "mesh" / f"seen.{number:04d}.png"

    def width_file(self, number: int) -> Path:
        """(H+1,W+1) grey 16-bit PNG: `wall_widths` of dwmesh/edges.py; a shot made before December 2026 has none."""
        return self.root / "mesh" / f"width.{number:04d}.png"

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


def load_shot(root: Path) -> Shot:
    """Reads `<root>/shot.json`.

    Raises:
        Ex4dError: `shot_missing`, `shot_newer` or `shot_invalid`, naming the file and the field.
    """
    path = root / "shot.json"
    with explained(path):
        document = read_document(path)
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
    write_document(shot.root / "shot.json", document, lambda data: _shot_from(shot.root, data))


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
        compat=one_of(COMPAT_MODES, data, "compat"),
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
        alignment=one_of(("none", "scale", "affine"), data, "alignment"),
        scale=fields.positive(data, "scale"),
        shift=fields.as_number(data.get("shift"), "shift"),
        agreement=fields.as_number(data.get("agreement"), "agreement"),
        tracks=fields.integer(data, "tracks", 0),
        flicker=None
        if flicker is None
        else (fields.as_number(flicker[0], "flicker"), fields.as_number(flicker[1], "flicker")),
    )


def _not_reconstructed(root: Path) -> Ex4dError:
    return Ex4dError("shot_missing", f"{root} is not reconstructed yet.", "Run Reconstruct first.")
