# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

import errno
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from ex4d_engine.diffusion.latent_store import FileStore, settings_digest
from ex4d_engine.errors import Ex4dError

SHAPE = (1, 16, 3, 2, 2)
LATENTS = torch.randn(SHAPE, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "Ünï 作業 windows"


def test_what_is_saved_is_read_again(folder: Path) -> None:
    store = FileStore(folder, {"weights": "a"})
    assert store.load("first_0000", SHAPE) is None

    store.save("first_0000", LATENTS[..., :1].expand(SHAPE))  # no contiguous memory

    again = FileStore(folder, {"weights": "a"}).load("first_0000", SHAPE)
    assert again is not None and torch.equal(again, LATENTS[..., :1].expand(SHAPE))
    assert [path.name for path in folder.iterdir()] == [store.path("first_0000").name]


def test_other_settings_never_mix(folder: Path) -> None:
    FileStore(folder, {"weights": "a"}).save("first_0000", LATENTS)

    assert FileStore(folder, {"weights": "b"}).load("first_0000", SHAPE) is None
    assert FileStore(folder, {"weights": "a"}).load("first_0001", SHAPE) is None


def test_damaged_files_and_other_shapes_are_made_again(folder: Path) -> None:
    store = FileStore(folder, {})
    store.save("a", LATENTS)
    whole = store.path("a").read_bytes()

    assert store.load("a", (1, 16, 4, 2, 2)) is None
    for damaged in (b"", whole[:100], whole[:-4]):
        store.path("a").write_bytes(damaged)
        assert store.load("a", SHAPE) is None
    save_file({"other": LATENTS}, store.path("a"))
    assert store.load("a", SHAPE) is None
    save_file({"latents": LATENTS.half()}, store.path("a"))
    assert store.load("a", SHAPE) is None


def test_a_full_disk_leaves_nothing(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = FileStore(folder, {})
    write = Path.write_bytes

    def full(path: Path, data: bytes) -> None:
        write(path, data[:100])
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(Ex4dError) as caught:
        store.save("a", LATENTS)

    assert caught.value.code == "disk_full"
    assert list(folder.iterdir()) == []


def test_clear_removes_this_run_only(folder: Path) -> None:
    ours, other = FileStore(folder, {"a": 1}), FileStore(folder, {"a": 2})
    for store in (ours, other):
        store.save("x", LATENTS)

    ours.clear()

    assert ours.load("x", SHAPE) is None and other.load("x", SHAPE) is not None


def test_a_folder_that_is_a_file(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(Ex4dError) as caught:
        FileStore(tmp_path / "file", {}).save("a", LATENTS)
    assert caught.value.code in ("read_only", "no_such_file", "internal")


def test_a_digest_depends_on_values_and_not_on_order() -> None:
    assert settings_digest({"a": 1, "b": [2]}) == settings_digest({"b": [2], "a": 1})
    assert settings_digest({"a": 1}) != settings_digest({"a": 2})
