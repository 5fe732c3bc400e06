# SPDX-License-Identifier: GPL-3.0-or-later
"""One run at a time makes a shot: a second one would take the first one's half-made files for its own."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import psutil

from ..errors import Ex4dError
from ..files import explain_os_error

LOCK_NAME: Final = ".lock"


@contextmanager
def locked(root: Path) -> Iterator[None]:
    """Holds the lock of the shot folder `root`; a lock whose process is gone is taken over.

    Raises:
        Ex4dError: `shot_busy` while another run holds it.
    """
    path = root / LOCK_NAME
    while not _taken(path):
        holder = _holder(path)
        if holder is not None:
            raise Ex4dError(
                "shot_busy",
                f"Another run (process {holder}) is working in {root}.",
                "Wait for it, or choose another folder.",
            )
        path.unlink(missing_ok=True)
    try:
        yield
    finally:
        path.unlink(missing_ok=True)


def _taken(path: Path) -> bool:
    mine = json.dumps({"pid": os.getpid(), "started": psutil.Process().create_time()})
    try:
        with path.open("x", encoding="ascii") as file:  # fails where it exists: one process wins
            file.write(mine)
    except FileExistsError:
        return False
    except OSError as error:
        raise explain_os_error(error, path) from error
    return True


def _holder(path: Path) -> int | None:
    """The number of the living process that holds the lock; None for a lock left behind."""
    try:
        document = json.loads(path.read_text(encoding="ascii"))
        process = psutil.Process(int(document["pid"]))
        # a number is given again to other processes; a start time is not
        alive = abs(process.create_time() - float(document["started"])) < 1.0
    except (OSError, ValueError, KeyError, TypeError, psutil.Error):
        return None
    return process.pid if alive else None
