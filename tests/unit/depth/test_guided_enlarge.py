# SPDX-License-Identifier: GPL-3.0-or-later
"""Enlarging a disparity map along the edges of a picture."""

from __future__ import annotations

import tracemalloc

import cv2
import numpy as np
import pytest

from ex4d_engine.depth import guided_enlarge
from ex4d_engine.depth.guided_enlarge import enlarge_guided, sharpened, without_blur


def picture(height: int = 128, width: int = 160) -> tuple[np.ndarray, np.ndarray]:
    """Three surfaces that meet in one place, and their disparity."""
    image, disparity = np.zeros((height, width, 3), np.uint8), np.full((height, width), 0.2, np.float32)
    image[:] = (120, 160, 240)
    image[height // 2 :], disparity[height // 2 :] = (60, 90, 50), 0.6
    image[height // 4 :, width // 3 : 2 * width // 3] = (200, 60, 40)
    disparity[height // 4 :, width // 3 : 2 * width // 3] = 1.4
    return image, disparity


# where three surfaces meet in a blur, the middle one loses a corner
@pytest.mark.parametrize(("blur", "wrong"), [(0.0, 0.005), (0.6, 0.015)])
def test_steps_lie_where_the_picture_has_them(blur: float, wrong: float) -> None:
    image, disparity = picture()
    small = cv2.resize(disparity, (40, 32), interpolation=cv2.INTER_AREA)
    if blur:
        small = cv2.GaussianBlur(small, (0, 0), blur)
    enlarged = enlarge_guided(small, image)
    assert enlarged.shape == disparity.shape and enlarged.dtype == np.float32
    off = np.abs(enlarged / disparity - 1) > 0.1
    assert off.mean() < wrong


def test_nothing_lies_between_two_surfaces() -> None:
    image, disparity = picture()
    enlarged = enlarge_guided(cv2.GaussianBlur(cv2.resize(disparity, (40, 32)), (0, 0), 0.6), image)
    levels = np.array([0.2, 0.6, 1.4])
    assert (np.abs(enlarged[..., None] / levels - 1).min(-1) < 0.12).mean() > 0.99


def test_slopes_stay_smooth() -> None:
    image, _ = picture()
    # as a ground does: from the horizon, where neighbours' ratios are largest
    slope = np.tile(np.linspace(0.02, 0.25, 40, dtype=np.float32), (32, 1))
    expected = cv2.resize(slope, (160, 128), interpolation=cv2.INTER_LINEAR)
    assert np.allclose(enlarge_guided(slope, image), expected)


def test_a_frame_smaller_than_the_map() -> None:
    image, disparity = picture(32, 40)
    enlarged = enlarge_guided(cv2.resize(disparity, (80, 64), interpolation=cv2.INTER_NEAREST), image)
    assert enlarged.shape == (32, 40)
    assert (np.abs(enlarged / disparity - 1) < 0.1).mean() > 0.97


def test_sharpening_moves_values_to_their_nearer_side() -> None:
    row = np.array([[1, 1, 1.1, 1.8, 2, 2]], np.float32)
    assert sharpened(row).tolist() == [[1, 1, 1, 2, 2, 2]]
    gentle = np.array([[1, 1.05, 1.1, 1.15]], np.float32)
    assert np.array_equal(sharpened(gentle), gentle)


def test_a_networks_blur_becomes_a_step_and_a_slope_stays() -> None:
    """A ramp of some pixels beside a subject was a smear in every new view."""
    ground = np.tile(np.linspace(0.1, 1, 96, dtype=np.float32)[:, None], (1, 128))
    scene = ground.copy()
    scene[16:80, 40:72] = 1.0
    blurred = without_blur(cv2.GaussianBlur(scene, (0, 0), 1.5))
    row = blurred[24]
    assert ((row > 0.9) | (row < 0.35)).all(), "no pixel between the subject and what is behind it"
    assert abs(int((row > 0.9).sum()) - 32) <= 2
    assert np.allclose(without_blur(ground), ground)
    assert np.allclose(blurred[:, 100:], cv2.GaussianBlur(ground, (0, 0), 1.5)[:, 100:], atol=0.01)


def test_a_large_frame_of_nothing_but_steps_takes_little_beside_its_own_map(monkeypatch: pytest.MonkeyPatch) -> None:
    rows, columns = np.indices((216, 384)) // 2
    steps = np.where((rows + columns) % 2, 1.0, 0.4).astype(np.float32)
    image = np.zeros((2160, 3840, 3), np.uint8)
    asked = 0

    def decided(sharp: np.ndarray, small: np.ndarray, colours: np.ndarray, rows: np.ndarray, *_: object) -> np.ndarray:
        nonlocal asked
        asked += len(rows)
        return np.ones(len(rows), np.float32)

    monkeypatch.setattr(guided_enlarge, "_decided", decided)
    tracemalloc.start()
    full = enlarge_guided(steps, image)
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert asked > 0.9 * full.size
    assert most < 8 * full.size


def test_each_pixel_takes_the_surface_that_the_rule_says() -> None:
    """Against the rule written out, pixel by pixel, for all kinds of meetings."""
    rng = np.random.default_rng(7)
    steps = rng.choice(np.float32([0.2, 0.21, 0.5, 0.52, 1.1]), (9, 12))
    image = rng.integers(0, 256, (37, 61, 3), dtype=np.uint8)
    sharp = sharpened(without_blur(steps))
    small = cv2.resize(image, (12, 9), interpolation=cv2.INTER_AREA).astype(float)
    enlarged = enlarge_guided(steps, image)
    for row in range(0, 37, 3):
        for column in range(0, 61, 5):
            y, x = (row + 0.5) * 9 / 37 - 0.5, (column + 0.5) * 12 / 61 - 0.5
            near = [
                (min(max(round(y) + down, 0), 8), min(max(round(x) + right, 0), 11))
                for down in range(-2, 3)
                for right in range(-2, 3)
                if abs(down) + abs(right) <= 2
            ]
            level = np.array([sharp[place] for place in near], float)
            colour = np.array([((small[place] - image[row, column]) ** 2).sum() for place in near]) / (2 * 24.0**2)
            place = np.array([(down - y) ** 2 + (right - x) ** 2 for down, right in near]) / (2 * 1.2**2)
            weight = np.exp(np.min(colour + place) - colour - place)
            same = np.abs(level - level[:, None]) < np.maximum(0.15 * level[:, None], 0.015)
            chosen = same[np.argmax(np.round(same @ weight, 6))]
            wanted = (chosen * weight * level).sum() / (chosen * weight).sum()
            assert enlarged[row, column] == pytest.approx(wanted, rel=1e-4), (row, column)
