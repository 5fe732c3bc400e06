#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-3.0-or-later
"""Sets up EX-4D from a fresh checkout and runs it. Standard library only.

    python3 tools/bootstrap.py demo [options of `ex4d demo`]
    python3 tools/bootstrap.py test [--blender 4.2|4.5|5.0|all] [options and paths for pytest]
    python3 tools/bootstrap.py setup

With paths, -k or -m, `test` runs just those tests: what lies in tests/blender in each chosen Blender, the
rest in the engine. Without, it runs everything, style and types first.

Two environments, as there are two programs: `.venv` for the engine, and `.venv-blender-X.Y` with the bpy
wheel and pytest and nothing else, so that the add-on runs as it does in Blender, with no torch in reach.
"""

import hashlib
import io
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

# Python 3.6 must get this far to say it: no syntax in this file, and no __future__ import, that it does not know
if sys.version_info < (3, 9):  # noqa: UP036
    sys.exit(f"bootstrap: Python {sys.version.split()[0]} is too old, run it with 3.11: python3.11 tools/bootstrap.py")

ROOT = Path(__file__).resolve().parents[1]
ENGINE_PYTHONS = ((3, 11), (3, 12), (3, 13))
BLENDER_PYTHON = (3, 11)
BLENDER_VERSIONS = ("5.0", "4.5", "4.2")
BLENDER_TESTS = ROOT / "tests" / "blender"
# options of pytest whose next argument is their value: a path from where the user stands, or anything else
PATH_OPTIONS = ("--basetemp", "--confcutdir", "--config-file", "--ignore", "--junit-xml", "--junitxml", "-c")
VALUE_OPTIONS = ("--deselect", "--durations", "--ignore-glob", "--maxfail", "--tb", "-W", "-k", "-m", "-o", "-p", "-r")
# options of plugins that only the engine's environment has; the first ones take a value
ENGINE_VALUE_OPTIONS = ("--cov-report", "--dist", "--maxprocesses", "--numprocesses", "-n")
ENGINE_OPTIONS = (*ENGINE_VALUE_OPTIONS, "--cov", "--no-cov")
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
NO_TESTS = 5  # pytest's exit status where nothing was collected


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
            blenders, rest = blenders_of(rest)
            selection = split_arguments(rest, Path.cwd())
            setup(development=True, blenders=blenders)
            return test(blenders, selection)
        if command == "setup":
            setup(development=True, blenders=list(BLENDER_VERSIONS))
            return 0
    except SetupError as error:
        print(f"bootstrap: {error}", file=sys.stderr)
        return 1
    except subprocess.CalledProcessError as error:
        print(f"bootstrap: this command failed with status {error.returncode}: {_shown(error.cmd)}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("bootstrap: Stopped.", file=sys.stderr)
        return 130
    print(__doc__)
    return 0 if command in ("-h", "--help", "help") else 2


def blenders_of(arguments: list[str]) -> tuple[list[str], list[str]]:
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
    requirements = [ROOT / "requirements" / "engine.txt"]
    if development:
        requirements.append(ROOT / "requirements" / "dev.txt")
    wanted = [Environment(ROOT / ".venv", ENGINE_PYTHONS, requirements, "the engine")]
    for version in blenders:
        folder = ROOT / f".venv-blender-{version}"
        wheel = [ROOT / "requirements" / f"blender-{version}.txt"]
        wanted.append(Environment(folder, (BLENDER_PYTHON,), wheel, f"Blender {version}"))
    # all interpreters before anything is installed: nobody waits for gigabytes to hear that a Python is missing
    interpreters = [None if _works(python_of(each.folder)) else find_python(each.pythons, each.what) for each in wanted]
    install_shared_libraries()
    for each, interpreter in zip(wanted, interpreters):  # noqa: B905, Python 3.9 knows no strict
        make_environment(each, interpreter)


class Environment(NamedTuple):
    """A virtual environment that is wanted: where, of which Pythons, with which requirements, for what."""

    folder: Path
    pythons: tuple[tuple[int, int], ...]
    requirements: list[Path]
    what: str


def make_environment(wanted: Environment, interpreter: "str | None") -> None:
    """Makes it with this interpreter, None where it is made already, and installs unless its stamp says it has all."""
    folder, what = wanted.folder, wanted.what
    stamps = {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in wanted.requirements}
    stamp_file = folder / "ex4d.stamp"
    known = dict(line.split() for line in _read(stamp_file).splitlines() if len(line.split()) == 2)
    # a development environment also serves the demo: more than what is asked for does no harm
    if interpreter is None and stamps.items() <= known.items():
        return
    if interpreter is not None:
        print(f"bootstrap: making {folder.name} for {what} with Python {_version_of(interpreter)}", file=sys.stderr)
        shutil.rmtree(folder, ignore_errors=True)
        try:
            run([interpreter, "-m", "venv", str(folder)], check=True)
        except BaseException:  # half an environment would look like one next time
            shutil.rmtree(folder, ignore_errors=True)
            raise
    print(f"bootstrap: installing {what} into {folder.name}; this takes a few minutes once", file=sys.stderr)
    stamp_file.unlink(missing_ok=True)
    install = [str(python_of(folder)), "-m", "pip", "install", "--disable-pip-version-check", "--quiet"]
    for path in wanted.requirements:
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


# what an interpreter tells of itself; Debian's python3 has neither pip nor ensurepip until its -venv is installed
_PROBE = (
    "import sys, importlib.util as u; "
    "print(*sys.version_info[:2], int(all(u.find_spec(name) for name in ('venv', 'ensurepip'))), sys.executable)"
)


def find_python(versions: tuple[tuple[int, int], ...], what: str) -> str:
    """The path of an interpreter of one of these versions that can make virtual environments.

    A name on PATH is no proof: version managers leave names there that only print an error. Each is run.
    """
    candidates = [[sys.executable]]
    for major, minor in versions:
        name = f"python{major}.{minor}"
        candidates.append([name])
        if os.name == "nt":
            candidates.append(["py", f"-{major}.{minor}"])
        candidates += [
            [str(path)] for path in sorted(Path.home().glob(f".pyenv/versions/{major}.{minor}.*/bin/python"))
        ]
        candidates += [
            [str(path)] for path in sorted(Path.home().glob(f".local/share/uv/python/*-{major}.{minor}.*/bin/{name}"))
        ]
    bare = ""  # of the right version, but unable to make an environment
    for candidate in [*candidates, ["python3"], ["python"]]:
        found = _run_quietly([*candidate, "-c", _PROBE]).split(" ", 3)
        if len(found) != 4 or found[:2] not in [[str(major), str(minor)] for major, minor in versions]:
            continue
        if found[2] == "1":
            return found[3]
        bare = bare or f"{found[3]} lacks venv and ensurepip, the parts that make environments"
    wanted = " or ".join(f"{major}.{minor}" for major, minor in versions)
    major, minor = versions[0]
    raise SetupError(
        f"{what} needs Python {wanted}, {f'but {bare}' if bare else 'which was not found'}. Install it "
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


class Selection(NamedTuple):
    """What follows `test`: options for pytest, and the tests picked by path for each of the two programs."""

    options: list[str]
    engine: list[str]
    blender: list[str]

    def is_all(self) -> bool:
        """Whether nothing narrows it down."""
        expression = any(item[:2] in ("-k", "-m") for item in self.options)
        return not (expression or self.engine or self.blender)


def split_arguments(arguments: list[str], cwd: Path) -> Selection:
    """Sorts pytest's arguments; paths, with or without ::node, count from `cwd` first, then from the checkout."""
    selection = Selection([], [], [])
    before = ""
    for item in arguments:
        option, equals, value = item.partition("=")
        name, colons, node = item.partition("::")
        place = next((folder / name for folder in (cwd, ROOT) if name and (folder / name).exists()), None)
        if before in PATH_OPTIONS:
            selection.options.append(str(cwd / item))
        elif equals and option in PATH_OPTIONS:
            selection.options.append(f"{option}={cwd / value}")
        elif item.startswith("-") or before in (*VALUE_OPTIONS, *ENGINE_VALUE_OPTIONS):
            selection.options.append(item)
        elif place is not None:
            path = place.resolve()
            if path == BLENDER_TESTS or BLENDER_TESTS in path.parents:
                selection.blender.append(f"{path}{colons}{node}")
            else:
                selection.engine.append(f"{path}{colons}{node}")
                if path in BLENDER_TESTS.parents:  # `test tests` is all tests of both
                    selection.blender.append(str(BLENDER_TESTS))
        elif not before.startswith("--") or "=" in before:  # else it may be the value of an option unknown here
            raise SetupError(f"there is no {name}, neither in {cwd} nor in {ROOT}.")
        else:
            selection.options.append(item)
        before = item
    return selection


def without_engine_options(options: list[str]) -> list[str]:
    """What Blender's pytest, which has no plugins, understands of the options."""
    kept: list[str] = []
    before = ""
    for item in options:
        of_engine = item.partition("=")[0] in ENGINE_OPTIONS or (item[:2] == "-n" and item[2:].isalnum())
        if not of_engine and before not in ENGINE_VALUE_OPTIONS:
            kept.append(item)
        before = item
    return kept


def programs_of(blenders: list[str], selection: Selection) -> dict[str, list[str]]:
    """The commands that run these tests, by the program's name; without paths both programs are asked."""
    commands: dict[str, list[str]] = {}
    if selection.engine or not selection.blender:
        pytest = [engine_python(), "-m", "pytest", f"--ignore={BLENDER_TESTS}"]
        commands["engine"] = [*pytest, *selection.options, *selection.engine]
    if selection.blender or not selection.engine:
        for version in blenders:
            python = str(python_of(ROOT / f".venv-blender-{version}"))
            # a cache of its own: it may run beside the engine's tests, and --lf is of this Blender
            pytest = [python, "-m", "pytest", "-o", f"cache_dir=.pytest_cache/blender-{version}"]
            paths = selection.blender or [str(BLENDER_TESTS)]
            commands[f"Blender {version}"] = [*pytest, *without_engine_options(selection.options), *paths]
    return commands


def joint_status(statuses: list[int]) -> int:
    """One exit status: the first failure's. That a program has no such test (5) matters only if none has."""
    failures = [status for status in statuses if status not in (0, NO_TESTS)]
    if failures:
        return failures[0]
    return NO_TESTS if statuses and all(status == NO_TESTS for status in statuses) else 0


def test(blenders: list[str], selection: Selection) -> int:
    """Runs the tests that were picked; else style and types, the engine's tests and the add-on's in each Blender."""
    commands = programs_of(blenders, selection)
    if not selection.is_all():
        results = {}
        for name, command in commands.items():
            print(f"bootstrap: tests of {name}", file=sys.stderr)
            results[name] = run(command, environment=_test_environment())
        return joint_status(list(results.values()))
    results = {
        "ruff check": run([engine_python(), "-m", "ruff", "check", "."]),
        "ruff format": run([engine_python(), "-m", "ruff", "format", "--check", "."]),
        "mypy": run([engine_python(), "tools/typecheck.py"]),
    }
    # the first Blender's tests run beside the engine's: each is one process on one core most of the time
    first, *others = [f"Blender {version}" for version in blenders]
    beside = _start_logged(first, commands[first])
    try:
        coverage = ["--cov", "--cov-report=term:skip-covered"]
        results["engine"] = run([*commands["engine"], *coverage], environment=_test_environment())
        results[first] = _finish_logged(first, beside)
    finally:
        beside.kill()  # nothing where it ended
    for name in others:
        results[name] = _finish_logged(name, _start_logged(name, commands[name]))
    for name, status in results.items():
        print(f"bootstrap: {name}: {f'FAILED ({status})' if status else 'passed'}")
    return max(1 if status else 0 for status in results.values())


def _log_of(name: str) -> Path:
    return ROOT / "build" / f"test-{name.lower().replace(' ', '-')}.log"


def _start_logged(name: str, command: list[str]) -> "subprocess.Popen[bytes]":
    _log_of(name).parent.mkdir(exist_ok=True)
    with _log_of(name).open("wb") as log:
        return subprocess.Popen(
            command, cwd=ROOT, stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT, env=_test_environment()
        )


def _finish_logged(name: str, process: "subprocess.Popen[bytes]") -> int:
    status = process.wait()
    print(f"\n{'=' * 30} {name} {'=' * 30}\n{_read(_log_of(name))}")
    return status


def _test_environment() -> dict[str, str]:
    return {**_plain_environment(), "EX4D_ENGINE_PYTHON": engine_python(), "PYTHONDONTWRITEBYTECODE": "1"}


# ------------------------------------------------------------------------------------------ processes


def engine_python() -> str:
    """The engine's interpreter."""
    return str(python_of(ROOT / ".venv"))


def python_of(folder: Path) -> Path:
    """The interpreter of a virtual environment."""
    return folder / ("Scripts/python.exe" if os.name == "nt" else "bin/python")


def run(
    command: list[str], *, check: bool = False, cwd: Path = ROOT, environment: "dict[str, str] | None" = None
) -> int:
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
    for stream in (sys.stdout, sys.stderr):  # a test's log may hold signs that this console lacks
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    sys.exit(main(sys.argv[1:]))
