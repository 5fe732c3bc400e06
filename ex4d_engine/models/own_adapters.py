# SPDX-License-Identifier: GPL-3.0-or-later
"""EX-4D adapters of the user's own, kept by name beside the downloaded models: what `--adapter NAME` means."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Final

from ..errors import Ex4dError
from ..files import explain_os_error, link_or_copy
from ..places import models_folder

FOLDER_NAME: Final = "adapters"
_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_SUFFIX: Final = ".safetensors"


def keep_adapter(name: str, file: Path) -> Path:
    """Keeps an adapter file under `name`, in place of an earlier one of that name.

    Returns: where it lies now; `file` stays where it is.

    Raises:
        Ex4dError: `bad_request` for a name that is none; `no_such_file`, `disk_full`, `read_only`.
    """
    check_name(name)
    target = _file(name)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise explain_os_error(error, target.parent) from error
    link_or_copy(file, target)
    return target


def check_name(name: str) -> None:
    """Raises `bad_request` unless an adapter can be called so: letters, digits, dots, hyphens and underscores."""
    if not _NAME.fullmatch(name):
        raise Ex4dError(
            "bad_request",
            f"{name!r} is no name for an adapter.",
            "Use up to 64 letters, digits, dots, hyphens and underscores.",
        )


def adapter_path(text: str) -> Path:
    """The file that `text` means: a path where there is one, else the adapter kept under that name, else the path."""
    path = Path(text).expanduser().absolute()
    if not path.exists() and _NAME.fullmatch(text) and _file(text).is_file():
        return _file(text)
    return path


def own_adapters() -> list[str]:
    """The names of all adapters that are kept, sorted."""
    return sorted(path.name.removesuffix(_SUFFIX) for path in (models_folder() / FOLDER_NAME).glob(f"*{_SUFFIX}"))


def _file(name: str) -> Path:
    return models_folder() / FOLDER_NAME / f"{name}{_SUFFIX}"
