# SPDX-License-Identifier: GPL-3.0-or-later
"""Generated scenes with their true cameras: depth of unknown scale and shift comes to stand still in the world."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import numpy as np
import torch

from ex4d_engine.camera_frame import CameraFrame
from ex4d_engine.cameras import as_matrix, pixel_rays
from ex4d_engine.image_files import read_exr, write_png
from ex4d_engine.progress import Silent
from ex4d_engine.shot import Shot
from ex4d_engine.source_cameras.tracks import inverse_depth_at
from ex4d_engine.stages import ReconstructSettings, reconstruct
from ex4d_engine.synthetic import render_views
from ex4d_engine.synthetic.builder import SceneBuilder
from ex4d_engine.synthetic.primitives import Kind
from ex4d_engine.trajectories import Trajectory, save_trajectory
from tests.unit.synthetic.small_scenes import add, intrinsics, moved, scene_of

SIZE = (160, 96)
FRAMES, STEP = 120, 3  # every third is drawn: drawing is what takes the time


@dataclass(frozen=True)
class Clip:
    """images (F, H, W, 3) uint8; depth (F, H, W), inf for sky; lens (3, 3); poses (F, 4, 4)."""

    images: np.ndarray
    depth: np.ndarray
    lens: np.ndarray
    poses: np.ndarray


def furnish(builder: SceneBuilder) -> None:
    """A room of stone with things in it, all of them still."""
    add(builder, Kind.BOX, (0.0, 0.0, 4.0), (3.5, 1.6, 4.5))
    for place in ((-1.6, 0.6, 5.0), (0.4, 0.9, 3.6), (1.9, 0.5, 6.4)):
        add(builder, Kind.BOX, place, (0.5, 0.7, 0.4), rotation=moved(turn=place[0])[:3, :3])
    for place in ((-0.5, 0.5, 4.4), (1.2, -0.4, 5.2), (-1.3, -0.6, 6.8)):
        add(builder, Kind.ELLIPSOID, place, (0.45, 0.6, 0.45))


def generated(arc: float) -> Clip:
    """The camera goes sideways and a little forward, turning by so many radians."""
    scenes = scene_of(furnish)
    share = torch.linspace(-0.5, 0.5, FRAMES)[::STEP]
    poses = torch.stack([moved(1.4 * float(x), 0.1 * float(x), 0.6 * float(x), arc * float(x)) for x in share])[None]
    lens = intrinsics(0.9 * SIZE[0], SIZE[1], SIZE[0])
    lenses = lens.expand(*poses.shape[:2], 3, 3)
    views = render_views(scenes, lenses, poses, torch.zeros(poses.shape[:2]), SIZE[1], SIZE[0], effects=False)
    images = (views.images[0].permute(0, 2, 3, 1) * 255).round().byte().numpy()
    return Clip(images, views.depth[0].numpy(), lens.double().numpy(), poses[0].double().numpy())


def reconstructed(clip: Clip, folder: Path) -> Shot:
    """Through the call that a user makes, from inverse depth that lacks a scale and a shift."""
    (folder / "clip").mkdir()
    for number, image in enumerate(clip.images, 1):
        write_png(folder / "clip" / f"plate.{number:04d}.png", np.ascontiguousarray(image))
    inverse = 1 / clip.depth
    low, high = inverse.min() - 0.2 * np.ptp(inverse), inverse.max() * 1.3
    np.savez(folder / "disparity.npz", depth=((inverse - low) / (high - low)).astype(np.float32))
    cameras = tuple(
        CameraFrame(number, as_matrix(clip.lens), as_matrix(pose)) for number, pose in enumerate(clip.poses, 1)
    )
    save_trajectory(Trajectory(cameras, SIZE, Fraction(24)), folder / "solved.json")
    settings = ReconstructSettings(
        source=str(folder / "clip"),
        depth="file",
        depth_options={
            "path": str(folder / "disparity.npz"), "meaning": "normalised_disparity", "near": 1.0, "far": 50.0
        },
        poses=str(folder / "solved.json"),
        cuts="ignore",
    )  # fmt: skip
    return reconstruct(settings, folder / "shot", Silent())


def seen_points(clip: Clip, shot: Shot) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Points (N, 3) of the middle frame, where the shot puts each in every frame that sees it, (F, N, 3) with NaN
    elsewhere, and their depth there (F, N)."""
    middle = len(clip.poses) // 2
    row, column = (grid.ravel() for grid in np.mgrid[4 : SIZE[1] : 6, 4 : SIZE[0] : 6])
    pose = clip.poses[middle]
    rays = pixel_rays(clip.lens, column + 0.5, row + 0.5)
    points = (rays * clip.depth[middle][row, column][:, None]) @ pose[:3, :3].T + pose[:3, 3]
    found, depths = np.full((len(clip.poses), *points.shape), np.nan), np.zeros((len(clip.poses), len(points)))
    for index, number in enumerate(shot.require_plate().numbers):
        pose = clip.poses[index]
        local = (points - pose[:3, 3]) @ pose[:3, :3]
        image = local @ clip.lens.T
        image = image[:, :2] / image[:, 2:]
        truth, placed = clip.depth[index], read_exr(shot.depth_file(number))
        seen = np.abs(inverse_depth_at(truth, image)[0] * local[:, 2] - 1) < 0.002
        z = 1 / inverse_depth_at(placed, image[seen])[0]
        rays = pixel_rays(clip.lens, image[seen, 0], image[seen, 1])
        found[index, seen] = (rays * z[:, None]) @ pose[:3, :3].T + pose[:3, 3]
        depths[index] = local[:, 2]
    return points, found, depths


def test_a_still_point_stays_within_one_percent_of_its_depth(tmp_path: Path) -> None:
    clip = generated(-0.2)
    shot = reconstructed(clip, tmp_path)
    placement = shot.require_geometry().placement
    assert placement is not None and placement.alignment == "affine"
    points, found, depths = seen_points(clip, shot)
    assert np.isfinite(found[..., 0]).sum() > 5000
    often = np.isfinite(found[..., 0]).sum(0) > 10
    found, depths, points = found[:, often], depths[:, often], points[often]
    moved = np.linalg.norm(found - np.nanmedian(found, axis=0), axis=-1) / depths
    assert np.nanmax(moved) < 0.01
    # where it stays is as right as points that are followed through so small a picture can tell
    assert np.nanmax(np.linalg.norm(found - points, axis=-1) / depths) < 0.025
