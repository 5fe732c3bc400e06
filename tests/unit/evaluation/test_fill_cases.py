# SPDX-License-Identifier: GPL-3.0-or-later
"""Held-out scenes for fills: orbits begin at the source, cameras have room, seeds repeat."""

from __future__ import annotations

import dataclasses
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch

from ex4d_engine.errors import Ex4dError
from ex4d_engine.evaluation import fill_cases as module
from ex4d_engine.evaluation.fill_cases import SWINGS, FillCase, Swing, fill_cases
from ex4d_engine.evaluation.fill_folder import FillFolder, FillSettings, row_folder, shown_frames
from ex4d_engine.evaluation.fill_metrics import fill_scores
from ex4d_engine.training.depth_clips import HELD_OUT_SEED
from ex4d_engine.training.random_paths import turned_deg

from .fill_material import HEIGHT, WIDTH, case_of, flat_views, moved, textured

FRAMES = 5
CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def _flat_colours(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "render_views", flat_views)


def drawn(**changes: object) -> tuple[list[FillCase], Counter[str]]:
    passed: Counter[str] = Counter()
    arguments: dict = {"swings": SWINGS[:1], "turned_away": passed, **changes}
    return list(fill_cases(1, FRAMES, (WIDTH, HEIGHT), CPU, **arguments)), passed


def test_orbits_begin_at_the_source_and_reach_their_ends() -> None:
    for swing in SWINGS:
        degrees = swing.degrees(49)
        assert degrees[0] == 0 and degrees[-1] == swing.turns[-1]
        assert {degrees.min(), degrees.max()} == {min(swing.turns), max(swing.turns)}
        steps = np.abs(np.diff(degrees))
        assert steps == pytest.approx(steps[0])
    shown = [SWINGS[-1].degrees(49)[round(share * 48)] for share in SWINGS[-1].shown]
    assert shown == pytest.approx([-90, 45, 90])


def test_a_case_is_held_out_and_its_truth_begins_as_the_source() -> None:
    (case,), _ = drawn()
    assert case.seed >= HELD_OUT_SEED
    assert case.source.shape == case.truth.shape == (FRAMES, HEIGHT, WIDTH, 3)
    assert np.isfinite(case.depth).all() and case.depth.min() > 0
    assert (case.path[0] == np.eye(4)).all() and case.angles_deg == pytest.approx(np.linspace(0, 30, FRAMES))
    assert (case.truth[0] == case.source[0]).all()
    assert (case.truth[-1] != case.source[-1]).any()
    assert case.visible[0].mean() > 0.99 and case.visible[-1].mean() < 0.9


def test_the_same_seed_gives_the_same_case_and_one_that_is_there_is_not_drawn() -> None:
    (case,), _ = drawn()
    (again,), _ = drawn()
    for field in ("source", "depth", "intrinsics", "path", "truth", "visible"):
        assert (getattr(case, field) == getattr(again, field)).all()
    assert drawn(drawn=frozenset({case.name}))[0] == []


def test_scenes_without_room_are_passed_over_and_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    answers = iter(["too close", "out of sight", ""])
    monkeypatch.setattr(module._Stage, "obstacle", lambda *_: next(answers))
    (case,), passed = drawn()
    assert case.seed == HELD_OUT_SEED + 2
    assert passed == {"0-30: too close": 1, "0-30: out of sight": 1}


def test_the_last_scene_looked_at_may_be_the_one(monkeypatch: pytest.MonkeyPatch) -> None:
    looked_at = 20 + 20
    answers = iter(["too close"] * (looked_at - 1) + [""])
    monkeypatch.setattr(module._Stage, "obstacle", lambda *_: next(answers))
    (case,), _ = drawn()
    assert case.seed == HELD_OUT_SEED + looked_at - 1


def test_only_orbits_without_room_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module._Stage, "obstacle", lambda stage, path: "too close" if turned_deg(path)[-1] > 45 else "")
    with pytest.raises(Ex4dError, match=r"room for 0-60 degrees"):
        drawn(swings=SWINGS[:2])


