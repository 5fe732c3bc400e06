# SPDX-License-Identifier: GPL-3.0-or-later
"""Ranks on the CPU through gloo, against one process. A launch takes seconds, so tests share them."""

from __future__ import annotations

import multiprocessing
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import psutil
import pytest
import torch
import torch.distributed as dist
from diffusers.hooks import FirstBlockCacheConfig

from ex4d_engine.diffusion import parallel, parallel_launch
from ex4d_engine.diffusion.guidance import guided_velocity
from ex4d_engine.diffusion.parallel import Layout, layout_of, share_transformer, token_count, usable_ranks
from ex4d_engine.diffusion.parallel_launch import run_parallel
from ex4d_engine.diffusion.pipeline import Ex4dPipeline
from ex4d_engine.diffusion.ranks import ParallelJob, StopAgreement
from ex4d_engine.errors import Cancelled, Ex4dError
from ex4d_engine.progress import Silent
from tests.tiny_model import transformer_with_adapter
from tests.unit.diffusion.parallel_jobs import STEPS, denoised, job, tiny_prediction

TOLERANCE = 1e-4
ROOT = Path(__file__).resolve().parents[3]

pytestmark = pytest.mark.skipif(not dist.is_available(), reason="this PyTorch has no torch.distributed")


class Recorder(Silent):
    """Remembers what it is told, and calls `on_progress` at every progress."""

    def __init__(self, on_progress: Callable[[Recorder], None] = lambda _: None) -> None:
        super().__init__()
        self.said: list[tuple[Any, ...]] = []
        self._on_progress = on_progress

    def progress(self, stage: str, done: int, total: int) -> None:
        self.said.append(("progress", stage, done, total))
        self._on_progress(self)

    def log(self, message: str) -> None:
        self.said.append(("log", message))

    def preview(self, path: Path) -> None:
        self.said.append(("preview", path))


@pytest.fixture(autouse=True)
def nothing_stays(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """No rank outlives its job, and its temporary folder neither."""
    temporary = tmp_path_factory.mktemp("ranks with a späce")
    monkeypatch.setattr(tempfile, "tempdir", str(temporary))
    yield
    assert ranks_of(psutil.Process()) == []
    assert list(temporary.glob("ex4d-ranks-*")) == []


def ranks_of(process: psutil.Process) -> list[psutil.Process]:
    return [child for child in process.children(recursive=True) if "spawn_main" in " ".join(child.cmdline())]


def pids_in(folder: Path) -> list[int]:
    return [int((folder / f"pid {rank}").read_text()) for rank in range(2)]


def assert_soon(condition: Callable[[], bool], seconds: float) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, f"not within {seconds} s"
        time.sleep(0.05)


# --- layout -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("ranks", "guided", "layout"),
    [
        (1, True, Layout(1, 1)),
        (2, True, Layout(2, 1)),
        (4, True, Layout(2, 2)),
        (8, True, Layout(2, 4)),
        (5, True, Layout(1, 5)),
        (2, False, Layout(1, 2)),
        (8, False, Layout(1, 8)),
    ],
)
def test_layout(ranks: int, guided: bool, layout: Layout) -> None:
    assert layout_of(ranks, guided) == layout
    assert layout.ranks == ranks


@pytest.mark.parametrize(
    ("available", "tokens", "guided", "usable"),
    [
        (1, [13312], True, 1),
        (3, [13312], True, 2),
        (4, [13312], True, 4),
        (7, [13312], True, 4),
        (8, [13312], True, 8),
        (3, [13312], False, 2),
        (8, [13312], False, 8),
        (4, [13 * 35 * 35], True, 2),  # an odd number of tokens cannot be halved, the branches can be split
        (4, [13 * 35 * 35], False, 1),
        (5, [20280], False, 5),
        (4, [13312, 13 * 33 * 31], True, 2),  # the worst of several sizes decides
    ],
)
def test_usable_ranks(available: int, tokens: list[int], guided: bool, usable: int) -> None:
    assert usable_ranks(available, 40, tokens, guided) == usable


def test_token_count() -> None:
    assert token_count(49, 512, 512) == 13312
    assert token_count(81, 480, 832) == 32760
    assert token_count(48, 500, 510) == token_count(49, 512, 512)


def test_heads_that_do_not_divide_are_refused() -> None:
    transformer, _ = transformer_with_adapter()
    with pytest.raises(Ex4dError, match="The model's 2 attention heads do not divide among 3 ranks") as caught:
        share_transformer(transformer, Layout(1, 3))
    assert caught.value.code == "bad_request"


def test_a_cache_that_decides_by_a_ranks_own_tokens_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parallel, "init_device_mesh", lambda *_, **__: None)
    transformer, _ = transformer_with_adapter()
    transformer.enable_cache(FirstBlockCacheConfig())
    with pytest.raises(ValueError, match="FirstBlockCache"):
        share_transformer(transformer, Layout(2, 2))


