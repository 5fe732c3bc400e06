# SPDX-License-Identifier: GPL-3.0-or-later
"""The first stage: clip → plate → depth → DW-Mesh, streamed, whatever the clip's length."""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .. import json_fields
from ..background import BackgroundWriter
from ..cameras import as_matrix, check_camera, intrinsics_from_fov
from ..depth import DepthClip, DepthSource, depth_source
from ..dwmesh.occlusion import reference_seen, seen_faces, seen_pixels
from ..dwmesh.ray_grid import RayGrid, ray_grid, reference_ray_grid, save_ray_grid
from ..dwmesh.repair import far_surface, repair, sky_depth
from ..errors import Ex4dError
from ..files import prepare_folder
from ..image_files import read_exr, read_png, write_exr_depth, write_png
from ..plate import PlateInfo
from ..progress import Reporter
from ..reference_paths import reference_intrinsics
from ..shot import COMPAT_MODES, Geometry, Plate, Shot, save_shot
from ..video import probe, read_frames
from .folder_lock import locked
from .shot_renewal import (
    finish_replacement,
    open_shot,
    refuse_foreign_folder,
    refuse_own_files,
    replace_shot,
    stamp,
)

BYTES_PER_PIXEL = 20  # plate and albedo PNG, depth EXR and flags together, measured on real clips, rounded up
REFERENCE_Z_LIMITS = (1e-4, 1e4)


@dataclass(frozen=True)
class ReconstructSettings:
    """What makes a shot.

    source: a movie, an image, a folder or a pattern of images.
    first, last, stride: which of the clip's own frame numbers; None is the clip's own end.
    first_number: the number of a movie's first frame (a sequence keeps its files' numbers).
    depth, depth_options: name of a depth source and its options.
    fov_deg: field of view of the longer side; None takes the depth source's, else the stated default.
    fps: the clip's own frames a second, such as "25" or "24000/1001"; None is what the clip says. An image
        sequence says nothing.
    compat: "none", or "reference" for the reference implementation's geometry with its defects.
    """

    source: str
    first: int | None = None
    last: int | None = None
    stride: int = 1
    first_number: int | None = None
    depth: str = "rough-pictorial"
    depth_options: dict[str, Any] = field(default_factory=dict)
    fov_deg: float | None = None
    fps: str | None = None
    compat: str = "none"


def reconstruct(settings: ReconstructSettings, root: Path, reporter: Reporter) -> Shot:
    """Makes the shot folder `root` from a clip, or goes on where an interrupted run stopped.

    A finished shot made from other settings, or from files that have changed since, is made anew aside and replaced
    when the new one is whole; its takes stay. What fails on the way leaves it as it was.

    Raises:
        Ex4dError: for a clip, depth or folder that cannot be used, before work starts where possible.
    """
    settings = _checked(settings, root)
    source = depth_source(settings.depth, **settings.depth_options)
    info = probe(settings.source, first_number=_first_number(settings))
    frames = frames_asked_for(settings, info)
    prepare_folder(root)
    with locked(root):
        finish_replacement(root)
        refuse_foreign_folder(root)
        prepare_folder(root, need_bytes=len(frames) * info.width * info.height * BYTES_PER_PIXEL)
        return _reconstructed(settings, source, info, frames, root, reporter)


def _reconstructed(
    settings: ReconstructSettings,
    source: DepthSource,
    info: PlateInfo,
    frames: range,
    root: Path,
    reporter: Reporter,
) -> Shot:
    shot = open_shot(_record(settings, info), root, reporter)
    if shot.plate is None:
        shot = _decode_plate(settings, shot, frames, reporter)
    if shot.geometry is None:
        plate = shot.require_plate()
        clip = source.estimate(lambda: _plate_images(shot), plate.count, (plate.width, plate.height), reporter)
        reporter.log(clip.note)
        shot = _write_depth(settings, shot, clip, reporter)
    _write_mesh(shot, reporter)
    if shot.root != root:
        replace_shot(root)
    return dataclasses.replace(shot, root=root)


def _checked(settings: ReconstructSettings, root: Path) -> ReconstructSettings:
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
        _rate(settings.fps)
    if settings.fov_deg is not None:
        intrinsics_from_fov(1, 1, settings.fov_deg)  # refuses an impossible angle
    source, options = _whole(settings.source), dict(settings.depth_options)
    refuse_own_files(source, _whole(root))
    if "path" in options:
        depth = _whole(options["path"])
        refuse_own_files(depth, _whole(root))
        options["path"] = str(depth)
    return dataclasses.replace(settings, source=str(source), depth_options=options)


