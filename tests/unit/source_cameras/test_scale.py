# SPDX-License-Identifier: GPL-3.0-or-later
"""A length in the picture becomes metres a scene unit."""

from __future__ import annotations

import numpy as np
import pytest

from ex4d_engine.cameras import intrinsics_from_fov, pixel_rays
from ex4d_engine.errors import Ex4dError
from ex4d_engine.source_cameras.scale import check_scale, measurement_from, metres_per_unit

SIZE = (64, 48)
LENS = intrinsics_from_fov(*SIZE, 60)


def test_two_points_at_known_depths() -> None:
    depth = np.full((48, 64), 4.0, np.float32)
    depth[:, 40:] = 6.0
    one, two = (pixel_rays(LENS, np.array(x), np.array(y)) for x, y in ((10.5, 30.5), (50.5, 12.5)))
    length = float(np.linalg.norm(4 * one - 6 * two))
    measurement = measurement_from([12, 10.5, 30.5, 50.5, 12.5, 1.7])
    assert metres_per_unit(measurement, depth, LENS) == pytest.approx(1.7 / length)
    edge = measurement_from([12, 0, 0, 64, 48, 3])
    assert metres_per_unit(edge, depth, LENS) > 0


@pytest.mark.parametrize(
    "numbers",
    [[], [1, 2, 3, 4, 5], [1, 2, 3, 4, 5, 0], [1.5, 2, 3, 4, 5, 1], [1, 2, 3, 2, 3, 1], [1, 2, 3, 4, "5", 1],
     [1, 2, 3, 4, float("nan"), 1], [1, 2, 3, 4, 5, -1], [1, 2, 3, 4, 5, True]],
)  # fmt: skip
def test_what_is_no_measurement(numbers: list[float]) -> None:
    with pytest.raises(Ex4dError) as caught:
        measurement_from(numbers)
    assert caught.value.code == "bad_request"


def test_points_outside_and_in_the_sky() -> None:
    depth = np.full((48, 64), np.inf, np.float32)
    for numbers in ([1, 10, 10, 70, 10, 1], [1, -1, 10, 20, 10, 1], [1, 10, 10, 20, 10, 1]):
        with pytest.raises(Ex4dError) as caught:
            metres_per_unit(measurement_from(numbers), depth, LENS)
        assert caught.value.code == "bad_request"


@pytest.mark.parametrize("scale", [0.0, -1.0, float("nan"), float("inf"), 1e9])
def test_impossible_scales(scale: float) -> None:
    with pytest.raises(Ex4dError) as caught:
        check_scale(scale)
    assert caught.value.code == "bad_request"
