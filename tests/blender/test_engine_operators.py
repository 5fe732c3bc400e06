# SPDX-License-Identifier: GPL-3.0-or-later
"""The engine behind the add-on: started, stopped, killed, and taken along when the add-on goes."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.blender.add_on import ADDON, refusal, stop_engine

bpy = pytest.importorskip("bpy")


def test_the_engine_is_checked_and_stopped(scene: Any) -> None:
    session = sys.modules[f"{ADDON}.ex4d_blender.engine_session"]
    assert bpy.ops.ex4d.check_engine() == {"FINISHED"}
    engine = session.current_engine()
    assert engine.is_alive and engine.hello.presets
    assert bpy.ops.ex4d.stop_engine() == {"FINISHED"}
    assert not engine.is_alive
    assert bpy.ops.ex4d.check_engine() == {"FINISHED"}, "it starts again"


def test_memory_is_freed_while_the_engine_stays(scene: Any) -> None:
    session = sys.modules[f"{ADDON}.ex4d_blender.engine_session"]
    stop_engine()
    assert "not running" in refusal(bpy.ops.ex4d.free_vram)
    bpy.ops.ex4d.check_engine()
    before = session.current_engine().pid
    assert bpy.ops.ex4d.free_vram() == {"FINISHED"}
    assert session.current_engine().pid == before


def test_an_engine_that_is_not_there_is_explained(scene: Any, tmp_path: Path) -> None:
    stop_engine()
    jobs = sys.modules[f"{ADDON}.ex4d_blender.jobs"]
    bpy.context.preferences.addons[ADDON].preferences.engine_python = str(tmp_path / "nowhere" / "python")
    assert "does not exist" in refusal(bpy.ops.ex4d.check_engine)
    assert jobs.last_failure()[1].action == "ex4d.open_preferences"
    assert jobs.current_job() is None
    assert "engine_missing" in jobs.report_text()


def test_preferences_need_a_window(scene: Any) -> None:
    assert "needs a window" in refusal(bpy.ops.ex4d.open_preferences)


@pytest.mark.skipif(os.name != "posix", reason="needs a named pipe")
def test_a_running_job_is_shown_cancelled_and_leaves_nothing_behind(imported: Any) -> None:
    """The job is driven as the modal operator's timer does it, which a module without windows cannot run."""
    jobs = sys.modules[f"{ADDON}.ex4d_blender.jobs"]
    job_run = sys.modules[f"{ADDON}.ex4d_blender.job_run"]
    session = sys.modules[f"{ADDON}.ex4d_blender.engine_session"]
    cleaned: list[str] = []

    def steps(run: Any) -> Any:
        try:
            run.progress("Render in Cycles", 1, 4)
            yield None
            while True:
                yield job_run.EngineRequest("ping")
        finally:
            cleaned.append("yes")

    run = jobs._run = job_run.JobRun("Long Job", steps, session.start_engine)
    run.advance()
    shown = bpy.context.window_manager.ex4d_job
    assert (shown.is_running, shown.title, shown.text) == (True, "Long Job", "Render in cycles 1/4")
    assert shown.factor == pytest.approx(0.25)
    assert "Long Job is running" in refusal(bpy.ops.ex4d.generate)
    assert bpy.ops.ex4d.cancel() == {"FINISHED"}
    assert shown.text == "Cancelling"
    while not run.advance():
        pass
    assert run.error.code == "cancelled"
    assert cleaned == ["yes"]
    assert not shown.is_running


def test_a_job_whose_engine_is_killed_says_so_and_the_next_one_works(scene: Any) -> None:
    job_run = sys.modules[f"{ADDON}.ex4d_blender.job_run"]
    session = sys.modules[f"{ADDON}.ex4d_blender.engine_session"]

    def steps(run: Any) -> Any:
        yield job_run.EngineRequest("ping")
        engine = session.current_engine()
        os.kill(engine.pid, 9)
        while engine.is_alive:
            pass
        yield job_run.EngineRequest("ping")
        return "recovered"

    run = job_run.JobRun("Job", steps, session.start_engine)
    while not run.advance():
        pass
    assert (run.error, run.message) == (None, "recovered"), "a dead engine is started again for the next request"
    assert bpy.ops.ex4d.check_engine() == {"FINISHED"}


def test_the_add_on_can_be_switched_off_and_on_again_and_takes_the_engine_along(scene: Any) -> None:
    assert bpy.ops.ex4d.check_engine() == {"FINISHED"}
    engine = sys.modules[f"{ADDON}.ex4d_blender.engine_session"].current_engine()
    handlers = our_handlers()
    assert handlers
    python = bpy.context.preferences.addons[ADDON].preferences.engine_python
    for _ in range(2):
        bpy.ops.preferences.addon_disable(module=ADDON)
        assert not engine.is_alive
        assert not hasattr(bpy.types.Scene, "ex4d")
        assert not hasattr(bpy.types, "EX4D_OT_generate")
        assert not our_handlers()
        bpy.ops.preferences.addon_enable(module=ADDON)
        assert our_handlers() == handlers
    bpy.context.preferences.addons[ADDON].preferences.engine_python = python
    assert bpy.ops.ex4d.check_engine() == {"FINISHED"}


def our_handlers() -> list[str]:
    """What the add-on has hung onto Blender's events."""
    lists = {name: getattr(bpy.app.handlers, name) for name in dir(bpy.app.handlers) if not name.startswith("_")}
    hung = [(name, each) for name, found in lists.items() if isinstance(found, list) for each in found]
    return sorted(f"{name} {each.__name__}" for name, each in hung if each.__module__.startswith(ADDON))
