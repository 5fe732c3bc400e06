# SPDX-License-Identifier: GPL-3.0-or-later
"""The demo's half inside Blender: the installed extension's operators, called as a user's clicks would.

Run by `ex4d demo`, in the bpy wheel or a real Blender. Arguments: one JSON object after `--` (see
ex4d_engine/demo.py). Lines that begin with MARK are for that program; the rest is Blender's own talk.
"""

from __future__ import annotations

import importlib
import json
import math
import os
import sys
import threading
import time
import traceback
from typing import Any

import bpy

MARK = "ex4d-demo "
REPOSITORY = "user_default"


def main() -> int:
    """Exit status: 0, or 1 after an error that was told."""
    options: dict[str, Any] = json.loads(sys.argv[sys.argv.index("--") + 1])
    seconds: dict[str, float] = {}
    try:
        addon = timed(seconds, "install", install_extension, options["extension"])
        jobs = importlib.import_module(f"{addon}.ex4d_blender.jobs")
        threading.Thread(target=tell_progress, args=(jobs,), daemon=True).start()
        scene = bpy.context.scene
        scene.ex4d.shot_folder = options["shot"]
        timed(seconds, "import", bpy.ops.ex4d.import_shot)
        scene.ex4d.move = "orbit"
        scene.ex4d.orbit_angle = math.radians(options["orbit"])
        timed(seconds, "camera move", bpy.ops.ex4d.add_camera_move)
        scene.ex4d.preset = options["preset"]
        timed(seconds, "render and generate", bpy.ops.ex4d.generate)
        take = scene.ex4d.takes[scene.ex4d.active_take].name
        timed(seconds, "save", lambda: bpy.ops.wm.save_as_mainfile(filepath=options["blend"], relative_remap=True))
        tell(done={"take": take, "seconds": seconds, "blender": bpy.app.version_string})
        return 0
    except Exception as error:  # whatever it is, the other side must hear of it in its own words
        traceback.print_exc()
        tell(error=str(error).strip().splitlines()[-1] if str(error).strip() else type(error).__name__)
        return 1


def install_extension(path: str) -> str:
    """Installs and enables the zip in this Blender; returns the package's name."""
    bpy.ops.wm.read_factory_settings(use_empty=True)
    bpy.ops.extensions.package_install_files(filepath=path, repo=REPOSITORY, enable_on_install=True, overwrite=True)
    return f"bl_ext.{REPOSITORY}.ex4d"


def timed(seconds: dict[str, float], name: str, call: Any, *arguments: Any) -> Any:
    """Calls it, tells its stage, and notes its seconds."""
    tell(stage=name)
    started = time.monotonic()
    result = call(*arguments)
    seconds[name] = round(time.monotonic() - started, 2)
    if result == {"CANCELLED"}:
        raise RuntimeError(bpy.context.window_manager.ex4d_job.error or f"{name} was cancelled")
    return result


def tell_progress(jobs: Any) -> None:
    """Tells the running job's progress ten times a second; ends with the process."""
    last: tuple[str, int, int] | None = None
    while True:
        job = jobs.current_job()
        if job is not None and job.stage:
            now = (job.stage, job.done, job.total)
            if now != last:
                tell(progress=now)
                last = now
        time.sleep(0.1)


def tell(**entry: Any) -> None:
    """One line for the other side."""
    sys.stdout.write(MARK + json.dumps(entry) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    status = main()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)  # Blender 4.2 and 4.5 may hang at exit with an add-on registered
