# SPDX-License-Identifier: GPL-3.0-or-later
"""A whole comparison of fills, small: without a model, and with one of random weights."""

from __future__ import annotations

import dataclasses
import itertools
import json
import runpy
import shutil
import sys
from collections.abc import Callable
from concurrent.futures import Executor, Future
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from ex4d_engine.diffusion.preprocess import conditioning_videos
from ex4d_engine.diffusion.preset_defaults import DEFAULTS
from ex4d_engine.errors import Ex4dError
from ex4d_engine.evaluation import fill_cases, fill_models, fill_run
from ex4d_engine.evaluation.fill_cases import FillCase
from ex4d_engine.evaluation.fill_conditioning import FillConditioning, conditioning
from ex4d_engine.evaluation.fill_folder import FillFolder, FillSettings
from ex4d_engine.evaluation.fill_jobs import worker_pool
from ex4d_engine.evaluation.fill_models import FillModel, model_rows
from ex4d_engine.evaluation.fill_rows import CLASSICAL
from ex4d_engine.evaluation.fill_run import compare_fills
from ex4d_engine.progress import Silent
from tests.tiny_model import save_bundled_folder

from .fill_material import HEIGHT, WIDTH, case_of, flat_views, moved, textured

ROOT = Path(__file__).resolve().parents[3]
SETTINGS = FillSettings(scenes=1, frames=5, size=(WIDTH, HEIGHT))
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the rows that need no model."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(fill_cases, "render_views", flat_views)
        out = tmp_path_factory.mktemp("fills")
        compare_fills(out, SETTINGS, CPU, Silent(), workers=0)
    return out


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_bundled_folder(tmp_path_factory.mktemp("model") / "bundled")


def test_the_rows_without_a_model(drawn: Path) -> None:
    document = json.loads((drawn / "fill.json").read_text(encoding="utf-8"))
    assert document["rows"] == list(CLASSICAL) and document["complete"]
    assert list(document["by_swing"]) == ["0-30", "0-60", "0-90", "-90-90"]
    for swing, rows in document["by_swing"].items():
        assert list(rows) == list(CLASSICAL)
        assert rows["preview"]["psnr"][0] > rows["black holes"]["psnr"][0], swing
    assert document["known"][0] > 15  # without shades of its own, an outline is a step in colour
    names = {path.name for path in drawn.iterdir()}
    assert {"fill.md", "lead_psnr.png", "sheet_0-30.png", "sheet_-90-90.png"} <= names