# --- numbers ------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def whole_runs(model_folder: Path, adapter_file: Path) -> tuple[dict[str, Any], Recorder]:
    reporter = Recorder()
    torch.manual_seed(5)
    result = run_parallel(job("whole_runs", model_folder=model_folder, adapter_file=adapter_file), 2, "cpu", reporter)
    return result, reporter


@pytest.mark.parametrize(
    ("run", "guidance_scale"),
    [
        ("guided, branches split", 5.0),
        ("one branch, branches split", 1.0),
        ("one branch, tokens split", 1.0),
        ("guided, tokens split", 5.0),
        ("one branch, tokens split, compiled", 1.0),
    ],
)
def test_two_ranks_equal_one(
    whole_runs: tuple[dict[str, Any], Recorder], pipeline: Ex4dPipeline, run: str, guidance_scale: float
) -> None:
    torch.testing.assert_close(whole_runs[0][run], denoised(pipeline, guidance_scale), rtol=0, atol=TOLERANCE)


def test_work_is_shared_and_every_rank_has_the_same_latents(whole_runs: tuple[dict[str, Any], Recorder]) -> None:
    result, _ = whole_runs
    first, second = result["of every rank"]
    assert result["layouts"] == [Layout(2, 1), Layout(1, 2)]
    assert result["forwards"] == STEPS  # of 2·STEPS
    assert torch.equal(first, second)
    assert torch.equal(result["noise"], torch.randn(4, generator=torch.Generator().manual_seed(5)))


def test_tokens_that_do_not_divide_are_refused(whole_runs: tuple[dict[str, Any], Recorder]) -> None:
    error = whole_runs[0]["odd tokens"]
    assert error.code == "bad_request"
    assert error.message == "The 27 tokens of 3×6×6 latents do not divide among 2 ranks."
    assert "multiple of 32 pixels" in error.hint


def test_the_first_rank_is_heard(whole_runs: tuple[dict[str, Any], Recorder]) -> None:
    said = whole_runs[1].said
    assert [entry for entry in said if entry[0] == "log"] == [("log", f"step {step}") for step in range(STEPS)]
    assert ("preview", Path("frame 2.png")) in said
    assert [entry[2] for entry in said if entry[:2] == ("progress", "generate")] == [1, 2, 3]
    assert any(entry[:2] == ("progress", "load model") for entry in said)


def test_four_ranks_equal_one() -> None:
    result = run_parallel(job("mesh_run"), 4, "cpu", Silent())

    predict, embeds, _ = tiny_prediction()
    assert result["layout"] == Layout(2, 2)
    torch.testing.assert_close(result["velocity"], guided_velocity(predict, embeds, 5.0), rtol=0, atol=TOLERANCE)
    assert all(torch.equal(velocity, result["velocity"]) for velocity in result["of every rank"])


# --- ends ---------------------------------------------------------------------------------------------------------


def test_only_the_first_ranks_result_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NCCL_NVLS_ENABLE", "0")
    reporter = Recorder()
    assert run_parallel(job("only_the_first_checks"), 2, "cpu", reporter) == "kept"
    assert reporter.said == [("log", "0")]


def test_a_rank_that_raises(tmp_path: Path) -> None:
    with pytest.raises(Ex4dError) as caught:
        run_parallel(job("one_raises", pids=tmp_path, explained=True), 2, "cpu", Silent())
    error = caught.value
    assert (error.code, error.hint, error.action) == ("disk_full", "Free some space.", "open:disk")
    assert error.message == "Rank 1 of 2 failed: The disk is full."
    assert not any(psutil.pid_exists(pid) for pid in pids_in(tmp_path))


def test_a_rank_that_raises_something_unforeseen(tmp_path: Path) -> None:
    with pytest.raises(Ex4dError, match=r"Rank 1 of 2 failed: .*RuntimeError: device-side assert") as caught:
        run_parallel(job("one_raises", pids=tmp_path, explained=False), 2, "cpu", Silent())
    assert caught.value.code == "internal"


def test_a_rank_that_is_killed_in_a_step(tmp_path: Path) -> None:
    ended: list[float] = []

    def wait_for_the_kill() -> None:
        assert_soon(lambda: (tmp_path / "pid 1").is_file() and bool((tmp_path / "pid 1").read_text()), 60)
        assert_soon(lambda: not _runs(int((tmp_path / "pid 1").read_text())), 60)
        ended.append(time.monotonic())

    watch = threading.Thread(target=wait_for_the_kill)
    watch.start()
    with pytest.raises(Ex4dError, match=r"Rank 1 of 2 ended unexpectedly") as caught:
        run_parallel(job("one_dies", pids=tmp_path), 2, "cpu", Silent())
    returned = time.monotonic()
    watch.join()

    assert caught.value.code == "engine_died"
    if os.name == "posix":
        assert "SIGKILL" in caught.value.message
    assert returned - ended[0] < 5
    assert not any(psutil.pid_exists(pid) for pid in pids_in(tmp_path))


