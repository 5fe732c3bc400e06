# SPDX-License-Identifier: GPL-3.0-or-later
"""The engine and its jobs: cancel, check, stop, and the report for whoever has to find out what went wrong."""

from __future__ import annotations

import bpy
from bpy.props import StringProperty

from .. import engine_session, jobs
from ..job_run import EngineRequest, JobRun, Steps
from ..jobs import EngineJob, Explained
from ..preferences import describe_engine


class EX4D_OT_cancel(Explained, bpy.types.Operator):
    """Works for whatever job runs, whoever started it."""

    bl_idname = "ex4d.cancel"
    bl_label = "Cancel"
    bl_description = "Stop the running job at its next step; finished frames are kept"

    @classmethod
    def why_not(cls, context: bpy.types.Context) -> str:
        job = jobs.current_job()
        if job is None:
            return "Nothing is running"
        return "It is being cancelled already" if job.is_cancelling else ""

    def execute(self, context: bpy.types.Context) -> set[str]:
        job = jobs.current_job()
        if job is not None:
            job.cancel()
        return {"FINISHED"}


class EX4D_OT_check_engine(EngineJob, bpy.types.Operator):
    """A job that asks for nothing but an answer."""

    bl_idname = "ex4d.check_engine"
    bl_label = "Check Engine"
    bl_description = "Start the engine and see what it says of itself"

    def steps(self, context: bpy.types.Context, run: JobRun) -> Steps:
        yield EngineRequest("ping")
        return describe_engine()


class EX4D_OT_free_vram(EngineJob, bpy.types.Operator):
    """The engine stays, and is ready at once for what needs no model."""

    bl_idname = "ex4d.free_vram"
    bl_label = "Free VRAM"
    bl_description = "Let the engine give back the memory of models that it keeps for the next take"

    @classmethod
    def why_not(cls, context: bpy.types.Context) -> str:
        return "" if engine_session.is_running() else "The engine is not running, so it holds no memory"

    def steps(self, context: bpy.types.Context, run: JobRun) -> Steps:
        yield EngineRequest("free_memory")
        return "The engine holds no models any more"


class EX4D_OT_stop_engine(Explained, bpy.types.Operator):
    """Also the way out of a job that does not react to a cancel."""

    bl_idname = "ex4d.stop_engine"
    bl_label = "Stop Engine"
    bl_description = "End the engine's process, which frees its memory; the next job starts it again"

    @classmethod
    def why_not(cls, context: bpy.types.Context) -> str:
        return "" if engine_session.is_running() else "The engine is not running"

    def work(self, context: bpy.types.Context) -> str:
        engine_session.stop_engine()
        return "The engine is stopped"


class EX4D_OT_copy_report(bpy.types.Operator):
    """The clipboard is the one place that every bug tracker can be reached from."""

    bl_idname = "ex4d.copy_report"
    bl_label = "Copy Report"
    bl_description = "Copy what is needed to find out what went wrong: versions, the error, the engine's last lines"

    def execute(self, context: bpy.types.Context) -> set[str]:
        context.window_manager.clipboard = jobs.report_text()
        self.report({"INFO"}, "The report is in the clipboard")
        return {"FINISHED"}


class EX4D_OT_copy_download_command(bpy.types.Operator):
    """The button of the errors `models:NAME`: many gigabytes are fetched in a terminal, where a licence can be read."""

    bl_idname = "ex4d.copy_download_command"
    bl_label = "Copy Command"
    bl_description = "Copy the command that downloads the model, to be run in a terminal"

    model: StringProperty(name="Model", options={"SKIP_SAVE", "HIDDEN"})

    def execute(self, context: bpy.types.Context) -> set[str]:
        context.window_manager.clipboard = download_command(self.model)
        self.report({"INFO"}, "The command is in the clipboard")
        return {"FINISHED"}


def download_command(model: str) -> str:
    """What to type to download a model, by its name in the engine's registry."""
    return f"ex4d models download {model}"


class EX4D_OT_dismiss(bpy.types.Operator):
    """The report can still be copied afterwards."""

    bl_idname = "ex4d.dismiss"
    bl_label = "Dismiss"
    bl_description = "Hide the message"

    def execute(self, context: bpy.types.Context) -> set[str]:
        jobs.clear_failure()
        jobs.tag_redraw(context)
        return {"FINISHED"}


class EX4D_OT_open_preferences(Explained, bpy.types.Operator):
    """The button of the error `engine_missing`."""

    bl_idname = "ex4d.open_preferences"
    bl_label = "Open Preferences"
    bl_description = "Show the add-on's preferences, where the engine's Python is chosen"

    @classmethod
    def why_not(cls, context: bpy.types.Context) -> str:
        if bpy.app.background or context.window is None:
            return "This needs a window: in a script, set the preferences themselves"
        return ""

    def execute(self, context: bpy.types.Context) -> set[str]:
        bpy.ops.preferences.addon_show(module=engine_session.ADDON)
        return {"FINISHED"}


CLASSES = (
    EX4D_OT_cancel,
    EX4D_OT_check_engine,
    EX4D_OT_free_vram,
    EX4D_OT_stop_engine,
    EX4D_OT_copy_report,
    EX4D_OT_copy_download_command,
    EX4D_OT_dismiss,
    EX4D_OT_open_preferences,
)
