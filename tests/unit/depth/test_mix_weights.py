# SPDX-License-Identifier: GPL-3.0-or-later
"""Weights between two networks: the mean of both, told apart by their header, and never of two shapes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors import safe_open

from ex4d_engine.depth.network import DepthNetwork, NetworkShape
from ex4d_engine.depth.network_weights import load_weights, save_weights
from ex4d_engine.errors import Ex4dError
from tools.mix_depth_weights import mix

SMALL = NetworkShape(
    widths=(8, 8, 8, 8, 8), blocks=(1, 1, 1, 1), key=8, reach=1, motion=8, memory=8, drawn=(8, 8, 8, 8)
)


def saved(path: Path, seed: int, shape: NetworkShape = SMALL) -> Path:
    torch.manual_seed(seed)
    save_weights(DepthNetwork(shape), path, {"seed": seed})
    return path


def test_every_weight_lies_between_the_two(tmp_path: Path) -> None:
    before, after, out = saved(tmp_path / "vör.st", 0), saved(tmp_path / "nach.st", 1), tmp_path / "mixed.st"
    mix(before, after, 0.25, out)
    first, second, mixed = (dict(load_weights(path).named_parameters()) for path in (before, after, out))
    for name, value in mixed.items():
        assert torch.allclose(value, 0.75 * first[name] + 0.25 * second[name], atol=1e-3), name
    with safe_open(out, framework="pt") as file:
        told = json.loads(file.metadata()["trained"])
    assert told == {"mixed": [{"seed": 0}, {"seed": 1}], "share of the second": 0.25}


def test_what_cannot_be_mixed_is_refused(tmp_path: Path) -> None:
    before = saved(tmp_path / "a", 0)
    other = saved(tmp_path / "b", 0, NetworkShape(**(SMALL.to_json() | {"memory": 16})))
    with pytest.raises(Ex4dError, match="different shapes"):
        mix(before, other, 0.5, tmp_path / "out")
    with pytest.raises(Ex4dError, match="not a share"):
        mix(before, before, 1.5, tmp_path / "out")
    assert not (tmp_path / "out").exists()
