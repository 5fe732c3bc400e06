# SPDX-License-Identifier: GPL-3.0-or-later
"""The source `bundled`, on a network of random weights."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from ex4d_engine.depth import depth_source
from ex4d_engine.depth.bundled import FARTHEST, NEAR_Z, to_frame, working_size
from ex4d_engine.depth.network import DepthMaps, DepthNetwork, Memory, NetworkShape
from ex4d_engine.depth.network_weights import load_weights, save_weights
from ex4d_engine.errors import Cancelled, Ex4dError
from ex4d_engine.progress import Silent

SHAPE = NetworkShape(
    widths=(4, 6, 8, 8, 8), blocks=(1, 1, 1, 1), key=4, reach=1, motion=4, memory=6, drawn=(8, 8, 6, 4)
)


@pytest.fixture(autouse=True)
def no_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EX4D_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    torch.manual_seed(1)
    path = tmp_path / "Gewichte für Tiefe.safetensors"
    save_weights(DepthNetwork(SHAPE), path, {})
    return path


def frames(count: int, size: tuple[int, int] = (70, 50)) -> list[np.ndarray]:
    rng = np.random.default_rng(0)
    return [rng.integers(0, 256, (size[1], size[0], 3), dtype=np.uint8) for _ in range(count)]


@pytest.mark.parametrize("count", [1, 2, 5])
def test_a_clip_of_any_length_gets_depth(weights: Path, count: int) -> None:
    clip = frames(count)
    answer = depth_source("bundled", weights=weights).estimate(lambda: iter(clip), count, (70, 50), Silent())
    assert answer.scale == "relative" and answer.intrinsics is None and answer.note
    maps = list(answer.frames)
    assert len(maps) == count
    for frame in maps:
        assert frame.depth.shape == (50, 70) and frame.depth.dtype == np.float32
        assert (frame.depth > 0).all()
        finite = frame.depth[np.isfinite(frame.depth)]
        assert finite.size and finite.max() <= NEAR_Z * FARTHEST * 1.001
        assert frame.confidence is not None and frame.confidence.shape == (50, 70)
        assert (frame.confidence >= 0).all() and (frame.confidence <= 1).all()


def test_few_frames_are_held_at_once(weights: Path) -> None:
    clip = frames(40)
    read = 0

    def plate() -> Iterator[np.ndarray]:
        nonlocal read
        for image in clip:
            read += 1
            yield image

    answer = depth_source("bundled", weights=weights).estimate(plate, 40, (70, 50), Silent())
    next(answer.frames)
    assert read <= 14  # the opening, the first frame again, and the one after it, which the network looks at


@pytest.mark.parametrize("before", [1, 15])
@pytest.mark.parametrize("shade", [0, 255])
def test_frames_of_nothing_change_no_other_frame(weights: Path, before: int, shade: int) -> None:
    nothing = np.full((50, 70, 3), shade, np.uint8)
    first, second, third = frames(3)

    def depths(clip: list[np.ndarray]) -> list[np.ndarray]:
        answer = depth_source("bundled", weights=weights).estimate(lambda: iter(clip), len(clip), (70, 50), Silent())
        return [frame.depth for frame in answer.frames]

    alone = depths([first, second, third])
    among = depths([*[nothing] * before, first, nothing, nothing, second, third, nothing])
    for place, expected in zip((before, before + 3, before + 4), alone, strict=True):
        np.testing.assert_array_equal(among[place], expected)
    assert all((depth > 0).all() for depth in among)


def test_a_clip_of_nothing_gets_depth(weights: Path) -> None:
    clip = [np.zeros((50, 70, 3), np.uint8)] * 14
    answer = depth_source("bundled", weights=weights).estimate(lambda: iter(clip), 14, (70, 50), Silent())
    maps = [frame.depth for frame in answer.frames]
    assert len(maps) == 14 and all((depth > 0).all() for depth in maps)


def test_a_network_that_says_nothing_but_nan_is_refused_in_one_sentence(weights: Path) -> None:
    network = load_weights(weights)
    assert network.head.bias is not None
    torch.nn.init.constant_(network.head.bias, torch.nan)
    save_weights(network, weights, {})
    answer = depth_source("bundled", weights=weights).estimate(lambda: iter(frames(2)), 2, (70, 50), Silent())
    with pytest.raises(Ex4dError, match="frame 1 of the clip") as caught:
        next(answer.frames)
    assert caught.value.code == "depth_invalid" and caught.value.hint


def test_a_pixel_that_is_no_number_becomes_unknown(weights: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    step = DepthNetwork.step

    def spoiled(self: DepthNetwork, image: torch.Tensor, memory: Memory | None = None) -> tuple[DepthMaps, Memory]:
        maps, after = step(self, image, memory)
        inverse, doubt = maps.inverse_depth.clone(), maps.log_error.clone()
        inverse[:, :60, :80], inverse[:, 200:, 300:] = torch.nan, torch.inf
        doubt[:, :60, :80] = torch.nan
        return DepthMaps(inverse, doubt, torch.full_like(maps.sky, -9.0)), after

    clip = frames(2)
    made = depth_source("bundled", weights=weights).estimate(lambda: iter(clip), 2, (70, 50), Silent())
    monkeypatch.setattr(DepthNetwork, "step", spoiled)
    for frame in made.frames:
        assert np.isnan(frame.depth[:10, :14]).all() and np.isnan(frame.depth[40:, 60:]).all()
        known = frame.depth[12:35]
        assert np.isfinite(known).all() and known.min() > NEAR_Z / 2 and known.max() < NEAR_Z * FARTHEST * 1.001
        assert frame.confidence is not None and np.isfinite(frame.confidence).all()


def test_it_can_be_cancelled(weights: Path) -> None:
    clip, reporter = frames(4), Silent()
    answer = depth_source("bundled", weights=weights).estimate(lambda: iter(clip), 4, (70, 50), reporter)
    next(answer.frames)
    reporter.cancelled.set()
    with pytest.raises(Cancelled):
        next(answer.frames)


def test_without_weights_it_says_what_to_do(tmp_path: Path) -> None:
    source = depth_source("bundled", weights=tmp_path / "absent.safetensors")
    with pytest.raises(Ex4dError) as caught:
        source.estimate(lambda: iter(frames(1)), 1, (70, 50), Silent())
    assert caught.value.code == "model_missing"
    assert caught.value.hint


@pytest.mark.parametrize(
    ("size", "expected"),
    [
        ((1920, 1080), (384, 224)),
        ((1080, 1920), (224, 384)),
        ((512, 512), (384, 384)),
        ((64, 64), (384, 384)),
        ((7680, 400), (384, 32)),
    ],
)
def test_the_working_size_keeps_the_shape(size: tuple[int, int], expected: tuple[int, int]) -> None:
    assert working_size(size) == expected


def test_maps_become_depth_with_sky_and_sharp_steps() -> None:
    inverse = torch.full((1, 48, 48), 0.5)
    inverse[:, :, 24:] = 1.0
    inverse[:, :12] = 0.0
    sky = torch.full((1, 48, 48), -9.0)
    sky[:, :12] = 9.0
    image = np.full((96, 96, 3), 60, np.uint8)
    image[:, 48:] = 200
    image[:24] = (120, 160, 255)
    frame = to_frame(DepthMaps(inverse, torch.full((1, 48, 48), -8.0), sky), image, near=1.0)
    assert np.isinf(frame.depth[:22]).all()
    below = frame.depth[27:]
    assert np.allclose(below[:, :46], 2 * NEAR_Z) and np.allclose(below[:, 50:], NEAR_Z)
    values = np.unique(below.round(3))
    assert len(values) == 2, "nothing lies between the two surfaces"
    assert frame.confidence is not None and frame.confidence.min() > 0.99


def test_what_lies_behind_the_farthest_is_put_there() -> None:
    inverse = torch.full((1, 32, 32), 1e-5)
    frame = to_frame(
        DepthMaps(inverse, torch.zeros(1, 32, 32), torch.full((1, 32, 32), -9.0)), frames(1, (32, 32))[0], 1.0
    )
    assert np.allclose(frame.depth, NEAR_Z * FARTHEST)


def test_a_device_that_is_not_there_is_said(weights: Path) -> None:
    with pytest.raises(Ex4dError) as caught:
        depth_source("bundled", weights=weights, device="abacus").estimate(
            lambda: iter(frames(1)), 1, (70, 50), Silent()
        )
    assert caught.value.code == "bad_request"
