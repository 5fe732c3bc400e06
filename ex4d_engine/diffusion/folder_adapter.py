# SPDX-License-Identifier: GPL-3.0-or-later
"""Where the adapter of a model folder lies. Standard library only: who asks may have no torch yet."""

from __future__ import annotations

from pathlib import Path
from typing import Final

ADAPTER_FILE: Final = "ex4d.safetensors"
"""An adapter that lies in a model folder, as `convert` writes it; it is used where no other is named."""

ADAPTER_FOLDER: Final = "ex4d"
"""The same in shards, for hosts that take no large files."""

CAMERA_FOLDER: Final = "camera_encoder"
"""The camera encoder of a folder that `Ex4dPipeline.save_pretrained` wrote, whose LoRA is in its transformer."""


def folder_adapter(folder: Path) -> Path | None:
    """The EX-4D adapter that lies in a model folder, a file or a folder of shards; None where it has none."""
    candidates = (folder / ADAPTER_FILE, folder / ADAPTER_FOLDER)
    return next((path for path in candidates if path.exists()), None)


def follows_cameras(folder: Path) -> bool:
    """Whether a model folder needs no adapter besides what is in it."""
    return folder_adapter(folder) is not None or (folder / CAMERA_FOLDER).is_dir()
