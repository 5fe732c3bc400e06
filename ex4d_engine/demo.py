# SPDX-License-Identifier: GPL-3.0-or-later
"""`ex4d demo`: the main job, end to end, through the real Blender add-on, without any download."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tempfile
import threading
import time
from collections import deque
from pathlib import Path
from typing import Any, Final

import psutil

from .contact_sheet import write_contact_sheet
from .errors import Ex4dError
from .files import prepare_folder
from .progress import Terminal
from .shot import load_shot
from .stages import ReconstructSettings, reconstruct, require_preset
from .take import load_take

ROOT: Final = Path(__file__).resolve().parents[1]
CLIP: Final = Path(__file__).resolve().parent / "assets" / "courtyard.mp4"
CLIP_FOV_DEG: Final = 40.0  # the lens it was rendered with: tools/render_demo_clip.py
WHEEL: Final = ".venv-blender-5.0"
OLDEST_BLENDER: Final = (4, 2)
ANSWER_SECONDS: Final[float] = 120  # a cold disk loads the bpy wheel in less
MARK: Final = "ex4d-demo "  # as in tools/demo_in_blender.py


def run_demo(
    out: Path, video: Path | None, blender: Path | None, orbit_deg: float, preset: str, reporter: Terminal
) -> dict[str, Any]:
    """Reconstructs a clip, moves a camera through it in Blender, fills and saves; returns what it prints.

    Args:
        out: folder for the shot, demo.blend and contact_sheet.png; made where needed.
        video: the user's clip; None is the bundled one.
        blender: a Blender, or a Python with the bpy wheel; None is bootstrap's `.venv-blender-5.0`.
        preset: what the holes are filled with.
    """
    out = out.resolve()
    require_preset(preset)
    command = blender_command(blender)
    if video is not None and not video.exists():
        raise Ex4dError("no_such_file", f"{video} does not exist.", "Check the path after --video.")
    prepare_folder(out)
    seconds: dict[str, float] = {}
    started = time.monotonic()
    settings = ReconstructSettings(
        source=str((video or CLIP).resolve()), fov_deg=CLIP_FOV_DEG if video is None else None
    )
    with _PeakMemory() as memory:
        shot = reconstruct(settings, out / "shot", reporter)
        seconds["reconstruct"] = round(time.monotonic() - started, 2)
        with tempfile.TemporaryDirectory(prefix="ex4d-demo-") as temporary:
            answer = _run_blender(command, out, orbit_deg, preset, Path(temporary), reporter)
    seconds.update(answer["seconds"])
    shot = load_shot(out / "shot")
    take = load_take(shot, answer["take"])
    write_contact_sheet(shot, take, out / "contact_sheet.png")
    seconds["total"] = round(time.monotonic() - started, 2)
    return {
        "shot": str(shot.root),
        "take": take.name,
        "frames": len(take.frames),
        "size": [take.width, take.height],
        "preset": take.preset,
        "conditioning": take.conditioning,
        "blender": answer["blender"],
        "seconds": seconds,
        "peak_memory_gib": round(memory.peak / 2**30, 2),
        "paths": {
            "contact_sheet": str(out / "contact_sheet.png"),
            "blend": str(out / "demo.blend"),
            "result": str(take.result_file),
        },
    }


def blender_command(blender: Path | None) -> list[str]:
    """The start of the command that runs a script in Blender, which has been asked for its version."""
    if not (ROOT / "tools" / "demo_in_blender.py").is_file():
        raise Ex4dError(
            "no_such_file", "The demo needs a checkout of EX-4D.", "Run it from one: tools/bootstrap.py demo."
        )
    if blender is None:
        folder = "Scripts/python.exe" if os.name == "nt" else "bin/python"
        blender = ROOT / WHEEL / folder
        if not blender.exists():
            raise Ex4dError(
                "no_such_file",
                f"There is no Blender: {blender} does not exist.",
                "Run python3 tools/bootstrap.py demo, which makes it, or give --blender PATH.",
            )
    if not blender.is_file():
        raise Ex4dError("no_such_file", f"{blender} is no program.", "Give --blender the path of Blender itself.")
    # absolute, but links are kept: a virtual environment's python is one, and is known by its place
    program = str(blender.absolute())
    if blender.stem.lower().startswith("python"):
        require_blender([program, "-c", "import bpy; print('Blender', bpy.app.version_string, flush=True)"])
        return [program]
    require_blender([program, "--version"])
    return [program, "--background", "--factory-startup", "--python-exit-code", "1", "--python"]


def require_blender(command: list[str]) -> None:
    """Runs a command that prints `Blender X.Y…`: a wrong program is told before minutes of work, not after.

    Raises:
        Ex4dError: `missing_package` where it does not answer so, or is older than the add-on's oldest Blender.
    """
    hint = "Give --blender a Blender of 4.2 or newer, or a Python that has the bpy wheel."
    with tempfile.TemporaryDirectory(prefix="ex4d-demo-") as resources:  # the user's own settings are not loaded
        try:
            answer = subprocess.run(
                command,
                env={**os.environ, "BLENDER_USER_RESOURCES": resources},
                stdin=subprocess.DEVNULL,
                capture_output=True,
                encoding="utf-8",
                errors="replace",
                timeout=ANSWER_SECONDS,
                check=False,
            ).stdout
        except (OSError, subprocess.TimeoutExpired):
            answer = ""
    version = re.search(r"^Blender (\d+)\.(\d+)", answer, re.MULTILINE)
    if version is None:
        raise Ex4dError("missing_package", f"{command[0]} is no Blender and no Python with bpy.", hint)
    if (int(version[1]), int(version[2])) < OLDEST_BLENDER:
        raise Ex4dError("missing_package", f"{command[0]} is {version[0]}, which is too old.", hint)


def _run_blender(
    command: list[str], out: Path, orbit_deg: float, preset: str, temporary: Path, reporter: Terminal
) -> dict[str, Any]:
    extension = temporary / "ex4d.zip"
    subprocess.run(
        [sys.executable, str(ROOT / "tools" / "build_extension.py"), str(extension)],
        check=True,
        stdout=subprocess.DEVNULL,
    )
    options = {
        "extension": str(extension),
        "shot": str(out / "shot"),
        "orbit": orbit_deg,
        "preset": preset,
        "blend": str(out / "demo.blend"),
    }
    environment = {
        **os.environ,
        "EX4D_ENGINE_PYTHON": sys.executable,
        "BLENDER_USER_RESOURCES": str(temporary / "blender"),
        "PYTHONIOENCODING": "utf-8",
    }
    script = [str(ROOT / "tools" / "demo_in_blender.py"), "--", json.dumps(options)]
    with subprocess.Popen(
        [*command, *script],
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        encoding="utf-8",
        errors="replace",
    ) as process:
        try:
            return _listen(process, reporter)
        except BaseException:
            process.kill()
            raise


def _listen(process: subprocess.Popen[str], reporter: Terminal) -> dict[str, Any]:
    assert process.stdout is not None
    tail: deque[str] = deque(maxlen=15)
    for line in process.stdout:
        if not line.startswith(MARK):
            tail.append(line.rstrip())
            continue
        entry = json.loads(line[len(MARK) :])
        if "stage" in entry:
            reporter.log(f"Blender: {entry['stage']}")
        elif "progress" in entry:
            reporter.progress(*entry["progress"])
        elif "error" in entry:
            raise Ex4dError("internal", f"The add-on says: {entry['error']}", "Its own output: " + " | ".join(tail))
        elif "done" in entry:
            answer: dict[str, Any] = entry["done"]
            return answer
    raise Ex4dError(
        "internal",
        f"Blender ended early with status {process.wait()}.",
        "Its last lines: " + (" | ".join(tail) or "none"),
    )


class _PeakMemory:
    """Samples the memory of this process and its children; peak: the largest sum, in bytes."""

    def __init__(self) -> None:
        self.peak = 0
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> _PeakMemory:
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._stop.set()
        self._thread.join()

    def _watch(self) -> None:
        me = psutil.Process()
        while not self._stop.wait(0.25):
            total = 0
            for process in (me, *me.children(recursive=True)):
                try:
                    total += process.memory_info().rss
                except psutil.Error:  # it ended in between
                    continue
            self.peak = max(self.peak, total)
