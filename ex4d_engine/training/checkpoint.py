# SPDX-License-Identifier: GPL-3.0-or-later
"""A training run in one file, written whole or not at all: weights, their average, the optimiser and where it is."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from ..errors import Ex4dError
from ..files import atomic_path

FORMAT: Final = "ex4d.training/1"


@dataclass
class RunState:
    """What a run changes as it goes.

    step: steps done. seconds: spent on them, over all sittings.
    """

    network: nn.Module
    average: nn.Module
    optimizer: torch.optim.Optimizer
    step: int = 0
    seconds: float = 0.0


def save_checkpoint(path: Path, run: RunState, settings: Mapping[str, Any]) -> None:
    """Writes the run. settings: what makes it that run, as JSON."""
    tensors: dict[str, Tensor] = {}
    for part, module in (("network", run.network), ("average", run.average)):
        tensors |= {f"{part}.{name}": value for name, value in module.state_dict().items()}
    for index, values in run.optimizer.state_dict()["state"].items():
        tensors |= {f"optimizer.{index}.{name}": value for name, value in values.items()}
    header = {
        "format": FORMAT,
        "run": json.dumps({"step": run.step, "seconds": run.seconds, "settings": dict(settings)}),
    }
    with atomic_path(path) as temporary:
        save_file({name: value.detach().cpu().contiguous() for name, value in tensors.items()}, temporary, header)


def load_checkpoint(path: Path, run: RunState, settings: Mapping[str, Any]) -> None:
    """Puts a saved run into `run`, whose modules have the same shapes.

    Raises:
        Ex4dError: `no_such_file` without the file, `model_invalid` if it is damaged, `bad_request` if it is another
            run's.
    """
    if not path.is_file():
        raise Ex4dError("no_such_file", f"There is no checkpoint {path}.", "Start anew, without --resume.")
    tensors, record = _read(path)
    other = sorted(name for name, value in settings.items() if record["settings"].get(name) != value)
    if other:
        raise Ex4dError(
            "bad_request",
            f"The checkpoint in {path.parent} is of a run with another {', '.join(other)}.",
            "Resume it with the settings it was started with, or start anew in another folder.",
        )
    try:
        run.network.load_state_dict(_part(tensors, "network."))
        run.average.load_state_dict(_part(tensors, "average."))
        state: dict[int, dict[str, Tensor]] = {}
        for key, value in _part(tensors, "optimizer.").items():
            index, _, name = key.partition(".")
            state.setdefault(int(index), {})[name] = value
        run.optimizer.load_state_dict(run.optimizer.state_dict() | {"state": state})
        run.step, run.seconds = int(record["step"]), float(record["seconds"])
    except (KeyError, TypeError, ValueError, RuntimeError) as error:
        raise _invalid(path, error) from error


def _read(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    try:
        with safe_open(path, framework="pt") as file:
            header = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (no mapping)
        if header.get("format") != FORMAT:
            raise ValueError("another format")
        record = json.loads(header["run"])
        if not isinstance(record["settings"], dict):
            raise ValueError("no settings")
        return tensors, record
    except (SafetensorError, KeyError, TypeError, ValueError) as error:
        raise _invalid(path, error) from error


def _part(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}


def _invalid(path: Path, error: Exception) -> Ex4dError:
    return Ex4dError(
        "model_invalid",
        f"{path} is damaged or no checkpoint of this training ({type(error).__name__}).",
        "Start anew in another folder.",
    )
