# SPDX-License-Identifier: GPL-3.0-or-later
"""Frames from the source view to a take's first camera: the denoiser knows its first frame as a whole one.

The model was trained with videos that begin at the source view. A path that begins elsewhere, even where all of its
first frame is seen, is led there by frames that are generated with it and dropped from the result.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from ..camera_frame import CameraFrame
from ..cameras import as_matrix, pixel_rays, project, scaled_intrinsics
from ..files import prepare_folder
from ..image_files import read_png, write_png
from ..progress import Reporter
from ..shot import Shot
from ..take import Take
from ..trajectories import spline
from .render import is_of_this_shot, open_meshes

SOURCE_VIEW_TOLERANCE: Final = 1 / 512
"""How far the source view's corners, at the subject's distance, may lie from the first camera's for it to count as the
source view, as a share of the frame's longer side: about a pixel where the model works."""
UNSEEN_TOLERANCE: Final = 0.001  # of the first frame's pixels
DEGREES_A_FRAME, DISTANCE_A_FRAME = 2.0, 0.02  # the latter a share of the subject's distance
ZOOM_A_FRAME: Final = 0.02  # as a factor: a dolly of that share of the distance enlarges the subject as much
STEP, MOST_FRAMES = 4, 48  # whole latent frames, so that the take's own frames stay together in theirs
FOLDER_NAME: Final = "lead_in"

FramePair = tuple[Path, Path]
"""Files of a frame's colour and mask."""


def lead_in(shot: Shot, take: Take, reporter: Reporter) -> list[FramePair]:
    """Draws the frames to put before the take's, into its folder `lead_in`; none where it begins at the source view.

    The cameras decide (`begins_at_source_view`). A first frame with holes is led to in any case: at the source view a
    mesh that was edited may have some, and the lead-in then begins with the whole plate. Conditioning without
    geometry, and that of a shot made anew since, is judged by its first mask alone, and so is `compat="reference"`,
    where the plate stands in for the first frame whatever its camera sees.
    """
    seen = read_png(take.file("mask", take.first)) == 255
    is_whole = float(seen.mean()) >= 1 - UNSEEN_TOLERANCE
    has_cameras = shot.geometry is not None and is_of_this_shot(shot, take)
    if is_whole and (
        not has_cameras or shot.require_geometry().compat == "reference" or begins_at_source_view(shot, take)
    ):
        return []
    if not has_cameras:
        reporter.log(
            "The first frame has holes and there is no geometry to lead to it from the source view: the model begins "
            "at a frame that it does not know as a whole, which it was not trained for."
        )
        return []
    cameras = lead_in_cameras(shot, take)
    reporter.log(f"{len(cameras)} frames lead from the source view to the first camera; they are dropped at the end.")
    folder, size = take.root / FOLDER_NAME, (take.width, take.height)
    prepare_folder(folder)
    pairs = []
    with open_meshes(shot, wall_share=take.wall_share) as meshes:
        for index, camera in enumerate(cameras):
            reporter.check()
            drawn = meshes.draw(camera.source, camera, size)
            color, mask = drawn.color, drawn.mask
            if index == 0 and (take.width, take.height) == (shot.require_plate().width, shot.require_plate().height):
                color = read_png(shot.plate_file(camera.source))[..., :3]
                mask = np.full(mask.shape, 255, np.uint8)
            pair = (folder / f"color.{index:04d}.png", folder / f"mask.{index:04d}.png")
            for file, image in zip(pair, (color, mask), strict=True):
                write_png(file, image)
            pairs.append(pair)
    return pairs


def begins_at_source_view(shot: Shot, take: Take) -> bool:
    """Whether the take's first camera is the source camera of the frame it sees, within `SOURCE_VIEW_TOLERANCE`.

    Place, direction and lens count together, by where they put the corners of what the source camera sees.
    """
    first, lens = take.frames[0], _source_lens(shot, take)
    corners = np.array([(x, y) for x in (0, take.width) for y in (0, take.height)], dtype=np.float64)
    points = pixel_rays(lens, corners[:, 0], corners[:, 1]) * shot.require_geometry().subject
    pose = np.array(shot.source_pose(first.source))
    world = points @ pose[:3, :3].T + pose[:3, 3]
    with np.errstate(divide="ignore", invalid="ignore"):  # a corner beside the camera has no place in its image
        places, depth = project(world, np.array(first.intrinsics), np.array(first.camera_to_world))
    if not (depth > 0).all():
        return False
    moved = np.linalg.norm(places - corners, axis=-1).max()
    return bool(moved <= SOURCE_VIEW_TOLERANCE * max(take.width, take.height))


def lead_in_cameras(shot: Shot, take: Take) -> list[CameraFrame]:
    """Cameras from the source view, included, to the take's first, not included: 4 … 48, a multiple of 4."""
    first, geometry, lens = take.frames[0], shot.require_geometry(), _source_lens(shot, take)
    start, end = np.array(shot.source_pose(first.source)), np.array(first.camera_to_world)
    cosine = (float(np.trace(start[:3, :3].T @ end[:3, :3])) - 1) / 2
    turn = math.degrees(math.acos(min(1.0, max(-1.0, cosine))))
    distance = float(np.linalg.norm(end[:3, 3] - start[:3, 3])) / geometry.subject
    last = np.array(first.intrinsics)
    zoom = abs(math.log(last[0, 0] / lens[0, 0]))
    shift = float(np.linalg.norm(_axis(last, take) - _axis(lens, take)))
    wanted = max(
        turn / DEGREES_A_FRAME,
        distance / DISTANCE_A_FRAME,
        zoom / math.log1p(ZOOM_A_FRAME),
        math.degrees(math.atan(shift)) / DEGREES_A_FRAME,
    )
    count = min(MOST_FRAMES, max(STEP, STEP * math.ceil(min(wanted, MOST_FRAMES) / STEP)))
    poses = spline([(0.0, start), (1.0, end)], count + 1)[:-1]
    lenses = [lens + (last - lens) * (index / count) for index in range(count)]
    return [CameraFrame(first.source, as_matrix(k), as_matrix(pose)) for k, pose in zip(lenses, poses, strict=True)]


def _source_lens(shot: Shot, take: Take) -> NDArray[np.float64]:
    """K of the source view in the take's frame: inside the source's, all of which is seen, whatever its aspect."""
    plate = shot.require_plate()
    scale = max(take.width / plate.width, take.height / plate.height)
    lens = scaled_intrinsics(np.array(shot.source_intrinsics(take.frames[0].source)), scale, scale)
    lens[:2, 2] += (np.array([take.width, take.height]) - scale * np.array([plate.width, plate.height])) / 2
    return lens


def _axis(intrinsics: NDArray[np.float64], take: Take) -> NDArray[np.float64]:
    """Tangents by which the frame's middle lies off the lens's axis, across and down."""
    x, y, _ = pixel_rays(intrinsics, take.width / 2, take.height / 2)
    return np.array([x, y])
