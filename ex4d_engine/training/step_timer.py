# SPDX-License-Identifier: GPL-3.0-or-later
"""How long steps take and what share of it the data is, without making a graphics card wait to learn it."""

from __future__ import annotations

import time

import torch


class StepTimer:
    """Marks in a step: `start`, `data_made`, `stop`. On a graphics card they are events in its own queue."""

    def __init__(self, device: torch.device) -> None:
        self._on_card = device.type == "cuda"
        self._marks: list[tuple[torch.cuda.Event | float, ...]] = []
        self._open: list[torch.cuda.Event | float] = []

    def start(self) -> None:
        self._open = [self._mark()]

    def data_made(self) -> None:
        self._open.append(self._mark())

    def stop(self) -> None:
        self._marks.append((*self._open, self._mark()))

    def take(self) -> tuple[float, float]:
        """Seconds of all steps since the last call, and of making their data. Waits for the card."""
        if self._on_card:
            torch.cuda.synchronize()
        whole = sum(_between(first, last) for first, _, last in self._marks)
        data = sum(_between(first, middle) for first, middle, _ in self._marks)
        self._marks.clear()
        return whole, data

    def _mark(self) -> torch.cuda.Event | float:
        if not self._on_card:
            return time.perf_counter()
        event = torch.cuda.Event(enable_timing=True)
        event.record()
        return event


def _between(first: torch.cuda.Event | float, last: torch.cuda.Event | float) -> float:
    if isinstance(first, float) or isinstance(last, float):
        assert isinstance(first, float) and isinstance(last, float)
        return last - first
    return float(first.elapsed_time(last)) / 1000
