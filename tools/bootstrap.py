#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-3.0-or-later
"""Sets up EX-4D from a fresh checkout and runs it. Standard library only.

    python3 tools/bootstrap.py demo [options of `ex4d demo`]
    python3 tools/bootstrap.py test [--blender 4.2|4.5|5.0|all] [options of pytest]
    python3 tools/bootstrap.py setup

Two environments, as there are two programs: `.venv` for the engine, and `.venv-blender-X.Y` with the bpy
wheel and pytest and nothing else, so that the add-on runs as it does in Blender, with no torch in reach.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
ENGINE_PYTHONS = ((3, 11), (3, 12), (3, 13))
BLENDER_PYTHON = (3, 11)
BLENDER_VERSIONS = ("5.0", "4.5", "4.2")
# what the bpy wheel, EGL and software OpenGL need on a bare Debian or Ubuntu: library → package
SHARED_LIBRARIES = {
    "libX11.so.6": "libx11-6",
    "libXrender.so.1": "libxrender1",
    "libXfixes.so.3": "libxfixes3",
    "libXi.so.6": "libxi6",
    "libxkbcommon.so.0": "libxkbcommon0",
    "libSM.so.6": "libsm6",
    "libGL.so.1": "libgl1",
    "libEGL.so.1": "libegl1",
    "libXxf86vm.so.1": "libxxf86vm1",
    "libgomp.so.1": "libgomp1",
}
MESA_PACKAGE = "libgl1-mesa-dri"  # drivers are opened at run time and have no fixed name: looked for by folder


class SetupError(Exception):
    """One sentence for the user."""


def main(arguments: list[str]) -> int:
    """Returns the exit status of what was run."""
    command = arguments[0] if arguments else ""
    rest = arguments[1:]
    try:
        if command == "demo":
            setup(development=False, blenders=["5.0"])
            return run([engine_python(), str(ROOT / "ex4d_engine"), "demo", *rest], cwd=Path.cwd())
        if command == "test":
            blenders, rest = _blenders_of(rest)
            setup(development=True, blenders=blenders)
            return test(blenders, rest)
        if command == "setup":
            setup(development=True, blenders=list(BLENDER_VERSIONS))
            return 0
    except SetupError as error:
        print(f"bootstrap: {error}", file=sys.stderr)
        return 1
    except subprocess.CalledProcessError as error:
        print(f"bootstrap: this command failed with status {error.returncode}: {_shown(error.cmd)}", file=sys.stderr)
        return 1
    print(__doc__)
    return 2


def _blenders_of(arguments: list[str]) -> tuple[list[str], list[str]]:
    """Takes `--blender V` out of the arguments; without it the newest version, as a developer wants it quick."""
    chosen: list[str] = []
    rest: list[str] = []
    items = iter(arguments)
    for item in items:
        if item == "--blender" or item.startswith("--blender="):
            value = item.partition("=")[2] or next(items, "")
            if value not in (*BLENDER_VERSIONS, "all"):
                raise SetupError(f"--blender takes {', '.join(BLENDER_VERSIONS)} or all, not {value!r}.")
            chosen += BLENDER_VERSIONS if value == "all" else [value]
        else:
            rest.append(item)
    return chosen or ["5.0"], rest


# -------------------------------------------------------------------------------------------- set-up


def setup(*, development: bool, blenders: list[str]) -> None:
    """Makes or refreshes the environments; does nothing where the stamp says that they are as they should be."""
    install_shared_libraries()
    requirements = [ROOT / "requirements" / "engine.txt"]
    if development:
        requirements.append(ROOT / "requirements" / "dev.txt")
    make_environment(ROOT / ".venv", ENGINE_PYTHONS, requirements, "the engine")
    for version in blenders:
        folder = ROOT / f".venv-blender-{version}"
        wheel = [ROOT / "requirements" / f"blender-{version}.txt"]
        make_environment(folder, (BLENDER_PYTHON,), wheel, f"Blender {version}")


def make_environment(folder: Path, versions: tuple[tuple[int, int], ...], requirements: list[Path], what: str) -> None:
    """A virtual environment with exactly these requirements, unless it has them already."""
    texts = {path.name: path.read_bytes() for path in requirements}
    stamps = {name: hashlib.sha256(text).hexdigest() for name, text in texts.items()}
    stamp_file = folder / "ex4d.stamp"
    known = dict(line.split() for line in _read(stamp_file).splitlines() if len(line.split()) == 2)
    # a development environment also serves the demo: more than what is asked for does no harm
    if stamps.items() <= known.items() and _works(python_of(folder)):
        return
    if not _works(python_of(folder)):
        interpreter = find_python(versions, what)
        print(f"bootstrap: making {folder.name} for {what} with Python {_version_of(interpreter)}", file=sys.stderr)
        shutil.rmtree(folder, ignore_errors=True)
        run([interpreter, "-m", "venv", str(folder)], check=True)
    print(f"bootstrap: installing {what} into {folder.name}; this takes a few minutes once", file=sys.stderr)
    stamp_file.unlink(missing_ok=True)
    install = [str(python_of(folder)), "-m", "pip", "install", "--disable-pip-version-check", "--quiet"]
    for path in requirements:
        install += ["--requirement", str(path)]
    run(install, check=True)
    if folder.name == ".venv":
        _write_command(folder)
    stamp_file.write_text("".join(f"{name} {digest}\n" for name, digest in stamps.items()), encoding="utf-8")


def _write_command(folder: Path) -> None:
    """Makes the command `ex4d` in the environment run this checkout, wherever the checkout is moved."""
    scripts = python_of(folder).parent
    if os.name == "nt":
        (scripts / "ex4d.cmd").write_text('@"%~dp0python.exe" "%~dp0..\\..\\ex4d_engine" %*\n', encoding="ascii")
        return
    script = scripts / "ex4d"
    script.write_text(
        '#!/bin/sh\nhere=$(cd "$(dirname "$0")" && pwd)\nexec "$here/python" "$here/../../ex4d_engine" "$@"\n',
        encoding="ascii",
    )
    script.chmod(0o755)


def find_python(versions: tuple[tuple[int, int], ...], what: str) -> str:
    """The path of an interpreter of one of these versions.

    A name on PATH is no proof: version managers leave names there that only print an error. Each is run.
    """
    candidates = [sys.executable]
    for major, minor in versions:
        candidates += [f"python{major}.{minor}"]
        if os.name == "nt":
            candidates += [f"py -{major}.{minor}"]
        candidates += [str(path) for path in sorted(Path.home().glob(f".pyenv/versions/{major}.{minor}.*/bin/python"))]
    for candidate in [*candidates, "python3", "python"]:
        command = candidate.split() if candidate.startswith("py -") else [candidate]
        found = _run_quietly([*command, "-c", "import sys, venv; print(*sys.version_info[:2], sys.executable)"])
        major, _, rest = found.partition(" ")
        minor, _, executable = rest.partition(" ")
        if major.isdigit() and minor.isdigit() and (int(major), int(minor)) in versions:
            return executable
    wanted = " or ".join(f"{major}.{minor}" for major, minor in versions)
    major, minor = versions[0]
    raise SetupError(
        f"{what} needs Python {wanted}, which was not found. Install it "
        f"(Debian and Ubuntu: apt-get install python{major}.{minor} python{major}.{minor}-venv; "
        f"macOS: brew install python@{major}.{minor}; Windows: winget install Python.Python.{major}.{minor}; "
        f"anywhere: uv python install {major}.{minor} or pyenv install {major}.{minor}) and run this again."
    )


def install_shared_libraries() -> None:
    """Installs what is missing with apt where this user may, else says which one command does it. Linux only."""
    if not sys.platform.startswith("linux"):
        return
    missing = [package for library, package in SHARED_LIBRARIES.items() if not _has_library(library)]
    if not _has_mesa():
        missing.append(MESA_PACKAGE)
    if not missing:
        return
    command = ["apt-get", "install", "--yes", "--no-install-recommends", *missing]
    if shutil.which("apt-get") and hasattr(os, "geteuid") and os.geteuid() == 0:
        print(f"bootstrap: installing shared libraries: {' '.join(missing)}", file=sys.stderr)
        environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
        if run(command, environment=environment) != 0:
            run(["apt-get", "update"], environment=environment, check=True)  # an old or empty package list
            run(command, environment=environment, check=True)
    elif shutil.which("apt-get"):
        raise SetupError(f"shared libraries are missing. Run this and try again: sudo {' '.join(command)}")
    else:
        raise SetupError(
            f"shared libraries are missing: {', '.join(missing)} (Debian's names). "
            "Install them with your system's package manager and try again."
        )


def _has_library(name: str) -> bool:
    """Loads it in another process: a broken library may take the process down with it."""
    return _run_quietly([sys.executable, "-c", f"import ctypes; ctypes.CDLL({name!r}); print('yes')"]) == "yes"


def _has_mesa() -> bool:
    """True where any OpenGL driver is: Mesa's folder of drivers, its newer single library, or a vendor's EGL."""
    folders = [
        path for root in ("/usr/lib", "/usr/lib64", "/usr/local/lib") for path in Path(root).glob("*") if path.is_dir()
    ]
    folders += [Path("/usr/lib"), Path("/usr/lib64")]
    patterns = ("dri/*_dri.so", "libgallium*.so*", "libEGL_nvidia.so*")
    return any(next(folder.glob(pattern), None) for folder in folders for pattern in patterns)


# -------------------------------------------------------------------------------------------- tests


def test(blenders: list[str], arguments: list[str]) -> int:
    """Style and types, the engine's tests, then the add-on's tests in each Blender, side by side where it helps."""
    given_paths = [item for item in arguments if not item.startswith("-") and Path(item.split("::")[0]).exists()]
    if given_paths or any(item in ("-k", "-m") or item.startswith(("-k=", "-m=")) for item in arguments):
        return _selected_tests(blenders[0], given_paths, arguments)
    results = {
        "ruff check": run([engine_python(), "-m", "ruff", "check", "."]),
        "ruff format": run([engine_python(), "-m", "ruff", "format", "--check", "."]),
        "mypy": run([engine_python(), "tools/typecheck.py"]),
    }
    # the add-on's tests run beside the engine's: each is one process on one core most of the time
    logs = {version: ROOT / "build" / f"test-blender-{version}.log" for version in blenders}
    running = {version: _start_blender_tests(version, arguments, logs[version]) for version in blenders[:1]}
    results["engine"] = run(
        [
            engine_python(),
            "-m",
            "pytest",
            "--ignore=tests/blender",
            "--cov",
            "--cov-report=term:skip-covered",
            *arguments,
        ],
        environment=_environment(),
    )
    for version in blenders:
        process = running.get(version) or _start_blender_tests(version, arguments, logs[version])
        status = process.wait()
        print(f"\n{'=' * 30} Blender {version} {'=' * 30}\n{_read(logs[version])}")
        results[f"Blender {version}"] = status
    print(
        "\n".join(
            f"bootstrap: {name}: {'passed' if status == 0 else f'FAILED ({status})'}"
            for name, status in results.items()
        )
    )
    return max(1 if status else 0 for status in results.values())


def _selected_tests(blender: str, paths: list[str], arguments: list[str]) -> int:
    """What a developer picked by path or expression: tests of the add-on go to Blender, others to the engine."""
    for_blender = [
        path for path in paths if (ROOT / "tests" / "blender") in [Path(path).resolve(), *Path(path).resolve().parents]
    ]
    if for_blender:
        command = [str(python_of(ROOT / f".venv-blender-{blender}")), "-m", "pytest", *arguments]
        return run(command, environment=_environment())
    return run([engine_python(), "-m", "pytest", "--ignore=tests/blender", *arguments], environment=_environment())


def _start_blender_tests(version: str, arguments: list[str], log: Path) -> subprocess.Popen[bytes]:
    log.parent.mkdir(exist_ok=True)
    python = python_of(ROOT / f".venv-blender-{version}")
    with log.open("wb") as output:
        return subprocess.Popen(
            [str(python), "-m", "pytest", "tests/blender", "-p", "no:cacheprovider", *arguments],
            cwd=ROOT,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            env=_environment(),
        )


def _environment() -> dict[str, str]:
    return {**os.environ, "EX4D_ENGINE_PYTHON": engine_python(), "PYTHONDONTWRITEBYTECODE": "1"}


# ------------------------------------------------------------------------------------------ processes


def engine_python() -> str:
    """The engine's interpreter."""
    return str(python_of(ROOT / ".venv"))


