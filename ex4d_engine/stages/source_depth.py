# SPDX-License-Identifier: GPL-3.0-or-later
"""Depth on its way into the shot: as the source gives it, placed in the world of the poses, and in the user's scale.

What the whole clip decides (placement, a measured length) is known only after the last frame. The source's maps are
kept in the shot folder until then, as `depth/unplaced.####.exr`, and removed once the shot is whole.
"""

from __future__ import annotations

import dataclasses
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ..depth import DepthClip, DepthFrame
from ..dwmesh.repair import repair
from ..errors import Ex4dError
from ..image_files import read_exr, read_png, write_exr_depth
from ..progress import Reporter
from ..shot import DepthPlacement, Geometry, Plate, Shot, save_shot
from ..source_cameras.lens import SourceLens
from ..source_cameras.placement import Alignment, Placement, collect_pairs, fit_placement
from ..source_cameras.poses import SourcePoses
from ..source_cameras.scale import Measurement, metres_per_unit
from ..source_cameras.tracks import feature_tracks

Array = NDArray[np.float64]


@dataclass(frozen=True)
class PlacedDepth:
    """The depth as the shot shall have it.

    frames: z maps in scene units, not repaired yet; camera_to_world: (F,4,4) in the same units, or None.
    scale: what both were multiplied with after the placement; is_metric: scene units are metres.
    """

    frames: Iterator[NDArray[np.float32]]
    camera_to_world: Array | None
    placement: Placement | None
    scale: float
    is_metric: bool


def place_depth(
    shot: Shot,
    clip: DepthClip,
    lens: SourceLens,
    solved: SourcePoses | None,
    scene_scale: float | None,
    measured: Measurement | None,
    reporter: Reporter,
) -> PlacedDepth:
    """Everything between a depth source's answer and the shot's depth files.

    Args:
        clip: its `frames` are consumed now where the whole clip decides, else as the answer's are.
        solved: poses from a file; None leaves the source's own, which are in one scale with its depth.
        scene_scale: metres a unit; measured: the same from a length; both None for no change.

    Raises:
        Ex4dError: `depth_mismatch` for another number of maps than frames; `bad_request` for a length that cannot
            be measured; whatever the depth source raises.
    """
    plate = shot.require_plate()
    is_metric = clip.scale == "metric"
    if solved is None and measured is None:
        scale = 1.0 if scene_scale is None else scene_scale
        own = (frame.depth for frame in counted(clip.frames, plate))
        return PlacedDepth(
            _scaled(own, scale), _moved(clip.camera_to_world, scale), None, scale, is_metric or scene_scale is not None
        )
    kept = _kept_maps(shot, clip, reporter)
    poses, placement, scale = clip.camera_to_world, None, 1.0
    if solved is None:
        deque(kept, maxlen=0)
    else:
        poses = solved.camera_to_world[: plate.count]
        placement = _fitted(shot, kept, lens, poses, "scale" if is_metric else clip.alignment)
        _tell(placement, reporter)
        if is_metric and placement.alignment != "none":
            if solved.unit == "arbitrary":
                scale = placement.scale
                reporter.log(f"The depth is metric: the solved camera's path is scaled by {scale:.4g} to metres.")
            else:
                is_metric = False
                reporter.log(f"By the metric depth, a unit of the solved camera's world is {placement.scale:.4g} m.")
    apply = None if placement is None else placement.apply
    if scene_scale is not None:
        scale, is_metric = scene_scale, True
    elif measured is not None:
        depth = read_exr(unplaced_file(shot, measured.frame))
        depth = repair(depth if apply is None else apply(depth), measured.frame).depth
        scale = metres_per_unit(measured, depth, lens.of_frame(measured.frame - plate.first))
        is_metric = True
        reporter.log(f"By the measured length, a scene unit was {scale:.4g} m: the shot is scaled to metres.")
    unplaced = (read_exr(unplaced_file(shot, number)) for number in plate.numbers)
    maps = unplaced if apply is None else map(apply, unplaced)
    return PlacedDepth(_scaled(maps, scale), _moved(poses, scale), placement, scale, is_metric)


def _fitted(
    shot: Shot,
    maps: Iterator[tuple[int, DepthFrame]],
    lens: SourceLens,
    poses: Array,
    alignment: Alignment,
) -> Placement:
    plate = shot.require_plate()
    lenses = np.array([lens.of_frame(index) for index in range(plate.count)])
    tracks = feature_tracks(
        (read_png(shot.plate_file(number))[..., :3], frame.depth, frame.confidence) for number, frame in maps
    )
    pairs = collect_pairs(tracks, lenses, poses, max(plate.width, plate.height))
    deque(maps, maxlen=0)  # of a camera that stands still nothing is followed: its maps are wanted all the same
    return fit_placement(pairs, alignment)


