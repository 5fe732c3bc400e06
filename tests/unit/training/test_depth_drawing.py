# SPDX-License-Identifier: GPL-3.0-or-later
"""Clips for the depth network that processes draw ahead: as if drawn here, and nothing is left behind."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
import torch

from ex4d_engine.errors import Ex4dError
from ex4d_engine.training.depth_drawing import ClipsDrawnAhead, DrawnClips, Question
from tests.unit.training.stand_in_clips import StandInClips, stand_in_clips

CPU = torch.device("cpu")
ASKED: Question = (3, 2, 3, 32, 48, CPU)


@dataclasses.dataclass(frozen=True)
class OtherClips:
    images: torch.Tensor
    depth: torch.Tensor
    flow: torch.Tensor
    flow_valid: torch.Tensor


def extreme(seed: int, batch: int, frames: int, height: int, width: int, device: torch.device) -> OtherClips:
    parts = stand_in_clips(seed, batch, frames, height, width, device)._asdict()
    parts["depth"][0, 0, 0, :3] = torch.tensor([1e6, torch.inf, torch.nan])
    parts["flow"][0, 0, 0, 0, 0] = 1e9
    return OtherClips(**parts)


def refused(*_: object) -> StandInClips:
    raise Ex4dError("out_of_memory", "There is no room.", "Draw less.")


def assert_alike(drawn: DrawnClips, expected: StandInClips) -> None:
    torch.testing.assert_close(drawn.images, expected.images, atol=0.5 / 255 + 1e-6, rtol=0)
    torch.testing.assert_close(drawn.depth, expected.depth, atol=0, rtol=1e-3)
    torch.testing.assert_close(drawn.flow, expected.flow, atol=0, rtol=1e-3)
    assert torch.equal(drawn.flow_valid, expected.flow_valid)


def test_clips_are_those_of_the_source_whether_they_were_wanted_or_not(tmp_path: Path) -> None:
    folder = tmp_path / "gezeichnét 1"
    folder.mkdir()
    (folder / "clips_of_a_killed_run.safetensors").write_bytes(b"")
    with ClipsDrawnAhead(stand_in_clips, folder, 1) as ahead:
        ahead.want([ASKED, (4, *ASKED[1:])])
        ahead.want([ASKED])
        for seed in (3, 4, 9, 3):
            assert_alike(ahead(seed, *ASKED[1:]), stand_in_clips(seed, *ASKED[1:]))
        assert not list(folder.iterdir())
    assert not folder.exists()


def test_what_half_precision_does_not_hold_stays_what_it_is(tmp_path: Path) -> None:
    with ClipsDrawnAhead(extreme, tmp_path / "drawn", 1) as ahead:
        clips = ahead(*ASKED)
    assert clips.depth[0, 0, 0, 0] == 60_000  # far, and not sky
    assert clips.depth[0, 0, 0, 1].isposinf() and clips.depth[0, 0, 0, 2].isnan()
    assert clips.flow.isfinite().all()


def test_what_a_process_stumbles_over_is_told_and_leaves_nothing(tmp_path: Path) -> None:
    with (
        ClipsDrawnAhead(refused, tmp_path / "drawn", 1) as ahead,
        pytest.raises(Ex4dError, match="no room"),
    ):
        ahead(*ASKED)
    assert not (tmp_path / "drawn").exists()
