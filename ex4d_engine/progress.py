# SPDX-License-Identifier: GPL-3.0-or-later
"""How a running stage speaks to whoever started it: a terminal, the pipe, or a test."""

from __future__ import annotations

import sys
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Final, Protocol

from tqdm import tqdm

from .errors import Cancelled

UNITS: Final[Mapping[str, str]] = {
    "download": "MB",
    "check files": "MB",
    "convert model": "part",
    "load model": "part",
    "denoise": "step",
    "list clips": "clip",
    "cache clips": "clip",
    "train lora": "step",
}
"""What the numbers of a stage count where they are not frames."""


class Reporter(Protocol):
    """What a stage may call. Every call is cheap; `check` is called once a frame or step."""

    def progress(self, stage: str, done: int, total: int) -> None: ...

    def log(self, message: str) -> None: ...

    def preview(self, path: Path) -> None: ...

    def check(self) -> None:
        """Raises `Cancelled` if the user asked to stop."""
        ...


class Silent:
    """Reports nothing; cancellable from another thread. The base of the others."""

    def __init__(self) -> None:
        self.cancelled = threading.Event()

    def progress(self, stage: str, done: int, total: int) -> None:
        pass

    def log(self, message: str) -> None:
        pass

    def preview(self, path: Path) -> None:
        pass

    def check(self) -> None:
        if self.cancelled.is_set():
            raise Cancelled


class Terminal(Silent):
    """One progress bar a stage and log lines between them, all on stderr (stdout is for results)."""

    def __init__(self) -> None:
        super().__init__()
        self._bar: tqdm | None = None
        self._stage = ""

    def progress(self, stage: str, done: int, total: int) -> None:
        if stage != self._stage:
            self.close()
        elif self._bar is None and done >= total:
            return  # said again that it is finished
        if self._bar is None:
            # a resumed stage begins in the middle: what was there before says nothing about its speed
            self._bar = tqdm(
                total=total,
                initial=done,
                desc=f"{stage:<22}",
                unit=UNITS.get(stage, "frame"),
                file=sys.stderr,
                dynamic_ncols=True,
            )
            self._stage = stage
        self._bar.total = total
        self._bar.update(done - self._bar.n)
        if done >= total:
            self.close()

    def log(self, message: str) -> None:
        tqdm.write(message, file=sys.stderr)

    def close(self) -> None:
        if self._bar is not None:
            self._bar.close()
            self._bar = None
