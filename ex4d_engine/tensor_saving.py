# SPDX-License-Identifier: GPL-3.0-or-later
"""Tensor files written whole or not at all, with a full disk told as what it is."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor

from .files import atomic_path

_SYSTEM_ERROR: Final = re.compile(r"os error (\d+)")


def save_tensors(path: Path, tensors: Mapping[str, Tensor], header: Mapping[str, str] | None = None) -> None:
    """Writes `tensors` as safetensors; an earlier file at `path` is replaced only once the new one is complete.

    Raises:
        Ex4dError: `disk_full`, `read_only`, or what else `files.explain_os_error` says.
    """
    ready = {name: value.detach().cpu().contiguous() for name, value in tensors.items()}
    with atomic_path(path) as temporary, system_errors():
        save_file(ready, temporary, dict(header) if header else None)


@contextmanager
def system_errors() -> Iterator[None]:
    """Raises what safetensors tells of the system in words of its own, such as a full disk, as an `OSError`."""
    try:
        yield
    except SafetensorError as error:
        number = _SYSTEM_ERROR.search(str(error))
        if number is None:
            raise
        raise OSError(int(number[1]), str(error)) from error
