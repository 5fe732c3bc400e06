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
from ex4d_engine.source_cameras.tracks import Track, feature_tracks, inverse_depth_at
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
    frames = ((picture, depth, None) for picture, depth in zip(pictures, depths, strict=True))
    return collect_pairs(feature_tracks(frames), lenses, poses, SIZE[0])


def made_pairs(
    source: np.ndarray,
    world: np.ndarray,
    *,
    frames: int = 60,
    spread: float | np.ndarray = 0.0,
    world_error: float | np.ndarray = 0.0,
    confidence: float | np.ndarray = 1.0,
) -> DepthPairs:
    """Pairs with those numbers, in order of `frames` frames; one number stands for all."""
    error, spread, confidence = (np.broadcast_to(x, source.shape).copy() for x in (world_error, spread, confidence))
    frame = np.arange(len(source)) * frames // len(source)
    return DepthPairs(frame, source, world, error, spread, confidence, 500, True)  # fmt: skip


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
    placement = fit_placement(made_pairs(world / 2, world), "affine")
    assert (placement.alignment, placement.shift) == ("scale", 0.0)
    assert placement.scale == pytest.approx(2.0)


def test_a_wide_view_whose_source_hardly_varies_needs_its_shift() -> None:
    """Near and far differ forty times, and the source's 1/z by a tenth: most of it is shift."""
    random = np.random.default_rng(3)
    true = np.exp(random.uniform(np.log(0.004), np.log(0.16), 3000))
    error = np.full(3000, 0.002)
    pairs = made_pairs((true + 1.5) / 11, true + error * random.standard_normal(3000), world_error=error)
    placement = fit_placement(pairs, "affine")
    assert placement.alignment == "affine" and placement.shift == pytest.approx(-1.5, rel=0.01)
    assert np.abs(placement.scale * pairs.source + placement.shift - true).max() < 0.001


def test_depth_that_contradicts_the_cameras_is_said() -> None:
    random = np.random.default_rng(2)
    pairs = made_pairs(random.uniform(0.1, 1, 600), random.uniform(0.1, 1, 600))
    placement = fit_placement(pairs, "affine")
    assert placement.alignment == "none" or "poor" in placement.note


def test_noise_and_a_third_of_outliers_hardly_move_the_fit() -> None:
    random = np.random.default_rng(8)
    source = random.uniform(0.05, 0.8, 6000)
    world = (SCALE * source + SHIFT) * (1 + 0.03 * random.standard_normal(6000))
    world[:2000] *= random.uniform(0.3, 3, 2000)
    placement = fit_placement(made_pairs(source, world), "affine")
    assert placement.scale == pytest.approx(SCALE, rel=0.004)
    assert placement.shift == pytest.approx(SHIFT, abs=0.001)
    assert placement.agreement == pytest.approx(0.03, abs=0.025)


def test_pairs_from_where_surfaces_end_do_not_pull_the_fit() -> None:
    """Most pairs have a neighbour's depth, in front of their own: a point at an edge is a corner of the nearer surface,
    and the depth around it is uneven."""
    random = np.random.default_rng(9)
    source = random.uniform(0.05, 0.8, 3000)
    world = (SCALE * source + SHIFT) * (1 + 0.002 * random.standard_normal(3000))
    edges = slice(0, 1800)
    world[edges] *= random.uniform(1.0, 1.1, 1800)
    spread = np.where(np.arange(3000) < edges.stop, 0.1, 0.0)
    placement = fit_placement(made_pairs(source, world, spread=spread), "affine")
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
    assert found is not None and found.inverse_depth == pytest.approx(1 / local[:, 2], rel=1e-9)
    assert found.squared_misses < 1e-12 and (found.error_per_pixel < 0.01).all()
    walks = image + np.c_[np.zeros(10), np.linspace(0, 8, 10)]
    assert triangulate(walks, lenses, poses, SIZE[0]) is None