def test_a_camera_in_a_wall_and_one_behind_it_are_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    """The scene is a wall before the moved camera: near to it, or of other things than the source sees."""
    stage = module._Stage.built(HELD_OUT_SEED, FRAMES, (WIDTH, HEIGHT), CPU)
    path = stage.path(Swing("0-30", (0, 30), (0, 0.5, 1)))

    def glimpses(away: float) -> None:
        def glimpse(self: object, poses: np.ndarray, moments: np.ndarray) -> np.ndarray:
            still = np.abs(poses - np.eye(4)).max() == 0
            return np.full((len(poses), 36, 64), stage.pivot * (1 if still else away), np.float32)

        monkeypatch.setattr(module._Stage, "glimpse", glimpse)

    glimpses(0.1)
    assert stage.obstacle(path) == "too close"
    glimpses(40.0)
    assert stage.obstacle(path) == "out of sight"
    glimpses(1.0)
    assert stage.obstacle(path) == ""


def test_impossible_numbers_are_refused() -> None:
    with pytest.raises(Ex4dError, match=r"4n \+ 1"):
        next(fill_cases(1, 6, (WIDTH, HEIGHT), CPU))


def test_a_folder_gives_back_what_it_was_given(tmp_path: Path) -> None:
    folder = FillFolder.opened(tmp_path / "été 1", FillSettings(1, FRAMES, (WIDTH, HEIGHT)))
    case = case_of(np.full((FRAMES, HEIGHT, WIDTH), 4.0), textured(FRAMES), moved(FRAMES))
    folder.save_case(case)
    back = folder.load_case(*folder.case_names())
    for field in dataclasses.fields(FillCase):
        assert np.array_equal(getattr(back, field.name), getattr(case, field.name))
    holes = np.zeros(case.depth.shape, bool)
    holes[1:, :, :20] = True
    scores = fill_scores(case.source, case.truth, holes)
    folder.save_row("both, on warp", case, scores, case.source)
    assert folder.has_row("both, on warp", case.name) and not folder.has_row("both", case.name)
    (scored,) = folder.scored_cases(["both, on warp"])
    assert scored.scores["both, on warp"].figures("hole") == scores.figures("hole")
    assert (folder.shown("both, on warp", case.name) == case.source[shown_frames(case)]).all()


def test_cases_are_in_the_order_of_scenes_and_a_table_s_in_that_of_orbits(tmp_path: Path) -> None:
    """So a run that is stopped has scores of every orbit."""
    folder = FillFolder.opened(tmp_path, FillSettings(2, FRAMES, (WIDTH, HEIGHT)))
    one = case_of(np.full((FRAMES, HEIGHT, WIDTH), 4.0), textured(FRAMES), moved(FRAMES))
    scores = fill_scores(one.source, one.truth, np.ones(one.depth.shape, bool))
    for swing, seed in (("-90-90", 9), ("0-30", 10), ("0-60", 9), ("0-30", 9)):
        case = dataclasses.replace(one, swing=swing, seed=seed)
        folder.save_case(case)
        folder.save_row("both", case, scores, case.source)
    folder.save_row("preview", case, scores, case.source)
    (tmp_path / "cases" / ".0-60_10.1f2e3d4c.npz").touch()  # of a run that was killed as it wrote
    assert folder.case_names() == ["0-30_9", "0-60_9", "-90-90_9", "0-30_10"]
    assert [case.name for case in folder.scored_cases(["both"])] == ["0-30_9", "0-30_10", "0-60_9", "-90-90_9"]
    assert [case.name for case in folder.scored_cases(["both", "preview"])] == ["0-30_9"], "which has all rows"


def test_a_folder_of_other_settings_is_refused(tmp_path: Path) -> None:
    FillFolder.opened(tmp_path, FillSettings(1, FRAMES, (WIDTH, HEIGHT)))
    with pytest.raises(Ex4dError, match="other settings"):
        FillFolder.opened(tmp_path, FillSettings(2, FRAMES, (WIDTH, HEIGHT)))


def test_row_folders_are_names_that_every_system_takes() -> None:
    assert row_folder("both, on warp") == "both_on_warp"
    assert row_folder("Navier-Stokes") == "navier_stokes"