def _runs(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def test_cancel_stops_all_ranks_at_the_same_step(tmp_path: Path) -> None:
    reporter = Recorder(on_progress=lambda own: own.cancelled.set() if len(own.said) > 3 else None)
    with pytest.raises(Cancelled):
        run_parallel(job("endless", pids=tmp_path), 2, "cpu", reporter)

    steps = [int((tmp_path / f"steps {rank}").read_text()) for rank in range(2)]
    assert steps[0] == steps[1] >= 3


def test_cancel_of_ranks_that_do_not_listen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parallel_launch, "CANCEL_GRACE_S", 0.5)
    reporter = Recorder(on_progress=lambda own: own.cancelled.set())
    with pytest.raises(Cancelled):
        run_parallel(job("stubborn", pids=tmp_path), 2, "cpu", reporter)
    assert not any(psutil.pid_exists(pid) for pid in pids_in(tmp_path))


def test_ranks_end_with_their_parent(tmp_path: Path) -> None:
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    parent = subprocess.Popen(
        [sys.executable, "-m", "tests.unit.diffusion.parallel_jobs", str(tmp_path)],
        cwd=ROOT,
        env={**os.environ, **dict.fromkeys(("TMPDIR", "TEMP", "TMP"), str(temporary))},
        stderr=subprocess.DEVNULL,
    )
    try:
        assert_soon(lambda: (tmp_path / "ready").is_file() or parent.poll() is not None, 60)
        assert parent.poll() is None
        assert len(list(temporary.glob("ex4d-ranks-*"))) == 1
    finally:
        parent.kill()
        parent.wait()
    assert_soon(lambda: not any(_runs(pid) for pid in pids_in(tmp_path)), 5)
    assert list(temporary.glob("ex4d-ranks-*")) == []


def test_a_lost_connection_is_blamed_on_the_rank_that_was_lost() -> None:
    (alive, _alive_end), (dead, dead_end) = multiprocessing.Pipe(), multiprocessing.Pipe()
    dead_end.close()
    processes: Any = [
        SimpleNamespace(sentinel=alive, exitcode=None),
        SimpleNamespace(sentinel=dead, exitcode=3),
    ]
    lost = Ex4dError("internal", "Connection closed by peer.")
    error = parallel_launch._Watch(processes, [], "cuda")._cause(0, lost)
    assert error.message == "Rank 1 of 2 (cuda:1) ended unexpectedly with status 3."


@pytest.mark.parametrize("function", ["tests.unit.diffusion.parallel_jobs:missing", "no_such_module:run"])
def test_a_job_that_does_not_exist(function: str) -> None:
    with pytest.raises(Ex4dError, match=r"Rank 0 of 1 failed: .*(missing|no_such_module)"):
        run_parallel(ParallelJob(function), 1, "cpu", Silent())


def test_what_cannot_be_started(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(Ex4dError, match="cannot run on 0 devices"):
        run_parallel(job("mesh_run"), 0, "cpu", Silent())
    monkeypatch.setattr(dist, "is_backend_available", lambda _: False)
    with pytest.raises(Ex4dError, match="comes without nccl") as caught:
        run_parallel(job("mesh_run"), 2, "cuda", Silent())
    assert caught.value.code == "missing_package"
    monkeypatch.setattr(dist, "is_backend_available", lambda _: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    with pytest.raises(Ex4dError, match="asks for 2 graphics cards and this machine has 1"):
        run_parallel(job("mesh_run"), 2, "cuda", Silent())


def test_a_start_that_fails_half_way_leaves_nothing(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    start = parallel_launch.start_processes

    def one_then_none(*arguments: Any, **options: Any) -> Any:
        start(*arguments, **options)
        raise OSError(12, "Cannot allocate memory")

    monkeypatch.setattr(parallel_launch, "start_processes", one_then_none)
    with pytest.raises(OSError, match="Cannot allocate"):
        run_parallel(job("stubborn", pids=tmp_path), 1, "cpu", Silent())


# --- the agreement ------------------------------------------------------------------------------------------------


def test_ranks_stop_at_the_lowest_check_none_has_passed() -> None:
    stop = StopAgreement(3, multiprocessing.get_context("spawn"))
    assert not any(stop.must_stop(0) for _ in range(5))  # rank 0 has run ahead
    assert not stop.must_stop(1)
    stop.request()
    assert [stop.must_stop(1) for _ in range(5)] == [False, False, False, False, True]
    assert [stop.must_stop(2) for _ in range(6)] == [False, False, False, False, False, True]
    assert stop.must_stop(0)


def test_a_rank_that_has_finished_is_not_waited_for() -> None:
    stop = StopAgreement(2, multiprocessing.get_context("spawn"))
    assert not any(stop.must_stop(1) for _ in range(5))
    stop.leave(1)
    stop.request()
    assert stop.must_stop(0)
