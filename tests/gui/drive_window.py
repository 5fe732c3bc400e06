# SPDX-License-Identifier: GPL-3.0-or-later
"""Runs inside a real Blender window: the way of a user, with the buttons' own modal operators.

A generator is stepped by a timer, so that Blender draws and handles events in between. Writes what it found
to a JSON file and takes screenshots with xwd, as Blender's own screenshots are black under a virtual screen.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import bpy

STEP_S = 0.2
PATIENCE_S = 240.0


def main() -> None:
    options = json.loads(sys.argv[sys.argv.index("--") + 1])
    found: dict[str, Any] = {"blender": bpy.app.version_string}
    steps = drive(options, found)

    def tick() -> float | None:
        try:
            next(steps)
            return STEP_S
        except StopIteration:
            found["finished"] = True
        except Exception:
            found["failure"] = traceback.format_exc()
        Path(options["answer"]).write_text(json.dumps(found), encoding="utf-8")
        os._exit(0)

    bpy.app.timers.register(tick, first_interval=1.0)


def drive(options: dict[str, Any], found: dict[str, Any]) -> Iterator[None]:
    area = next(area for area in bpy.context.screen.areas if area.type == "VIEW_3D")
    press("ESC", area)  # the quick set-up that a new user's first start shows
    yield
    bpy.ops.extensions.package_install_files(
        filepath=options["extension"], repo="user_default", enable_on_install=True, overwrite=True
    )
    yield
    scene = bpy.context.scene
    scene.ex4d.clip_path = options["clip"]
    scene.ex4d.shot_folder = options["shot"]
    area.spaces.active.show_region_ui = True
    yield
    sidebar = next(region for region in area.regions if region.type == "UI")
    sidebar.active_panel_category = "EX-4D"
    yield from pause(1.0)

    # cancelled with the escape key in the middle
    with bpy.context.temp_override(**place(area)):
        found["invoked"] = list(bpy.ops.ex4d.reconstruct("INVOKE_DEFAULT"))
    yield from until(lambda: job_total() > 0, "the job reports progress")
    found["running_text"] = bpy.context.window_manager.ex4d_job.text
    screenshot(options["pictures"], "running")
    press("ESC", area)
    yield from until(lambda: not bpy.context.window_manager.ex4d_job.is_running, "escape ends the job")
    found["cancelled_has_no_error"] = bpy.context.window_manager.ex4d_job.error == ""

    # and then to its end
    with bpy.context.temp_override(**place(area)):
        bpy.ops.ex4d.reconstruct("INVOKE_DEFAULT")
    yield from until(lambda: not bpy.context.window_manager.ex4d_job.is_running, "the reconstruction ends")
    found["error"] = bpy.context.window_manager.ex4d_job.error
    with bpy.context.temp_override(**place(area)):
        if not any(item.name.startswith("EX-4D") for item in bpy.data.collections):
            bpy.ops.ex4d.import_shot("INVOKE_DEFAULT")
        bpy.ops.ex4d.add_camera_move("INVOKE_DEFAULT")
    for item in bpy.data.objects:
        if item.name in {"Cube", "Light"}:
            item.hide_set(True)
    area.spaces.active.region_3d.view_perspective = "CAMERA"
    area.spaces.active.shading.type = "MATERIAL"
    scene.frame_set(scene.frame_start + 4)
    yield from pause(4.0)
    screenshot(options["pictures"], "imported")
    with bpy.context.temp_override(**place(area)):
        bpy.ops.ex4d.generate("INVOKE_DEFAULT", preset="preview")
    yield from until(lambda: not bpy.context.window_manager.ex4d_job.is_running, "generating ends")
    found["generate_error"] = bpy.context.window_manager.ex4d_job.error
    found["takes"] = [take.name for take in scene.ex4d.takes]
    editor = scene.sequence_editor
    strips = getattr(editor, "strips", None) or getattr(editor, "sequences", [])
    found["strips"] = [strip.name for strip in strips]
    area.type = "SEQUENCE_EDITOR"
    yield
    area.spaces.active.show_region_ui = True
    area.spaces.active.view_type = "SEQUENCER_PREVIEW"
    scene.render.resolution_x, scene.render.resolution_y = 256, 256
    scene.frame_start, scene.frame_end = 1, 9
    yield
    next(region for region in area.regions if region.type == "UI").active_panel_category = "EX-4D"
    yield
    with bpy.context.temp_override(**place(area)):
        bpy.ops.sequencer.view_all()
    yield from pause(2.0)
    screenshot(options["pictures"], "sequencer")


def place(area: bpy.types.Area) -> dict[str, Any]:
    """Context of a click into the area."""
    window = bpy.context.window_manager.windows[0]
    region = next(region for region in area.regions if region.type == "WINDOW")
    return {"window": window, "screen": window.screen, "area": area, "region": region}


def press(key: str, area: bpy.types.Area) -> None:
    """The key, with the mouse over the area."""
    window = bpy.context.window_manager.windows[0]
    x, y = area.x + area.width // 2, area.y + area.height // 2
    window.event_simulate(type="MOUSEMOVE", value="NOTHING", x=x, y=y)
    window.event_simulate(type=key, value="PRESS", x=x, y=y)
    window.event_simulate(type=key, value="RELEASE", x=x, y=y)


def job_total() -> float:
    job = bpy.context.window_manager.ex4d_job
    return job.factor if job.is_running else 0.0


def until(condition: Any, what: str) -> Iterator[None]:
    end = time.monotonic() + PATIENCE_S
    while not condition():
        if time.monotonic() > end:
            raise TimeoutError(f"{what}: not within {PATIENCE_S:.0f} s")
        yield


def pause(seconds: float) -> Iterator[None]:
    """For a person's eye only: gives Blender time to draw before a screenshot; no check depends on it."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        yield


def screenshot(folder: str, name: str) -> None:
    window = bpy.context.window_manager.windows[0]
    with bpy.context.temp_override(window=window, screen=window.screen):
        bpy.ops.wm.redraw_timer(type="DRAW_WIN_SWAP", iterations=1)
    subprocess.run(["xwd", "-root", "-silent", "-out", str(Path(folder) / f"{name}.xwd")], check=True)


main()
