# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ex4d_engine.diffusion.sizes import TRAINED_AREA, to_source_size, to_working_size, working_size


def seen(height: int, width: int) -> np.ndarray:
    return np.full((height, width), 255, np.uint8)


def picture(height: int, width: int) -> np.ndarray:
    """A smooth picture with a bright disc, whose shape tells a squash."""
    y, x = np.mgrid[:height, :width].astype(float) + 0.5
    radius = np.hypot(x - width / 2, y - height / 2)
    disc = 200 / (1 + np.exp((radius - min(width, height) / 4) / (min(width, height) / 40)))
    return np.stack([disc + 20, 20 + 100 * x / width, 20 + 100 * y / height], axis=-1).astype(np.uint8)


@given(st.integers(16, 5000), st.integers(16, 5000))
def test_near_the_trained_area_in_multiples_and_never_squashed(width: int, height: int) -> None:
    size = working_size(width, height)

    assert size.width % 16 == 0 and size.height % 16 == 0
    inner_width, inner_height = size.content
    assert 0 <= size.width - inner_width < 16 and 0 <= size.height - inner_height < 16
    for inner, side in ((inner_width, width), (inner_height, height)):
        assert -1e-6 < inner - side * size.scale < 1
    assert math.isclose(width * height * size.scale**2, TRAINED_AREA, rel_tol=0.011)


@pytest.mark.parametrize(
    ("width", "height", "expected"),
    [
        (512, 512, (512, 512)),
        (1920, 1080, (688, 384)),
        (1080, 1920, (384, 688)),
        (4096, 2160, (720, 384)),
        (256, 144, (688, 384)),
        (2048, 858, (800, 336)),
    ],
)
def test_some_sizes(width: int, height: int, expected: tuple[int, int]) -> None:
    size = working_size(width, height)
    assert (size.width, size.height) == expected


def test_no_pixels() -> None:
    with pytest.raises(ValueError, match="cannot be worked on"):
        working_size(0, 10)


def test_the_trained_size_keeps_its_pixels() -> None:
    colour, size = picture(128, 128), working_size(128, 128, area=128 * 128)

    frame, mask = to_working_size(colour, seen(128, 128), size)

    assert size.scale == 1
    assert np.array_equal(frame, colour) and (mask == 255).all()
    assert np.array_equal(to_source_size(frame, size), colour)


@pytest.mark.parametrize(("width", "height"), [(333, 187), (187, 333), (401, 111), (53, 47), (64, 36)])
def test_there_and_back(width: int, height: int) -> None:
    colour, size = picture(height, width), working_size(width, height, area=128 * 128)

    frame, mask = to_working_size(colour, seen(height, width), size)
    back = to_source_size(frame, size)

    assert frame.shape == (size.height, size.width, 3) and mask.shape == (size.height, size.width)
    assert (mask == 255).all()
    assert back.shape == colour.shape
    difference = np.abs(back.astype(float) - colour)
    assert difference.mean() < 1.5, difference.mean()  # half a pixel's shift would be 2 to 4
    assert np.abs(difference[[0, -1]]).max() <= 6 and np.abs(difference[:, [0, -1]]).max() <= 6


def test_nothing_moves_on_the_way() -> None:
    x = np.arange(80)
    colour = np.broadcast_to((2 * x[None, :, None]).astype(np.uint8), (40, 80, 3))
    for area in (40 * 20, 4 * 80 * 40):
        size = working_size(80, 40, area=area)
        back = to_source_size(to_working_size(colour, seen(40, 80), size)[0], size)
        shift = (back.astype(float) - colour)[:, 8:-8].mean() / 2
        assert abs(shift) < 0.1, shift  # pixels


def test_both_axes_have_one_scale() -> None:
    colour, size = picture(300, 533), working_size(533, 300, area=128 * 128)

    frame, _ = to_working_size(colour, seen(300, 533), size)

    disc = frame[..., 0] > 120
    wide, high = disc.any(axis=0).sum(), disc.any(axis=1).sum()
    assert abs(int(wide) - int(high)) <= 1
    assert size.width / size.height != 533 / 300  # the padding takes up the difference


def test_the_black_of_the_unseen_does_not_darken_the_seen() -> None:
    colour = np.full((90, 160, 3), 200, np.uint8)
    mask = seen(90, 160)
    mask[:, 71:] = 0
    colour[:, 71:] = 0
    size = working_size(160, 90, area=60 * 34)

    frame, scaled = to_working_size(colour, mask, size)

    known = scaled == 255
    assert (frame[known] == 200).all()
    assert not frame[~known].any()
    columns = known[0, : size.content[0]]
    edge = 71 * size.scale
    assert columns[: int(edge)].all() and not columns[int(edge) :].any()


def test_a_half_seen_pixel_is_not_seen() -> None:
    mask = seen(64, 64)
    mask[10, 10] = 0
    _, scaled = to_working_size(picture(64, 64), mask, working_size(64, 64, area=32 * 32))
    assert (scaled == 0).sum() == 1 and scaled[5, 5] == 0


def test_the_edge_is_repeated() -> None:
    size = working_size(100, 40, area=4000)
    frame, mask = to_working_size(picture(40, 100), seen(40, 100), size)
    assert (size.width, size.height) == (112, 48)
    assert (frame[40:, :] == frame[39]).all() and (frame[:, 100:] == frame[:, 99:100]).all()
    assert (mask == 255).all()
