# SPDX-License-Identifier: GPL-3.0-or-later
"""A folder of model files that takes the place of the one before all at once, or not at all."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Iterator
from pathlib import Path

from ..files import explain_os_error


@contextlib.contextmanager
def new_folder(folder: Path) -> Iterator[Path]:
    """Gives a path beside `folder` for the block to make; what was made there then takes the place of `folder`.

    Raises:
        Ex4dError: what `explain_os_error` makes of an `OSError`; the folder before is then still there.
    """
    fresh, old = (folder.with_name(f".{folder.name}.{state}") for state in ("new", "old"))
    try:
        _put_back(old, folder)  # of a run that was ended between the two renames below
        for left_over in (fresh, old):
            shutil.rmtree(left_over, ignore_errors=True)
        yield fresh
        if folder.exists():
            folder.rename(old)
        fresh.rename(folder)
    except OSError as error:
        raise explain_os_error(error, folder) from error
    finally:
        with contextlib.suppress(OSError):  # it must not hide the first one
            _put_back(old, folder)
        for left_over in (fresh, old) if folder.exists() else (fresh,):
            shutil.rmtree(left_over, ignore_errors=True)


def _put_back(old: Path, folder: Path) -> None:
    if old.exists() and not folder.exists():
        old.rename(folder)
