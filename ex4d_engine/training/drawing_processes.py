# SPDX-License-Identifier: GPL-3.0-or-later
"""Clips drawn ahead of a training by processes of their own, into the cache that its bank takes them from."""

from __future__ import annotations

from pathlib import Path

import torch

from .clip_bank import BankSettings
from .clip_cache import ClipCache
from .clip_drawing import group_clips
from .depth_clips import ClipSource
from .drawn_ahead import AHEAD, DrawnAhead


class DrawingProcesses(DrawnAhead):
    """Draws a bank's groups into a cache before they are wanted.

    Args:
        settings: of the bank; the cache's files are told apart by it.
        source: draws clips; picklable.
        device: where to draw.
        folder: of the cache.
        count: as of `DrawnAhead`.
    """

    def __init__(
        self, settings: BankSettings, source: ClipSource, device: torch.device, folder: Path, count: int
    ) -> None:
        super().__init__(count)
        self._settings, self._source, self._device = settings, source, device
        self._folder = folder

    def want_group(self, number: int) -> None:
        """Sees to it that this group and the next ones are drawn or being drawn."""
        for ahead in range(number, number + AHEAD * self.count):
            self.want(ahead, _draw, self._settings, self._source, ahead, self._device, self._folder)


def _draw(settings: BankSettings, source: ClipSource, number: int, device: torch.device, folder: Path) -> None:
    group_clips(settings, source, number, device, ClipCache(folder, settings.drawn_as))
