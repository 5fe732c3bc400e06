# SPDX-License-Identifier: GPL-3.0-or-later
"""The first command anybody runs: what it looks for, installs and says, and which tests it hands to whom."""

from __future__ import annotations

import ast
import importlib.util
import os
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

from tests.conftest import REPOSITORY

SOURCE = REPOSITORY / "tools" / "bootstrap.py"
TESTS = REPOSITORY / "tests"
posix = pytest.mark.skipif(os.name == "nt", reason="the pretended programs are shell scripts")


def load() -> ModuleType:
    spec = importlib.util.spec_from_file_location("ex4d_bootstrap", SOURCE)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


bootstrap = load()


class Commands(list[list[str]]):
    """Stands for `run`: keeps the commands, runs none, and answers with the given statuses, then 0."""

    def __init__(self, *statuses: int) -> None:
        self.statuses = list(statuses)
        self.environments: list[dict[str, str] | None] = []

    def __call__(
        self,
        command: list[str],
        *,
        check: bool = False,
        cwd: Path = REPOSITORY,
        environment: dict[str, str] | None = None,
    ) -> int:
        self.append(command)
        self.environments.append(environment)
        status = self.statuses.pop(0) if self.statuses else 0
        if check and status:
            raise subprocess.CalledProcessError(status, command)
        return status


@pytest.fixture
def commands(monkeypatch: pytest.MonkeyPatch) -> Commands:
    kept = Commands()
    monkeypatch.setattr(bootstrap, "run", kept)
    return kept


# --------------------------------------------------------------------------------------- an old Python


def test_an_old_python_gets_as_far_as_the_sentence() -> None:
    tree = ast.parse(SOURCE.read_text("utf-8"), feature_version=(3, 6))
    # feature_version lets this one pass, Python 3.6 does not
    assert not [node for node in tree.body if isinstance(node, ast.ImportFrom) and node.module == "__future__"]


@pytest.mark.parametrize("version", ["3.6", "3.7", "3.8"])
def test_an_old_python_says_one_sentence(version: str) -> None:
    places = Path.home().glob(f".pyenv/versions/{version}.*/bin/python")
    python = next(map(str, places), f"python{version}")
    try:
        probe = subprocess.run([python, "-c", ""], capture_output=True, timeout=60, check=False).returncode
    except OSError:
        probe = 1
    if probe:
        pytest.skip(f"no Python {version} here")
    ended = subprocess.run([python, str(SOURCE), "demo"], capture_output=True, text=True, timeout=60, check=False)
    assert ended.returncode == 1 and ended.stdout == ""
    assert len(ended.stderr.splitlines()) == 1
    assert f"Python {version}." in ended.stderr and "python3.11 tools/bootstrap.py" in ended.stderr


# -------------------------------------------------------------------------------- finding interpreters