def test_points_with_little_parallax_are_no_nearer_on_average() -> None:
    """Noise is a third of the parallax here, and more."""
    random = np.random.default_rng(12)
    poses = np.tile(np.eye(4), (5, 1, 1))
    poses[:, 0, 3] = np.linspace(0, 0.04, 5)
    lenses = np.tile(LENS, (5, 1, 1))
    inverse, off = 1 / 8.0, []
    for _ in range(400):
        point = np.array([*random.uniform(-2, 2, 2), 1 / inverse])
        local = point - poses[:, :3, 3]
        image = local @ LENS.T
        found = triangulate(image[:, :2] / image[:, 2:] + random.normal(0, 0.3, (5, 2)), lenses, poses, 1920)
        assert found is not None
        off.append((found.inverse_depth[2] - inverse) / (0.3 * found.error_per_pixel[2]))
    assert abs(np.mean(off)) < 0.15 and np.std(off) == pytest.approx(1, abs=0.1)
    assert 0.3 * found.error_per_pixel[2] > 0.3 * inverse


def test_a_plain_whose_points_are_followed_badly_is_placed_where_it_is() -> None:
    """As grass at a grazing angle: of most points the depth is uncertain by a third, of many it is beyond infinity."""
    random = np.random.default_rng(13)
    true = random.uniform(0.05, 0.4, 7000)
    error = 0.12 * np.exp(random.normal(0, 1, 7000))
    world = true + error * random.standard_normal(7000)
    assert (world < 0).mean() > 0.1
    pairs = made_pairs((true - SHIFT) / SCALE, world, world_error=error, spread=0.005)
    placement = fit_placement(pairs, "affine")
    placed = placement.scale * pairs.source + placement.shift
    assert np.abs(placed / true - 1).max() < 0.05


def test_a_slipping_track_is_no_surer_for_being_long() -> None:
    """Errors of an image every frame add up when a point is followed from one frame to the next."""
    random = np.random.default_rng(14)
    count = 48
    poses = path(count, 0.6)
    lenses = np.tile(LENS, (count, 1, 1))
    off, tracks = [], []
    for _ in range(150):
        point = np.array([*random.uniform(-1, 1, 2), 5.0])
        local = np.einsum("nji,nj->ni", poses[:, :3, :3], point - poses[:, :3, 3])
        image = local @ LENS.T
        image = image[:, :2] / image[:, 2:] + np.cumsum(random.normal(0, 0.1, (count, 2)), axis=0)
        ones = np.ones(count)
        tracks.append(Track(0, image, 1 / local[:, 2], 0 * ones, ones))
    pairs = collect_pairs(tracks, lenses, poses, 1920)
    off = (pairs.world - pairs.source) / pairs.world_error
    assert 0.4 < np.sqrt(np.mean(off**2)) < 1.6


def test_what_a_source_is_unsure_of_counts_less() -> None:
    """Half of the depth is off by up to a fifth, all to one side, and the source says so."""
    random = np.random.default_rng(15)
    source = random.uniform(0.05, 0.8, 4000)
    world = (SCALE * source + SHIFT) * (1 + 0.01 * random.standard_normal(4000))
    unsure = np.arange(4000) % 2 == 0
    seen = np.where(unsure, source * random.uniform(0.8, 1.0, 4000), source)

    def error(confidence: float | np.ndarray) -> float:
        placement = fit_placement(made_pairs(seen, world, confidence=confidence), "affine")
        return abs(placement.scale * 0.3 + placement.shift - (SCALE * 0.3 + SHIFT)) / (SCALE * 0.3 + SHIFT)

    said = np.where(unsure, 0.3, 0.95)
    assert error(said) < 0.003 and error(said) < 0.2 * error(1.0)
    # how sure a source is in all does not matter, nor values that are no number
    assert error(0.2) == pytest.approx(error(1.0))
    assert error(np.where(unsure, np.nan, 0.95)) < 0.003


def test_memory_does_not_grow_with_the_number_of_points(monkeypatch: pytest.MonkeyPatch) -> None:
    from ex4d_engine.source_cameras import placement as module

    frames = [view(LENS, pose, SIZE) for pose in path(12)]
    monkeypatch.setattr(module, "KEPT_A_FRAME", 20)
    pairs = pairs_of((image for image, _ in frames), [depth for _, depth in frames], path(12))
    assert np.bincount(pairs.frame).max() == 20 and pairs.tracks > 40
