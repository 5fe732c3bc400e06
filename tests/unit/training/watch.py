# SPDX-License-Identifier: GPL-3.0-or-later
"""A reporter that remembers, and that cancels a training at a step of one's choice."""

from __future__ import annotations

from ex4d_engine.progress import Silent


class Watch(Silent):
    """Keeps log lines, and cancels after so many steps."""

    def __init__(self, cancel_after: int | None = None) -> None:
        super().__init__()
        self.lines: list[str] = []
        self.checks, self.cancel_after = 0, cancel_after

    def log(self, message: str) -> None:
        self.lines.append(message)

    def check(self) -> None:
        if self.checks == self.cancel_after:
            self.cancelled.set()
        self.checks += 1
        super().check()
