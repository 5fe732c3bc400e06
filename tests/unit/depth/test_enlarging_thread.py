# SPDX-License-Identifier: GPL-3.0-or-later
"""The thread that enlarges the bundled network's maps, when something goes wrong in it or beside it."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from ex4d_engine.depth import DepthFrame, bundled
from ex4d_engine.depth.network import DepthMaps, DepthNetwork, NetworkShape
from ex4d_engine.depth.network_weights import save_weights
from ex4d_engine.errors import Cancelled, Ex4dError
from ex4d_engine.progress import Silent
from ex4d_engine.stages import ReconstructSettings, reconstruct
from tests.tiny_shot import settings

COUNT = 6
SHAPE = NetworkShape(
    widths=(4, 6, 8, 8, 8), blocks=(1, 1, 1, 1), key=4, reach=1, motion=4, memory=6, drawn=(8, 8, 6, 4)
)


class Enlarging:
    """Stands in the way of `bundled.to_frame`: at frame `at` it fails or does something first."""

    def __init__(self, at: int, then: Exception | Callable[[], None]) -> None:
        self.threads: set[threading.Thread] = set()
        self._at, self._then, self._asked, self._enlarge = at, then, 0, bundled.to_frame

    def __call__(self, maps: DepthMaps, image: np.ndarray, near: float) -> DepthFrame:
        self.threads.add(threading.current_thread())
        self._asked += 1
        if self._asked == self._at:
            if isinstance(self._then, Exception):
                raise self._then
            self._then()
        return self._enlarge(maps, image, near)

    def assert_over(self) -> None:
        """One thread did it, not the caller's, and it has ended; nothing was begun after what went wrong."""
        (thread,) = self.threads
        assert thread is not threading.current_thread() and not thread.is_alive()
        assert self._asked <= self._at + 1


@pytest.fixture
def wanted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ReconstructSettings:
    monkeypatch.setenv("EX4D_CACHE", str(tmp_path / "cache"))
    torch.manual_seed(1)
    weights = tmp_path / "weights.safetensors"
    save_weights(DepthNetwork(SHAPE), weights, {})
    return settings(tmp_path, COUNT, depth="bundled", depth_options={"weights": str(weights), "device": "cpu"})


@pytest.mark.parametrize("at", [1, 3, COUNT])
def test_an_error_in_the_thread_ends_the_command_with_it(
    wanted: ReconstructSettings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, at: int
) -> None:
    error = Ex4dError("depth_invalid", "It is wrong.", "Leave it.")
    enlarging = Enlarging(at, error)
    with monkeypatch.context() as patch:
        patch.setattr(bundled, "to_frame", enlarging)
        with pytest.raises(Ex4dError) as caught:
            reconstruct(wanted, tmp_path / "shot", Silent())
    assert caught.value is error
    enlarging.assert_over()
    # frames before it are kept, and the next run goes on from there
    assert len(list((tmp_path / "shot" / "depth").glob("depth.*.exr"))) == at - 1
    shot = reconstruct(wanted, tmp_path / "shot", Silent())
    assert all(shot.depth_file(number).is_file() for number in shot.require_plate().numbers)


@pytest.mark.parametrize("at", [1, 3, COUNT])
def test_a_cancel_while_the_thread_works_leaves_no_thread(
    wanted: ReconstructSettings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, at: int
) -> None:
    reporter = Silent()
    enlarging = Enlarging(at, reporter.cancelled.set)
    monkeypatch.setattr(bundled, "to_frame", enlarging)
    with pytest.raises(Cancelled):
        reconstruct(wanted, tmp_path / "shot", reporter)
    enlarging.assert_over()


def test_an_error_beside_the_thread_leaves_none(
    wanted: ReconstructSettings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(path: Path, depth: np.ndarray) -> None:
        raise Ex4dError("disk_full", "It is full.", "Make room.")

    enlarging = Enlarging(1, lambda: None)
    monkeypatch.setattr(bundled, "to_frame", enlarging)
    monkeypatch.setattr(sys.modules["ex4d_engine.stages.reconstruct"], "write_exr_depth", full)
    with pytest.raises(Ex4dError, match="full"):
        reconstruct(wanted, tmp_path / "shot", Silent())
    enlarging.assert_over()
