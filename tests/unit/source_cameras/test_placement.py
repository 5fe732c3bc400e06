# SPDX-License-Identifier: GPL-3.0-or-later
"""Depth of unknown scale and shift, with flicker, gets into the world of a known camera, on a scene that is known."""

from __future__ import annotations

from collections.abc import Iterator

import cv2
import numpy as np
import pytest

from ex4d_engine.cameras import pixel_rays
from ex4d_engine.source_cameras.flicker import measure_flicker
from ex4d_engine.source_cameras.placement import DepthPairs, Placement, collect_pairs, fit_placement
from ex4d_engine.source_cameras.tracks import feature_tracks, inverse_depth_at
from ex4d_engine.source_cameras.triangulation import triangulate
from tests.unit.source_cameras.still_scene import lens, path, view

SIZE, COUNT = (256, 144), 120
LENS, POSES = lens(SIZE), path(COUNT)
SCALE, SHIFT = 2.5, 0.03
FLICKER = 0.003


@pytest.fixture(scope="module")
def scene() -> list[tuple[np.ndarray, np.ndarray]]:
    """(picture, z depth) of 120 frames."""
    return [view(LENS, pose, SIZE) for pose in POSES]


def distorted(scene: list[tuple[np.ndarray, np.ndarray]], flicker: float) -> list[np.ndarray]:
    """z maps whose inverse is off by a factor, a shift, and a factor a frame."""
    random = np.random.default_rng(1)
    return [
        (1 / ((1 / depth - SHIFT) / SCALE * (1 + flicker * random.standard_normal()))).astype(np.float32)
        for _, depth in scene
    ]


def pairs_of(pictures: Iterator[np.ndarray], depths: list[np.ndarray], poses: np.ndarray) -> DepthPairs:
    lenses = np.tile(LENS, (len(poses), 1, 1))
    return collect_pairs(feature_tracks(zip(pictures, depths, strict=True)), lenses, poses, SIZE[0])


@pytest.fixture(scope="module")
def placed(scene: list[tuple[np.ndarray, np.ndarray]]) -> tuple[list[np.ndarray], Placement]:
    depths = distorted(scene, FLICKER)
    return depths, fit_placement(pairs_of((image for image, _ in scene), depths, POSES), "affine")


