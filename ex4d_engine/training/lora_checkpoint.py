# SPDX-License-Identifier: GPL-3.0-or-later
"""An adapter's training kept in files: all that a run changes, so that it goes on as if it had never stopped.

Tensors carry their names in the published checkpoint. They are whole in the files whatever number of graphics cards
they were sharded over, so a run may go on with another number. The frozen base is not in them.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn
from torch.distributed.tensor import DTensor, distribute_tensor

from ..errors import Ex4dError
from ..tensor_saving import save_tensors

FORMAT: Final = "ex4d.lora-training/1"
FOLDER_NAME: Final = "checkpoints"

_WEIGHTS, _AVERAGE, _FIRST, _SECOND = "weights", "average", "first_moment", "second_moment"
_MOMENTS: Final = {_FIRST: "exp_avg", _SECOND: "exp_avg_sq"}  # AdamW's own names


@dataclass
class LoraRun:
    """What a run changes as it goes.

    parameters: trained ones by published name. average: their average by the same names; empty where none is kept.
    step: steps done. updates: of them those that changed the weights. seconds: spent on them, over all sittings.
    """

    parameters: dict[str, nn.Parameter]
    optimizer: torch.optim.AdamW
    average: dict[str, Tensor]
    step: int = 0
    updates: int = 0
    seconds: float = 0.0


def checkpoint_files(folder: Path) -> list[Path]:
    """The checkpoints of a run's folder, newest first."""
    return sorted((folder / FOLDER_NAME).glob("step_*.safetensors"), reverse=True)


def state_bytes(run: LoraRun) -> int:
    """About the size of one checkpoint."""
    values = sum(parameter.numel() for parameter in run.parameters.values())
    return 4 * values * (4 if run.average else 3)


def save_checkpoint(folder: Path, run: LoraRun, identity: Mapping[str, Any], kept: int, *, writes: bool) -> None:
    """Writes the run beside its earlier checkpoints and removes all but the `kept` newest, once this one is complete.

    Every rank of a sharded run has to call it, as each brings its part; one of them `writes`.

    Raises:
        Ex4dError: `disk_full` or `read_only`, with all earlier checkpoints in place.
    """
    tensors = {name: whole(value) for name, value in _tensors(run)}
    if not writes:
        return
    record = {"step": run.step, "updates": run.updates, "seconds": run.seconds, "identity": dict(identity)}
    path = folder / FOLDER_NAME / f"step_{run.step:08}.safetensors"
    path.parent.mkdir(parents=True, exist_ok=True)
    save_tensors(path, tensors, {"format": FORMAT, "run": json.dumps(record)})
    for old in checkpoint_files(folder)[kept:]:
        old.unlink(missing_ok=True)


def load_newest(folder: Path, run: LoraRun, identity: Mapping[str, Any]) -> list[str]:
    """Puts the newest readable checkpoint into `run`. Returns the names of damaged ones that were passed over.

    Raises:
        Ex4dError: `no_such_file` without a checkpoint; `model_invalid` if none can be read; `bad_request` with the
            settings in which the run that wrote it differs.
    """
    files = checkpoint_files(folder)
    if not files:
        raise Ex4dError("no_such_file", f"There is no checkpoint in {folder}.", "Start anew, without --resume.")
    damaged = []
    for path in files:
        try:
            tensors, record = _read(path)
        except (SafetensorError, OSError, KeyError, TypeError, ValueError):
            damaged.append(path.name)
            continue
        _require_same(record["identity"], identity, folder)
        _restore(run, tensors, record, path)
        return damaged
    raise Ex4dError(
        "model_invalid",
        f"None of the {len(files)} checkpoints in {folder} can be read.",
        "Start anew in another folder.",
    )


def require_settings(folder: Path, settings: Mapping[str, Any]) -> None:
    """Raises `bad_request` with the difference if the newest readable checkpoint is of a run with other settings.

    Args:
        folder: the run's.
        settings: some of what `load_newest` compares; tensors are not read.
    """
    for path in checkpoint_files(folder):
        try:
            with safe_open(path, framework="pt") as file:
                identity = json.loads((file.metadata() or {})["run"])["identity"]
        except (SafetensorError, OSError, KeyError, TypeError, ValueError):
            continue
        _require_same({name: value for name, value in identity.items() if name in settings}, settings, folder)
        return


def whole(value: Tensor) -> Tensor:
    """A tensor as it is before sharding, on the CPU. Every rank has to call it."""
    value = value.detach()
    return (value.full_tensor() if isinstance(value, DTensor) else value).cpu()


def _tensors(run: LoraRun) -> Iterator[tuple[str, Tensor]]:
    for name, parameter in run.parameters.items():
        yield f"{_WEIGHTS}.{name}", parameter
        if run.average:
            yield f"{_AVERAGE}.{name}", run.average[name]
        # before the first step there are none
        for part, key in _MOMENTS.items():
            if key in (state := run.optimizer.state[parameter]):
                yield f"{part}.{name}", state[key]


def _read(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    with safe_open(path, framework="pt") as file:
        header = file.metadata() or {}
        if header.get("format") != FORMAT:
            raise ValueError("another format")
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (no mapping)
    record = json.loads(header["run"])
    if not isinstance(record["identity"], dict):
        raise ValueError("no identity")
    return tensors, record


def _require_same(theirs: Mapping[str, Any], ours: Mapping[str, Any], folder: Path) -> None:
    differences = [
        f"{name} was {theirs.get(name)!r} and is {ours.get(name)!r} now"
        for name in sorted(theirs.keys() | ours.keys())
        if theirs.get(name) != ours.get(name)
    ]
    if differences:
        raise Ex4dError(
            "bad_request",
            f"The run in {folder} was started with another configuration: {'; '.join(differences)}.",
            "Set it back to go on with this run, or start anew in another folder.",
        )


@torch.no_grad()
def _restore(run: LoraRun, tensors: Mapping[str, Tensor], record: Mapping[str, Any], path: Path) -> None:
    try:
        run.updates = int(record["updates"])
        for name, parameter in run.parameters.items():
            parameter.copy_(_like(tensors[f"{_WEIGHTS}.{name}"], parameter))
            if run.average:
                run.average[name].copy_(_like(tensors[f"{_AVERAGE}.{name}"], parameter))
            if run.updates:
                moments = {key: _like(tensors[f"{part}.{name}"], parameter).clone() for part, key in _MOMENTS.items()}
                run.optimizer.state[parameter] = {"step": torch.tensor(float(run.updates)), **moments}
        run.step, run.seconds = int(record["step"]), float(record["seconds"])
    except (KeyError, TypeError, ValueError, RuntimeError) as error:
        raise Ex4dError(
            "model_invalid",
            f"The tensors of {path} do not fit this training ({type(error).__name__}).",
            "Start anew in another folder.",
        ) from error
    # AdamW wants its step count where it computes if it is fused
    if any(group.get("fused") for group in run.optimizer.param_groups):
        for parameter in run.parameters.values():
            if state := run.optimizer.state[parameter]:
                state["step"] = state["step"].to(parameter.device)


def _like(value: Tensor, parameter: Tensor) -> Tensor:
    """`value` on the parameter's device, and sharded as it is."""
    value = value.to(parameter.device)
    if isinstance(parameter, DTensor):
        return distribute_tensor(value, parameter.device_mesh, parameter.placements)
    return value
