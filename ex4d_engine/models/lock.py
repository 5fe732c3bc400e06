# SPDX-License-Identifier: GPL-3.0-or-later
"""The file `ex4d-model.json` beside a downloaded model: what was fetched from where, with size and checksum.

While a download runs it lists the files that have arrived and were checked; `complete` comes last.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Final, Protocol

from .. import json_fields
from ..errors import Ex4dError
from ..files import explain_os_error, write_bytes
from ..progress import Reporter

LOCK_NAME: Final = "ex4d-model.json"
SCHEMA: Final = 1
MEGABYTE: Final = 10**6
_CHUNK: Final = 8 * 2**20
_MOST_BYTES: Final = 2**53  # what JSON readers agree on


@dataclass(frozen=True)
class LockedFile:
    """Size in bytes and SHA-256 of a file, as it was when it was checked."""

    size: int
    sha256: str


@dataclass(frozen=True)
class Lock:
    """What a model folder holds.

    Attributes:
        name: of the registry.
        repository, commit: where it came from, exactly.
        complete: whether all files have arrived.
        files: by path relative to the folder, with `/`.
    """

    name: str
    repository: str
    commit: str
    complete: bool = False
    files: Mapping[str, LockedFile] = field(default_factory=dict)


def read_lock(folder: Path) -> Lock | None:
    """The lock of a model folder; None where there is none.

    Raises:
        Ex4dError: `model_invalid` for one that is damaged or of a newer version.
    """
    path = folder / LOCK_NAME
    try:
        document = json_fields.mapping(json_fields.parse_json(path.read_bytes()), "the document")
        if json_fields.integer(document, "schema", 1) > SCHEMA:
            raise ValueError("it was written by a newer version")
        files = json_fields.mapping(document.get("files"), "files")
        return Lock(
            name=json_fields.text(document, "name"),
            repository=json_fields.text(document, "repository"),
            commit=json_fields.text(document, "commit"),
            complete=document.get("complete") is True,
            files={inside(file): _locked_file(json_fields.mapping(entry, file)) for file, entry in files.items()},
        )
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise explain_os_error(error, path) from error
    except ValueError as error:
        raise Ex4dError(
            "model_invalid", f"{path} could not be read: {error}.", "Delete this file and download the model again."
        ) from error


def write_lock(folder: Path, lock: Lock) -> None:
    """Writes the lock of a model folder, atomically."""
    document = {
        "schema": SCHEMA,
        "name": lock.name,
        "repository": lock.repository,
        "commit": lock.commit,
        "complete": lock.complete,
        "files": {path: {"size": entry.size, "sha256": entry.sha256} for path, entry in sorted(lock.files.items())},
    }
    write_bytes(folder / LOCK_NAME, json_fields.to_json(document, indent=1))


def _locked_file(entry: dict[str, object]) -> LockedFile:
    return LockedFile(json_fields.integer(entry, "size", 0, _MOST_BYTES), json_fields.text(entry, "sha256"))


def inside(path: str) -> str:
    """`path`, unless it leads out of the folder it is relative to."""
    if ".." in PurePosixPath(path).parts or PurePosixPath(path).is_absolute() or PureWindowsPath(path).anchor:
        raise ValueError(f"{path!r} is not inside the folder")
    return path


# --- checksums ----------------------------------------------------------------------------------------------------


class _Hash(Protocol):
    def update(self, data: bytes, /) -> None: ...


class ByteProgress:
    """Counts bytes over several files and reports them in megabytes, rounded up; a cancel is heard at every count."""

    def __init__(self, reporter: Reporter, stage: str, total: int, done: int = 0) -> None:
        self._reporter = reporter
        self._stage = stage
        self._total = total
        self.done = done
        self._report()

    def add(self, count: int) -> None:
        self.done += count
        self._reporter.check()
        self._report()

    def _report(self) -> None:
        total = max(-(-self._total // MEGABYTE), 1)
        finished = self.done >= self._total
        # the last, begun megabyte is not said to be done: a stage at its total is over
        self._reporter.progress(self._stage, total if finished else min(self.done // MEGABYTE, total - 1), total)


def sha256(path: Path, counted: Callable[[int], object]) -> str:
    """Hexadecimal SHA-256 of a file; `counted` is told of the bytes read since the last time, and may raise.

    Raises:
        Ex4dError: what `files.explain_os_error` makes of an unreadable file.
    """
    digest = hashlib.sha256()
    _feed(digest, path, counted)
    return digest.hexdigest()


def git_blob_id(path: Path) -> str:
    """The id git gives to a file of this content: how the hub knows its small files."""
    digest = hashlib.sha1(f"blob {path.stat().st_size}\0".encode("ascii"), usedforsecurity=False)
    _feed(digest, path, lambda count: None)
    return digest.hexdigest()


def _feed(digest: _Hash, path: Path, counted: Callable[[int], object]) -> None:
    try:
        with path.open("rb") as file:
            while chunk := file.read(_CHUNK):
                digest.update(chunk)
                counted(len(chunk))
    except OSError as error:
        raise explain_os_error(error, path) from error
