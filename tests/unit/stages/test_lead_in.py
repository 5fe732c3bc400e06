# SPDX-License-Identifier: GPL-3.0-or-later
"""A path that does not begin at the source view is led there, however much of its first frame is seen."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from ex4d_engine.camera_frame import CameraFrame
from ex4d_engine.cameras import as_matrix, fitted_intrinsics
from ex4d_engine.image_files import read_png, write_png
from ex4d_engine.progress import Silent
from ex4d_engine.shot import Shot
from ex4d_engine.stages import render
from ex4d_engine.stages.lead_in import SOURCE_VIEW_TOLERANCE, begins_at_source_view, lead_in, lead_in_cameras
from ex4d_engine.take import Take, new_take, save_take
from tests.tiny_shot import Listener, orbit_take

Change = Callable[[np.ndarray, np.ndarray], None]


def beginning(shot: Shot, change: Change = lambda lens, pose: None, size: tuple[int, int] = (64, 48)) -> Take:
    """A take whose first camera is the source camera, changed in place by `change`."""
    plate = shot.require_plate()
    lens, pose = np.array(shot.source_intrinsics(plate.first)), np.array(shot.source_pose(plate.first))
    change(lens, pose)
    frame = CameraFrame(plate.first, as_matrix(lens), as_matrix(pose))
    return new_take(shot, (frame,), size, first=plate.first, fps=plate.fps)


def zoomed(factor: float) -> Change:
    def change(lens: np.ndarray, pose: np.ndarray) -> None:
        lens[:2, :2] *= factor

    return change


def moved(axis: int, share: float, shot: Shot) -> Change:
    def change(lens: np.ndarray, pose: np.ndarray) -> None:
        pose[axis, 3] += share * shot.require_geometry().subject

    return change


def turned(degrees: float) -> Change:
    def change(lens: np.ndarray, pose: np.ndarray) -> None:
        c, s = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
        pose[:3, :3] = pose[:3, :3] @ np.array([[c, 0, s], [0, 1, 0], [-s, 0, c]])

    return change


def shifted(pixels: float) -> Change:
    def change(lens: np.ndarray, pose: np.ndarray) -> None:
        lens[0, 2] += pixels

    return change


def test_the_source_camera_is_the_source_view(shot: Shot) -> None:
    assert begins_at_source_view(shot, beginning(shot))
    assert begins_at_source_view(shot, orbit_take(shot, 25.0))


def test_each_of_place_direction_and_lens_makes_another_view(shot: Shot) -> None:
    changes = (zoomed(1.5), zoomed(0.9), moved(0, 0.05, shot), moved(2, 0.1, shot), moved(2, 1.0, shot))
    for change in (*changes, turned(2.0), turned(180.0), shifted(4.0)):
        assert not begins_at_source_view(shot, beginning(shot, change))


@pytest.mark.parametrize(("share", "same"), [(0.9, True), (1.1, False)])
def test_the_tolerance_is_of_the_longer_side(shot: Shot, share: float, same: bool) -> None:
    """64 pixels: an eighth of one."""
    pixels = share * SOURCE_VIEW_TOLERANCE * 64
    assert begins_at_source_view(shot, beginning(shot, shifted(pixels))) == same
    focal = np.array(shot.source_intrinsics(shot.require_plate().first))[0, 0]
    # a step aside by as much, at the subject's distance
    aside = beginning(shot, moved(0, pixels / focal, shot))
    assert begins_at_source_view(shot, aside) == same
    # the corners, 40 pixels from the middle, go outwards by as much
    assert begins_at_source_view(shot, beginning(shot, zoomed(1 + pixels / 40))) == same


def test_another_size_of_the_same_view_is_that_view(shot: Shot) -> None:
    def doubled(lens: np.ndarray, pose: np.ndarray) -> None:
        lens[:2] *= 2

    assert begins_at_source_view(shot, beginning(shot, doubled, (128, 96)))
    assert not begins_at_source_view(shot, beginning(shot, doubled))


def test_another_aspect_is_the_source_view_where_it_crops_and_not_where_it_has_bars(shot: Shot) -> None:
    """Bars are holes, and the plate's middle is not."""

    def cropped(lens: np.ndarray, pose: np.ndarray) -> None:
        lens[0, 2] -= 8

    def with_bars(lens: np.ndarray, pose: np.ndarray) -> None:
        lens[:] = fitted_intrinsics(lens, (64, 48), (48, 48))

    assert begins_at_source_view(shot, beginning(shot, cropped, (48, 48)))
    assert not begins_at_source_view(shot, beginning(shot, with_bars, (48, 48)))


