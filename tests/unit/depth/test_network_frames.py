# SPDX-License-Identifier: GPL-3.0-or-later
"""What networks see of a plate, and how their answer comes back to its size."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pytest

from ex4d_engine.depth import edge_snap
from ex4d_engine.depth.network_frames import (
    as_tensor,
    depth_at_plate_size,
    is_blank,
    network_size,
    network_size_within,
    resized,
    usable,
)
from ex4d_engine.depth.small_maps import SmallMaps
from ex4d_engine.errors import Ex4dError
from tests.unit.depth.drawn_scene import HEIGHT, WIDTH, draw


@pytest.mark.parametrize("size", [(1920, 1080), (1080, 1920), (7680, 4320), (320, 240), (4096, 858), (64, 64)])
def test_a_network_sees_a_bounded_size_of_about_the_plate_s_shape(size: tuple[int, int]) -> None:
    width, height = network_size(size, 518, 14)
    assert width % 14 == height % 14 == 0
    assert width * height < 1.9 * 518**2
    assert width / height == pytest.approx(size[0] / size[1], rel=0.05)
    if max(size) < 1.8 * min(size):
        assert abs(min(width, height) - 518) < 7
    assert abs(max(network_size_within(size, 504, 14)) - 504) < 7


def test_frames_are_normalised_as_the_networks_were_trained() -> None:
    image = np.full((2, 2, 3), (255, 0, 51), np.uint8)
    tensor = as_tensor([image], ((0.5, 0.25, 0.0), (0.5, 0.5, 0.1)))
    assert tensor.shape == (1, 3, 2, 2)
    np.testing.assert_allclose(tensor[0, :, 1, 0], [1.0, -0.5, 2.0], rtol=1e-6)


def test_blank_frames() -> None:
    assert is_blank(np.zeros((8, 8, 3), np.uint8))
    assert is_blank(np.full((8, 8, 3), (200, 20, 20), np.uint8))
    assert not is_blank(draw(0)[0])


def test_no_number_becomes_unknown_and_a_frame_of_none_is_refused() -> None:
    values = np.array([[1.0, np.nan], [np.inf, -np.inf]], np.float32)
    np.testing.assert_array_equal(usable(values, "Net", 0), [[1.0, np.nan], [np.nan, np.nan]])
    with pytest.raises(Ex4dError, match="Net gave no usable depth for frame 5") as caught:
        usable(np.full((2, 2), np.nan, np.float32), "Net", 4)
    assert caught.value.code == "depth_invalid" and caught.value.hint


def test_steps_come_back_on_the_frame_s_own_edges() -> None:
    image, truth = draw(0)
    truth = np.minimum(truth, 60)
    small = resized(image, (64, 40))
    assert small.shape == (40, 64, 3)
    blurred = np.asarray(1 / truth, np.float32).reshape(40, 4, 64, 4).mean((1, 3))
    depth = depth_at_plate_size(blurred, image)
    assert depth.shape == (HEIGHT, WIDTH) and depth.dtype == np.float32
    # across the red crate's side: the step is where the picture has it, within a pixel
    row = 100
    edge = int(np.argmax(np.abs(np.diff(np.log(truth[row, 20:128]))))) + 20
    found = int(np.argmax(np.abs(np.diff(np.log(depth[row, 20:128]))))) + 20
    assert abs(found - edge) <= 1
    assert abs(np.log(depth[row, edge - 3] / depth[row, edge + 4])) > 0.5 * abs(
        np.log(truth[row, edge - 3] / truth[row, edge + 4])
    )


def test_unknown_pixels_come_back_unknown_and_mix_into_nothing() -> None:
    inverse = np.full((10, 12), 0.5, np.float32)
    inverse[2:4, 3:6] = np.nan
    inverse[7, 7] = 0.0
    depth = depth_at_plate_size(inverse, np.full((40, 48, 3), 90, np.uint8))
    unknown = np.isnan(depth)
    assert unknown[8:16, 12:24].all() and unknown[28:32, 28:32].all() and unknown.sum() == 8 * 12 + 16
    np.testing.assert_allclose(depth[~unknown], 2.0, rtol=1e-6)


@pytest.mark.parametrize("size", [(5, 3), (7, 40), (1, 1)])
def test_a_plate_smaller_than_the_network_s_size(size: tuple[int, int]) -> None:
    width, height = size
    depth = depth_at_plate_size(np.full((14, 28), 0.25, np.float32), np.zeros((height, width, 3), np.uint8))
    assert depth.shape == (height, width)
    np.testing.assert_allclose(depth, 4.0, rtol=1e-6)


@pytest.mark.parametrize("band", [3_000, 20_000])
def test_bands_change_nothing(band: int, monkeypatch: pytest.MonkeyPatch) -> None:
    image, truth = draw(0)
    disparity = np.asarray(1 / np.minimum(truth, 60), np.float32).reshape(40, 4, 64, 4).mean((1, 3))
    whole = edge_snap.enlarge_to_edges(disparity, image)
    monkeypatch.setattr(edge_snap, "_BAND", band)
    np.testing.assert_allclose(edge_snap.enlarge_to_edges(disparity, image), whole, rtol=1e-6)


def test_a_large_frame_takes_no_more_than_its_own_map_and_a_band(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(edge_snap, "_BAND", 100_000)
    disparity = np.asarray(1 / np.minimum(draw(0)[1], 60), np.float32).reshape(40, 4, 64, 4).mean((1, 3))

    def besides_the_map(times: int) -> float:
        image = np.repeat(np.repeat(draw(0)[0], times, axis=0), times, axis=1)
        tracemalloc.start()
        depth_at_plate_size(disparity, image)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return peak - 2 * 4 * image[..., 0].size  # inverse z, and z

    assert besides_the_map(10) < 1.3 * besides_the_map(4) + 5e6


def test_maps_lie_on_disk() -> None:
    maps = SmallMaps()
    written = np.random.default_rng(0).random((5, 4, 6)).astype(np.float32)
    for values in written:
        maps.append(values)
    assert len(maps) == 5
    np.testing.assert_array_equal(maps[3], written[3])
    np.testing.assert_array_equal(list(maps), written)
    with pytest.raises(IndexError):
        maps[5]
    with pytest.raises(ValueError, match="among maps"):
        maps.append(written[0, :2])
    maps.close()