def placement_record(placement: Placement | None) -> DepthPlacement | None:
    """A placement as the shot keeps it."""
    if placement is None:
        return None
    before, after = placement.before, placement.after
    return DepthPlacement(
        alignment=placement.alignment,
        scale=placement.scale,
        shift=placement.shift,
        agreement=placement.agreement,
        tracks=placement.tracks,
        flicker=None if before is None or after is None else (before.frame_to_frame, after.frame_to_frame),
    )


def counted(frames: Iterator[DepthFrame], plate: Plate) -> Iterator[DepthFrame]:
    """The frames, one for each of the plate; raises `depth_mismatch` where there are fewer."""
    count = 0
    for _, frame in zip(plate.numbers, frames, strict=False):
        count += 1
        yield frame
    if count != plate.count:
        raise Ex4dError(
            "depth_mismatch",
            f"The depth source gave {count} frames for a plate of {plate.count}.",
            "Give one depth map a frame.",
        )


def unplaced_file(shot: Shot, number: int) -> Path:
    """(H,W) EXR: a frame's depth as its source gave it, while the shot is being made."""
    return shot.root / "depth" / f"unplaced.{number:04d}.exr"


def remove_unplaced(shot: Shot) -> None:
    """To be called once the shot's geometry is saved."""
    for file in (shot.root / "depth").glob("unplaced.*.exr"):
        file.unlink(missing_ok=True)


def rescaled(before: Shot, shot: Shot, ratio: float, reporter: Reporter) -> Shot:
    """`shot`, begun with the plate of the finished shot `before`, gets its depth and poses times `ratio`.

    A new scale changes no picture and no shape, so no depth is estimated again.
    """
    (shot.root / "depth").mkdir(exist_ok=True)
    plate = before.require_plate()
    for done, number in enumerate(plate.numbers, 1):
        reporter.check()
        if not shot.depth_file(number).is_file():
            write_exr_depth(shot.depth_file(number), read_exr(before.depth_file(number)) * np.float32(ratio))
        reporter.progress("scale", done, plate.count)
    geometry = rescaled_geometry(before.require_geometry(), ratio)
    result = dataclasses.replace(shot, geometry=geometry)
    save_shot(result)
    return result


def rescaled_geometry(geometry: Geometry, ratio: float) -> Geometry:
    """The same world with all lengths times `ratio`, which makes its units metres."""
    poses = tuple((*((*row[:3], row[3] * ratio) for row in pose[:3]), pose[3]) for pose in geometry.poses)
    return dataclasses.replace(
        geometry,
        near=geometry.near * ratio,
        far=geometry.far * ratio,
        subject=geometry.subject * ratio,
        poses=poses,
        scale=geometry.scale * ratio,
        is_metric=True,
    )


def _kept_maps(shot: Shot, clip: DepthClip, reporter: Reporter) -> Iterator[tuple[int, DepthFrame]]:
    """(number, depth) of every frame, each map written to its file; one from an interrupted run stays as it is."""
    plate = shot.require_plate()
    (shot.root / "depth").mkdir(exist_ok=True)
    for number, frame in zip(plate.numbers, counted(clip.frames, plate), strict=True):
        reporter.check()
        file = unplaced_file(shot, number)
        if file.is_file():
            depth = read_exr(file)
        else:
            depth = np.asarray(frame.depth, dtype=np.float32)
            write_exr_depth(file, depth)
        yield number, dataclasses.replace(frame, depth=depth)


def _scaled(maps: Iterator[NDArray[np.float32]], scale: float) -> Iterator[NDArray[np.float32]]:
    return maps if scale == 1 else (depth * np.float32(scale) for depth in maps)


def _moved(camera_to_world: Array | None, scale: float) -> Array | None:
    if camera_to_world is None or scale == 1:
        return camera_to_world
    result = np.array(camera_to_world, dtype=np.float64)
    result[:, :3, 3] *= scale
    return result


def _tell(placement: Placement, reporter: Reporter) -> None:
    reporter.log(placement.note)
    if placement.before is not None and placement.after is not None:
        reporter.log(
            f"The depth flickers by {placement.before.frame_to_frame:.2%} from frame to frame as its source gave it, "
            f"by {placement.after.frame_to_frame:.2%} as placed; over the shot it drifts by "
            f"{placement.before.over_shot:.2%} and {placement.after.over_shot:.2%}."
        )
