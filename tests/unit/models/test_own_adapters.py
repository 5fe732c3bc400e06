# SPDX-License-Identifier: GPL-3.0-or-later
"""Adapters of the user's own are found by their names, and only by those."""

from __future__ import annotations

from pathlib import Path

import pytest

from ex4d_engine.errors import Ex4dError
from ex4d_engine.models.own_adapters import adapter_path, check_name, keep_adapter, own_adapters


@pytest.fixture(autouse=True)
def own_places(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EX4D_MODELS", str(tmp_path / "Modelle ü"))


def test_a_kept_adapter_is_found_by_name(tmp_path: Path) -> None:
    assert own_adapters() == []
    file = tmp_path / "adapter.safetensors"
    file.write_bytes(b"one")
    kept = keep_adapter("my-look.2", file)
    assert adapter_path("my-look.2") == kept and kept.read_bytes() == b"one"
    file.write_bytes(b"another")
    other = tmp_path / "other"
    other.write_bytes(b"two")
    keep_adapter("my-look.2", other)
    assert adapter_path("my-look.2").read_bytes() == b"two"
    assert own_adapters() == ["my-look.2"]


def test_a_path_is_a_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "look"
    file.write_bytes(b"here")
    keep_adapter("look", file)
    assert adapter_path(str(file)) == file
    monkeypatch.chdir(tmp_path)
    assert adapter_path("look") == tmp_path / "look", "what lies here comes first"
    assert adapter_path("none") == tmp_path / "none"
    assert adapter_path("../x") == tmp_path / ".." / "x"


@pytest.mark.parametrize("name", ["", "../up", "a/b", "a\\b", ".hidden", "a" * 65, "ü", "a b"])
def test_names_that_are_none(name: str) -> None:
    with pytest.raises(Ex4dError, match="no name for an adapter") as caught:
        check_name(name)
    assert caught.value.code == "bad_request"
