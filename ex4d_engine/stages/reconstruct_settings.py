# SPDX-License-Identifier: GPL-3.0-or-later
"""What a shot is asked to be made from, checked before any work starts."""

from __future__ import annotations

import dataclasses
import json
import os
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import Any

from .. import json_fields
from ..depth import default_source
from ..errors import Ex4dError
from ..plate import PlateInfo
from ..shot import COMPAT_MODES
from ..source_cameras.lens import user_field_of_view
from ..source_cameras.scale import Measurement, check_scale, measurement_from
from .shot_renewal import refuse_own_files, stamp

CUT_MODES = ("refuse", "ignore")


@dataclass(frozen=True)
class ReconstructSettings:
    """What makes a shot.

    source: a movie, an image, a folder or a pattern of images.
    first, last, stride: which of the clip's own frame numbers; None is the clip's own end.
    first_number: the number of a movie's first frame (a sequence keeps its files' numbers).
    depth, depth_options: name of a depth source and its options; left out, the best that is here.
    fov_deg: field of view of the longer side. None takes, in this order, the camera file's (`poses`), the depth
        source's, the one in the clip's metadata, and the stated default.
    focal_mm, sensor_mm: the same as a focal length and the sensor's length along the longer side (36 when None).
    fps: the clip's own frames a second, such as "25" or "24000/1001"; None is what the clip says. An image
        sequence says nothing.
    compat: "none", or "reference" for the reference implementation's geometry with its defects.
    poses: a file with the solved camera of the clip's frames (source_cameras.poses); None: a camera that stands
        still, or the depth source's own poses.
    scene_scale: metres a scene unit, which makes all units metres; None keeps them.
    measured: the same from a length: [frame, x1, y1, x2, y2, metres], a frame of the shot and two pixels of it.
    cuts: "refuse" a clip that is edited together, or "ignore" what looks like a cut.
    """

    source: str
    first: int | None = None
    last: int | None = None
    stride: int = 1
    first_number: int | None = None
    depth: str = field(default_factory=default_source)
    depth_options: dict[str, Any] = field(default_factory=dict)
    fov_deg: float | None = None
    fps: str | None = None
    compat: str = "none"
    focal_mm: float | None = None
    sensor_mm: float | None = None
    poses: str | None = None
    scene_scale: float | None = None
    measured: list[float] | None = None
    cuts: str = "refuse"


def checked(settings: ReconstructSettings, root: Path) -> ReconstructSettings:
    """The settings with whole paths, so that they mean the same clip from whatever folder a command is started."""
    if settings.compat not in COMPAT_MODES:
        raise Ex4dError(
            "bad_request", f"There is no compat mode {settings.compat!r}.", f"Choose one of {', '.join(COMPAT_MODES)}."
        )
    if settings.stride < 1:
        raise Ex4dError("bad_request", f"A stride of {settings.stride} is impossible.", "Give 1 or more.")
    if settings.first_number is not None and settings.first_number < 0:
        raise Ex4dError("bad_request", f"Frames cannot be numbered from {settings.first_number}.", "Give 0 or more.")
    if settings.fps is not None:
        frame_rate(settings.fps)
    user_field_of_view(settings.fov_deg, settings.focal_mm, settings.sensor_mm)
    if settings.cuts not in CUT_MODES:
        raise Ex4dError("bad_request", f"Cuts cannot be {settings.cuts!r}.", f"Choose one of {', '.join(CUT_MODES)}.")
    if settings.scene_scale is not None:
        check_scale(settings.scene_scale)
        if settings.measured is not None:
            raise Ex4dError("bad_request", "The scale is given twice.", "Give a scale or a measured length.")
    if settings.compat == "reference" and (settings.poses or settings.scene_scale or settings.measured):
        raise Ex4dError(
            "bad_request", "The reference's geometry knows neither poses nor a scale.", "Leave them or it out."
        )
    source, options = _whole(settings.source), dict(settings.depth_options)
    refuse_own_files(source, _whole(root))
    if "path" in options:
        depth = _whole(options["path"])
        refuse_own_files(depth, _whole(root))
        options["path"] = str(depth)
    poses = None if settings.poses is None else str(_whole(settings.poses))
    return dataclasses.replace(settings, source=str(source), depth_options=options, poses=poses)


def frame_rate(text: str) -> Fraction:
    """The rate that a user wrote, such as "24000/1001"; `bad_request` for anything else."""
    try:
        return json_fields.rate({"fps": text}, "fps")
    except ValueError as error:
        raise Ex4dError("bad_request", f"{text!r} is no frame rate.", "Give it like 25 or 24000/1001.") from error


def _whole(path: Path | str) -> Path:
    # not `resolve`: a mapped drive or a linked folder keeps the name that the user knows
    return Path(os.path.abspath(path))  # noqa: PTH100


def asked_measurement(settings: ReconstructSettings, frames: range) -> Measurement | None:
    """The measured length; `bad_request` for one in a frame that the shot will not hold."""
    if settings.measured is None:
        return None
    measurement = measurement_from(settings.measured)
    # the shot's files are numbered without gaps, whatever the stride
    if not frames.start <= measurement.frame < frames.start + len(frames):
        raise Ex4dError(
            "bad_request",
            f"Frame {measurement.frame} cannot be measured: the shot holds {frames.start} to "
            f"{frames.start + len(frames) - 1}.",
            "Choose a frame of the shot.",
        )
    return measurement


def first_number_of(settings: ReconstructSettings) -> int:
    """The number of a movie's first frame."""
    return 1 if settings.first_number is None else settings.first_number


def frames_asked_for(settings: ReconstructSettings, info: PlateInfo) -> range:
    """The clip's own frame numbers that make the plate, as far as its packets can be believed.

    Raises:
        Ex4dError: `no_frames` when the clip has none of them.
    """
    end = info.first_number + (info.frame_count or 1) - 1
    first = info.first_number if settings.first is None else max(settings.first, info.first_number)
    last = end if settings.last is None else min(settings.last, end)
    if last < first:
        raise Ex4dError(
            "no_frames",
            f"{settings.source} has no frames {settings.first if settings.first is not None else first} to "
            f"{settings.last if settings.last is not None else last}: it holds {info.first_number} to {end}.",
            "Choose a range inside the clip.",
        )
    return range(first, last + 1, settings.stride)


def settings_record(settings: ReconstructSettings, info: PlateInfo) -> dict[str, Any]:
    """Everything a shot depends on, as it comes back from JSON."""
    depth = settings.depth_options.get("path")
    stamps = {
        "source_stamp": stamp(info.path),
        "depth_stamp": None if depth is None else stamp(Path(depth)),
        "poses_stamp": None if settings.poses is None else stamp(Path(settings.poses)),
    }
    record: dict[str, Any] = json.loads(json.dumps({**dataclasses.asdict(settings), **stamps}))
    return record
