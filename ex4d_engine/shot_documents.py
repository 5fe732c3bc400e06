# SPDX-License-Identifier: GPL-3.0-or-later
"""The JSON files of a shot folder: read in any version up to today's, checked, written whole. Standard library only.

Whatever a file holds, reading it gives checked values or an `Ex4dError`; what could not be read back is not written.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final

from . import json_fields as fields
from .errors import Ex4dError
from .files import explain_os_error, write_bytes
from .shot_upgrades import UPGRADES

SCHEMA_VERSION: Final = 2


@contextlib.contextmanager
def explained(path: Path) -> Iterator[None]:
    """Turns the `ValueError` of a damaged document into `shot_invalid`, naming the file."""
    try:
        yield
    except ValueError as error:
        raise Ex4dError(
            "shot_invalid", f"{path} is damaged: {error}.", "Restore it from a copy, or make the shot again."
        ) from error


def read_document(path: Path) -> dict[str, Any] | None:
    """The document in the version of today; None where there is no such file.

    Raises:
        ValueError: where it is damaged. Ex4dError: `shot_newer`, or why it may not be read.
    """
    try:
        data = path.read_bytes()
    except (FileNotFoundError, NotADirectoryError, ValueError):  # ValueError: a path that no file can have
        return None
    except OSError as error:
        raise explain_os_error(error, path) from error
    document = fields.mapping(fields.parse_json(data), "the document")
    version = fields.integer(document, "schema", 1)
    if version > SCHEMA_VERSION:
        raise Ex4dError(
            "shot_newer",
            f"{path} was written by a newer EX-4D (format {version}; this one reads up to {SCHEMA_VERSION}).",
            "Update EX-4D.",
        )
    for old in range(version, SCHEMA_VERSION):
        document = UPGRADES[old](document)
    return document


def write_document(path: Path, document: dict[str, Any], read: Callable[[dict[str, Any]], object]) -> None:
    """Writes the document atomically, once `read` has understood what will be in the file.

    Raises:
        Ex4dError: `shot_invalid` for values that could not be read back; `disk_full`, `read_only`.
    """
    try:
        data = fields.to_json(document, indent=1)
        read(fields.parse_json(data))
    except ValueError as error:
        raise Ex4dError(
            "shot_invalid", f"{path} was not written, as it could not be read back: {error}.", "Check the settings."
        ) from error
    write_bytes(path, data + b"\n")


def one_of(choices: tuple[str, ...], data: dict[str, Any], name: str, default: str | None = None) -> str:
    """The field's text; ValueError where it is none of the choices."""
    value = fields.text(data, name, default)
    if value not in choices:
        raise ValueError(f"{name} is {value!r}, not one of {choices}")
    return value
