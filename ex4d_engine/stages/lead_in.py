# SPDX-License-Identifier: GPL-3.0-or-later
"""Frames from the source view to a take's first camera: the denoiser knows its first frame as a whole one.

The model was trained with videos that begin at the source view. A path that begins elsewhere is led there by frames
that are generated with it and dropped from the result.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Final

import numpy as np

from ..cameras import as_matrix, scaled_intrinsics
from ..files import prepare_folder
from ..image_files import read_png, write_png
from ..progress import Reporter
from ..shot import CameraFrame, Shot, Take
from ..trajectories import spline
from .render import is_of_this_shot, open_meshes

UNSEEN_TOLERANCE: Final = 0.001  # of the first frame's pixels
DEGREES_A_FRAME, DISTANCE_A_FRAME = 2.0, 0.02  # the latter a share of the subject's distance
STEP, MOST_FRAMES = 4, 48  # whole latent frames, so that the take's own frames stay together in theirs
FOLDER_NAME: Final = "lead_in"

FramePair = tuple[Path, Path]
"""Files of a frame's colour and mask."""


def lead_in(shot: Shot, take: Take, reporter: Reporter) -> list[FramePair]:
    """Draws the frames to put before the take's, into its folder `lead_in`; none where its first is wholly seen."""
    seen = read_png(take.file("mask", take.first)) == 255
    if float(seen.mean()) >= 1 - UNSEEN_TOLERANCE:
        return []
    if shot.geometry is None or not is_of_this_shot(shot, take):
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
    with open_meshes(shot) as meshes:
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


def lead_in_cameras(shot: Shot, take: Take) -> list[CameraFrame]:
    """Cameras from the source view, included, to the take's first, not included: 4 … 48, a multiple of 4."""
    first, plate, geometry = take.frames[0], shot.require_plate(), shot.require_geometry()
    start, end = np.array(shot.source_pose(first.source)), np.array(first.camera_to_world)
    cosine = (float(np.trace(start[:3, :3].T @ end[:3, :3])) - 1) / 2
    turn = math.degrees(math.acos(min(1.0, max(-1.0, cosine))))
    distance = float(np.linalg.norm(end[:3, 3] - start[:3, 3])) / geometry.subject
    wanted = max(turn / DEGREES_A_FRAME, distance / DISTANCE_A_FRAME)
    count = min(MOST_FRAMES, max(STEP, STEP * math.ceil(min(wanted, MOST_FRAMES) / STEP)))
    # inside the source's frame, all of which is seen, even where the take has another aspect
    scale = max(take.width / plate.width, take.height / plate.height)
    lens = scaled_intrinsics(np.array(shot.source_intrinsics(first.source)), scale, scale)
    lens[:2, 2] += (np.array([take.width, take.height]) - scale * np.array([plate.width, plate.height])) / 2
    poses = spline([(0.0, start), (1.0, end)], count + 1)[:-1]
    lenses = [lens + (np.array(first.intrinsics) - lens) * (index / count) for index in range(count)]
    return [CameraFrame(first.source, as_matrix(k), as_matrix(pose)) for k, pose in zip(lenses, poses, strict=True)]
