# SPDX-License-Identifier: GPL-3.0-or-later
"""The takes of a shot: camera moves through it, each in a folder of its own. Standard library only.

As `shot.py` it belongs to the contract between both programs. See docs/shot_folder.md.
"""

from __future__ import annotations

import contextlib
import re
from dataclasses import dataclass, field, replace
from fractions import Fraction
from pathlib import Path
from typing import Any, Final

from . import json_fields as fields
from .camera_frame import CameraFrame, camera_frame_document, camera_frame_from, intrinsics_from, pose_from
from .dwmesh.walls import CLOSED
from .errors import Ex4dError
from .files import explain_os_error
from .shot import Shot
from .shot_documents import SCHEMA_VERSION, explained, one_of, read_document, write_document

TAKE_NAME: Final = re.compile(r"take_(\d{4,6})", re.ASCII)
CONDITIONED_BY: Final = ("", "engine", "blender")
WALLS_FIELD: Final = "wall_share"  # of a take's record


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
    with explained(path):
        document = read_document(path)
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
    write_document(take.root / "take.json", document, lambda data: _take_from(take.root, data))


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
        conditioning=one_of(CONDITIONED_BY, document, "conditioning", ""),
        preset=fields.text(document, "preset", ""),
        record=record,
    )


def with_record(take: Take, **entries: Any) -> Take:
    """The take with more entries in its record."""
    return replace(take, record={**take.record, **entries})