def test_a_still_point_stays_within_one_percent_of_its_depth_over_120_frames(
    scene: list[tuple[np.ndarray, np.ndarray]], placed: tuple[list[np.ndarray], Placement]
) -> None:
    depths, placement = placed
    assert placement.alignment == "affine"
    assert placement.scale == pytest.approx(SCALE, rel=0.01)
    assert placement.shift == pytest.approx(SHIFT, abs=0.003)
    # points of the middle frame, wherever they are seen again
    row, column = (grid.ravel() for grid in np.mgrid[16:136:24, 16:248:24])
    middle = scene[COUNT // 2][1]
    rays = pixel_rays(LENS, column + 0.5, row + 0.5)
    pose = POSES[COUNT // 2]
    points = (rays * middle[row, column][:, None]) @ pose[:3, :3].T + pose[:3, 3]
    worst, looked = 0.0, 0
    for (_, truth), depth, pose in zip(scene, depths, POSES, strict=True):
        local = (points - pose[:3, 3]) @ pose[:3, :3]
        image = local @ LENS.T
        image = image[:, :2] / image[:, 2:]
        true, found = (inverse_depth_at(z, image)[0] for z in (truth, placement.apply(depth)))
        visible = np.isfinite(true) & (np.abs(true * local[:, 2] - 1) < 0.002)
        seen_again = pixel_rays(LENS, image[:, 0], image[:, 1])[visible] / found[visible, None]
        world = seen_again @ pose[:3, :3].T + pose[:3, 3]
        error = np.linalg.norm(world - points[visible], axis=1) / local[visible, 2]
        worst, looked = max(worst, float(error.max())), looked + int(visible.sum())
    # the lines of sight are longer than the depth, by 1.2 in the corner
    assert looked > 2000 and worst < 0.0125
    moved = np.array([np.abs(placement.apply(z) / true - 1).max() for z, (_, true) in zip(depths, scene, strict=True)])
    assert moved.max() < 0.01


def test_flicker_is_measured_before_and_after(placed: tuple[list[np.ndarray], Placement]) -> None:
    _, placement = placed
    assert placement.before is not None and placement.after is not None
    # the difference of two frames' errors
    assert placement.after.frame_to_frame == pytest.approx(FLICKER * np.sqrt(2), rel=0.4)
    assert placement.after.over_shot < placement.before.over_shot
    assert "agrees with the cameras to" in placement.note


def test_flicker_of_numbers_that_are_known() -> None:
    frame = np.repeat(np.arange(4), 10)
    world = np.full(40, 0.5)
    factors = np.array([1.0, 1.02, 1.0, 1.02])[frame]
    found = measure_flicker(frame, 3.0 * world * factors, world)
    assert found is not None
    assert found.frame_to_frame == pytest.approx(np.log(1.02)) and found.over_shot == pytest.approx(np.log(1.02) / 2)
    factors[::10] = 5.0  # one of ten moves by itself
    assert measure_flicker(frame, 3.0 * world * factors, world) == pytest.approx(found)
    assert measure_flicker(frame[:10], world[:10], world[:10]) is None


def test_something_that_walks_through_the_picture_does_not_count(scene: list[tuple[np.ndarray, np.ndarray]]) -> None:
    some = slice(0, COUNT, 3)
    depths = distorted(scene, 0.0)[some]
    pictures = []
    noise = np.random.default_rng(5).integers(0, 256, (24, 24), dtype=np.uint8)
    patch = cv2.resize(noise, (80, 80), interpolation=cv2.INTER_CUBIC)
    for index, (image, _) in enumerate(scene[some]):
        left = 20 + 4 * index
        picture = image.copy()
        picture[50:130, left : left + 80] = patch[..., None]
        depths[index] = depths[index].copy()
        depths[index][50:130, left : left + 80] = 0.7
        pictures.append(picture)
    placement = fit_placement(pairs_of(iter(pictures), depths, POSES[some]), "affine")
    assert placement.scale == pytest.approx(SCALE, rel=0.02)
    assert placement.shift == pytest.approx(SHIFT, abs=0.005)


def test_a_metric_source_gets_a_scale_and_no_shift(scene: list[tuple[np.ndarray, np.ndarray]]) -> None:
    some = slice(0, 60, 3)
    depths = [(depth * 4).astype(np.float32) for _, depth in scene[some]]
    placement = fit_placement(pairs_of((image for image, _ in scene[some]), depths, POSES[some]), "scale")
    assert (placement.alignment, placement.shift) == ("scale", 0.0)
    assert placement.scale == pytest.approx(4, rel=0.01)


@pytest.mark.parametrize("motion", ["still", "turning", "hardly"])
def test_a_path_without_baseline_leaves_the_depth_as_it_is(motion: str) -> None:
    poses = path(12)
    poses[:, :3, 3] *= {"still": 0, "turning": 0, "hardly": 1e-4}[motion]
    if motion == "still":
        poses[:, :3, :3] = np.eye(3)
    frames = [view(LENS, pose, SIZE) for pose in poses]
    pairs = pairs_of((image for image, _ in frames), [depth for _, depth in frames], poses)
    placement = fit_placement(pairs, "affine")
    assert placement.alignment == "none" and placement.before is None
    assert "keeps its own scale" in placement.note
    assert placement.apply(frames[0][1]) is frames[0][1]


def test_a_flat_wall_tells_a_scale_only() -> None:
    random = np.random.default_rng(2)
    world = random.uniform(0.100, 0.104, 600)
    pairs = DepthPairs(np.repeat(np.arange(60), 10), world / 2, world, np.ones(600), 100, True)
    placement = fit_placement(pairs, "affine")
    assert (placement.alignment, placement.shift) == ("scale", 0.0)
    assert placement.scale == pytest.approx(2.0)


def test_depth_that_contradicts_the_cameras_is_said() -> None:
    random = np.random.default_rng(2)
    pairs = DepthPairs(
        np.repeat(np.arange(60), 10), random.uniform(0.1, 1, 600), random.uniform(0.1, 1, 600), np.ones(600), 100, True
    )
    placement = fit_placement(pairs, "affine")
    assert placement.alignment == "none" or "poor" in placement.note


def test_noise_and_a_third_of_outliers_hardly_move_the_fit() -> None:
    random = np.random.default_rng(8)
    source = random.uniform(0.05, 0.8, 6000)
    world = (SCALE * source + SHIFT) * (1 + 0.03 * random.standard_normal(6000))
    world[:2000] *= random.uniform(0.3, 3, 2000)
    pairs = DepthPairs(np.repeat(np.arange(100), 60), source, world, np.ones(6000), 500, True)
    placement = fit_placement(pairs, "affine")
    assert placement.scale == pytest.approx(SCALE, rel=0.004)
    assert placement.shift == pytest.approx(SHIFT, abs=0.001)
    assert placement.agreement == pytest.approx(0.03, abs=0.025)


def test_pairs_from_where_surfaces_end_do_not_pull_the_fit() -> None:
    """Most pairs have a neighbour's depth, in front of their own, and little weight: a point at an edge is a corner of
    the nearer surface."""
    random = np.random.default_rng(9)
    source = random.uniform(0.05, 0.8, 3000)
    world = (SCALE * source + SHIFT) * (1 + 0.002 * random.standard_normal(3000))
    weight = np.full(3000, 1 / 0.005**2)
    edges = slice(0, 1800)
    world[edges] *= random.uniform(1.0, 1.1, 1800)
    weight[edges] = 1 / 0.1**2
    placement = fit_placement(DepthPairs(np.repeat(np.arange(100), 30), source, world, weight, 500, True), "affine")
    assert placement.scale == pytest.approx(SCALE, rel=0.003)
    assert placement.shift == pytest.approx(SHIFT, abs=0.001)


def test_the_sky_stays_and_what_would_be_beyond_it_becomes_sky() -> None:
    placement = Placement("affine", 1.0, -0.05, 0.0, 20, None, None, "")
    depth = np.array([[2.0, 30.0, np.inf, np.nan, 0.0]], np.float32)
    near, beyond, sky, unknown, zero = placement.apply(depth)[0]
    assert near == pytest.approx(1 / 0.45) and np.isposinf(beyond) and np.isposinf(sky)
    assert np.isnan(unknown) and zero == 0


def test_a_point_is_where_it_is_and_a_wrong_one_is_no_point() -> None:
    poses, point = path(10), np.array([0.4, -0.3, 5.0])
    local = np.einsum("nji,nj->ni", poses[:, :3, :3], point - poses[:, :3, 3])
    image = local @ LENS.T
    image = image[:, :2] / image[:, 2:]
    lenses = np.tile(LENS, (10, 1, 1))
    found = triangulate(image, lenses, poses, SIZE[0])
    assert found is not None and found.depth == pytest.approx(local[:, 2], rel=1e-9)
    assert 0 < found.uncertainty < 0.01
    walks = image + np.c_[np.zeros(10), np.linspace(0, 8, 10)]
    assert triangulate(walks, lenses, poses, SIZE[0]) is None


def test_memory_does_not_grow_with_the_number_of_points(monkeypatch: pytest.MonkeyPatch) -> None:
    from ex4d_engine.source_cameras import placement as module

    frames = [view(LENS, pose, SIZE) for pose in path(12)]
    monkeypatch.setattr(module, "KEPT_A_FRAME", 20)
    pairs = pairs_of((image for image, _ in frames), [depth for _, depth in frames], path(12))
    assert np.bincount(pairs.frame).max() == 20 and pairs.tracks > 40
