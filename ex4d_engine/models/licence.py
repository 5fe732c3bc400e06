# SPDX-License-Identifier: GPL-3.0-or-later
"""Licences that restrict use: their own text is shown before anything of the model is fetched, and kept beside it."""

from __future__ import annotations

import io
import unicodedata
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Final

from ..errors import Ex4dError
from ..files import explain_os_error, prepare_folder, write_bytes
from ..progress import Reporter
from .hub import explained, fetch, published
from .registry import Model

ACCEPTED_NAME: Final = "ex4d-licence.txt"
"""In a model's folder: the text that the user accepted; its name and address where the text could not be had."""
_MOST_BYTES: Final = 2**20

Agree = Callable[[Model], bool]
"""Asks the user, who has been shown a model's licence, whether to accept it."""


def require_acceptance(
    model: Model, folder: Path, agree: Agree | None, endpoint: str | None, reporter: Reporter
) -> None:
    """Shows a licence and has it accepted, unless this very text was accepted for `folder` before.

    Args:
        model: whose licence.
        folder: where the model is downloaded to; the accepted text is kept there.
        agree: asks the user; None asks nobody, and nothing is accepted.
        endpoint: of the hub; HF_ENDPOINT or the public one if None.
        reporter: shows the text.

    Raises:
        Ex4dError: `licence_not_accepted`; `no_network`, `model_missing` where the hub or the repository is not
            there; `disk_full` or `read_only`.
    """
    text = published_licence(model, endpoint)
    accepted = text or f"{model.licence}\n{model.licence_url}\n"
    if _accepted_before(folder) == accepted:
        return
    if text is None:
        reporter.log(
            f"The text of this licence could not be had from {model.repository}. It is {model.licence}; read it at "
            f"{model.licence_url}."
        )
    else:
        reporter.log(f"Its text, as published in {model.repository}:\n\n{text}")
    if agree is None or not agree(model):
        raise Ex4dError(
            "licence_not_accepted",
            f"{model.title} may only be used under {model.licence}, which restricts its use: {model.licence_url}.",
            f"Read it and, if you agree, run `ex4d models download {model.name} --accept-licence`.",
            action=f"licence:{model.name}",
        )
    prepare_folder(folder)
    write_bytes(folder / ACCEPTED_NAME, accepted.encode("utf-8"))


def published_licence(model: Model, endpoint: str | None) -> str | None:
    """The text of the licence file in the model's repository; None where there is none that can be had and read.

    Raises:
        Ex4dError: `no_network`, `model_missing` where the hub or the repository is not there.
    """
    from huggingface_hub.errors import HfHubHTTPError

    def first_named(paths: Iterable[str]) -> list[str]:
        there = set(paths)
        return [name for name in model.licence_files if name in there][:1]

    commit, files = published(model, first_named, endpoint)
    if not files or files[0].size > _MOST_BYTES:
        return None
    content = io.BytesIO()
    with explained(model):
        try:
            fetch(model, commit, files[0], content, endpoint)
        except HfHubHTTPError:  # kept back until its terms are accepted on the hub, say: the download tells
            return None
    return _readable(content.getvalue())


def _readable(content: bytes) -> str | None:
    """The text of a file, without what would steer the terminal it is shown in; None for a file that is no text."""
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError:
        if b"\0" in content:
            return None
        text = content.decode("cp1252", errors="replace")
    lines = text.replace("\r\n", "\n").replace("\r", "\n")
    shown = "".join(sign for sign in lines if sign in "\n\t" or unicodedata.category(sign) != "Cc")
    return shown if shown.strip() else None


def _accepted_before(folder: Path) -> str | None:
    path = folder / ACCEPTED_NAME
    try:
        return path.read_bytes().decode("utf-8", errors="replace")
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise explain_os_error(error, path) from error