@pytest.fixture
def programs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A PATH and a home of their own, both empty; the Python that runs this is not a candidate."""
    folder = tmp_path / "Ünï 作業 bin"
    folder.mkdir()
    monkeypatch.setenv("PATH", str(folder))
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setattr(bootstrap.sys, "executable", str(folder / "nothing"))
    return folder


def pretend(path: Path, *lines: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(("#!/bin/sh", *lines, "")), encoding="utf-8")
    path.chmod(0o755)
    return path


def pretend_python(path: Path, version: str, complete: bool = True) -> Path:
    return pretend(path, f'echo "{version.replace(".", " ")} {int(complete)} $0"')


def test_the_python_that_runs_it_is_taken_first() -> None:
    found = bootstrap.find_python((sys.version_info[:2],), "this test")
    assert Path(found).samefile(sys.executable)


@posix
def test_a_name_that_only_prints_an_error_is_passed_over(programs: Path) -> None:
    pretend(programs / "python3.11", "echo 'pyenv: python3.11: command not found' >&2", "exit 127")
    pretend(programs / "python3.12", "echo 'welcome to python'")
    right = pretend_python(programs / "python3", "3.12")
    assert bootstrap.find_python(((3, 11), (3, 12)), "the engine") == str(right)
    with pytest.raises(bootstrap.SetupError, match=r"needs Python 3\.11, which was not found.*python3\.11-venv"):
        bootstrap.find_python(((3, 11),), "Blender 5.0")


@posix
@pytest.mark.parametrize(
    "place", [".pyenv/versions/3.11.9/bin/python", ".local/share/uv/python/cpython-3.11.9-linux/bin/python3.11"]
)
def test_pythons_that_are_not_on_path_are_found(programs: Path, place: str) -> None:
    right = pretend_python(Path.home() / place, "3.11")
    assert bootstrap.find_python(((3, 11),), "Blender 5.0") == str(right)


@posix
def test_a_python_that_cannot_make_environments_is_passed_over_and_named(programs: Path) -> None:
    bare = pretend_python(programs / "python3.11", "3.11", complete=False)
    with pytest.raises(bootstrap.SetupError, match="lacks venv and ensurepip") as error:
        bootstrap.find_python(((3, 11),), "Blender 5.0")
    assert str(bare) in str(error.value) and "apt-get install python3.11 python3.11-venv" in str(error.value)
    right = pretend_python(programs / "python", "3.11")
    assert bootstrap.find_python(((3, 11),), "Blender 5.0") == str(right)


@posix
def test_nothing_is_installed_while_an_interpreter_is_missing(
    programs: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    commands: Commands,
    capsys: pytest.CaptureFixture[str],
) -> None:
    pretend_python(programs / "python3.12", "3.12")  # enough for the engine, not for Blender
    monkeypatch.setattr(bootstrap, "ROOT", tmp_path)
    monkeypatch.setattr(bootstrap, "install_shared_libraries", lambda: commands.append(["apt-get"]))
    for arguments in (["demo"], ["test", "-k", "x"], ["setup"]):
        assert bootstrap.main(arguments) == 1
        said = capsys.readouterr().err
        assert len(said.splitlines()) == 1 and "needs Python 3.11, which was not found" in said
    assert commands == []


# ---------------------------------------------------------------------------------------- environments


@posix
def test_a_second_run_does_nothing_until_a_requirement_changes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, commands: Commands
) -> None:
    requirements = tmp_path / "requirements"
    requirements.mkdir()
    for name in ("engine", "dev", "blender-5.0"):
        (requirements / f"{name}.txt").write_text(f"{name}==1\n")
    monkeypatch.setattr(bootstrap, "ROOT", tmp_path)
    monkeypatch.setattr(bootstrap, "install_shared_libraries", lambda: commands.append(["", "", "libraries"]))
    monkeypatch.setattr(bootstrap, "find_python", lambda versions, what: sys.executable)

    def make(command: list[str], **named: object) -> int:
        if "venv" in command:
            pretend(bootstrap.python_of(Path(command[-1])), "echo yes")
        return commands(command)

    monkeypatch.setattr(bootstrap, "run", make)

    def ran(**options: bool) -> list[str]:
        commands.clear()
        bootstrap.setup(development=options.get("development", False), blenders=["5.0"])
        assert commands.pop(0)[2] == "libraries"
        return [command[2] for command in commands]

    assert ran(development=True) == ["venv", "pip", "venv", "pip"]
    assert "dev.txt" in commands[1][-1] and "blender-5.0.txt" in commands[3][-1]
    assert ran(development=True) == []
    assert ran() == []  # what has the development tools serves the demo
    (requirements / "engine.txt").write_text("engine==2\n")
    assert ran() == ["pip"]
    assert ran() == []
    assert ran(development=True) == ["pip"]  # the demo's install vouched for nothing else
    assert (tmp_path / ".venv" / "bin" / "ex4d").stat().st_mode & 0o111
    assert not (tmp_path / ".venv-blender-5.0" / "bin" / "ex4d").exists()


@posix
@pytest.mark.parametrize(("failing", "left"), [("venv", False), ("pip", True)])
def test_a_failed_install_is_told_and_tried_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], failing: str, left: bool
) -> None:
    listed = tmp_path / "engine.txt"
    listed.write_text("engine==1\n")
    wanted = bootstrap.Environment(tmp_path / ".venv", ((3, 11),), [listed], "the engine")
    python = bootstrap.python_of(wanted.folder)

    def fail(command: list[str], **named: object) -> int:
        pretend(python, "echo yes")
        if "venv" in command:
            (wanted.folder / "ex4d.stamp").write_text("engine.txt of-an-install-before\n")
        if failing in command:
            raise subprocess.CalledProcessError(3, command)
        return 0

    monkeypatch.setattr(bootstrap, "run", fail)
    monkeypatch.setattr(bootstrap, "setup", lambda **named: bootstrap.make_environment(wanted, sys.executable))
    assert bootstrap.main(["setup"]) == 1
    assert "failed with status 3" in capsys.readouterr().err.splitlines()[-1]
    assert not (wanted.folder / "ex4d.stamp").exists()
    assert python.exists() == left


# ------------------------------------------------------------------------------------ shared libraries


@pytest.fixture
def bare_linux(monkeypatch: pytest.MonkeyPatch, commands: Commands) -> Commands:
    """A Linux with apt that lacks libEGL and Mesa; this user is no root."""
    monkeypatch.setattr(bootstrap.sys, "platform", "linux")
    monkeypatch.setattr(bootstrap, "_has_library", lambda name: name != "libEGL.so.1")
    monkeypatch.setattr(bootstrap, "_has_mesa", lambda: False)
    monkeypatch.setattr(bootstrap.shutil, "which", lambda name: f"/usr/bin/{name}")
    monkeypatch.setattr(bootstrap.os, "geteuid", lambda: 1000, raising=False)
    return commands


INSTALL = ["apt-get", "install", "--yes", "--no-install-recommends", "libegl1", "libgl1-mesa-dri"]


def test_without_root_the_one_command_is_said(bare_linux: Commands) -> None:
    with pytest.raises(bootstrap.SetupError) as error:
        bootstrap.install_shared_libraries()
    assert str(error.value).endswith("sudo " + " ".join(INSTALL))
    assert bare_linux == []


def test_without_apt_the_packages_are_named(bare_linux: Commands, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bootstrap.shutil, "which", lambda name: None)
    with pytest.raises(bootstrap.SetupError, match=r"libegl1, libgl1-mesa-dri \(Debian's names\)"):
        bootstrap.install_shared_libraries()
    assert bare_linux == []


@pytest.mark.parametrize(
    ("statuses", "ran"),
    [((), [INSTALL]), ((100,), [INSTALL, ["apt-get", "update"], INSTALL])],
    ids=["at once", "after an update"],
)
def test_root_installs_them(
    bare_linux: Commands, monkeypatch: pytest.MonkeyPatch, statuses: tuple[int, ...], ran: list[list[str]]
) -> None:
    monkeypatch.setattr(bootstrap.os, "geteuid", lambda: 0, raising=False)
    bare_linux.statuses += statuses
    bootstrap.install_shared_libraries()
    assert bare_linux == ran
    assert all(each is not None and each["DEBIAN_FRONTEND"] == "noninteractive" for each in bare_linux.environments)


def test_apt_that_fails_is_told(
    bare_linux: Commands, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(bootstrap.os, "geteuid", lambda: 0, raising=False)
    monkeypatch.setattr(bootstrap, "setup", lambda **named: bootstrap.install_shared_libraries())
    bare_linux.statuses += [100, 0, 100]
    assert bootstrap.main(["setup"]) == 1
    assert "status 100: apt-get install" in capsys.readouterr().err


def test_nothing_is_asked_where_all_is_there(bare_linux: Commands, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bootstrap, "_has_library", lambda name: True)
    monkeypatch.setattr(bootstrap, "_has_mesa", lambda: True)
    bootstrap.install_shared_libraries()
    monkeypatch.setattr(bootstrap.sys, "platform", "darwin")
    monkeypatch.setattr(bootstrap, "_has_library", lambda name: False)
    bootstrap.install_shared_libraries()
    assert bare_linux == []


# --------------------------------------------------------------------------------- what follows `test`


@pytest.mark.parametrize(
    ("arguments", "blenders", "rest"),
    [
        ([], ["5.0"], []),
        (["--blender", "4.2", "-x"], ["4.2"], ["-x"]),
        (["-k", "a", "--blender=4.5", "--blender", "5.0"], ["4.5", "5.0"], ["-k", "a"]),
        (["--blender", "all"], ["5.0", "4.5", "4.2"], []),
    ],
)
def test_the_chosen_blenders(arguments: list[str], blenders: list[str], rest: list[str]) -> None:
    assert bootstrap.blenders_of(arguments) == (blenders, rest)


@pytest.mark.parametrize("arguments", [["--blender"], ["--blender", "3.6"], ["--blender="]])
def test_no_such_blender(arguments: list[str]) -> None:
    with pytest.raises(bootstrap.SetupError, match=r"takes 5\.0, 4\.5, 4\.2 or all"):
        bootstrap.blenders_of(arguments)


@pytest.mark.parametrize(
    ("cwd", "given", "engine", "blender"),
    [
        (TESTS, "unit/test_srgb.py", ["unit/test_srgb.py"], []),
        (TESTS / "unit", "test_srgb.py::test_x[a/b-::1]", ["unit/test_srgb.py::test_x[a/b-::1]"], []),
        (TESTS / "unit", "tests/unit/test_srgb.py::test_x", ["unit/test_srgb.py::test_x"], []),  # from the checkout
        (REPOSITORY, "tests/blender/test_jobs.py", [], ["blender/test_jobs.py"]),
        (TESTS / "blender", "test_jobs.py::test_x", [], ["blender/test_jobs.py::test_x"]),
        (TESTS / "blender", "../unit", ["unit"], []),
        (TESTS / "unit", "../blender", [], ["blender"]),
        (REPOSITORY, "tests", [""], ["blender"]),
        (TESTS.parent / "docs", str(TESTS / "golden"), ["golden"], []),
    ],
)
def test_paths_are_found_from_anywhere(cwd: Path, given: str, engine: list[str], blender: list[str]) -> None:
    selection = bootstrap.split_arguments(["-x", given], cwd)
    assert selection.options == ["-x"]
    assert selection.engine == [str(TESTS / name) for name in engine]
    assert selection.blender == [str(TESTS / name) for name in blender]
    assert not selection.is_all()


def test_values_of_options_are_no_paths() -> None:
    given = [
        "-k",
        "tests",
        "-m",
        "docs",
        "-n",
        "2",
        "--tb",
        "short",
        "--junitxml",
        "out.xml",
        "--ignore=unit",
        "--x",
        "y",
    ]
    selection = bootstrap.split_arguments(given, TESTS)
    moved = {"out.xml": str(TESTS / "out.xml"), "--ignore=unit": f"--ignore={TESTS / 'unit'}"}
    assert selection == ([moved.get(item, item) for item in given], [], [])


@pytest.mark.parametrize("given", [["unit/test_none.py"], ["-x", "test_none.py::test_x"], ["--lf=1", "nowhere"]])
def test_a_path_that_is_nowhere_is_said(given: list[str]) -> None:
    with pytest.raises(bootstrap.SetupError, match=r"there is no \S*no\w+(\.py)?, neither in"):
        bootstrap.split_arguments(given, TESTS)


def test_only_expressions_and_paths_narrow_it_down() -> None:
    for options, is_all in ((["-x", "--lf"], True), (["-k", "a"], False), (["-k=a"], False), (["-mgolden"], False)):
        assert bootstrap.split_arguments(options, TESTS).is_all() == is_all


def ran_with(arguments: list[str]) -> dict[str, list[str]]:
    """What each program's pytest gets, less what is the same in every run."""
    blenders, rest = bootstrap.blenders_of(arguments)
    commands = bootstrap.programs_of(blenders, bootstrap.split_arguments(rest, TESTS))
    for name, command in commands.items():
        folder = ".venv" if name == "engine" else f".venv-{name.lower().replace(' ', '-')}"
        assert command[:3] == [str(bootstrap.python_of(REPOSITORY / folder)), "-m", "pytest"]
    return {name: command[4 if name == "engine" else 5 :] for name, command in commands.items()}


