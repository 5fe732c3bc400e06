# SPDX-License-Identifier: GPL-3.0-or-later
"""Writing files so that a killed process never leaves a half-written one. Standard library only."""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from .errors import Ex4dError

_FULL: Final = {errno.ENOSPC, getattr(errno, "EDQUOT", errno.ENOSPC)}  # Windows has no quota error of its own
_FORBIDDEN: Final = {errno.EACCES, errno.EPERM, errno.EROFS}


@contextlib.contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """Gives a temporary path beside `path`; renames it to `path` on success, removes it on any failure.

    The temporary name keeps the suffix, as encoders choose their format by it, and starts with a dot,
    so that no stage takes it for a finished file.

    Raises:
        Ex4dError: for any error of the operating system inside the block; see `explain_os_error`.
    """
    temporary = path.with_name(f".{path.stem}.{uuid.uuid4().hex[:8]}{path.suffix}")
    try:
        yield temporary
        os.replace(temporary, path)
    except OSError as error:
        raise explain_os_error(error, path) from error
    finally:
        # an error here (a folder that is none, a file still open on Windows) must not hide the first one
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)


def write_bytes(path: Path, data: bytes) -> None:
    """Writes `data` to `path` atomically."""
    with atomic_path(path) as temporary:
        temporary.write_bytes(data)


def link_or_copy(source: Path, target: Path) -> None:
    """`target` becomes the same file as `source`, or a copy where the file system cannot link.

    Sharing is safe, as our files are replaced and never changed in place.
    """
    with atomic_path(target) as temporary:
        try:
            temporary.hardlink_to(source)
        except OSError:  # another drive, or a file system without hard links
            shutil.copyfile(source, temporary)


def explain_os_error(error: OSError, path: Path) -> Ex4dError:
    """Turns an operating-system error about `path`, in reading or writing, into a sentence with what to do."""
    if error.errno in _FULL:
        return Ex4dError(
            "disk_full", f"The disk is full: {path} could not be written.", "Free some space; then run again."
        )
    if error.errno in _FORBIDDEN:
        return Ex4dError(
            "read_only",
            f"The system forbids the use of {path}.",
            "Choose a folder you may write to, or close the program that has the file open.",
        )
    if error.errno == errno.EISDIR:
        return Ex4dError("read_only", f"{path} is a folder where a file should be.", "Move it away.")
    if error.errno == errno.ENOTDIR:
        return Ex4dError("no_such_file", f"{path} does not exist: a part of it is a file.", "Check the path.")
    if error.errno == errno.ENOENT:
        return Ex4dError("no_such_file", f"{path} or its folder does not exist.", "Check the path.")
    return Ex4dError("internal", f"{path}: {error.strerror or error}.", "Check the drive and run again.")


def _amount(count: int) -> str:
    return f"{count / 2**30:.1f} GiB" if count >= 2**30 else f"{count / 2**20:.1f} MiB"


def prepare_folder(folder: Path, need_bytes: int = 0) -> None:
    """Makes `folder` and proves, before any work starts, that it can be written and has room.

    Raises:
        Ex4dError: `read_only` or `disk_full`.
    """
    probe = folder / f".probe.{uuid.uuid4().hex[:8]}"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        try:
            probe.write_bytes(b"x")
        finally:  # a full disk leaves an empty one
            probe.unlink(missing_ok=True)
        free = shutil.disk_usage(folder).free
    except (FileExistsError, NotADirectoryError) as error:
        raise Ex4dError(
            "read_only", f"{folder} cannot be a folder: a file is in the way.", "Choose another folder."
        ) from error
    except OSError as error:
        raise explain_os_error(error, folder) from error
    if free < need_bytes:
        raise Ex4dError(
            "disk_full",
            f"{folder} has {_amount(free)} free and about {_amount(need_bytes)} are needed.",
            "Free some space or choose another folder.",
        )
