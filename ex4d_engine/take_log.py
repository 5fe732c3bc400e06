# SPDX-License-Identifier: GPL-3.0-or-later
"""`log.jsonl` of a take: what was said while it was made, for the person who opens the folder next month."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from .errors import Ex4dError
from .files import explain_os_error
from .progress import Reporter
from .take import Take

LOG_NAME: Final = "log.jsonl"


class LoggedReporter:
    """A reporter that also writes its sentences to the take's log; everything else is passed on."""

    def __init__(self, inner: Reporter, path: Path, stage: str) -> None:
        self._inner, self._path, self._stage = inner, path, stage

    def progress(self, stage: str, done: int, total: int) -> None:
        self._inner.progress(stage, done, total)

    def preview(self, path: Path) -> None:
        self._inner.preview(path)

    def check(self) -> None:
        self._inner.check()

    def log(self, message: str) -> None:
        self._inner.log(message)
        self.write(message=message)

    def write(self, **entry: Any) -> None:
        """Appends one line: time (UTC), stage and the entry."""
        now = datetime.now(UTC).isoformat(timespec="seconds")
        line = json.dumps({"time": now, "stage": self._stage, **entry}, ensure_ascii=False)
        try:
            with self._path.open("a", encoding="utf-8") as file:
                file.write(line + "\n")
        except OSError as error:
            raise explain_os_error(error, self._path) from error


@contextmanager
def logged(take: Take, stage: str, reporter: Reporter) -> Iterator[Reporter]:
    """The reporter for a stage of this take; its start, its end and why it failed are logged too."""
    log = LoggedReporter(reporter, take.root / LOG_NAME, stage)
    log.write(event="started")
    try:
        yield log
    except Ex4dError as error:
        if error.code not in ("disk_full", "read_only"):  # where nothing can be written, this cannot either
            log.write(event="failed", code=error.code, message=error.message)
        raise
    log.write(event="finished")
