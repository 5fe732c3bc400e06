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
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

from ..errors import Ex4dError
from ..files import explain_os_error, link_or_copy, prepare_folder
from ..progress import Reporter
from ..shot import Shot, load_shot, save_shot

PARTS: Final = ("plate", "depth", "mesh")
_RENEWAL: Final = ".renewal"
_REPLACED: Final = ".replaced"
_PLATE_SETTINGS: Final = ("source", "source_stamp", "first", "last", "stride", "first_number", "fps")


def open_shot(settings: dict[str, Any], root: Path, reporter: Reporter) -> Shot:
    """The folder to work in, as a shot: `root` as far as it is done with these very settings, else a new one.

    Where `root` holds a finished shot made otherwise, that is its renewal folder. A plate that would be decoded to
    the same files once more is kept. Stages whose files are not all there are not done.

    Args:
        settings: as `Shot.settings`, with the stamps of the files it is made from.

    Raises:
        Ex4dError: `shot_newer` or `shot_invalid`; the folder is then left as it is.
    """
    before = load_shot(root) if (root / "shot.json").is_file() else None
    renewal = root / _RENEWAL
    if before is None or before.settings == settings or before.geometry is None:
        shutil.rmtree(renewal, ignore_errors=True)
        if before is not None and before.settings == settings:
            return _valid_part(before)
        if before is not None and _same_plate(before, settings):
            _remove(root, ("depth", "mesh"))
            return _begun(replace(before, settings=settings))
        _remove(root, PARTS)
        return _begun(Shot(root=root, settings=settings))
    reporter.log("The shot is made anew from other settings or files; it is replaced at the end, and its takes stay.")
    if (renewal / "shot.json").is_file():
        begun = load_shot(renewal)
        if begun.settings == settings:
            return _valid_part(begun)
    shutil.rmtree(renewal, ignore_errors=True)
    prepare_folder(renewal)
    if not _same_plate(before, settings):
        return _begun(Shot(root=renewal, settings=settings))
    _link_plate(before, renewal)
    return _begun(Shot(root=renewal, plate=before.plate, settings=settings))


def _begun(shot: Shot) -> Shot:
    save_shot(shot)
    return shot


def _same_plate(shot: Shot, settings: dict[str, Any]) -> bool:
    return (
        shot.plate is not None
        and not _missing(shot, "plate")
        and all(shot.settings.get(name) == settings[name] for name in _PLATE_SETTINGS)
    )


def _valid_part(shot: Shot) -> Shot:
    if shot.plate is not None and _missing(shot, "plate"):
        return replace(shot, plate=None, geometry=None)
    if shot.geometry is not None and _missing(shot, "depth"):
        return replace(shot, geometry=None)
    return shot


def _missing(shot: Shot, part: str) -> bool:
    file = {"plate": shot.plate_file, "depth": shot.depth_file}[part]
    return any(not file(number).is_file() for number in shot.require_plate().numbers)


def _link_plate(source: Shot, target: Path) -> None:
    (target / "plate").mkdir(exist_ok=True)
    for number in source.require_plate().numbers:
        file = source.plate_file(number)
        link_or_copy(file, target / "plate" / file.name)


def _remove(root: Path, parts: Iterable[str]) -> None:
    for name in parts:
        shutil.rmtree(root / name, ignore_errors=True)


def replace_shot(root: Path) -> None:
    """Puts the shot that was made aside into the place of the one in `root`. Takes stay."""
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
    """[files, bytes, latest change in ns] of a file, folder or pattern; None where nothing is.

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
        return [path]
    wildcard = re.sub(r"#+|%0?\d*d", "*", path.name.replace("[", "[[]"))
    return list(path.parent.glob(wildcard)) if path.parent.is_dir() else []
