# SPDX-License-Identifier: GPL-3.0-or-later
"""A job as a modal operator. A module without windows cannot run one, so its window is a stand-in here."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest

bpy = pytest.importorskip("bpy")

TIMER = SimpleNamespace(type="TIMER", value="NOTHING", mouse_x=0, mouse_y=0)
ESCAPE = SimpleNamespace(type="ESC", value="PRESS", mouse_x=0, mouse_y=0)
SIDEBAR = SimpleNamespace(type="UI", x=700, y=0, width=100, height=600, tag_redraw=lambda: None)


def mouse(x: int, y: int) -> Any:
    return SimpleNamespace(type="LEFTMOUSE", value="PRESS", mouse_x=x, mouse_y=y)


class Window:
    """What a modal operator asks of its context, and what it left behind there."""

    def __init__(self) -> None:
        self.timers: list[str] = []
        self.handlers: list[Any] = []
        self.status: str | None = None
        self.screen = SimpleNamespace(areas=[SimpleNamespace(type="VIEW_3D", regions=[SIDEBAR])])
        self.window = SimpleNamespace(screen=self.screen)
        self.workspace = SimpleNamespace(status_text_set=self._set_status)
        self.window_manager = SimpleNamespace(
            windows=[self.window],
            event_timer_add=lambda seconds, window: self.timers.append("timer") or "timer",
            event_timer_remove=self.timers.remove,
            modal_handler_add=self.handlers.append,
        )

    def _set_status(self, text: str | None) -> None:
        self.status = text


@pytest.fixture
def modal_job(addon: Callable[[str], Any], monkeypatch: pytest.MonkeyPatch) -> Callable[[Any], Any]:
    """`modal_job(steps)` is an operator whose job runs `steps(run)` as if a button had been pressed."""
    jobs = addon("ex4d_blender.jobs")
    monkeypatch.setattr(jobs, "bpy", SimpleNamespace(app=SimpleNamespace(background=False)))

    def make(steps: Callable[[Any], Any]) -> Any:
        class Job(jobs.EngineJob):
            bl_label = "Job"
            reports: list[tuple[set[str], str]] = []  # noqa: RUF012

            def steps(self, context: Any, run: Any) -> Any:
                return steps(run)

            def report(self, kind: set[str], text: str) -> None:
                self.reports.append((kind, text))

        return Job()

    return make


def three_frames(run: Any) -> Any:
    for done in range(3):
        run.progress("render", done, 3)
        yield None
    return "made"


def test_a_job_goes_on_with_each_tick_and_leaves_nothing_behind(modal_job: Any) -> None:
    job, window = modal_job(three_frames), Window()
    assert job.invoke(window, ESCAPE) == {"RUNNING_MODAL"}
    assert (window.timers, window.handlers) == (["timer"], [job])
    assert job.modal(window, TIMER) == {"PASS_THROUGH"}
    assert window.status == "EX-4D: Job: Render 1/3    Esc: Cancel"
    job.modal(window, TIMER)
    assert job.modal(window, TIMER) == {"FINISHED"}
    assert (window.timers, window.status) == ([], None)
    assert job.reports == [({"INFO"}, "made")]


def test_escape_cancels(modal_job: Any) -> None:
    job, window = modal_job(three_frames), Window()
    job.invoke(window, TIMER)
    assert job.modal(window, ESCAPE) == {"RUNNING_MODAL"}, "nobody else gets it"
    assert job.modal(window, TIMER) == {"CANCELLED"}
    assert window.timers == []
    assert [kind for kind, _ in job.reports] == [{"WARNING"}]


def test_while_blender_draws_only_the_sidebar_can_be_clicked(modal_job: Any) -> None:
    job, window = modal_job(three_frames), Window()
    job.invoke(window, TIMER)
    assert job.modal(window, mouse(300, 300)) == {"RUNNING_MODAL"}, "an edit or an undo would come in between"
    assert job.modal(window, mouse(750, 300)) == {"PASS_THROUGH"}, "the Cancel button"
    assert job.modal(window, mouse(750, 900)) == {"RUNNING_MODAL"}


def test_while_the_engine_works_blender_can_be_used(
    modal_job: Any, addon: Callable[[str], Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    run_module, session = addon("ex4d_blender.job_run"), addon("ex4d_blender.engine_session")
    engine = SimpleNamespace(check_hello=lambda: None, cancel=lambda job: None)
    monkeypatch.setattr(session, "start_engine", lambda: engine)

    def steps(run: Any) -> Any:
        yield run_module.EngineRequest("ping")

    job, window = modal_job(steps), Window()
    job.invoke(window, TIMER)
    assert job.modal(window, mouse(300, 300)) == {"PASS_THROUGH"}
    assert job.modal(window, TIMER) == {"PASS_THROUGH"}
    assert window.status == "EX-4D: Job: Starting the engine    Esc: Cancel"
    job.cancel(window)  # another file is loaded
    assert (window.timers, window.status) == ([], None)
    assert addon("ex4d_blender.jobs").current_job() is None


def test_a_job_that_fails_at_once_never_becomes_modal(modal_job: Any, addon: Callable[[str], Any]) -> None:
    errors = addon("ex4d_engine.errors")

    def steps(run: Any) -> Any:
        raise errors.Ex4dError("no_camera", "The scene has no camera.", "Add one.")
        yield

    job, window = modal_job(steps), Window()
    assert job.invoke(window, TIMER) == {"CANCELLED"}
    assert (window.timers, window.handlers) == ([], [])
    assert job.reports == [({"ERROR"}, "The scene has no camera. Add one.")]
