# SPDX-License-Identifier: GPL-3.0-or-later
"""Finished windows kept on disk, so that a killed run goes on where it stopped with the same numbers."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save

from ..files import explain_os_error, write_bytes

_NAME = "latents"


class LatentStore(Protocol):
    """Where finished windows go. A key names a window and everything `generate_video` was asked for."""

    def load(self, key: str, shape: tuple[int, ...]) -> torch.Tensor | None:
        """The latents saved under `key`, float32 on the CPU; None if there are none of that shape."""
        ...

    def save(self, key: str, latents: torch.Tensor) -> None: ...


class NoStore:
    """Keeps nothing."""

    def load(self, key: str, shape: tuple[int, ...]) -> torch.Tensor | None:
        return None

    def save(self, key: str, latents: torch.Tensor) -> None:
        pass


class FileStore:
    """One safetensors file a window, in one folder, written atomically.

    Args:
        folder: made when the first window is saved.
        identity: what decides the numbers besides `generate_video`'s own arguments: conditioning, weights with their
            checksums, precision, device. Files of another identity are never read.
    """

    def __init__(self, folder: Path, identity: Mapping[str, Any]) -> None:
        self.folder = folder
        self._identity = settings_digest(identity)

    def load(self, key: str, shape: tuple[int, ...]) -> torch.Tensor | None:
        """The window's latents; None also for a file that is damaged or of another shape, which is made again."""
        path = self.path(key)
        if not path.is_file():
            return None
        try:
            with safe_open(path, framework="pt") as file:
                if _NAME not in file.keys():  # noqa: SIM118 - it is no mapping
                    return None
                latents = file.get_tensor(_NAME).clone()  # Windows cannot remove a file that is still mapped
        except SafetensorError:
            return None
        except OSError as error:
            raise explain_os_error(error, path) from error
        return latents if tuple(latents.shape) == shape and latents.dtype == torch.float32 else None

    def save(self, key: str, latents: torch.Tensor) -> None:
        """Writes the window's latents.

        Raises:
            Ex4dError: `disk_full`, `read_only`.
        """
        path = self.path(key)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise explain_os_error(error, path) from error
        # to bytes first: safetensors' own writer tells a full disk in an error of its own
        write_bytes(path, save({_NAME: latents.detach().float().cpu().contiguous()}))

    def clear(self) -> None:
        """Removes every window of this identity: the run is finished."""
        for path in self.folder.glob(f"*.{self._identity[:16]}.safetensors"):
            path.unlink(missing_ok=True)

    def path(self, key: str) -> Path:
        """The file of a window."""
        return self.folder / f"{key}.{self._identity[:16]}.safetensors"


def settings_digest(settings: Mapping[str, Any]) -> str:
    """SHA-256 in hex of plain values, independent of their order."""
    text = json.dumps(settings, sort_keys=True, ensure_ascii=False)
    return hashlib.sha256(text.encode("utf-8")).hexdigest()
