# SPDX-License-Identifier: GPL-3.0-or-later
"""Atomic writes and prepared folders: what is left behind when they fail, and what the user is told."""

from __future__ import annotations

import errno
import os
import pickle
import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest

from ex4d_engine.errors import ERROR_CODES, Cancelled, Ex4dError
from ex4d_engine.files import atomic_path, explain_os_error, prepare_folder, write_bytes


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "Ünï 作業 shot"
    folder.mkdir()
    return folder


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_a_write_replaces_what_was_there_and_leaves_nothing_else(folder: Path) -> None:
    path = folder / "plate 片.0001.png"
    write_bytes(path, b"one")
    write_bytes(path, b"two")
    assert path.read_bytes() == b"two"
    assert names(folder) == ["plate 片.0001.png"]


def test_the_temporary_name_is_hidden_beside_the_file_with_its_suffix(folder: Path) -> None:
    with atomic_path(folder / "result.mp4") as temporary:
        assert temporary.parent == folder
        assert temporary.name.startswith(".") and temporary.suffix == ".mp4"
        temporary.write_bytes(b"film")
        assert not (folder / "result.mp4").exists()
    assert names(folder) == ["result.mp4"]


@pytest.mark.parametrize("error", [RuntimeError("codec"), KeyboardInterrupt(), Cancelled()])
def test_a_failure_leaves_the_old_file_and_nothing_new(folder: Path, error: BaseException) -> None:
    path = folder / "shot.json"
    write_bytes(path, b"old")
    with pytest.raises(type(error)), atomic_path(path) as temporary:
        temporary.write_bytes(b"half")
        raise error
    assert path.read_bytes() == b"old"
    assert names(folder) == ["shot.json"]


@pytest.mark.parametrize(
    ("number", "code"),
    [
        (errno.ENOSPC, "disk_full"),
        (errno.EDQUOT, "disk_full"),
        (errno.EACCES, "read_only"),
        (errno.EROFS, "read_only"),
        (errno.EIO, "internal"),
    ],
)
def test_a_full_or_forbidden_disk_is_said_and_leaves_nothing(
    folder: Path, monkeypatch: pytest.MonkeyPatch, number: int, code: str
) -> None:
    def refuse(self: Path, data: bytes) -> int:
        self.touch()  # a full disk still makes the empty file
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(Path, "write_bytes", refuse)
    with pytest.raises(Ex4dError, match="depth") as caught:
        write_bytes(folder / "depth.0001.exr", b"x")
    assert caught.value.code == code and caught.value.hint
    assert names(folder) == []


def test_a_file_where_the_folder_should_be(folder: Path) -> None:
    (folder / "plate").write_bytes(b"in the way")
    with pytest.raises(Ex4dError, match="a part of it is a file"):
        write_bytes(folder / "plate" / "plate.0001.png", b"x")


def test_a_folder_where_the_file_should_be(folder: Path) -> None:
    (folder / "shot.json").mkdir()
    with pytest.raises(Ex4dError) as caught:
        write_bytes(folder / "shot.json", b"x")
    assert caught.value.code == "read_only"
    assert names(folder) == ["shot.json"]


def test_a_folder_that_is_not_there(folder: Path) -> None:
    with pytest.raises(Ex4dError) as caught:
        write_bytes(folder / "nowhere" / "a.png", b"x")
    assert caught.value.code == "no_such_file"


def test_an_error_while_cleaning_up_does_not_hide_the_first_one(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def locked(self: Path, missing_ok: bool = False) -> None:
        raise PermissionError(errno.EACCES, "used by another program")

    monkeypatch.setattr(Path, "unlink", locked)
    with pytest.raises(RuntimeError, match="codec"), atomic_path(folder / "result.mp4"):
        raise RuntimeError("codec")


@pytest.mark.parametrize("number", sorted(errno.errorcode))
def test_every_error_of_the_system_becomes_a_sentence(number: int) -> None:
    explained = explain_os_error(OSError(number, os.strerror(number)), Path("ä b/c.png"))
    assert explained.code in ERROR_CODES
    assert "c.png" in explained.message and explained.message.endswith(".") and explained.hint


def test_an_error_without_a_number_becomes_a_sentence() -> None:
    assert "odd" in explain_os_error(OSError("odd"), Path("a")).message


# -------------------------------------------------------------------------------------------- folder


def test_prepare_folder_makes_it_and_leaves_it_empty(folder: Path) -> None:
    made = folder / "a" / "b"
    prepare_folder(made)
    prepare_folder(made, need_bytes=1)
    assert names(made) == []


def test_prepare_folder_says_when_there_is_too_little_room(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=2**30))
    prepare_folder(folder, need_bytes=2**30)
    with pytest.raises(Ex4dError, match=r"1\.0 GiB free and about 3\.0 GiB") as caught:
        prepare_folder(folder, need_bytes=3 * 2**30)
    assert caught.value.code == "disk_full"


@pytest.mark.parametrize(("number", "code"), [(errno.ENOSPC, "disk_full"), (errno.EROFS, "read_only")])
def test_prepare_folder_leaves_no_probe_on_a_disk_it_cannot_use(
    folder: Path, monkeypatch: pytest.MonkeyPatch, number: int, code: str
) -> None:
    def refuse(self: Path, data: bytes) -> int:
        self.touch()
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(Path, "write_bytes", refuse)
    with pytest.raises(Ex4dError) as caught:
        prepare_folder(folder)
    assert caught.value.code == code
    assert names(folder) == []


@pytest.mark.parametrize("inside", ["", "deeper", "deeper/still"])
def test_prepare_folder_refuses_a_file_in_the_way(folder: Path, inside: str) -> None:
    (folder / "shot").write_bytes(b"a file")
    with pytest.raises(Ex4dError, match="a file is in the way") as caught:
        prepare_folder(folder / "shot" / inside)
    assert caught.value.code == "read_only"


# -------------------------------------------------------------------------------------------- errors


def test_errors_cross_to_another_process() -> None:
    error = pickle.loads(pickle.dumps(Ex4dError("disk_full", "Full.", "Free some.", "ex4d.clean")))
    assert (error.code, error.message, error.hint, error.action) == ("disk_full", "Full.", "Free some.", "ex4d.clean")
    assert isinstance(pickle.loads(pickle.dumps(Cancelled())), Cancelled)


def test_an_error_reads_as_its_sentences_and_has_a_known_code() -> None:
    assert str(Ex4dError("disk_full", "Full.", "Free some.")) == "Full. Free some."
    assert str(Ex4dError("disk_full", "Full.")) == "Full."
    with pytest.raises(ValueError, match="nonsense"):
        Ex4dError("nonsense", "Full.")
