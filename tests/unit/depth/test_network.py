# SPDX-License-Identifier: GPL-3.0-or-later
"""The depth network's shapes, its memory, and its weight file."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from ex4d_engine.depth.network import DepthNetwork, NetworkShape, correlation, enlarge, folded
from ex4d_engine.depth.network_weights import load_weights, save_weights
from ex4d_engine.errors import Ex4dError

TINY = NetworkShape(widths=(4, 6, 8, 8, 8), blocks=(1, 1, 1, 1), key=4, reach=1, motion=4, memory=6, drawn=(8, 8, 6, 4))


@pytest.fixture
def network() -> DepthNetwork:
    torch.manual_seed(0)
    network = DepthNetwork(TINY)
    for module in network.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.momentum = 1.0
    with torch.no_grad():
        network.head.weight *= 10  # random layers pass little on
        network.train()(torch.rand(2, 2, 3, 64, 64))  # so that normalisations hold other numbers than 0 and 1
    return network.eval()


@pytest.mark.parametrize("size", [(64, 96), (33, 47), (32, 32), (65, 31)])
def test_maps_have_the_size_of_the_frames(network: DepthNetwork, size: tuple[int, int]) -> None:
    with torch.no_grad():
        maps = network(torch.rand(2, 3, 3, *size))
    for values in maps:
        assert values.shape == (2, 3, *size)
        assert values.dtype == torch.float32 and values.isfinite().all()
    assert (maps.inverse_depth >= 0).all()


def test_the_shipped_shape_is_small() -> None:
    count = sum(p.numel() for p in DepthNetwork().parameters())
    assert 2e6 < count < 5e6


def test_streaming_gives_what_a_whole_clip_gives(network: DepthNetwork) -> None:
    images = torch.rand(1, 4, 3, 64, 96)
    memory = None
    with torch.no_grad():
        whole = network(images)
        for frame in range(4):
            maps, memory = network.step(images[:, frame], memory)
            for streamed, expected in zip(maps, whole, strict=True):
                torch.testing.assert_close(streamed, expected[:, frame], rtol=0, atol=1e-3)


def test_the_past_matters_and_the_future_does_not(network: DepthNetwork) -> None:
    images = torch.rand(1, 3, 3, 64, 64)
    other_past, other_future = images.clone(), images.clone()
    other_past[:, 0] = torch.rand(3, 64, 64)
    other_future[:, 2] = torch.rand(3, 64, 64)
    with torch.no_grad():
        depth, past, future = (network(clip).inverse_depth for clip in (images, other_past, other_future))
    assert (depth[:, 1] - past[:, 1]).abs().max() > 1e-2
    torch.testing.assert_close(depth[:, :2], future[:, :2], rtol=0, atol=1e-3)


def test_frames_are_answered_where_they_lie_whatever_the_order(network: DepthNetwork) -> None:
    images = torch.rand(1, 3, 3, 64, 64)
    with torch.no_grad():
        backwards = network(images, order=(2, 1, 0)).inverse_depth
        turned = network(images.flip(1)).inverse_depth.flip(1)
        there_and_back = network(images, order=(0, 1, 2, 1, 0)).inverse_depth
        straight = network(images).inverse_depth
    torch.testing.assert_close(backwards, turned, rtol=0, atol=1e-3)
    torch.testing.assert_close(
        there_and_back[:, 2], straight[:, 2], rtol=0, atol=1e-3
    )  # seen once, after the same frames
    assert (there_and_back[:, 0] - straight[:, 0]).abs().max() > 1e-2
    with pytest.raises(ValueError, match="every frame"):
        network(images, order=(0, 1))


def test_correlation_finds_a_shift() -> None:
    before = torch.nn.functional.normalize(torch.randn(1, 16, 8, 8), dim=1)
    now = torch.roll(before, (1, -2), (2, 3))  # what was at (y, x) is at (y + 1, x − 2)
    found = correlation(now, before, reach=2)[0, :, 3:5, 3:5].argmax(0)
    assert (found == (2 - 1) * 5 + (2 + 2)).all()


def test_enlarging_by_a_sure_choice_copies() -> None:
    maps = torch.arange(6.0).view(1, 1, 2, 3)
    choice = torch.zeros(1, 36, 2, 3)
    choice[:, 4 * 4 : 5 * 4] = 50  # the middle of the nine, for all four new pixels
    expected = maps.repeat_interleave(2, 2).repeat_interleave(2, 3)
    torch.testing.assert_close(enlarge(maps, choice), expected)


def test_folding_changes_nothing_but_the_layers(network: DepthNetwork) -> None:
    image = torch.rand(1, 3, 64, 64)
    small = folded(network)
    assert not any(isinstance(module, torch.nn.BatchNorm2d) for module in small.modules())
    with torch.no_grad():
        for one, other in zip(network.step(image)[0], small.step(image)[0], strict=True):
            torch.testing.assert_close(one, other, rtol=0, atol=1e-3)


def test_weights_come_back_with_their_shape(network: DepthNetwork, tmp_path: Path) -> None:
    path = tmp_path / "Größe 1.safetensors"
    save_weights(network, path, {"steps": 3})
    again = load_weights(path)
    assert again.shape == TINY and not again.training
    images = torch.rand(1, 2, 3, 64, 64)
    with torch.no_grad():
        difference = again(images).inverse_depth - network(images).inverse_depth
    assert difference.abs().mean() < 0.03, "as close as half precision lets them be"


def test_the_shipped_shape_s_file_is_small(tmp_path: Path) -> None:
    save_weights(DepthNetwork(), tmp_path / "w.safetensors", {})
    assert (tmp_path / "w.safetensors").stat().st_size < 12e6


def test_absent_weights_say_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(Ex4dError) as caught:
        load_weights(tmp_path / "none.safetensors")
    assert caught.value.code == "model_missing"
    assert "ex4d train depth" in caught.value.hint


def test_other_files_are_refused(network: DepthNetwork, tmp_path: Path) -> None:
    foreign, cut, torn = (tmp_path / f"{name}.safetensors" for name in ("foreign", "cut", "torn"))
    save_file({"x": torch.zeros(2)}, foreign)
    save_weights(network, cut, {})
    torn.write_bytes(cut.read_bytes()[:1000])
    incomplete = DepthNetwork(TINY)
    del incomplete.gate
    lacking = tmp_path / "lacking.safetensors"
    save_weights(incomplete, lacking, {})
    for path in (foreign, torn, lacking):
        with pytest.raises(Ex4dError) as caught:
            load_weights(path)
        assert caught.value.code == "model_invalid"
        assert path.name in caught.value.message
