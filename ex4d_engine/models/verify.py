# SPDX-License-Identifier: GPL-3.0-or-later
"""Whether an installed model's files are what was published."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from ..progress import Reporter
from . import store
from .lock import ByteProgress, read_lock, sha256
from .registry import model_named


@dataclass(frozen=True)
class Verification:
    """What a check of every file found. All paths are relative to the model's folder.

    Attributes:
        name: the model's.
        path: its folder or file.
        intact: files equal to what was published or downloaded.
        missing: files that are gone.
        damaged: files of another content.
        unknown: files there is no checksum to compare with: those of a folder that was not downloaded by us.
    """

    name: str
    path: Path
    intact: tuple[str, ...]
    missing: tuple[str, ...]
    damaged: tuple[str, ...]
    unknown: tuple[str, ...]

    @property
    def whole(self) -> bool:
        """Whether nothing is known to be wrong."""
        return not (self.missing or self.damaged)


def verify(name: str, reporter: Reporter) -> Verification:
    """Reads every file of a model and compares it with the registry's checksum or, without one, the lock's.

    Raises:
        Ex4dError: `unknown_model`; `model_missing` if it is not here; `cancelled`.
    """
    model = model_named(name)
    own = store.registrations().get(name)
    path = own if own is not None else store.download_folder(name)
    lock = read_lock(path)
    if own is not None or lock is None or not lock.complete:
        path = store.find(name)  # raises if it is not here at all
    files = store.model_files(model, path)
    expected = {file: entry.sha256 for file, entry in lock.files.items()} if lock is not None else {}
    expected |= {file: checksum for file, checksum in model.sha256.items() if file in files or file in expected}
    if (
        path.is_file() and model.single_file and model.single_file in model.sha256
    ):  # the user's own file may have another name
        expected[path.name] = model.sha256[model.single_file]

    progress = ByteProgress(
        reporter, "check files", sum(files[file].stat().st_size for file in files if file in expected)
    )
    found = {file: sha256(files[file], progress.add) for file in files if file in expected}
    return Verification(
        name=name,
        path=path,
        intact=tuple(sorted(file for file, value in found.items() if value == expected[file])),
        missing=tuple(sorted(expected.keys() - files.keys())),
        damaged=tuple(sorted(file for file, value in found.items() if value != expected[file])),
        unknown=tuple(sorted(files.keys() - expected.keys())),
    )
