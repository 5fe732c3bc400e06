# SPDX-License-Identifier: GPL-3.0-or-later
"""Video Depth Anything: its network against others that it contains, and its windows with a network made up."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch.nn import functional

from ex4d_engine.depth.networks.video_depth_network import VideoDepthNetwork, load_video_depth
from ex4d_engine.depth.sources.video_depth_anything import FRESH, REPEATED, WINDOW, consistent
from tests.tiny_depth_models import save_depth_anything, video_depth_tensors


def network(tensors: dict[str, torch.Tensor]) -> VideoDepthNetwork:
    return load_video_depth(tensors, Path("file.pth"), "Video Depth Anything")


def frames(count: int, side: int = 56, seed: int = 0) -> torch.Tensor:
    return torch.randn((count, 3, side, side), generator=torch.Generator().manual_seed(seed))


def silenced(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """With time modules that add nothing."""
    return {
        name: torch.zeros_like(value) if "temporal_transformer.proj_out" in name else value
        for name, value in tensors.items()
    }


def test_without_its_time_modules_it_is_depth_anything_v2(tmp_path: Path) -> None:
    from transformers import DepthAnythingForDepthEstimation

    file = save_depth_anything(tmp_path) / "model.safetensors"
    tensors = silenced(video_depth_tensors())
    theirs = {
        name: part(tensors, name) if ".attention.attention." in name else tensors[renamed(name)] for name in names(file)
    }
    save_file({name: value.contiguous() for name, value in theirs.items()}, file, metadata={"format": "pt"})
    other = DepthAnythingForDepthEstimation.from_pretrained(tmp_path).eval()
    with torch.inference_mode():
        images = frames(3)
        expected = other(pixel_values=images).predicted_depth
        found = network(tensors)(images)
    assert expected.std() > 0.1
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


def names(file: Path) -> list[str]:
    with safe_open(file, framework="pt") as opened:
        return list(opened.keys())


def renamed(name: str) -> str:
    """A tensor's name in a file of transformers → in one of Video Depth Anything."""
    for ours, published in (
        ("backbone.embeddings.cls_token", "pretrained.cls_token"),
        ("backbone.embeddings.mask_token", "pretrained.mask_token"),
        ("backbone.embeddings.position_embeddings", "pretrained.pos_embed"),
        ("backbone.embeddings.patch_embeddings.projection", "pretrained.patch_embed.proj"),
        ("backbone.layernorm", "pretrained.norm"),
        ("backbone.encoder.layer", "pretrained.blocks"),
        ("attention.output.dense", "attn.proj"),
        ("layer_scale1.lambda1", "ls1.gamma"),
        ("layer_scale2.lambda1", "ls2.gamma"),
        ("neck.reassemble_stage.layers", "head.layers"),
        ("head.conv1", "head.scratch.output_conv1"),
        ("head.conv2", "head.scratch.output_conv2.0"),
        ("head.conv3", "head.scratch.output_conv2.2"),
        ("projection", "out_conv"),
        ("residual_layer", "resConfUnit"),
        ("convolution", "conv"),
    ):
        if ours.startswith("head.") and not name.startswith("head."):
            continue
        if ours == "projection" and not name.startswith("neck.fusion"):
            continue
        name = name.replace(ours, published)
    for level in range(4):
        name = name.replace(f"head.layers.{level}.projection", f"head.projects.{level}")
        name = name.replace(f"head.layers.{level}.resize", f"head.resize_layers.{level}")
        name = name.replace(f"neck.convs.{level}", f"head.scratch.layer{level + 1}_rn")
        name = name.replace(f"neck.fusion_stage.layers.{level}", f"head.scratch.refinenet{4 - level}")
    return name


def part(tensors: dict[str, torch.Tensor], name: str) -> torch.Tensor:
    """A query, key or value tensor, which the published file holds as one."""
    block, which = name.split(".attention.attention.")
    index = ("query", "key", "value").index(which.split(".")[0])
    kind = which.split(".")[1]
    whole = tensors[block.replace("backbone.encoder.layer", "pretrained.blocks") + f".attn.qkv.{kind}"]
    return whole.chunk(3)[index]


