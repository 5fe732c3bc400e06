# SPDX-License-Identifier: GPL-3.0-or-later
"""What a network said about each frame, at the network's own size, kept in a temporary file.

A source looks at the whole clip before its first frame is asked for: scale, lens and cameras are one for the clip.
On disk those maps take a megabyte a frame; in memory there is one at a time.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt

from ..files import explain_os_error

Array = npt.NDArray[np.float32]


class SmallMaps:
    """A list of maps (h, w) float32 of one size, on disk until it is closed or forgotten."""

    def __init__(self) -> None:
        try:
            self._file = tempfile.TemporaryFile(prefix="ex4d-depth-")  # noqa: SIM115 - lives as long as the list
        except OSError as error:
            raise explain_os_error(error, Path(tempfile.gettempdir())) from error
        self._shape: tuple[int, int] | None = None
        self._count = 0

    def append(self, values: Array) -> None:
        """Adds a map (h, w).

        Raises:
            Ex4dError: `disk_full`, `read_only`, of the system's folder for temporary files.
        """
        self._shape = self._shape or (values.shape[0], values.shape[1])
        if values.shape != self._shape:
            raise ValueError(f"a map of {values.shape} among maps of {self._shape}")
        try:
            self._file.seek(self._count * values.size * 4)
            self._file.write(np.ascontiguousarray(values, np.float32).tobytes())
        except OSError as error:
            raise explain_os_error(error, Path(tempfile.gettempdir())) from error
        self._count += 1

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, index: int) -> Array:
        if self._shape is None or not 0 <= index < self._count:
            raise IndexError(index)
        height, width = self._shape
        self._file.seek(index * height * width * 4)
        return np.frombuffer(self._file.read(height * width * 4), np.float32).reshape(self._shape)

    def __iter__(self) -> Iterator[Array]:
        return (self[index] for index in range(self._count))

    def close(self) -> None:
        """Removes the file."""
        self._file.close()
