# SPDX-License-Identifier: GPL-3.0-or-later
"""The depth network's weight file: half precision in safetensors, the network's shape in its header."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import torch
from safetensors import SafetensorError, safe_open

from ..errors import Ex4dError
from ..tensor_saving import save_tensors
from .network import DepthNetwork, NetworkShape

FORMAT: Final = "ex4d.depth/1"


def save_weights(network: DepthNetwork, path: Path, trained: Mapping[str, Any]) -> None:
    """Writes the network for use, half its size in training.

    trained: how it came about, for people: goes into the header as JSON.
    """
    tensors = {}
    for name, value in network.state_dict().items():
        if name.endswith("num_batches_tracked"):
            continue
        # Biases and statistics are few, and a variance may leave the range of half precision.
        tensors[name] = value.detach().to("cpu", torch.float16 if value.ndim > 1 else torch.float32).contiguous()
    header = {
        "format": FORMAT,
        "licence": "GPL-3.0-or-later",
        "shape": json.dumps(network.shape.to_json()),
        "trained": json.dumps(dict(trained)),
    }
    save_tensors(path, tensors, header)


def load_weights(path: Path) -> DepthNetwork:
    """The network of a weight file, on the CPU in single precision, for use and not for training.

    Raises:
        Ex4dError: `model_missing` without the file, `model_invalid` for a file that holds something else.
    """
    if not path.is_file():
        raise missing_weights(path)
    try:
        with safe_open(path, framework="pt") as file:
            header = file.metadata() or {}
            if header.get("format") != FORMAT:
                raise _invalid(path, "holds no weights of the depth network")
            tensors = {name: file.get_tensor(name).float() for name in file.keys()}  # noqa: SIM118 (no mapping)
        network = DepthNetwork(NetworkShape(**json.loads(header["shape"])))
        missing, unknown = network.load_state_dict(tensors, strict=False)
    except (SafetensorError, KeyError, TypeError, ValueError, RuntimeError) as error:
        raise _invalid(path, f"is truncated, damaged or of another network ({type(error).__name__})") from error
    if unknown or any(not name.endswith("num_batches_tracked") for name in missing):
        raise _invalid(path, "belongs to another network")
    return network.eval()


def missing_weights(path: Path) -> Ex4dError:
    """What is said where the file is not."""
    return Ex4dError(
        "model_missing",
        f"The weights of the depth network, {path.name}, are not in {path.parent}.",
        "Install the extension again, train them with `ex4d train depth`, or choose another depth source.",
    )


def _invalid(path: Path, what: str) -> Ex4dError:
    return Ex4dError("model_invalid", f"{path.name} {what}.", "Install the extension again, or train it again.")
