# SPDX-License-Identifier: GPL-3.0-or-later
"""What EX-4D's operators have in common: why one is greyed out, how a failure is told, how a job runs.

`Explained` is for operators that work at once. `EngineJob` owns execute, invoke, modal and cancel of those
that take long: a subclass only says in `steps` what to ask of the engine and how to finish. A button runs it
as a modal operator; a script and `blender -b` run it to its end in `execute`.
"""

from __future__ import annotations

import platform
import time
from typing import TYPE_CHECKING, Final

import bpy

from ..ex4d_engine import __version__
from ..ex4d_engine.errors import Ex4dError
from . import engine_session
from .job_run import JobRun, Steps

TIMER_S: Final = 0.1
POLL_S: Final = 0.02
# a mix-in: its subclasses are operators, it is none itself
_Operator = bpy.types.Operator if TYPE_CHECKING else object

_run: JobRun | None = None  # the running job, or the last one, whose end the panel still shows
_failure: tuple[str, Ex4dError] | None = None  # (title, error) of the last operator, if it failed


def current_job() -> JobRun | None:
    """The job that runs; None when there is none."""
    return _run if _run is not None and not _run.is_finished else None


def last_job() -> JobRun | None:
    """The job that runs or ran last."""
    return _run


def last_failure() -> tuple[str, Ex4dError] | None:
    """(title, error) of what the user did last, if that failed."""
    return _failure


def clear_failure() -> None:
    """The user has read it."""
    global _failure
    _failure = None


def report_text() -> str:
    """What to paste into a bug report: versions, the last job and its failure, the engine and its last lines."""
    lines = [
        f"EX-4D {__version__}, Blender {bpy.app.version_string}, {platform.platform()}",
        "",
    ]
    if _failure is not None:
        title, error = _failure
        lines += [f"{title} failed: {error.code}", error.message, error.hint, ""]
    if _run is not None:
        lines += [f"Job: {_run.title} ({_run.text})", *_run.logs, _run.traceback]
    engine = engine_session.current_engine()
    lines.append("The engine was not started." if engine is None else engine.report())
    return "\n".join(lines)


class Explained(_Operator):
    """Mix-in for an operator that works at once: a subclass gives `why_not` and `work`."""

    if TYPE_CHECKING:  # of the subclass

        def work(self, context: bpy.types.Context) -> str:
            """Does it; returns the sentence that the user reads. Raises Ex4dError."""

    @classmethod
    def why_not(cls, context: bpy.types.Context) -> str:
        """Why the operator cannot run now, for the tooltip of the greyed-out button; "" when it can."""
        return ""

    @classmethod
    def poll(cls, context: bpy.types.Context) -> bool:
        reason = cls.why_not(context)
        if reason:
            cls.poll_message_set(reason)
        return not reason

    def execute(self, context: bpy.types.Context) -> set[str]:
        try:
            message = self.work(context)
        except Ex4dError as error:
            return self.tell_failure(error)
        return self.tell_success(message)

    def tell_success(self, message: str) -> set[str]:
        clear_failure()
        if message:
            self.report({"INFO"}, message)
        return {"FINISHED"}

    def tell_failure(self, error: Ex4dError) -> set[str]:
        global _failure
        if error.code == "cancelled":
            self.report({"WARNING"}, str(error))
        else:
            _failure = (self.bl_label, error)
            self.report({"ERROR"}, str(error))
        return {"CANCELLED"}


class EngineJob(Explained):
    """Mix-in for an operator that takes long; one at a time."""

    _timer: bpy.types.Timer | None = None
    _job: JobRun | None = None

    if TYPE_CHECKING:  # of the subclass

        def steps(self, context: bpy.types.Context, run: JobRun) -> Steps:
            """The job; see job_run.py. After a `yield` of a request, data-blocks must be looked up again by
            name: the user may have undone, renamed or deleted them meanwhile."""

    @classmethod
    def poll(cls, context: bpy.types.Context) -> bool:
        job = current_job()
        if job is not None:
            cls.poll_message_set(f"{job.title} is running")
            return False
        return super().poll(context)

    def execute(self, context: bpy.types.Context) -> set[str]:
        run = self._begin(context)
        told: list[str] = []
        try:
            while not run.advance():
                _tell_console(run, told)
                time.sleep(POLL_S)
            _tell_console(run, told)
        finally:  # Ctrl-C in a terminal
            run.abandon()
        return self._end(run)

    def invoke(self, context: bpy.types.Context, event: bpy.types.Event) -> set[str]:
        if bpy.app.background or context.window is None:
            return self.execute(context)
        run = self._begin(context)
        if run.advance():
            return self._end(run)
        manager = context.window_manager
        self._timer = manager.event_timer_add(TIMER_S, window=context.window)
        manager.modal_handler_add(self)
        tag_redraw(context)
        return {"RUNNING_MODAL"}

    def modal(self, context: bpy.types.Context, event: bpy.types.Event) -> set[str]:
        run = self._job
        assert run is not None
        if event.type == "ESC" and event.value == "PRESS":
            run.cancel()
            return {"RUNNING_MODAL"}
        if event.type == "TIMER":
            finished = run.advance()
            tag_redraw(context)
            if finished:
                self._leave_modal(context)
                return self._end(run)
            context.workspace.status_text_set(f"EX-4D: {run.title}: {run.text}    Esc: Cancel")
            return {"PASS_THROUGH"}
        # while Blender itself draws a take, no undo and no edit may come in between two frames; but the
        # sidebar's Cancel must be within reach
        return {"RUNNING_MODAL"} if run.is_in_blender and not is_over_sidebar(context, event) else {"PASS_THROUGH"}

    def cancel(self, context: bpy.types.Context) -> None:
        """Blender's call when another file is loaded or the window closes in the middle of a job."""
        if self._job is not None:
            self._job.abandon()
        self._leave_modal(context)

    def _begin(self, context: bpy.types.Context) -> JobRun:
        global _run
        clear_failure()
        _run = self._job = JobRun(self.bl_label, lambda run: self.steps(context, run), engine_session.start_engine)
        return _run

    def _end(self, run: JobRun) -> set[str]:
        return self.tell_success(run.message) if run.error is None else self.tell_failure(run.error)

    def _leave_modal(self, context: bpy.types.Context) -> None:
        if self._timer is not None:
            context.window_manager.event_timer_remove(self._timer)
            self._timer = None
        if context.workspace is not None:
            context.workspace.status_text_set(None)


def _tell_console(run: JobRun, told: list[str]) -> None:
    """Every stage and log line once, for whoever watches `blender -b` or a farm's log."""
    for line in ([run.stage] if run.stage else []) + run.logs:
        if line not in told:
            told.append(line)
            print(f"EX-4D {run.title}: {line}", flush=True)


def tag_redraw(context: bpy.types.Context) -> None:
    """Draws the sidebars that show the job again."""
    for window in context.window_manager.windows:
        for area in window.screen.areas:
            if area.type in {"VIEW_3D", "SEQUENCE_EDITOR", "PREFERENCES"}:
                for region in area.regions:
                    if region.type in {"UI", "WINDOW"} and (area.type == "PREFERENCES" or region.type == "UI"):
                        region.tag_redraw()


def is_over_sidebar(context: bpy.types.Context, event: bpy.types.Event) -> bool:
    """Whether the mouse is in the sidebar of an editor of this window."""
    return any(
        region.type == "UI"
        and 0 <= event.mouse_x - region.x < region.width
        and 0 <= event.mouse_y - region.y < region.height
        for area in context.screen.areas
        for region in area.regions
    )