def _rate(text: str) -> Fraction:
    try:
        return json_fields.rate({"fps": text}, "fps")
    except ValueError as error:
        raise Ex4dError("bad_request", f"{text!r} is no frame rate.", "Give it like 25 or 24000/1001.") from error


def _whole(path: Path | str) -> Path:
    # not `resolve`: a mapped drive or a linked folder keeps the name that the user knows
    return Path(os.path.abspath(path))  # noqa: PTH100


def _first_number(settings: ReconstructSettings) -> int:
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


def _record(settings: ReconstructSettings, info: PlateInfo) -> dict[str, Any]:
    """Everything a shot depends on, as it comes back from JSON."""
    depth = settings.depth_options.get("path")
    stamps = {"source_stamp": stamp(info.path), "depth_stamp": None if depth is None else stamp(Path(depth))}
    record: dict[str, Any] = json.loads(json.dumps({**dataclasses.asdict(settings), **stamps}))
    return record


# --------------------------------------------------------------------------------------------- plate


def _decode_plate(settings: ReconstructSettings, shot: Shot, frames: range, reporter: Reporter) -> Shot:
    reader = read_frames(
        settings.source,
        first=settings.first,
        last=settings.last,
        stride=settings.stride,
        reporter=reporter,
        first_number=_first_number(settings),
    )
    info = reader.info
    for note in info.notes:
        reporter.log(note)
    if settings.fps is not None:
        reporter.log(f"The clip is taken at {settings.fps} frames a second, as asked.")
    (shot.root / "plate").mkdir(exist_ok=True)
    count = 0
    with BackgroundWriter() as writer:
        for frame in reader:
            reporter.check()
            # files are numbered without gaps from the first source number: Blender's image sequences need it
            path = shot.plate_file(frames.start + count)
            if not path.is_file():
                image = frame.image if frame.alpha is None else np.dstack([frame.image, frame.alpha])
                writer.submit(write_png, path, image)
            count += 1
            reporter.progress("decode", count, max(len(frames), count))
    if count == 0:
        raise Ex4dError("no_frames", f"{settings.source} holds no readable frame.", "Choose another clip or range.")
    reporter.progress("decode", count, count)
    shot = dataclasses.replace(
        shot,
        plate=Plate(
            path=settings.source,
            fps=(info.fps if settings.fps is None else _rate(settings.fps)) / settings.stride,
            first=frames.start,
            count=count,
            width=info.width,
            height=info.height,
            source_first=frames.start,
            stride=settings.stride,
            notes=(*info.notes, *reader.notes),
        ),
    )
    save_shot(shot)
    return shot


def _plate_images(shot: Shot) -> Iterator[NDArray[np.uint8]]:
    for number in shot.require_plate().numbers:
        yield read_png(shot.plate_file(number))[..., :3]


# --------------------------------------------------------------------------------------------- depth


def _write_depth(settings: ReconstructSettings, shot: Shot, clip: DepthClip, reporter: Reporter) -> Shot:
    plate = shot.require_plate()
    _check_cameras(clip, plate)
    (shot.root / "depth").mkdir(exist_ok=True)
    nearest, farthest, unknown, skies, subjects = np.inf, 0.0, 0, [], []
    count = 0
    for number, frame in zip(plate.numbers, clip.frames, strict=False):
        reporter.check()
        depth = np.clip(frame.depth, *REFERENCE_Z_LIMITS) if settings.compat == "reference" else frame.depth
        result = repair(depth, number)
        finite = result.depth[np.isfinite(result.depth)]
        if finite.size:
            nearest, farthest = min(nearest, float(finite.min())), max(farthest, float(finite.max()))
        if result.infinite:
            skies.append(number)
        unknown += result.unknown
        subjects.append(subject_depth(result.depth))
        if not shot.depth_file(number).is_file():  # from an interrupted run of the same settings
            write_exr_depth(shot.depth_file(number), result.depth.astype(np.float32))
        count += 1
        reporter.progress("depth", count, plate.count)
    if count != plate.count:
        raise Ex4dError(
            "depth_mismatch",
            f"The depth source gave {count} frames for a plate of {plate.count}.",
            "Give one depth map a frame.",
        )
    sky = sky_depth(farthest)
    for number in skies:
        # the sky's depth is one for the shot, so it is known only now
        reporter.check()
        depth = read_exr(shot.depth_file(number))
        if not np.isfinite(depth).all():
            write_exr_depth(shot.depth_file(number), np.where(np.isfinite(depth), depth, np.float32(sky)))
    if skies:
        reporter.log(f"{len(skies)} frames hold sky or infinite depth; it was put at {sky:.3g} scene units.")
    if unknown:
        reporter.log(f"{unknown} depth values were no usable number and took their nearest neighbour's.")
    finite_subjects = [value for value in subjects if np.isfinite(value)]
    geometry = Geometry(
        depth_source=settings.depth,
        depth_note=clip.note,
        intrinsics=as_matrix(_intrinsics(settings, plate, clip, reporter)),
        near=nearest if np.isfinite(nearest) else sky,
        far=far_surface(max(farthest, sky if skies else 0.0)),
        subject=float(np.median(finite_subjects)) if finite_subjects else sky,
        repaired=unknown,
        compat=settings.compat,
        poses=() if clip.camera_to_world is None else tuple(as_matrix(pose) for pose in clip.camera_to_world),
    )
    shot = dataclasses.replace(shot, geometry=geometry)
    save_shot(shot)
    return shot


