# SPDX-License-Identifier: GPL-3.0-or-later
"""A training run in one file, written whole or not at all: weights, their average, the optimiser and where it is."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from ..errors import Ex4dError
from ..tensor_saving import save_tensors

if TYPE_CHECKING:
    from ..progress import Reporter

FORMAT: Final = "ex4d.training/1"
SLOWER: Final = 0.5
"""Of the learning rate, after a training diverged."""


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
    """Writes the run. settings: what makes it that run, as JSON.

    Raises:
        Ex4dError: `disk_full`, `read_only`; the checkpoint before is then still there.
    """
    tensors: dict[str, Tensor] = {}
    for part, module in (("network", run.network), ("average", run.average)):
        tensors |= {f"{part}.{name}": value for name, value in module.state_dict().items()}
    for index, values in run.optimizer.state_dict()["state"].items():
        tensors |= {f"optimizer.{index}.{name}": value for name, value in values.items()}
    header = {
        "format": FORMAT,
        "run": json.dumps({"step": run.step, "seconds": run.seconds, "settings": dict(settings)}),
    }
    save_tensors(path, tensors, header)


def load_checkpoint(path: Path, run: RunState, settings: Mapping[str, Any]) -> None:
    """Puts a saved run into `run`, whose modules have the same shapes.

    Raises:
        Ex4dError: `no_such_file` without the file, `model_invalid` if it is damaged, `bad_request` if it is another
            run's.
    """
    if not path.is_file():
        raise Ex4dError("no_such_file", f"There is no checkpoint {path}.", "Start anew, without --resume.")
    tensors, record = _read(path)
    before = record["settings"]
    other = [
        f"{name} ({before.get(name)!r}, not {value!r})"
        for name, value in sorted(settings.items())
        if before.get(name) != value
    ]
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


def go_back(path: Path, run: RunState, settings: Mapping[str, Any], reporter: Reporter) -> None:
    """Undoes what was learnt since the last checkpoint, where the weights are beyond all numbers.

    Raises:
        Ex4dError: `bad_request` where there is no checkpoint yet; as `load_checkpoint`.
    """
    step = run.step
    if not path.exists():
        raise Ex4dError("bad_request", f"The training diverged before step {step}.", "Give a smaller learning rate.")
    load_checkpoint(path, run, settings)
    reporter.log(f"The training diverged before step {step}: back to step {run.step}, and slower from there.")


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
