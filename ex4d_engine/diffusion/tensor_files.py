# SPDX-License-Identifier: GPL-3.0-or-later
"""Reading weight files that come from strangers: tensors and nothing else, or a clear refusal."""

from __future__ import annotations

import pickle
import warnings
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

from ..errors import Ex4dError

Tensors = dict[str, torch.Tensor]

_ZIP = b"PK\x03\x04"  # torch files since 1.6
_PICKLE = b"\x80"  # torch files before that


def read_tensors(path: Path) -> Tensors:
    """All tensors of a weight file, or of a folder of `*.safetensors` shards, on the CPU, by name.

    The kind is told by the content, not by the name. Torch files are read with torch's restricted unpickler, so
    a file cannot run code; a mapping under `state_dict` is unwrapped.

    Raises:
        Ex4dError: `model_missing` without such a file; `model_invalid` if it is damaged, wants to run code or
            holds anything but named tensors.
    """
    if path.is_dir():
        return _read_shards(path)
    if not path.is_file():
        raise Ex4dError("model_missing", f"There is no weight file {path}.", "Download it or correct the path.")
    with path.open("rb") as file:
        opening = file.read(9)
    # A safetensors file opens with an 8-byte length, which may begin with any byte, and the brace of its header.
    if opening[8:] != b"{" and opening.startswith((_ZIP, _PICKLE)):
        return _read_torch(path, mmap=opening.startswith(_ZIP))
    return _read_safetensors(path)


def _read_shards(folder: Path) -> Tensors:
    shards = sorted(folder.glob("*.safetensors"))
    if not shards:
        raise Ex4dError(
            "model_missing",
            f"There is no .safetensors file in {folder}.",
            "Download the weights or correct the path.",
        )
    tensors: Tensors = {}
    for shard in shards:
        part = _read_safetensors(shard)
        if twice := tensors.keys() & part.keys():
            raise _invalid(shard, f"repeats {len(twice)} tensors of another shard, {min(twice)!r} first")
        tensors |= part
    return tensors


def _read_safetensors(path: Path) -> Tensors:
    try:
        return load_file(path)
    except SafetensorError as error:
        raise _invalid(path, f"is truncated, damaged or no weight file ({error})") from error


def _read_torch(path: Path, mmap: bool) -> Tensors:
    try:
        with warnings.catch_warnings(action="ignore"):  # of pickle protocols that it may not read, which is told below
            content = torch.load(path, map_location="cpu", weights_only=True, mmap=mmap)
    except OSError:
        raise
    except Exception as error:  # of damaged bytes the unpickler may raise anything, from IndexError to TypeError
        if isinstance(error, pickle.UnpicklingError) and "Unsupported" in str(error):
            raise Ex4dError(
                "model_invalid",
                f"{path} holds Python objects that would run code when read, so it was not read.",
                "Get the weights as .safetensors, or from the people who made them.",
            ) from error
        raise _invalid(path, f"is truncated, damaged or no weight file ({type(error).__name__})") from error
    return _named_tensors(content, path)


def _named_tensors(content: Any, path: Path) -> Tensors:
    if isinstance(content, dict) and isinstance(content.get("state_dict"), dict):
        content = content["state_dict"]
    if not isinstance(content, dict):
        raise _invalid(path, f"holds a {type(content).__name__}, not named tensors")
    others = [str(name) for name, value in content.items() if not isinstance(value, torch.Tensor)]
    if others:
        raise _invalid(path, f"holds {len(others)} entries that are no tensors: {', '.join(others[:5])}")
    return content


def _invalid(path: Path, what: str) -> Ex4dError:
    return Ex4dError("model_invalid", f"{path} {what}.", "Download the file again.")
