# SPDX-License-Identifier: GPL-3.0-or-later
"""What a decoder remembers from one window to the next: in main memory, or in files where it is a frame's in tiles.

A tile of 512² takes 2.3 GiB, and a frame of 4096 × 2160 has dozens. Only one is in hand at a time, and each is wanted
again only a window later, so that they can wait on a disk. The values stay as they are, to the bit.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from io import BufferedReader
from pathlib import Path
from typing import Any, BinaryIO, Protocol

import torch

from ..errors import Ex4dError
from ..files import explain_os_error
from .vae_bands import Memory, moved

Place = tuple[int, int]
"""A tile's top and left."""


class DecoderMemory(Protocol):
    """Where memories wait, those of a tile under its place."""

    def put(self, place: Place, memories: Sequence[Memory]) -> None:
        """Keeps them in place of what was there; on the CPU, whatever device they are on."""
        ...

    def get(self, place: Place) -> list[Memory]:
        """What was last put there, on the CPU; an empty list before."""
        ...

    def clear(self) -> None: ...


class MainMemory:
    """In main memory."""

    def __init__(self) -> None:
        self._kept: dict[Place, list[Memory]] = {}

    def put(self, place: Place, memories: Sequence[Memory]) -> None:
        self._kept[place] = [moved(memory, "cpu") for memory in memories]

    def get(self, place: Place) -> list[Memory]:
        return list(self._kept.get(place, ()))

    def clear(self) -> None:
        self._kept.clear()


@dataclass(frozen=True)
class _Stored:
    shape: tuple[int, ...]
    dtype: torch.dtype


class FileMemory:
    """In a file a tile, which only this object can read again.

    Args:
        folder: made when the first is put there; whoever names it removes it.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._kept: dict[Place, list[list[Any]]] = {}

    def put(self, place: Place, memories: Sequence[Memory]) -> None:
        """As of `DecoderMemory`; one tensor at a time leaves the device.

        Raises:
            Ex4dError: `disk_full`, `read_only`.
        """
        path = self._path(place)
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            with path.open("wb") as file:
                self._kept[place] = [[_written(value, file) for value in memory] for memory in memories]
        except OSError as error:
            raise explain_os_error(error, path) from error

    def get(self, place: Place) -> list[Memory]:
        """As of `DecoderMemory`.

        Raises:
            Ex4dError: `internal` for a file that was changed; what the system says of one that cannot be read.
        """
        if place not in self._kept:
            return []
        path = self._path(place)
        try:
            with path.open("rb") as file:
                return [[_read(value, file) for value in memory] for memory in self._kept[place]]
        except EOFError as error:
            raise Ex4dError("internal", f"{path} was cut short while it was in use.", "Run again.") from error
        except OSError as error:
            raise explain_os_error(error, path) from error

    def clear(self) -> None:
        for place in self._kept:
            self._path(place).unlink(missing_ok=True)
        self._kept.clear()

    def _path(self, place: Place) -> Path:
        return self._folder / f"{place[0]}_{place[1]}.bin"


def _written(value: Any, file: BinaryIO) -> Any:
    """Writes a tensor and returns what it takes to read it; returns anything else as it is."""
    if not isinstance(value, torch.Tensor):
        return value
    flat = value.detach().cpu().contiguous().view(-1)
    file.write(flat.view(torch.uint8).numpy().data)
    return _Stored(tuple(value.shape), value.dtype)


def _read(stored: Any, file: BufferedReader) -> Any:
    if not isinstance(stored, _Stored):
        return stored
    value = torch.empty(stored.shape, dtype=stored.dtype)
    into = value.view(-1).view(torch.uint8).numpy().data
    if file.readinto(into) != len(into):
        raise EOFError
    return value
