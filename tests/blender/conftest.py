# SPDX-License-Identifier: GPL-3.0-or-later
"""Tests inside Blender: the extension is built, really installed, and its modules are those that users get."""

from __future__ import annotations

import importlib
import importlib.util
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from tests.blender.clip import make_clip

REPOSITORY = Path(__file__).resolve().parents[2]
USER_RESOURCES = Path(tempfile.mkdtemp(prefix="ex4d_blender_"))
PACKAGE = "bl_ext.user_default.ex4d"
os.environ["BLENDER_USER_RESOURCES"] = str(USER_RESOURCES)  # before bpy is imported: no user's settings count
os.environ["CUDA_VISIBLE_DEVICES"] = ""  # of the engine: what is refused here is the same on every machine

try:
    import bpy
except ImportError:
    bpy = None

collect_ignore_glob = [] if bpy is not None else ["test_*.py"]
_exit_status = 0


@pytest.fixture(scope="session")
def extension() -> None:
    """Installs the extension as a user does, from its zip file."""
    bpy.ops.wm.read_factory_settings(use_empty=True)
    archive = USER_RESOURCES / "ex4d.zip"
    _build(archive)
    bpy.ops.extensions.package_install_files(
        filepath=str(archive), repo="user_default", enable_on_install=True, overwrite=True
    )
    assert PACKAGE in bpy.context.preferences.addons


@pytest.fixture
def addon(extension: None) -> Callable[[str], ModuleType]:
    """`addon("ex4d_blender.mesh_import")` is a module of the installed extension, in an empty file."""
    bpy.ops.wm.read_homefile(use_empty=True, use_factory_startup=True)
    return lambda name: importlib.import_module(f"{PACKAGE}.{name}")


@pytest.fixture(scope="session")
def engine_python() -> Path:
    """The engine's Python: EX4D_ENGINE_PYTHON, else the repository's .venv."""
    scripts = "Scripts/python.exe" if sys.platform == "win32" else "bin/python"
    python = Path(os.environ.get("EX4D_ENGINE_PYTHON", REPOSITORY / ".venv" / scripts))
    if not python.is_file():
        pytest.skip(f"no engine Python at {python}: set EX4D_ENGINE_PYTHON")
    return python


@pytest.fixture(scope="session")
def run_engine(engine_python: Path) -> Callable[..., None]:
    """Calls make_shot.py with the engine's Python."""
    environment = {key: value for key, value in os.environ.items() if not key.startswith("PYTHON")}

    def run(*arguments: object) -> None:
        command = [str(engine_python), str(Path(__file__).with_name("make_shot.py")), *map(str, arguments)]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
        assert done.returncode == 0, done.stderr

    return run


@pytest.fixture(scope="session")
def made_shots(run_engine: Callable[..., None], tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """`made_shots(kind)` is the folder of a 96 × 64 shot, frames 1001 to 1004.

    Kinds: "none" (no poses known), "poses", "reference" (the reference's mesh), "fence" (one post beside another),
    "earlier" (of a version without cards and widths) and "still" (one frame).
    """
    made: dict[str, Path] = {}

    def make(kind: str) -> Path:
        if kind not in made:
            made[kind] = tmp_path_factory.mktemp("shots") / f"Ünï 作業 {kind}"
            frames, of_kind = (1, "none") if kind == "still" else (4, kind)
            run_engine("make", made[kind], 96, 64, frames, 1001, of_kind)
        return made[kind]

    return make


@pytest.fixture
def new_shot(addon: Callable[[str], Any], made_shots: Callable[[str], Path], tmp_path: Path) -> Callable[..., Any]:
    """`new_shot("poses")` is a shot in a folder of its own, to write takes into."""

    def copy(kind: str = "none") -> Any:
        root = tmp_path / made_shots(kind).name
        shutil.copytree(made_shots(kind), root)
        return addon("ex4d_engine.shot").load_shot(root)

    return copy


@pytest.fixture(scope="session")
def made_clip(engine_python: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("clips") / "clip.mkv"
    make_clip(path, engine_python)
    return path


@pytest.fixture
def scene(addon: Callable[[str], Any], engine_python: Path, made_clip: Path, tmp_path: Path) -> Iterator[Any]:
    """An empty scene whose clip lies in a folder with a hard name; the engine is set in the preferences."""
    folder = tmp_path / "Ünï 作業 shot"
    folder.mkdir()
    bpy.context.preferences.addons[PACKAGE].preferences.engine_python = str(engine_python)
    scene = bpy.context.scene
    scene.ex4d.clip_path = str(shutil.copy(made_clip, folder / "Flug 飛 é.mkv"))
    scene.ex4d.preset = "preview"  # the archive under test has no model
    yield scene
    # looked up again: a test may have switched the add-on off and on, and the former ones are freed memory
    bpy.context.preferences.addons[PACKAGE].preferences.engine_python = ""


@pytest.fixture
def imported(scene: Any, addon: Callable[[str], Any], new_shot: Callable[..., Any]) -> Any:
    """The scene with a shot made beforehand (4 frames from 1001) imported."""
    scene.ex4d.shot_folder = str(new_shot().root)
    assert bpy.ops.ex4d.import_shot() == {"FINISHED"}
    return scene


def _build(archive: Path) -> None:
    """The extension's zip, as it is released but for the bundled model: tests mean the add-on, and would diffuse."""
    path = REPOSITORY / "tools" / "build_extension.py"
    spec = importlib.util.spec_from_file_location("build_extension", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["build_extension"] = module
    spec.loader.exec_module(module)
    module.LEFT_OUT = (*module.LEFT_OUT, "bundled")
    module.build_extension(archive)


@pytest.hookimpl(trylast=True)
def pytest_sessionfinish(exitstatus: int) -> None:
    global _exit_status
    _exit_status = int(exitstatus)


@pytest.hookimpl(trylast=True)
def pytest_unconfigure() -> Iterator[None] | None:
    """Ends the process at once: Blender 4.2 and 4.5 as a module hang at exit while add-ons are registered."""
    if bpy is None:
        return None
    shutil.rmtree(USER_RESOURCES, ignore_errors=True)
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(_exit_status)