def _check_cameras(clip: DepthClip, plate: Plate) -> None:
    """Raises `camera_invalid` or `depth_mismatch` for cameras that came with the depth and cannot be used."""
    lens = np.eye(3) if clip.intrinsics is None else clip.intrinsics
    poses = np.eye(4)[None] if clip.camera_to_world is None else clip.camera_to_world
    for pose in poses:
        check_camera(lens, pose)
    if clip.camera_to_world is not None and len(poses) != plate.count:
        raise Ex4dError(
            "depth_mismatch",
            f"The depth source gave {len(poses)} camera poses for a plate of {plate.count} frames.",
            "Give one pose a frame, or none.",
        )


def subject_depth(depth: NDArray[np.float32]) -> float:
    """The median depth of the subject: of the nearer half of the middle of the frame. depth: (H,W), may hold inf."""
    height, width = depth.shape
    middle = depth[height // 4 : height - height // 4, width // 4 : width - width // 4].ravel()
    return float(np.median(middle[middle <= np.median(middle)]))


def _intrinsics(
    settings: ReconstructSettings, plate: Plate, clip: DepthClip, reporter: Reporter
) -> NDArray[np.float64]:
    if settings.compat == "reference":
        return reference_intrinsics(plate.width, plate.height)
    if settings.fov_deg is not None:
        return intrinsics_from_fov(plate.width, plate.height, settings.fov_deg)
    if clip.intrinsics is not None:
        return clip.intrinsics
    default = intrinsics_from_fov(plate.width, plate.height)
    reporter.log("The lens is not known: a field of view of 50° is assumed. Give the real one for exact moves.")
    return default


# ---------------------------------------------------------------------------------------------- mesh


def shot_ray_grid(shot: Shot) -> RayGrid:
    """The static half of the shot's mesh, from its settings."""
    plate, geometry = shot.require_plate(), shot.require_geometry()
    intrinsics = np.array(geometry.intrinsics)
    if geometry.compat == "reference":
        return reference_ray_grid(plate.width, plate.height, intrinsics)
    return ray_grid(plate.width, plate.height, intrinsics, geometry.far)


def _write_mesh(shot: Shot, reporter: Reporter) -> None:
    plate = shot.require_plate()
    (shot.root / "mesh").mkdir(exist_ok=True)
    grid = shot_ray_grid(shot)
    if not shot.rays_file.is_file():
        save_ray_grid(grid, shot.rays_file)
    with BackgroundWriter() as writer:
        for done, number in enumerate(plate.numbers):
            reporter.check()
            reporter.progress("mesh", done, plate.count)
            if shot.seen_file(number).is_file() and shot.albedo_file(number).is_file():
                continue
            writer.submit(_write_mesh_frame, shot, grid, number)
    reporter.progress("mesh", plate.count, plate.count)


def _write_mesh_frame(shot: Shot, grid: RayGrid, number: int) -> None:
    image, depth = read_png(shot.plate_file(number)), read_exr(shot.depth_file(number))
    if shot.require_geometry().compat == "reference":
        seen, alpha = reference_seen(grid, depth)
        # its colours fade to black towards flagged vertices: the vertex's colour is black itself
        colour = image[..., :3] * (alpha[..., None] > 0)
    else:
        seen = seen_faces(depth, image[..., 3] if image.shape[2] == 4 else None)
        colour, alpha = image[..., :3], seen_pixels(seen, *grid.plate_size)
    write_png(shot.seen_file(number), seen)
    write_png(shot.albedo_file(number), np.dstack([colour, alpha]))