def test_the_source_camera_is_that_of_the_frame_that_is_seen(shot: Shot) -> None:
    """A clip that zooms and moves: its third frame, frozen, begins where the source camera was then."""
    geometry = shot.require_geometry()
    poses = tuple(
        as_matrix(np.array([[1, 0, 0, 0.3 * k], [0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1.0]])) for k in range(6)
    )
    moving = dataclasses.replace(
        shot, geometry=dataclasses.replace(geometry, poses=poses, zoom=(1.0, 1.1, 1.2, 1.3, 1.4, 1.5))
    )
    first = shot.require_plate().first
    take = beginning(shot)
    frozen = CameraFrame(first + 2, moving.source_intrinsics(first + 2), poses[2])
    assert begins_at_source_view(moving, dataclasses.replace(take, frames=(frozen,)))
    early = dataclasses.replace(frozen, camera_to_world=poses[0])
    assert not begins_at_source_view(moving, dataclasses.replace(take, frames=(early,)))
    short = dataclasses.replace(frozen, intrinsics=shot.source_intrinsics(first))
    assert not begins_at_source_view(moving, dataclasses.replace(take, frames=(short,)))


def test_a_zoom_that_is_wholly_seen_is_led_to(shot: Shot) -> None:
    take = render(shot, beginning(shot, zoomed(8.0)), Silent())  # inside the square, so that no edge is in view
    assert (read_png(take.file("mask", take.first)) == 255).all()  # or else this test means nothing
    listener = Listener()
    pairs = lead_in(shot, take, listener)
    assert len(pairs) == 48 and "48 frames lead" in listener.logs[0]
    color, mask = (read_png(file) for file in pairs[0])
    assert np.array_equal(color, read_png(shot.plate_file(take.first))[..., :3]) and (mask == 255).all()


def test_from_the_source_view_nothing_leads_anywhere(shot: Shot) -> None:
    take = render(shot, beginning(shot), Silent())
    assert lead_in(shot, take, Silent()) == [] and not (take.root / "lead_in").exists()


def test_holes_at_the_source_view_are_led_to_from_the_whole_plate(shot: Shot) -> None:
    """A mesh that was edited in Blender may have some."""
    take = render(shot, beginning(shot), Silent())
    mask = read_png(take.file("mask", take.first))
    mask[10:20, 10:20] = 0
    write_png(take.file("mask", take.first), mask)
    pairs = lead_in(shot, take, Silent())
    assert len(pairs) == 4 and (read_png(pairs[0][1]) == 255).all()


def test_conditioning_without_cameras_is_judged_by_its_mask(shot: Shot, tmp_path: Path) -> None:
    take = render(shot, beginning(shot, zoomed(8.0)), Silent())
    bare = dataclasses.replace(shot, geometry=None)
    renewed = dataclasses.replace(take, record={**take.record, "reconstruction": {"another": "shot"}})
    for folder, judged in ((bare, take), (shot, renewed)):
        assert lead_in(folder, judged, Silent()) == []
    write_png(take.file("mask", take.first), np.zeros((48, 64), np.uint8))
    for folder, judged in ((bare, take), (shot, renewed)):
        listener = Listener()
        assert lead_in(folder, judged, listener) == []
        assert "no geometry" in listener.logs[0]


def test_the_reference_begins_with_the_plate_whatever_its_camera_sees(shot: Shot) -> None:
    take = render(shot, beginning(shot, zoomed(8.0)), Silent())
    save_take(take)
    reference = dataclasses.replace(shot, geometry=dataclasses.replace(shot.require_geometry(), compat="reference"))
    assert lead_in(reference, take, Silent()) == []


@pytest.mark.parametrize(
    ("change", "count"),
    [
        (zoomed(1.02**3.9), 4),
        (zoomed(1.02**-7.9), 8),
        (zoomed(1.5), 24),  # ln 1.5 / ln 1.02 = 20.5
        (zoomed(100.0), 48),
        (turned(9.0), 8),  # 4.5 frames of 2°
    ],
)
def test_a_longer_way_takes_more_frames(shot: Shot, change: Change, count: int) -> None:
    take = beginning(shot, change)
    cameras = lead_in_cameras(shot, take)
    assert len(cameras) == count
    assert cameras[0].intrinsics == shot.source_intrinsics(take.first)
    focal = [camera.intrinsics[0][0] for camera in cameras]
    assert focal in (sorted(focal), sorted(focal, reverse=True))


def test_a_shifted_lens_takes_frames_too(shot: Shot) -> None:
    focal = np.array(shot.source_intrinsics(shot.require_plate().first))[0, 0]
    tenth = shifted(focal * math.tan(math.radians(10.0)))
    assert len(lead_in_cameras(shot, beginning(shot, tenth))) == 8  # 5 frames of 2°
