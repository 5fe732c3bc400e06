# SPDX-License-Identifier: GPL-3.0-or-later
"""The extension in a real Blender window: panels draw, modal jobs run, escape cancels, strips appear.

Needs a Blender of 4.2 or newer (EX4D_BLENDER or `blender` on PATH), Xvfb and xwd; skipped with a message
where one is missing. Screenshots are kept as PNG in the folder named by EX4D_PICTURES, if it is set.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from ex4d_engine.image_files import write_png
from ex4d_engine.video import MovieWriter, read_frames

REPOSITORY = Path(__file__).resolve().parents[2]
CLIP = REPOSITORY / "ex4d_engine" / "assets" / "courtyard.mp4"
SCREEN = (1600, 1000)
pytestmark = pytest.mark.gui


@pytest.fixture
def program() -> str:
    program = os.environ.get("EX4D_BLENDER") or shutil.which("blender") or ""
    if not program:
        pytest.skip("no Blender: set EX4D_BLENDER to one of 4.2 or newer")
    answer = subprocess.run([program, "--version"], capture_output=True, text=True, timeout=60, check=False).stdout
    version = re.search(r"Blender (\d+)\.(\d+)", answer)
    if version is None or (int(version[1]), int(version[2])) < (4, 2):
        pytest.skip(f"{program} is no Blender of 4.2 or newer: {answer[:60]!r}")
    for tool in ("Xvfb", "xwd"):
        if shutil.which(tool) is None:
            pytest.skip(f"{tool} is not installed")
    return program


@pytest.fixture
def display(program: str):
    """A virtual screen of its own; Xvfb picks a free number and says which."""
    read, write = os.pipe()
    server = subprocess.Popen(
        ["Xvfb", "-displayfd", str(write), "-screen", "0", f"{SCREEN[0]}x{SCREEN[1]}x24", "-nolisten", "tcp"],
        pass_fds=[write],
        stderr=subprocess.DEVNULL,
    )
    os.close(write)
    with os.fdopen(read) as pipe:
        number = pipe.readline().strip()
    yield f":{number}"
    server.terminate()
    server.wait(10)


def short_clip(path: Path, frames: int) -> Path:
    with MovieWriter(path, next_rate(), 256, 256) as movie:
        for frame in read_frames(CLIP, last=frames):
            movie.write(np.ascontiguousarray(frame.image[::2, ::2]))
    return path


def next_rate():
    from fractions import Fraction

    return Fraction(24)


def xwd_to_png(source: Path, target: Path) -> np.ndarray:
    """Decodes a 24-bit X window dump (32 bits a pixel, BGRX)."""
    data = source.read_bytes()
    header = np.frombuffer(data[:100], ">u4")
    header_size, width, height, stride, colours = (int(header[index]) for index in (0, 4, 5, 12, 19))
    start = header_size + 12 * colours
    rows = np.frombuffer(data, np.uint8, stride * height, start).reshape(height, stride)
    image = rows[:, : 4 * width].reshape(height, width, 4)[..., 2::-1]
    write_png(target, np.ascontiguousarray(image))
    return image


def test_a_users_way_through_the_window(tmp_path: Path, program: str, display: str) -> None:
    folder = tmp_path / "Ünï 作業 window"
    folder.mkdir()
    clip = short_clip(folder / "clip.mp4", 9)
    extension = folder / "ex4d.zip"
    subprocess.run([sys.executable, str(REPOSITORY / "tools" / "build_extension.py"), str(extension)], check=True)
    options = {
        "extension": str(extension),
        "clip": str(clip),
        "shot": str(folder / "shot"),
        "answer": str(folder / "answer.json"),
        "pictures": str(folder),
    }
    environment = {
        **os.environ,
        "DISPLAY": display,
        "LIBGL_ALWAYS_SOFTWARE": "1",
        "BLENDER_USER_RESOURCES": str(folder / "user"),
        "EX4D_ENGINE_PYTHON": sys.executable,
    }
    command = [
        program, "--factory-startup", "--enable-event-simulate",
        "--window-geometry", "0", "0", str(SCREEN[0]), str(SCREEN[1]),
        "--python", str(REPOSITORY / "tests" / "gui" / "drive_window.py"), "--", json.dumps(options),
    ]  # fmt: skip
    result = subprocess.run(command, env=environment, capture_output=True, timeout=600, check=False)
    output = (result.stdout + result.stderr).decode("utf-8", "replace")[-3000:]
    assert (folder / "answer.json").is_file(), output
    found = json.loads((folder / "answer.json").read_text(encoding="utf-8"))
    kept = Path(os.environ.get("EX4D_PICTURES", folder))
    pictures = {path.stem: xwd_to_png(path, kept / f"window_{path.stem}.png") for path in folder.glob("*.xwd")}
    assert found.get("finished"), (found, output)
    assert found["invoked"] == ["RUNNING_MODAL"]
    assert found["cancelled_has_no_error"]
    assert found["error"] == found["generate_error"] == ""
    assert found["takes"] == ["take_0001"]
    assert any("result" in name for name in found["strips"])
    assert {"running", "imported", "sequencer"} <= set(pictures)
    for name, picture in pictures.items():
        assert picture.std() > 5, f"the screenshot {name} is blank"
