# SPDX-License-Identifier: GPL-3.0-or-later
"""Through the whole stage: depth whose source says how sure it is, and a zoom that no camera file tells of."""

from __future__ import annotations

import dataclasses
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ex4d_engine.depth import DepthClip, DepthFrame, depth_source
from ex4d_engine.progress import Silent
from ex4d_engine.source_cameras.lens import zoomed
from ex4d_engine.stages import reconstruct
from tests.tiny_shot import Listener
from tests.unit.source_cameras.still_scene import view
from tests.unit.source_cameras.test_stage import COUNT, LENS, POSES, SIZE, settings, write_scene


class Doubtful:
    """The depth of files, of which a part is a fifth too far and, if that is said, not trusted."""

    def __init__(self, says_so: bool, **options: Any) -> None:
        self._source, self._says_so = depth_source("file", **options), says_so

    def estimate(self, plate: Any, frame_count: int, size: tuple[int, int], reporter: Any) -> DepthClip:
        clip = self._source.estimate(plate, frame_count, size, reporter)
        return dataclasses.replace(clip, frames=(self._doubted(frame) for frame in clip.frames))

    def _doubted(self, frame: DepthFrame) -> DepthFrame:
        wrong = np.arange(SIZE[0]) < 0.55 * SIZE[0]
        confidence = np.broadcast_to(np.where(wrong, 0.1, 0.9).astype(np.float32), SIZE[::-1])
        depth = frame.depth * np.where(wrong, np.float32(1.2), np.float32(1))
        return DepthFrame(depth, confidence if self._says_so else None)


@pytest.mark.parametrize("says_so", [True, False])
def test_depth_is_placed_by_what_its_source_is_sure_of(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, says_so: bool
) -> None:
    write_scene(tmp_path / "track", [view(LENS, pose, SIZE) for pose in POSES])
    module = import_module("ex4d_engine.stages.reconstruct")
    monkeypatch.setattr(module, "depth_source", lambda _, **options: Doubtful(says_so, **options))
    placement = reconstruct(settings(tmp_path / "track"), tmp_path / "shot", Silent()).require_geometry().placement
    assert placement is not None
    assert (abs(placement.scale / 3 - 1) < 0.02) == says_so


def test_a_zoom_that_nobody_knows_of_is_said_in_one_sentence_whatever_the_depth(tmp_path: Path) -> None:
    zoom = np.linspace(1.0, 1.5, COUNT)
    write_scene(tmp_path / "tripod", [view(zoomed(LENS, factor), POSES[0], SIZE) for factor in zoom])
    listener = Listener()
    shot = reconstruct(settings(tmp_path / "tripod", poses=None), tmp_path / "shot", listener)
    (said,) = [line for line in listener.logs if "seems to zoom" in line]
    assert "about 1.5 times" in said and said in shot.require_plate().notes
    assert not shot.require_geometry().zoom
