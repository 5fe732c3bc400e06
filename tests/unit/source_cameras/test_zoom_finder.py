# SPDX-License-Identifier: GPL-3.0-or-later
"""A lens that zooms is noticed by how the picture moves; a camera that moves forwards is no zoom."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from ex4d_engine.cameras import rotation_about
from ex4d_engine.source_cameras.lens import zoomed
from ex4d_engine.source_cameras.zoom_finder import ZoomFinder
from tests.unit.source_cameras.still_scene import lens, view

SIZE, COUNT = (320, 180), 20
LENS = lens(SIZE)


def clip(zoom: np.ndarray, forwards: float = 0.0, sideways: float = 0.0, pan: float = 0.0) -> list[np.ndarray]:
    """Pictures of a floor, a wall and boxes, from a camera that goes and turns (radians) so far, over its length."""
    pictures = []
    for share, factor in zip(np.linspace(0, 1, len(zoom)), zoom, strict=True):
        pose = np.eye(4)
        pose[:3, :3] = rotation_about([0.1, 1, 0], pan * share)
        pose[:3, 3] = (sideways * share, -0.3, forwards * share)
        pictures.append(view(zoomed(LENS, factor), pose, SIZE)[0])
    return pictures


def found(pictures: list[np.ndarray]) -> float | None:
    finder = ZoomFinder()
    for picture in pictures:
        finder.add(picture)
    return finder.zoom()


@pytest.mark.parametrize("most", [1.12, 1.5, 3.0])
@pytest.mark.parametrize("direction", [1, -1])
def test_a_zoom_on_a_tripod_is_measured(most: float, direction: int) -> None:
    zoom = np.geomspace(1, most, COUNT)[::direction]
    assert found(clip(zoom)) == pytest.approx(most, rel=0.03)


def test_a_zoom_of_a_camera_that_pans_is_measured() -> None:
    assert found(clip(np.geomspace(1, 1.6, COUNT), pan=0.15)) == pytest.approx(1.6, rel=0.04)


def test_a_zoom_of_a_camera_in_the_hand_is_noticed() -> None:
    zoom = found(clip(np.geomspace(1, 1.6, COUNT), sideways=0.04, forwards=0.02, pan=-0.05))
    assert zoom is not None and 1.4 < zoom < 1.8


def test_a_zoom_in_and_out_again_counts_once() -> None:
    zoom = 1.4 - 0.4 * np.abs(np.linspace(-1, 1, COUNT))
    assert found(clip(zoom)) == pytest.approx(1.4, rel=0.06)


def test_someone_who_walks_through_a_zoom_hides_it_not() -> None:
    random = np.random.default_rng(5)
    walker = cv2.resize(random.integers(0, 256, (20, 9), dtype=np.uint8), (54, 120), interpolation=cv2.INTER_CUBIC)
    pictures = clip(np.geomspace(1, 1.5, COUNT))
    for index, picture in enumerate(pictures):
        left = 10 + 8 * index
        picture[50:170, left : left + 54] = walker[..., None]
    zoom = found(pictures)
    assert zoom is not None and 1.3 < zoom < 1.6


@pytest.mark.parametrize(
    "way",
    [{"forwards": 2.0}, {"forwards": -1.0}, {"forwards": 1.0, "sideways": 0.5}, {"sideways": 1.5}, {"pan": 0.4}, {}],
)
def test_a_lens_that_stays_is_no_zoom_however_the_camera_moves(way: dict[str, float]) -> None:
    assert found(clip(np.ones(COUNT), **way)) is None


def test_a_lens_that_breathes_is_no_zoom() -> None:
    assert found(clip(1 + 0.02 * np.sin(np.arange(COUNT) / 3))) is None


def test_clips_that_show_nothing_and_short_ones_are_no_zoom() -> None:
    black = np.zeros((90, 160, 3), np.uint8)
    noise = np.random.default_rng(3).integers(0, 256, (12, 90, 160, 3), dtype=np.uint8)
    assert found([]) is None and found([black]) is None and found([black] * 9) is None and found(list(noise)) is None


def test_it_is_said_in_one_sentence() -> None:
    finder = ZoomFinder()
    for picture in clip(np.geomspace(1, 1.5, COUNT)):
        finder.add(picture)
    (note,) = finder.notes()
    assert "seems to zoom, by about 1.5" in note and note.count(". ") == 0 and note.endswith(".")