def test_an_expression_goes_to_both_programs() -> None:
    of_blender = ["-k", "sequencer", str(TESTS / "blender")]
    assert ran_with(["--blender", "4.2", "-k", "sequencer"]) == {
        "engine": ["-k", "sequencer"],
        "Blender 4.2": of_blender,
    }
    assert list(ran_with(["-m", "blender", "--blender", "all"])) == [
        "engine",
        *(f"Blender {v}" for v in ("5.0", "4.5", "4.2")),
    ]


def test_paths_go_to_their_program() -> None:
    unit, jobs = str(TESTS / "unit"), str(TESTS / "blender" / "test_jobs.py")
    assert ran_with(["unit"]) == {"engine": [unit]}
    assert ran_with(["blender/test_jobs.py", "-x", "--blender", "4.2"]) == {"Blender 4.2": ["-x", jobs]}
    both = ran_with(["unit", "blender/test_jobs.py", "--blender=4.5", "--blender=4.2", "-k", "a"])
    of_blender = ["-k", "a", jobs]
    assert both == {"engine": ["-k", "a", unit], "Blender 4.5": of_blender, "Blender 4.2": of_blender}


def test_blender_is_spared_the_options_of_plugins_it_lacks() -> None:
    given = ["-n", "2", "-n4", "--dist=load", "--cov", "--cov-report", "html", "--no-cov", "-x", "--no-header", "-rA"]
    assert bootstrap.without_engine_options(given) == ["-x", "--no-header", "-rA"]


