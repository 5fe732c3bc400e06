# SPDX-License-Identifier: GPL-3.0-or-later
"""Writing files so that a killed process never leaves a half-written one. Standard library only."""

from __future__ import annotations

import os
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from .errors import Ex4dError


@contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """Gives a temporary path beside `path`; renames it to `path` on success, removes it on any failure.

    The temporary name keeps the suffix, as encoders choose their format by it, and starts with a dot,
    so that no stage takes it for a finished file.
    """
    temporary = path.with_name(f".{path.stem}.{uuid.uuid4().hex[:8]}{path.suffix}")
    try:
        yield temporary
        os.replace(temporary, path)
    except OSError as error:
        raise explain_os_error(error, path) from error
    finally:
        temporary.unlink(missing_ok=True)


def write_bytes(path: Path, data: bytes) -> None:
    """Writes `data` to `path` atomically."""
    with atomic_path(path) as temporary:
        temporary.write_bytes(data)


def write_text(path: Path, text: str) -> None:
    """Writes UTF-8 `text` to `path` atomically."""
    write_bytes(path, text.encode("utf-8"))


def explain_os_error(error: OSError, path: Path) -> Ex4dError:
    """Turns an operating-system error about `path` into a sentence with what to do."""
    import errno

    if error.errno in {errno.ENOSPC, errno.EDQUOT if hasattr(errno, "EDQUOT") else errno.ENOSPC}:
        return Ex4dError(
            "disk_full", f"The disk is full: {path} could not be written.", "Free some space; then run again."
        )
    if error.errno in {errno.EACCES, errno.EPERM, errno.EROFS}:
        return Ex4dError("read_only", f"{path} cannot be written.", "Choose a folder you may write to.")
    if error.errno in {errno.ENOENT, errno.ENOTDIR}:
        return Ex4dError("no_such_file", f"{path} does not exist.", "Check the path.")
    return Ex4dError("internal", f"{path}: {error.strerror or error}.", "Check the drive and run again.")


def prepare_folder(folder: Path, need_bytes: int = 0) -> None:
    """Makes `folder` and proves, before any work starts, that it can be written and has room.

    Raises:
        Ex4dError: `read_only` or `disk_full`.
    """
    probe = folder / f".probe.{uuid.uuid4().hex[:8]}"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe.write_bytes(b"x")
        probe.unlink()
        free = shutil.disk_usage(folder).free
    except FileExistsError as error:
        raise Ex4dError("read_only", f"{folder} is a file, not a folder.", "Choose another folder.") from error
    except OSError as error:
        raise explain_os_error(error, folder) from error
    if free < need_bytes:
        raise Ex4dError(
            "disk_full",
            f"{folder} has {free / 2**30:.1f} GiB free and about {need_bytes / 2**30:.1f} GiB are needed.",
            "Free some space or choose another folder.",
        )