def python_of(folder: Path) -> Path:
    """The interpreter of a virtual environment."""
    return folder / ("Scripts/python.exe" if os.name == "nt" else "bin/python")


def run(command: list[str], *, check: bool = False, cwd: Path = ROOT, environment: dict[str, str] | None = None) -> int:
    """Runs a command with this terminal's output; returns its status, or raises when `check` is set."""
    status = subprocess.run(command, cwd=cwd, env=environment or _plain_environment(), check=False).returncode
    if check and status != 0:
        raise subprocess.CalledProcessError(status, command)
    return status


def _plain_environment() -> dict[str, str]:
    # another environment's settings would send pip, or the imports, somewhere else
    return {
        name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV")
    }


def _run_quietly(command: list[str]) -> str:
    """Its standard output, stripped; empty where it cannot be run or fails."""
    try:
        result = subprocess.run(
            command, capture_output=True, text=True, encoding="utf-8", errors="replace", timeout=60, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return result.stdout.strip() if result.returncode == 0 else ""


def _works(python: Path) -> bool:
    return python.exists() and _run_quietly([str(python), "-c", "print('yes')"]) == "yes"


def _version_of(interpreter: str) -> str:
    return _run_quietly([interpreter, "-c", "import platform; print(platform.python_version())"])


def _read(path: Path) -> str:
    return path.read_text(encoding="utf-8", errors="replace") if path.is_file() else ""


def _shown(command: object) -> str:
    return " ".join(str(part) for part in command) if isinstance(command, (list, tuple)) else str(command)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
