# SPDX-License-Identifier: GPL-3.0-or-later
"""The first stage: clip → plate → depth → DW-Mesh, streamed, whatever the clip's length."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ..background import BackgroundWriter
from ..cameras import as_matrix, check_camera
from ..depth import DepthClip, DepthSource, depth_source
from ..dwmesh.edges import edge_alpha, wall_widths
from ..dwmesh.occlusion import reference_seen, seen_faces
from ..dwmesh.ray_grid import RayGrid, ray_grid, reference_ray_grid, save_ray_grid
from ..dwmesh.repair import far_surface, repair, sky_depth
from ..errors import Ex4dError
from ..files import prepare_folder
from ..image_files import read_exr, read_png, write_exr_depth, write_png
from ..plate import PlateInfo
from ..progress import Reporter
from ..reference_paths import reference_intrinsics
from ..shot import Geometry, Plate, Shot, load_shot, save_shot
from ..source_cameras.cuts import CutFinder, shot_ranges
from ..source_cameras.lens import SourceLens, choose_lens, user_field_of_view
from ..source_cameras.poses import SourcePoses, read_poses
from ..source_cameras.scale import Measurement, metres_per_unit
from ..source_cameras.zoom_finder import ZoomFinder
from ..video import probe, read_frames
from .folder_lock import locked
from .known_lens import through_lens
from .reconstruct_settings import (
    ReconstructSettings,
    asked_measurement,
    checked,
    first_number_of,
    frame_rate,
    frames_asked_for,
    settings_record,
)
from .shot_renewal import (
    finish_replacement,
    open_shot,
    refuse_foreign_folder,
    replace_shot,
)
from .source_depth import PlacedDepth, place_depth, placement_record, remove_unplaced, rescaled
from .subject import subject_of

BYTES_PER_PIXEL = 20  # plate and albedo PNG, depth EXR and flags together, measured on real clips, rounded up
REFERENCE_Z_LIMITS = (1e-4, 1e4)
_SCALE_SETTINGS = ("scene_scale", "measured")


def reconstruct(settings: ReconstructSettings, root: Path, reporter: Reporter) -> Shot:
    """Makes the shot folder `root` from a clip, or goes on where an interrupted run stopped.

    A finished shot made from other settings, or from files that have changed since, is made anew aside and replaced
    when the new one is whole; its takes stay. What fails on the way leaves it as it was.

    Raises:
        Ex4dError: for a clip, depth or folder that cannot be used, before work starts where possible.
    """
    settings = checked(settings, root)
    source = depth_source(settings.depth, **settings.depth_options)
    info = probe(settings.source, first_number=first_number_of(settings))
    frames = frames_asked_for(settings, info)
    solved = None if settings.poses is None else read_poses(Path(settings.poses), frames, (info.width, info.height))
    measured = asked_measurement(settings, frames)
    prepare_folder(root)
    with locked(root):
        finish_replacement(root)
        refuse_foreign_folder(root)
        prepare_folder(root, need_bytes=len(frames) * info.width * info.height * BYTES_PER_PIXEL)
        return _reconstructed(settings, source, info, frames, solved, measured, root, reporter)


def _reconstructed(
    settings: ReconstructSettings,
    source: DepthSource,
    info: PlateInfo,
    frames: range,
    solved: SourcePoses | None,
    measured: Measurement | None,
    root: Path,
    reporter: Reporter,
) -> Shot:
    shot = open_shot(settings_record(settings, info), root, reporter)
    if shot.plate is None:
        shot = _decode_plate(settings, shot, frames, reporter)
    _refuse_cuts(settings, shot.require_plate())
    if shot.geometry is None:
        shot = _only_rescaled(settings, measured, shot, root, reporter)
    if shot.geometry is None:
        plate = shot.require_plate()
        clip = source.estimate(lambda: _plate_images(shot), plate.count, (plate.width, plate.height), reporter)
        reporter.log(clip.note)
        _check_cameras(clip, plate)
        lens = _lens(settings, plate, clip, solved, reporter)
        if settings.compat != "reference":  # whose lens is an assumption, not known of the clip
            clip = through_lens(clip, lens, (plate.width, plate.height), plate.count, solved is not None, reporter)
        placed = place_depth(shot, clip, lens, solved, settings.scene_scale, measured, reporter)
        shot = _write_depth(settings, shot, clip, lens, placed, reporter)
    remove_unplaced(shot)
    _write_mesh(shot, reporter)
    if shot.root != root:
        replace_shot(root)
    return dataclasses.replace(shot, root=root)


# --------------------------------------------------------------------------------------------- plate


def _decode_plate(settings: ReconstructSettings, shot: Shot, frames: range, reporter: Reporter) -> Shot:
    reader = read_frames(
        settings.source,
        first=settings.first,
        last=settings.last,
        stride=settings.stride,
        reporter=reporter,
        first_number=first_number_of(settings),
    )
    info = reader.info
    for note in info.notes:
        reporter.log(note)
    if settings.fps is not None:
        reporter.log(f"The clip is taken at {settings.fps} frames a second, as asked.")
    (shot.root / "plate").mkdir(exist_ok=True)
    count = 0
    fps = (info.fps if settings.fps is None else frame_rate(settings.fps)) / settings.stride
    finder = CutFinder(float(fps))
    zooms = ZoomFinder() if settings.poses is None else None  # a solved camera knows its lens
    with BackgroundWriter() as writer:
        for frame in reader:
            reporter.check()
            finder.add(frames.start + count, frame.image)
            if zooms is not None:
                zooms.add(frame.image)
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
    zoomed = () if zooms is None else zooms.notes()
    for note in zoomed:
        reporter.log(note)
    shot = dataclasses.replace(
        shot,
        plate=Plate(
            path=settings.source,
            fps=fps,
            first=frames.start,
            count=count,
            width=info.width,
            height=info.height,
            source_first=frames.start,
            stride=settings.stride,
            notes=(*info.notes, *reader.notes, *zoomed),
            cuts=tuple(finder.cuts()),
            dissolves=tuple((found.first, found.last) for found in finder.dissolves()),
        ),
    )
    save_shot(shot)
    return shot


def _plate_images(shot: Shot) -> Iterator[NDArray[np.uint8]]:
    for number in shot.require_plate().numbers:
        yield read_png(shot.plate_file(number))[..., :3]


def _refuse_cuts(settings: ReconstructSettings, plate: Plate) -> None:
    """A cut is another camera in another place: one mesh cannot hold both.

    The plate is kept, so that to go on with the whole of it decodes nothing again.
    """
    if not plate.cuts or settings.cuts == "ignore":
        return
    offset = plate.source_first - plate.first * plate.stride

    def said(ranges: Sequence[tuple[int, int]]) -> list[str]:
        return [f"{first * plate.stride + offset} to {last * plate.stride + offset}" for first, last in ranges]

    shots = said(shot_ranges(plate.numbers, plate.cuts, plate.dissolves))
    mixed = f" ({', '.join(said(plate.dissolves))} dissolve)" if plate.dissolves else ""
    first, _, last = shots[0].partition(" to ")
    raise Ex4dError(
        "has_cuts",
        f"{Path(plate.path).name} is edited from {len(shots)} shots: frames {', '.join(shots)}{mixed}.",
        f"Choose one of them as the range (--first {first} --last {last}), or keep them together (--cuts ignore).",
        "ex4d.next_shot_of_clip",
    )


# --------------------------------------------------------------------------------------------- depth


def _only_rescaled(
    settings: ReconstructSettings, measured: Measurement | None, shot: Shot, root: Path, reporter: Reporter
) -> Shot:
    """`shot` from the finished one in `root`, where nothing but the scale differs; else as it is."""
    if shot.root == root or (settings.scene_scale is None and measured is None):
        return shot
    before = load_shot(root)
    numbers = shot.require_plate().numbers
    others = [
        {name: value for name, value in settings.items() if name not in _SCALE_SETTINGS}
        for settings in (before.settings, shot.settings)
    ]
    if before.geometry is None or others[0] != others[1] or before.require_plate().numbers != numbers:
        return shot
    if not all(before.depth_file(number).is_file() for number in numbers):
        return shot
    if settings.scene_scale is not None:
        ratio = settings.scene_scale / before.geometry.scale
    else:
        assert measured is not None
        lens = np.array(before.source_intrinsics(measured.frame))
        ratio = metres_per_unit(measured, read_exr(before.depth_file(measured.frame)), lens)
    return rescaled(before, shot, ratio, reporter)


def _write_depth(
    settings: ReconstructSettings,
    shot: Shot,
    clip: DepthClip,
    lens: SourceLens,
    placed: PlacedDepth,
    reporter: Reporter,
) -> Shot:
    plate = shot.require_plate()
    (shot.root / "depth").mkdir(exist_ok=True)
    nearest, farthest, unknown, skies = np.inf, 0.0, 0, []
    for done, (number, depth) in enumerate(zip(plate.numbers, placed.frames, strict=True), 1):
        reporter.check()
        result = repair(np.clip(depth, *REFERENCE_Z_LIMITS) if settings.compat == "reference" else depth, number)
        finite = result.depth[np.isfinite(result.depth)]
        if finite.size:
            nearest, farthest = min(nearest, float(finite.min())), max(farthest, float(finite.max()))
        if result.infinite:
            skies.append(number)
        unknown += result.unknown
        if not shot.depth_file(number).is_file():  # from an interrupted run of the same settings
            write_exr_depth(shot.depth_file(number), result.depth.astype(np.float32))
        reporter.progress("depth", done, plate.count)
    sky = sky_depth(farthest)
    for number in skies:
        # the sky's depth is one for the shot, so it is known only now
        reporter.check()
        depth = read_exr(shot.depth_file(number))
        if not np.isfinite(depth).all():
            write_exr_depth(shot.depth_file(number), np.where(np.isfinite(depth), depth, np.float32(sky)))
    if skies:
        frames = "1 frame holds" if len(skies) == 1 else f"{len(skies)} frames hold"
        reporter.log(f"{frames} sky or infinite depth; it was put at {sky:.3g} scene units.")
    if unknown:
        values = "1 depth value was" if unknown == 1 else f"{unknown} depth values were"
        reporter.log(f"{values} no usable number, and taken from the nearest neighbour.")
    subject = subject_of(shot, reporter)
    geometry = Geometry(
        depth_source=settings.depth,
        depth_note=clip.note,
        intrinsics=as_matrix(lens.intrinsics),
        near=nearest if np.isfinite(nearest) else sky,
        far=far_surface(max(farthest, sky if skies else 0.0)),
        subject=subject if np.isfinite(subject) else sky,
        repaired=unknown,
        compat=settings.compat,
        poses=() if placed.camera_to_world is None else tuple(as_matrix(pose) for pose in placed.camera_to_world),
        zoom=() if lens.zoom is None else tuple(float(factor) for factor in lens.zoom[: plate.count]),
        lens_note=lens.note,
        placement=placement_record(placed.placement),
        scale=placed.scale,
        is_metric=placed.is_metric,
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


def _lens(
    settings: ReconstructSettings, plate: Plate, clip: DepthClip, solved: SourcePoses | None, reporter: Reporter
) -> SourceLens:
    if settings.compat == "reference":
        return SourceLens(reference_intrinsics(plate.width, plate.height), None, "The lens is the reference's.")
    lens = choose_lens(
        (plate.width, plate.height),
        user_fov_deg=user_field_of_view(settings.fov_deg, settings.focal_mm, settings.sensor_mm),
        solved=None if solved is None else solved.intrinsics,
        estimated=clip.intrinsics,
        source=Path(settings.source),
    )
    for note in (lens.note, *(() if solved is None else solved.notes)):
        reporter.log(note)
    return lens


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
    is_reference = shot.require_geometry().compat == "reference"
    if not shot.rays_file.is_file():
        save_ray_grid(shot_ray_grid(shot), shot.rays_file)
    grid = shot_ray_grid(shot) if is_reference else None  # of 8K it takes 2 GB: kept only where it is needed
    with BackgroundWriter() as writer:
        for done, number in enumerate(plate.numbers):
            reporter.check()
            reporter.progress("mesh", done, plate.count)
            files = [shot.seen_file(number), shot.albedo_file(number)]
            if all(file.is_file() for file in (files if is_reference else [*files, shot.width_file(number)])):
                continue
            writer.submit(_write_mesh_frame, shot, grid, number)
    reporter.progress("mesh", plate.count, plate.count)


def _write_mesh_frame(shot: Shot, grid: RayGrid | None, number: int) -> None:
    """grid: of a shot in the reference's geometry."""
    image, depth = read_png(shot.plate_file(number)), read_exr(shot.depth_file(number))
    if grid is not None:
        seen, alpha = reference_seen(grid, depth)
        # its colours fade to black towards flagged vertices: the vertex's colour is black itself
        colour = image[..., :3] * (alpha[..., None] > 0)
    else:
        cover = image[..., 3] if image.shape[2] == 4 else None
        seen = seen_faces(depth, cover)
        colour, alpha = image[..., :3], edge_alpha(seen, image.shape[1], image.shape[0], cover)
        focal_px = shot.require_geometry().intrinsics[0][0]
        write_png(shot.width_file(number), wall_widths(depth, seen, focal_px))
    write_png(shot.seen_file(number), seen)
    write_png(shot.albedo_file(number), np.dstack([colour, alpha]))
