# SPDX-License-Identifier: GPL-3.0-or-later
"""`ex4d demo` as the README's first line runs it: the engine, then the add-on in Blender, on a small clip."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest

from ex4d_engine import demo
from ex4d_engine.errors import Ex4dError
from ex4d_engine.image_files import read_png
from ex4d_engine.movie_writer import MovieWriter
from tests.conftest import REPOSITORY
from tests.tiny_shot import contents, picture, times

pytestmark = pytest.mark.end_to_end

WHEEL = REPOSITORY / demo.WHEEL / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
posix = pytest.mark.skipif(os.name == "nt", reason="the pretended programs are shell scripts")


@pytest.fixture
def clip(tmp_path: Path) -> Path:
    """Five frames of 96 × 96."""
    path = tmp_path / "clip 作.mp4"
    with MovieWriter(path, Fraction(24), 96, 96) as movie:
        for index in range(5):
            movie.write(picture(index, 96, 96))
    return path


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return tmp_path / "Ünï 作業 demo"


def run(out: Path, clip: Path, *arguments: object, timeout: int = 60) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, REPOSITORY / "ex4d_engine", "demo", "--out", out, "--video", clip, *arguments]
    return subprocess.run(
        list(map(str, command)), capture_output=True, encoding="utf-8", errors="replace", timeout=timeout, check=False
    )


def demonstrate(out: Path, clip: Path) -> dict[str, Any]:
    ended = run(out, clip, timeout=300)
    assert ended.returncode == 0, ended.stderr
    summary: dict[str, Any] = json.loads(ended.stdout.splitlines()[-1])
    return summary


@pytest.mark.skipif(not WHEEL.exists(), reason=f"no Blender in {demo.WHEEL}: tools/bootstrap.py makes it")
def test_the_demo_runs_and_runs_again(out: Path, clip: Path) -> None:
    said = demonstrate(out, clip)
    assert (said["take"], said["frames"], said["size"]) == ("take_0001", 5, [96, 96])
    assert said["preset"] == "draft"
    assert said["shot"] == str(out / "shot") and said["blender"].startswith("5.0")
    assert 0 < said["seconds"]["reconstruct"] < said["seconds"]["total"]
    assert {name: Path(path).is_file() for name, path in said["paths"].items()} == {
        "contact_sheet": True,
        "blend": True,
        "result": True,
    }
    assert {"contact_sheet.png", "demo.blend"} <= {path.name for path in out.iterdir()}
    sheet = read_png(out / "contact_sheet.png")
    assert sheet.shape[1] > 96 and sheet.std() > 5  # pictures, not a blank page
    # again: another take, and not a byte or a date of the first is touched
    first = out / "shot" / "takes" / "take_0001"
    before = contents(first), times(first)
    said = demonstrate(out, clip)
    assert said["take"] == "take_0002" and Path(said["paths"]["result"]).is_file()
    assert (contents(first), times(first)) == before


def pretend(path: Path, *lines: str) -> Path:
    path.write_text("\n".join(("#!/bin/sh", *lines, "")), encoding="utf-8")
    path.chmod(0o755)
    return path


def refused(out: Path, clip: Path, blender: Path) -> str:
    ended = run(out, clip, "--blender", blender)
    assert ended.returncode == 1 and ended.stdout == "" and "Traceback" not in ended.stderr
    assert not out.exists()  # it was said before any work
    said = [line for line in ended.stderr.splitlines() if line.startswith("ex4d: ")]
    assert len(said) == 1 and said[0].endswith(".") and str(blender) in said[0]
    return said[0]


def test_a_blender_that_is_not_there(out: Path, clip: Path) -> None:
    assert "is no program" in refused(out, clip, out.parent / "nonexistent")
    assert "is no program" in refused(out, clip, out.parent)


def test_a_python_without_bpy_is_no_blender(out: Path, clip: Path) -> None:
    assert "is no Blender" in refused(out, clip, Path(sys.executable))


@posix
@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("echo 'Brenner 5.0.1'", "is no Blender"),
        ("echo 'no display' >&2; exit 1", "is no Blender"),
        ("echo 'Blender 4.1.1'", "is Blender 4.1, which is too old"),
        ("echo 'Blender 2.93.0'", "is Blender 2.93, which is too old"),
    ],
)
def test_another_program_is_no_blender(out: Path, clip: Path, line: str, said: str) -> None:
    assert said in refused(out, clip, pretend(out.parent / "program 作", line))


@posix
def test_a_file_that_cannot_be_run_is_no_blender(out: Path, clip: Path) -> None:
    assert "is no Blender" in refused(out, clip, clip)


@posix
def test_a_blender_is_known_by_its_answer(tmp_path: Path) -> None:
    program = pretend(tmp_path / "blender-4.2", "echo 'Read prefs: none'", "echo 'Blender 4.2.0 LTS'", "echo built")
    command = demo.blender_command(program)
    assert command[0] == str(program) and command[-1] == "--python" and "--background" in command


@posix
def test_a_program_that_never_answers_is_no_blender(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(demo, "ANSWER_SECONDS", 0.2)
    program = pretend(tmp_path / "blender", "exec sleep 60")
    with pytest.raises(Ex4dError, match="is no Blender"):
        demo.blender_command(program)
