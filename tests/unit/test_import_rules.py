# SPDX-License-Identifier: GPL-3.0-or-later
"""Who may import whom: two programs, each in its own Python, that share a few light modules."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[2]
ENGINE, ADDON, TOOLS = REPOSITORY / "ex4d_engine", REPOSITORY / "ex4d_blender", REPOSITORY / "tools"
# what the add-on may import from the engine, and what these may use among themselves
CONTRACT = {
    "errors", "files", "shot", "take", "camera_frame", "protocol", "cameras", "trajectories", "bundled_model",
    "dwmesh.walls",
}  # fmt: skip
SHARED = CONTRACT | {"json_fields", "shot_documents", "shot_upgrades"}
STANDARD_ONLY = SHARED - {"cameras", "trajectories"}
BLENDER = {"bpy", "mathutils", "gpu", "gpu_extras", "bmesh", "blf", "imbuf", "aud"}


def imports(path: Path) -> Iterator[tuple[int, str]]:
    """(level, dotted name) of every import in a file, wherever it stands; level 0 is absolute."""
    for node in ast.walk(ast.parse(path.read_text("utf-8"), str(path))):
        if isinstance(node, ast.Import):
            yield from ((0, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            # `from ..ex4d_engine import protocol` names the module in its list
            yield from ((node.level, ".".join(filter(None, [node.module, alias.name]))) for alias in node.names)


def hidden_imports(path: Path) -> list[str]:
    """Imports by a name that is computed, which the other checks cannot see."""
    calls = [node for node in ast.walk(ast.parse(path.read_text("utf-8"))) if isinstance(node, ast.Call)]
    return [
        ast.unparse(call) for call in calls if ast.unparse(call.func).split(".")[-1] in {"__import__", "import_module"}
    ]


def absolute(path: Path) -> set[str]:
    """Top-level packages that a file imports absolutely."""
    return {name.split(".")[0] for level, name in imports(path) if level == 0}


def target(path: Path, package: Path, level: int, name: str) -> list[str]:
    """The parts of a relative import's name, as seen from the folder that holds `package`."""
    here = [package.name, *path.relative_to(package).with_suffix("").parts]
    return [*here[: len(here) - level], *name.split(".")]


def is_among(modules: set[str], parts: list[str]) -> bool:
    """Whether a dotted name of the engine is one of these modules, or something in one."""
    name = ".".join(parts)
    return any(name == module or name.startswith(f"{module}.") for module in modules)


def sources(folder: Path) -> list[Path]:
    found = sorted(folder.rglob("*.py"))
    assert found, f"{folder} holds no Python files"
    return found


def name_of(path: Path) -> str:
    return path.relative_to(REPOSITORY).as_posix()


@pytest.mark.parametrize("path", [REPOSITORY / "__init__.py", *sources(ADDON)], ids=name_of)
def test_the_add_on_needs_nothing_but_blender_s_own_python(path: Path) -> None:
    foreign = {
        name
        for name in absolute(path)
        if name not in BLENDER | {"numpy"} and not name.startswith("bl_") and name not in sys.stdlib_module_names
    }
    assert not foreign
    assert not hidden_imports(path)


@pytest.mark.parametrize("path", sources(ADDON), ids=name_of)
def test_the_add_on_takes_only_the_contract_from_the_engine(path: Path) -> None:
    for level, name in imports(path):
        if level == 0:
            assert not name.startswith("ex4d"), f"{name}: the add-on imports its own package relatively"
            continue
        parts = target(path, ADDON, level, name)
        assert parts[0] in {"ex4d_blender", "ex4d_engine"}, f"{name} is outside the extension"
        if parts[0] == "ex4d_engine":
            assert is_among({*CONTRACT, "__version__"}, parts[1:]), f"{name} is not in the contract"


@pytest.mark.parametrize("path", sources(ENGINE), ids=name_of)
def test_the_engine_never_imports_blender(path: Path) -> None:
    assert not {name for name in absolute(path) if name in BLENDER or name.startswith("bl_")}
    for level, name in imports(path):
        assert level == 0 or target(path, ENGINE, level, name)[0] == "ex4d_engine", f"{name} is outside the engine"
        assert not name.startswith("ex4d_blender")


@pytest.mark.parametrize("module", sorted(SHARED))
def test_the_contract_rests_on_the_standard_library_and_itself(module: str) -> None:
    path = ENGINE / f"{module.replace('.', '/')}.py"
    allowed = set(sys.stdlib_module_names) | (set() if module in STANDARD_ONLY else {"numpy"})
    assert absolute(path) <= allowed
    assert not hidden_imports(path)
    for level, name in imports(path):
        if level:
            assert is_among(SHARED, target(path, ENGINE, level, name)[1:]), f"{name} is not light"


@pytest.mark.parametrize("name", ["bootstrap.py", "build_extension.py"])
def test_tools_that_run_before_anything_is_installed_need_nothing(name: str) -> None:
    assert absolute(TOOLS / name) <= set(sys.stdlib_module_names)
    assert not [found for level, found in imports(TOOLS / name) if level]


@pytest.mark.parametrize(("modules", "forbidden"), [(SHARED, "torch cv2 av"), (STANDARD_ONLY, "numpy torch cv2 av")])
def test_importing_the_contract_loads_nothing_heavy(modules: set[str], forbidden: str) -> None:
    code = (
        f"import sys; sys.path.insert(0, {str(REPOSITORY)!r})\n"
        + "".join(f"import ex4d_engine.{module}\n" for module in sorted(modules))
        + f"print([name for name in {forbidden.split()!r} if name in sys.modules])"
    )
    answer = subprocess.run([sys.executable, "-I", "-c", code], capture_output=True, text=True, timeout=60, check=False)
    assert answer.returncode == 0, answer.stderr
    assert answer.stdout.strip() == "[]"