def test_a_model_adds_its_rows_to_what_is_there(
    drawn: Path, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def not_again(*_: object, **__: object) -> None:
        raise AssertionError("a scene was drawn again")

    monkeypatch.setattr(fill_cases, "render_views", not_again)
    out = tmp_path / "with model"
    shutil.copytree(drawn, out)
    adapters = {"rendering": model / "ex4d.safetensors", "both": model / "ex4d.safetensors"}
    document = compare_fills(out, SETTINGS, CPU, Silent(), model=model, adapters=adapters, steps=(1, 4), workers=0)
    added = ["base model", "rendering", "both", "both, on closed", "both, on warp", "both, on splats", "both, 1 step"]
    assert document["rows"] == [*CLASSICAL, *added] and document["leader"] == "both"
    written = json.loads((out / "fill.json").read_text(encoding="utf-8"), parse_constant=pytest.fail)  # no NaN
    figures = written["by_swing"]["0-90"]
    assert figures["rendering"] == figures["both"]  # the same file and the same noise
    assert figures["base model"] != figures["both"] != figures["both, 1 step"]
    assert figures["both, on warp"] != figures["both"]
    assert set(document["lead"]["60-90"]) == {*CLASSICAL, *added} - {"both"}


class Fills:
    """Stands in for a model and its conditioning, which take long: counts fills, and stops at one as Ctrl-C does."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self.count, self.stop_at = 0, 0
        fills = self

        class Model:
            def __init__(self, folder: Path, adapter: Path | None, device: torch.device) -> None:
                self.grey = 90 if adapter is None else 110

            def fill(self, case: FillCase, known: FillConditioning, steps: int) -> np.ndarray:
                fills.count += 1
                if fills.count == fills.stop_at:
                    raise KeyboardInterrupt
                return np.where(known.holes[..., None], np.uint8(self.grey + steps), known.color)

        def half(folder: FillFolder, name: str, kinds: tuple[str, ...]) -> dict[str, FillConditioning]:
            case = folder.load_case(name)
            mask = np.full(case.depth.shape, 255, np.uint8)
            mask[1:, :, WIDTH // 2 :] = 0
            return dict.fromkeys(kinds, FillConditioning(case.source * (mask[..., None] > 0), mask, case.depth))

        patch.setattr(fill_run, "FillModel", Model)
        patch.setattr(fill_run, "condition", half)

    def of(self, out: Path, model: Path, **named: Any) -> int:
        """How many a run took."""
        self.count = 0
        compare_fills(out, SETTINGS, CPU, Silent(), model=model, workers=0, **named)
        return self.count


@pytest.fixture
def fills(monkeypatch: pytest.MonkeyPatch) -> Fills:
    return Fills(monkeypatch)


@pytest.fixture
def out(drawn: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(drawn, tmp_path / "out"))


def test_a_model_s_run_that_was_interrupted_goes_on(out: Path, drawn: Path, model: Path, fills: Fills) -> None:
    fills.stop_at = 7
    with pytest.raises(KeyboardInterrupt):
        fills.of(out, model)
    fills.stop_at = 0
    assert fills.of(out, model) == 20 - 6  # five rows of four cases
    shutil.copytree(drawn, out.parent / "whole")
    assert fills.of(out.parent / "whole", model) == 20
    assert (out / "fill.json").read_bytes() == (out.parent / "whole" / "fill.json").read_bytes()
    assert fills.of(out, model) == 0


def test_rows_are_made_again_where_what_makes_them_changed(
    out: Path, model: Path, tmp_path: Path, fills: Fills, monkeypatch: pytest.MonkeyPatch
) -> None:
    copy = Path(shutil.copytree(model, tmp_path / "model"))
    assert fills.of(out, copy, steps=[1]) == 24
    assert fills.of(out, copy, steps=[2]) == 4, "the other rows are there"
    (copy / "MODEL_CARD.md").write_text("better words", encoding="utf-8")
    (copy / ".DS_Store").write_bytes(b"as macOS leaves it where a folder was looked at")
    assert fills.of(out, copy, steps=[2]) == 0
    moved_adapter = Path(shutil.copy(copy / "ex4d.safetensors", tmp_path / "renamed.safetensors"))
    assert fills.of(out, copy, adapters={"both": moved_adapter}) == 0, "the same weights elsewhere"
    tensors = {name: 2 * value for name, value in load_file(copy / "ex4d.safetensors").items()}
    save_file(tensors, copy / "ex4d.safetensors")
    assert fills.of(out, copy) == 16, "the base model has no part in the adapter"
    config = copy / "scheduler" / "scheduler_config.json"
    config.write_text(config.read_text(encoding="utf-8") + "\n", encoding="utf-8")
    assert fills.of(out, copy) == 20
    larger = dataclasses.replace(DEFAULTS["draft"], erosion=3)
    monkeypatch.setitem(DEFAULTS, "draft", larger)
    assert fills.of(out, copy) == 20


def test_scores_of_nobody_knows_which_model_are_made_again(out: Path, model: Path, fills: Fills) -> None:
    fills.of(out, model)
    for note in (out / "rows").glob("*.json"):
        note.unlink()
    assert fills.of(out, model) == 20


def test_sampling_stops_in_time_and_the_whole_cases_are_told(
    out: Path, model: Path, fills: Fills, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fill_run, "monotonic", lambda: 60.0 * fills.count)  # a minute a fill
    assert fills.of(out, model, minutes=12.5) == 12, "the thirteenth would end too late"
    document = json.loads((out / "fill.json").read_text(encoding="utf-8"))
    assert document["cases"] == {"whole": 2, "wanted": 4}
    assert list(document["by_swing"]) == ["0-30", "0-60"], "a scene's orbits one after the other"
    assert "2 of 4 cases have all rows" in (out / "fill.md").read_text(encoding="utf-8")
    assert fills.of(out, model) == 8
    assert json.loads((out / "fill.json").read_text(encoding="utf-8"))["cases"] == {"whole": 4, "wanted": 4}
    assert "have all rows" not in (out / "fill.md").read_text(encoding="utf-8")


def test_a_model_that_is_not_there_costs_no_scores(out: Path, model: Path, tmp_path: Path, fills: Fills) -> None:
    fills.of(out, model)
    with pytest.raises(Ex4dError) as caught:
        fills.of(out, tmp_path / "mistyped")
    assert caught.value.code == "model_missing"
    assert fills.of(out, model) == 0


def test_without_any_whole_case_there_is_no_table(out: Path, model: Path, fills: Fills) -> None:
    with pytest.raises(Ex4dError, match="No case has all rows"):
        fills.of(out, model, minutes=0)
    with pytest.raises(Ex4dError, match="-1 minutes"):
        fills.of(out, model, minutes=-1)


def test_drawing_stops_in_time_too_and_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ticks = itertools.count()
    monkeypatch.setattr(fill_cases, "render_views", flat_views)
    monkeypatch.setattr(fill_run, "monotonic", lambda: 60.0 * next(ticks))
    # a minute passes at every look at the clock
    document = compare_fills(tmp_path, SETTINGS, CPU, Silent(), minutes=2.5, workers=0)
    assert document["cases"] == {"whole": 2, "wanted": 4} and not document["complete"]
    document = compare_fills(tmp_path, SETTINGS, CPU, Silent(), workers=0)
    assert document["cases"] == {"whole": 4, "wanted": 4} and document["complete"]


def test_without_a_model_all_processes_score(drawn: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []

    def pool(workers: int) -> Executor:
        asked.append(workers)
        return worker_pool(0)

    monkeypatch.setattr(fill_run, "worker_pool", pool)
    compare_fills(Path(shutil.copytree(drawn, tmp_path / "out")), SETTINGS, CPU, Silent(), workers=8)
    assert asked == [8, 0]


def test_worker_processes_do_the_same(drawn: Path, tmp_path: Path) -> None:
    out = tmp_path / "again"
    shutil.copytree(drawn, out)
    shutil.rmtree(out / "rows")
    compare_fills(out, SETTINGS, CPU, Silent(), workers=1)
    assert (out / "fill.json").read_bytes() == (drawn / "fill.json").read_bytes()


def test_a_fill_keeps_known_pixels_and_repeats(model: Path) -> None:
    source = textured(5)
    case = case_of(np.full((5, HEIGHT, WIDTH), 4.0), source, moved(5, x=0.5))
    known = conditioning(case, "mesh")
    for adapter in (None, model / "ex4d.safetensors"):
        fills = [FillModel(model, adapter, CPU).fill(case, known, steps=2) for _ in range(2)]
        assert (fills[0] == fills[1]).all()
        assert (fills[0][~known.holes] == known.color[~known.holes]).all()
        assert fills[0][known.holes].std() > 0


def test_masks_are_eroded_as_preset_draft_erodes(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def noted(colours: np.ndarray, masks: np.ndarray, kernels: list[int]) -> tuple[torch.Tensor, torch.Tensor]:
        asked.append(kernels)
        return conditioning_videos(colours, masks, kernels)

    monkeypatch.setattr(fill_models.preprocess, "conditioning_videos", noted)
    case = case_of(np.full((5, HEIGHT, WIDTH), 4.0), textured(5), moved(5, x=0.5))
    FillModel(model, None, CPU).fill(case, conditioning(case, "mesh"), steps=1)
    assert asked == [[2 * DEFAULTS["draft"].erosion + 1] * 5]


def test_rows_of_a_folder_without_adapters_and_with_a_missing_one(model: Path, tmp_path: Path) -> None:
    assert [row.name for row in model_rows(model, {})] == [
        "base model",
        "both",
        "both, on closed",
        "both, on warp",
        "both, on splats",
    ]
    assert [row.name for row in model_rows(tmp_path, {})] == ["base model"]
    with pytest.raises(Ex4dError, match=r"no EX-4D adapter .*absent"):
        model_rows(model, {"both": tmp_path / "absent"})


def test_a_name_that_would_be_a_further_row_of_the_full_adapter_is_refused(model: Path) -> None:
    file = model / "ex4d.safetensors"
    for name in ("both on warp", "both 8 steps"):
        with pytest.raises(Ex4dError) as caught:
            model_rows(model, {name: file, "both": file}, [8])
        assert caught.value.code == "bad_request" and repr(name) in caught.value.message


@pytest.mark.parametrize("name", ["preview", "Base Model", "обе", "both, mixed", "a"])
def test_names_that_would_be_one_row_or_none_are_refused(model: Path, name: str) -> None:
    """Scores lie in a folder of the row's name: two rows in one would be told as each other."""
    file = model / "ex4d.safetensors"
    with pytest.raises(Ex4dError, match="name") as caught:
        model_rows(model, {name: file, "A": file})
    assert caught.value.code == "bad_request" and repr(name) in caught.value.message


def test_steps_that_are_none_are_refused(model: Path) -> None:
    with pytest.raises(Ex4dError, match="0 steps"):
        model_rows(model, {}, [0, 2])


class Jobs(Executor):
    """Keeps what is submitted; a job is done when it is waited for, or fails at once."""

    def __init__(self, error: Exception | None = None) -> None:
        self.error, self.waiting, self.most, self.cancels = error, 0, 0, False

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        jobs = self
        jobs.waiting += 1
        jobs.most = max(jobs.most, jobs.waiting)

        class Job(Future[Any]):
            def result(self, timeout: float | None = None) -> Any:
                jobs.waiting -= 1
                return super().result(timeout) if jobs.error else fn(*args, **kwargs)

        job = Job()
        if self.error:
            job.set_exception(self.error)
        return job

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        self.cancels = cancel_futures


@pytest.fixture
def jobs(monkeypatch: pytest.MonkeyPatch) -> Jobs:
    jobs = Jobs()
    monkeypatch.setattr(fill_cases, "render_views", flat_views)
    monkeypatch.setattr(fill_run, "worker_pool", lambda workers: jobs if workers else worker_pool(0))
    return jobs


def test_a_job_that_fails_ends_the_run_at_once(jobs: Jobs, tmp_path: Path) -> None:
    jobs.error = Ex4dError("no_opengl", "There is no OpenGL.", "Install it.")
    with pytest.raises(Ex4dError, match="no OpenGL"):
        compare_fills(tmp_path, SETTINGS, CPU, Silent(), workers=1)
    assert len(list((tmp_path / "cases").iterdir())) == 1, "not after all scenes were drawn"
    assert jobs.cancels, "nor after all others that wait"


def test_few_fills_wait_to_be_scored(jobs: Jobs, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(fill_run, "WAITING", 2)
    compare_fills(tmp_path, SETTINGS, CPU, Silent(), workers=1)
    assert jobs.most == 3 and jobs.waiting == 0


def test_a_device_that_is_not_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    script = ROOT / "tools" / "benchmarks" / "fill.py"
    monkeypatch.setattr(sys, "argv", [str(script), "--out", str(tmp_path), "--device", "abacus"])
    assert runpy.run_path(str(script), run_name="fill")["main"]() == 1
    assert "no device 'abacus'" in capsys.readouterr().err


def test_the_command_refuses_other_settings_in_one_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    FillFolder.opened(tmp_path, SETTINGS)
    script = ROOT / "tools" / "benchmarks" / "fill.py"
    arguments = ["--out", str(tmp_path), "--scenes", "3", "--device", "cpu", "--workers", "0"]
    monkeypatch.setattr(sys, "argv", [str(script), *arguments])
    assert runpy.run_path(str(script), run_name="fill")["main"]() == 1
    assert "holds cases of other settings" in capsys.readouterr().err
