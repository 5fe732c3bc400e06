# SPDX-License-Identifier: GPL-3.0-or-later
"""Processes that draw ahead: the same clips as are drawn here, and what goes wrong there is told."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest
import torch

from ex4d_engine.errors import Ex4dError
from ex4d_engine.training.clip_cache import ClipCache
from ex4d_engine.training.clip_drawing import GroupDrawer, group_clips
from ex4d_engine.training.depth_clips import ClipSource
from ex4d_engine.training.drawing_processes import DrawingProcesses
from tests.unit.training.bundled_material import CPU, SmallClips, small_bank, small_clips


def refused(*_: object) -> SmallClips:
    raise Ex4dError("out_of_memory", "There is no room.", "Draw less.")


def killed(*_: object) -> SmallClips:
    os.kill(os.getpid(), getattr(signal, "SIGKILL", signal.SIGTERM))
    raise AssertionError


def processes(source: ClipSource, folder: Path) -> DrawingProcesses:
    return DrawingProcesses(small_bank(), source, CPU, folder, 1)


def never(*_: object) -> SmallClips:
    raise AssertionError("drawn here")


def test_groups_are_what_would_have_been_drawn_here_and_are_drawn_nowhere_else(tmp_path: Path) -> None:
    folder, settings = tmp_path / "clïps", small_bank()
    cache = ClipCache(folder, settings.drawn_as)
    with processes(small_clips, folder) as ahead:
        drawer = GroupDrawer(settings, never, CPU, None, cache, beside=True, ahead=ahead)
        for number in (1, 2):
            drawer.begin(number)
            group = drawer.take(wait=True)
            expected, _, _ = group_clips(settings, small_clips, number, CPU, None)
            assert group is not None and torch.equal(group.images, expected)


def test_what_a_process_stumbles_over_is_told(tmp_path: Path) -> None:
    with processes(refused, tmp_path) as ahead:
        ahead.want_group(0)
        with pytest.raises(Ex4dError, match="no room"):
            ahead.wait(0)


def test_a_process_that_is_ended_is_a_lack_of_memory(tmp_path: Path) -> None:
    with processes(killed, tmp_path) as ahead:
        ahead.want_group(0)
        with pytest.raises(Ex4dError, match="ended by the system") as caught:
            ahead.wait(0)
    assert caught.value.code == "out_of_memory"