def test_a_time_module_by_hand() -> None:
    tensors = video_depth_tensors()
    module = network(tensors).head.motion_modules[2].temporal_transformer
    maps = torch.randn((5, 32, 2, 3), generator=torch.Generator().manual_seed(1))
    name = "head.motion_modules.2.temporal_transformer"
    own = {key.removeprefix(f"{name}."): value for key, value in tensors.items() if key.startswith(name)}

    def layer(values: torch.Tensor, key: str, bias: bool = True) -> torch.Tensor:
        return values @ own[f"{key}.weight"].T + (own[f"{key}.bias"] if bias else 0)

    with torch.inference_mode():
        groups = maps.reshape(5, 32, -1)  # one channel a group, each over its pixels
        normal = (groups - groups.mean(2, keepdim=True)) / (groups.var(2, unbiased=False, keepdim=True) + 1e-6).sqrt()
        normal = normal * own["norm.weight"][:, None] + own["norm.bias"][:, None]
        tokens = layer(normal.permute(2, 0, 1), "proj_in")  # (pixels, frames, channels)
        block = "transformer_blocks.0"
        for n in range(2):
            attention = f"{block}.attention_blocks.{n}"
            placed = functional.layer_norm(
                tokens, (32,), own[f"{block}.norms.{n}.weight"], own[f"{block}.norms.{n}.bias"]
            )
            placed = placed + own[f"{attention}.pos_encoder.pe"][:, :5]
            heads = [layer(placed, f"{attention}.to_{k}", bias=False).reshape(6, 5, 8, 4) for k in "qkv"]
            weight = (torch.einsum("pqhc,pkhc->phqk", heads[0], heads[1]) / 2).softmax(-1)
            mixed = torch.einsum("phqk,pkhc->pqhc", weight, heads[2]).reshape(6, 5, 32)
            tokens = tokens + layer(mixed, f"{attention}.to_out.0")
        normal = functional.layer_norm(tokens, (32,), own[f"{block}.ff_norm.weight"], own[f"{block}.ff_norm.bias"])
        value, gate = layer(normal, f"{block}.ff.net.0.proj").chunk(2, dim=-1)
        tokens = tokens + layer(value * functional.gelu(gate), f"{block}.ff.net.2")
        expected = maps + layer(tokens, "proj_out").permute(1, 2, 0).reshape(5, 32, 2, 3)
        torch.testing.assert_close(module(maps), expected, rtol=1e-4, atol=1e-5)


def test_frames_see_each_other_only_through_time() -> None:
    images = frames(4)
    others = torch.cat([images[:3], frames(1, seed=9)])
    with torch.inference_mode():
        tensors = video_depth_tensors()
        assert (network(tensors)(images)[0] - network(tensors)(others)[0]).abs().max() > 1e-3
        alone = network(silenced(tensors))
        torch.testing.assert_close(alone(images)[:3], alone(others)[:3])


def images(count: int) -> list[np.ndarray]:
    """Each frame's first pixel tells its number."""
    base = np.random.default_rng(0).integers(60, 200, (6, 8, 3), dtype=np.uint8)
    made = [base.copy() for _ in range(count)]
    for number, image in enumerate(made):
        image[0, 0] = number
    return made


def truth(image: np.ndarray) -> np.ndarray:
    return image[..., 0].astype(np.float32) / 50 + 0.3


@pytest.mark.parametrize("count", [1, 2, 31, 32, 33, 53, 54, 55, 60, 98, 99])
def test_every_frame_comes_once_in_the_first_window_s_scale(count: int) -> None:
    calls: list[list[int]] = []

    def predict(window: list[np.ndarray]) -> np.ndarray:
        calls.append([int(image[0, 0, 0]) for image in window])
        scale, shift = 1 / len(calls), 0.1 * (len(calls) - 1)  # each window has its own
        return np.stack([scale * truth(image) + shift for image in window])

    clip = images(count)
    found = list(consistent(iter(clip), predict))
    assert len(found) == count
    np.testing.assert_allclose(found, [truth(image) for image in clip], rtol=1e-3, atol=1e-4)
    assert all(len(call) == WINDOW for call in calls)
    assert len(calls) == 1 + max(0, -(-(count - WINDOW) // FRESH))
    for before, call in pairwise(calls):
        assert call[: len(REPEATED)] == [before[place] for place in REPEATED]
    if count < WINDOW:
        assert calls[0][count:] == [count - 1] * (WINDOW - count)


def test_a_window_is_faded_in() -> None:
    def predict(window: list[np.ndarray]) -> np.ndarray:
        later = int(window[12][0, 0, 0]) > 12
        maps = np.stack([truth(image) for image in window])
        if later:
            maps[5:] += 0.05  # disagrees where it is not held
        return maps

    clip = images(60)
    found = np.stack(list(consistent(iter(clip), predict)))
    off = np.median(found - np.stack([truth(image) for image in clip]), axis=(1, 2))
    assert np.abs(off[:24]).max() < 1e-6
    assert np.abs(np.diff(off)).max() < 0.02  # no frame jumps by what the windows disagree


def test_memory_does_not_grow_with_the_clip() -> None:
    alive: list[int] = []

    def endless() -> Iterator[np.ndarray]:
        yield from images(200)

    def predict(window: list[np.ndarray]) -> np.ndarray:
        alive.append(len(window))
        return np.stack([truth(image) for image in window])

    stream = consistent(endless(), predict)
    for _ in range(24):
        next(stream)
    assert len(alive) == 1  # the second window is not looked at before it is asked for
