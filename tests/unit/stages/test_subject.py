# SPDX-License-Identifier: GPL-3.0-or-later
"""What a shot's subject is taken to be."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest

from ex4d_engine.image_files import write_exr_depth, write_png
from ex4d_engine.progress import Silent
from ex4d_engine.shot import Plate, Shot
from ex4d_engine.stages.subject import moving_depth, nearer_middle, subject_of

SIZE = 96


def texture(seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return np.kron(rng.uniform(40, 215, (24, 40)), np.ones((8, 8))).astype(np.float32)


def walking(step: int) -> tuple[np.ndarray, np.ndarray]:
    """A figure at 3 that walks before a wall at 20, and a ground at 2 below: grey, depth."""
    grey, depth = texture()[:SIZE, :SIZE].copy(), np.full((SIZE, SIZE), 20, np.float32)
    depth[72:] = 2
    left = 20 + 3 * step
    grey[40:72, left : left + 12] = texture(1)[:32, :12] / 2
    depth[40:72, left : left + 12] = 3
    return grey, depth


def test_the_subject_is_in_the_middle_and_in_front() -> None:
    depth = np.full((40, 40), 50, np.float32)
    depth[15:25, 15:25] = 3
    depth[:5] = 1  # nearer, but at the border
    assert nearer_middle(depth) == 50  # a quarter of the middle is no subject
    depth[10:30, 10:25] = 3
    assert nearer_middle(depth) == 3


def test_what_moves_is_the_subject() -> None:
    (before, _), (now, depth) = walking(0), walking(1)
    assert moving_depth(before, now, depth) == 3
    assert moving_depth(before, now, np.kron(depth, np.ones((3, 3), np.float32))) == 3


def test_a_camera_that_moves_shows_no_subject() -> None:
    wide = texture()
    _, depth = walking(0)
    assert moving_depth(wide[:SIZE, :SIZE], wide[:SIZE, 3 : SIZE + 3], depth) is None


@pytest.mark.parametrize("change", [0.0, 3.0, 60.0])
def test_noise_and_lights_are_no_subject(change: float) -> None:
    grey, depth = walking(0)
    noise = np.random.default_rng(2).normal(0, 1, grey.shape).astype(np.float32)
    assert moving_depth(grey, grey + noise + change, depth) is None


@pytest.mark.parametrize(("moves", "expected"), [(True, 3.0), (False, 20.0)])
def test_the_subject_of_a_shot(tmp_path: Path, *, moves: bool, expected: float) -> None:
    plate = Plate("clip.mov", Fraction(24), first=1001, count=6, width=SIZE, height=SIZE)
    shot = Shot(root=tmp_path, plate=plate)
    for number in plate.numbers:
        grey, depth = walking(number - 1001 if moves else 0)
        for path in (shot.plate_file(number), shot.depth_file(number)):
            path.parent.mkdir(exist_ok=True)
        write_png(shot.plate_file(number), np.repeat(grey[..., None], 3, 2).astype(np.uint8))
        write_exr_depth(shot.depth_file(number), depth)
    assert subject_of(shot, Silent()) == expected
