# SPDX-License-Identifier: GPL-3.0-or-later
"""Making a finished shot anew without ever losing it: the new one is built aside and takes its place when whole.

    <shot>/.renewal/   a shot folder of its own, while the new shot is made; a killed run goes on in it
    <shot>/.replaced/  the same folder from the moment on when the new shot counts, until it is in place
"""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import Final

from ..errors import Ex4dError
from ..files import explain_os_error
from ..image_sequence import find_sequence
from ..shot import Shot

PARTS: Final = ("plate", "depth", "mesh")
_RENEWAL: Final = ".renewal"
_REPLACED: Final = ".replaced"


def renewal_folder(root: Path) -> Path:
    """Where a finished shot is made anew."""
    return root / _RENEWAL


def replace_shot(root: Path) -> None:
    """Puts the shot made in `renewal_folder` into the place of the one in `root`. Takes stay."""
    try:
        os.replace(root / _RENEWAL, root / _REPLACED)
    except OSError as error:
        raise explain_os_error(error, root) from error
    finish_replacement(root)


def finish_replacement(root: Path) -> None:
    """Ends a replacement that a killed process left half done; does nothing where there is none.

    Only renames lie between the old shot and the new one, and each step is done once however often it is begun.
    """
    new = root / _REPLACED
    if not new.is_dir():
        return
    try:
        if (new / "shot.json").is_file():
            (root / "shot.json").unlink(missing_ok=True)  # a mixture must not be taken for a shot
            for name in PARTS:
                if (new / name).is_dir():
                    if (root / name).is_dir():
                        os.replace(root / name, new / f"old.{name}")
                    os.replace(new / name, root / name)
            os.replace(new / "shot.json", root / "shot.json")
    except OSError as error:
        raise explain_os_error(error, root) from error
    shutil.rmtree(new, ignore_errors=True)


def remove_parts(root: Path, parts: Iterable[str] = PARTS) -> None:
    """Deletes what an unfinished shot has made so far."""
    for name in parts:
        shutil.rmtree(root / name, ignore_errors=True)


def link_plate(source: Shot, target: Path) -> None:
    """The plate of one shot folder for another, linked where the file system can."""
    (target / "plate").mkdir(parents=True, exist_ok=True)
    for number in source.require_plate().numbers:
        file = source.plate_file(number)
        link_or_copy(file, target / "plate" / file.name)


def link_or_copy(source: Path, target: Path) -> None:
    """`target` becomes the same file as `source`, or a copy. Our files are replaced, never changed, so both are safe.

    Raises:
        Ex4dError: `disk_full`, `read_only` or `no_such_file`.
    """
    target.unlink(missing_ok=True)
    try:
        target.hardlink_to(source)
    except OSError:  # another drive, or a file system without hard links
        try:
            shutil.copyfile(source, target)
        except OSError as error:
            target.unlink(missing_ok=True)
            raise explain_os_error(error, target) from error


def refuse_foreign_folder(root: Path) -> None:
    """Raises `bad_request` where `root` is no shot but holds folders that a shot would overwrite."""
    if (root / "shot.json").is_file():
        return
    for name in PARTS:
        folder = root / name
        if folder.exists() and not (folder.is_dir() and not any(folder.iterdir())):
            raise Ex4dError(
                "bad_request",
                f"{root} is no shot folder, and its {name} would be overwritten.",
                "Choose an empty folder for the shot.",
            )


def refuse_own_files(path: Path, root: Path) -> None:
    """Raises `bad_request` for a clip or depth that lies among the files the shot itself makes."""
    for name in PARTS:
        if path.is_relative_to(root / name):
            raise Ex4dError(
                "bad_request",
                f"{path} lies in the shot folder, among the files that are made anew.",
                "Move it elsewhere, or choose another folder for the shot.",
            )


def stamp(path: Path) -> list[int] | None:
    """[files, bytes, latest change in ns] of a movie, image, sequence, folder or pattern; None where nothing is.

    A clip or depth that was written again under its name has another stamp, and is read again.
    """
    found = [file.stat() for file in _files(path)]
    if not found:
        return None
    return [len(found), sum(status.st_size for status in found), max(status.st_mtime_ns for status in found)]


def _files(path: Path) -> list[Path]:
    if path.is_dir():
        return [file for file in path.iterdir() if file.is_file() and not file.name.startswith(".")]
    if path.is_file():
        sequence = find_sequence(path)
        return [path] if sequence is None else [sequence.file(number) for number in sequence.numbers]
    wildcard = re.sub(r"#+|%0?\d*d", "*", path.name.replace("[", "[[]"))
    return list(path.parent.glob(wildcard)) if path.parent.is_dir() else []