@pytest.mark.parametrize(
    ("statuses", "joint"),
    [([0], 0), ([5], 5), ([0, 5], 0), ([5, 5], 5), ([5, 1], 1), ([0, 2, 1], 2), ([0, -11], -11), ([4, 5], 4)],
)
def test_the_joint_status(statuses: list[int], joint: int) -> None:
    assert bootstrap.joint_status(statuses) == joint


def test_picked_tests_run_without_the_rest(monkeypatch: pytest.MonkeyPatch, commands: Commands) -> None:
    monkeypatch.setattr(bootstrap, "setup", lambda **named: None)
    monkeypatch.chdir(TESTS)
    monkeypatch.setenv("PYTHONPATH", "elsewhere")
    commands.statuses += [5, 0]
    assert bootstrap.main(["test", "--blender", "4.2", "-k", "sequencer"]) == 0
    assert [command[-1] for command in commands] == ["sequencer", str(TESTS / "blender")]
    for environment in commands.environments:
        assert environment is not None and environment["EX4D_ENGINE_PYTHON"] == bootstrap.engine_python()
        assert "PYTHONPATH" not in environment


@pytest.mark.parametrize(("of_blender", "status"), [((0, 0), 0), ((0, 7), 1), ((7, 0), 1)])
def test_everything_runs_even_when_something_fails(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    commands: Commands,
    capsys: pytest.CaptureFixture[str],
    of_blender: tuple[int, int],
    status: int,
) -> None:
    def ends(name: str, value: int) -> list[str]:
        return [sys.executable, "-c", f"print('log of', {name!r}); raise SystemExit({value})"]

    programs = {"engine": ["pytest"], "Blender 5.0": ends("5", of_blender[0]), "Blender 4.2": ends("4", of_blender[1])}
    monkeypatch.setattr(bootstrap, "programs_of", lambda blenders, selection: programs)
    monkeypatch.setattr(bootstrap, "_log_of", lambda name: tmp_path / "logs" / name)
    monkeypatch.setattr(bootstrap, "setup", lambda **named: None)
    assert bootstrap.main(["test", "--blender", "5.0", "--blender", "4.2"]) == status
    assert [command[-1] for command in commands[:3]] == [".", ".", "tools/typecheck.py"]
    assert commands[3][0] == "pytest" and "--cov" in commands[3]
    said = capsys.readouterr().out
    assert said.index("log of 5") < said.index("log of 4")
    for name, value in zip(("Blender 5.0", "Blender 4.2"), of_blender, strict=True):
        assert f"bootstrap: {name}: {'FAILED (7)' if value else 'passed'}" in said


def test_wrong_usage_shows_the_usage(capsys: pytest.CaptureFixture[str]) -> None:
    assert bootstrap.main(["dmeo"]) == 2
    assert bootstrap.main(["--help"]) == 0
    assert capsys.readouterr().out.count("tools/bootstrap.py demo") == 2
