# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save, save_file

from ex4d_engine.diffusion.tensor_files import read_tensors
from ex4d_engine.errors import Ex4dError

TENSORS = {"a": torch.arange(6.0).view(2, 3), "b": torch.ones(200, dtype=torch.bfloat16)}


class Payload:
    """Writes a file when unpickled without restrictions."""

    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.write_text, (self.target, "ran")


def assert_read(path: Path) -> None:
    tensors = read_tensors(path)
    assert tensors.keys() == TENSORS.keys()
    assert all(torch.equal(tensors[name], TENSORS[name]) for name in TENSORS)


@pytest.mark.parametrize("zipped", [True, False])
def test_reads_both_generations_of_torch_files(tmp_path: Path, zipped: bool) -> None:
    torch.save(TENSORS, tmp_path / "Ünï 作業.ckpt", _use_new_zipfile_serialization=zipped)
    assert_read(tmp_path / "Ünï 作業.ckpt")


def test_unwraps_a_state_dict(tmp_path: Path) -> None:
    torch.save({"state_dict": TENSORS, "epoch": 3}, tmp_path / "a.ckpt")
    assert_read(tmp_path / "a.ckpt")


def test_tells_the_kind_by_content(tmp_path: Path) -> None:
    save_file(TENSORS, tmp_path / "a.ckpt")
    assert_read(tmp_path / "a.ckpt")


def test_safetensors_whose_length_looks_like_a_pickle(tmp_path: Path) -> None:
    for padding in range(256):
        content = save(TENSORS, metadata={"padding": " " * padding})
        if content[0] == 0x80:
            break
    assert content[0] == 0x80

    (tmp_path / "a.safetensors").write_bytes(content)

    assert_read(tmp_path / "a.safetensors")


def test_joins_shards(tmp_path: Path) -> None:
    for name, value in TENSORS.items():
        save_file({name: value}, tmp_path / f"part-{name}.safetensors")
    assert_read(tmp_path)

    save_file({"a": TENSORS["a"]}, tmp_path / "part-c.safetensors")
    with pytest.raises(Ex4dError, match=r"part-c.*repeats 1 tensors.*'a'") as caught:
        read_tensors(tmp_path)
    assert caught.value.code == "model_invalid"


@pytest.mark.parametrize("zipped", [True, False])
def test_a_pickle_that_runs_code_is_refused_unread(tmp_path: Path, zipped: bool) -> None:
    marker = tmp_path / "marker"
    torch.save({"a": TENSORS["a"], "b": Payload(marker)}, tmp_path / "a.ckpt", _use_new_zipfile_serialization=zipped)

    with pytest.raises(Ex4dError, match="would run code") as caught:
        read_tensors(tmp_path / "a.ckpt")

    assert caught.value.code == "model_invalid"
    assert not marker.exists()


@pytest.mark.filterwarnings("error")
def test_a_bare_pickle_of_any_protocol_is_refused_as_such(tmp_path: Path) -> None:
    for protocol in range(2, pickle.HIGHEST_PROTOCOL + 1):
        path = tmp_path / f"protocol {protocol}.ckpt"
        path.write_bytes(pickle.dumps({"a": Payload(tmp_path / "marker")}, protocol))
        with pytest.raises(Ex4dError, match="would run code"):
            read_tensors(path)
    assert not (tmp_path / "marker").exists()


def test_the_payload_is_a_real_one(tmp_path: Path) -> None:
    pickle.loads(pickle.dumps(Payload(tmp_path / "marker")))
    assert (tmp_path / "marker").exists()


@pytest.mark.parametrize("kind", ["safetensors", "zip", "pickle"])
def test_truncated_and_damaged_files(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "a.weights"
    if kind == "safetensors":
        save_file(TENSORS, path)
    else:
        torch.save(TENSORS, path, _use_new_zipfile_serialization=kind == "zip")
    content = path.read_bytes()

    for length in (0, 1, 8, 30, len(content) // 2, len(content) - 1):
        path.write_bytes(content[:length])
        with pytest.raises(Ex4dError) as caught:
            read_tensors(path)
        assert caught.value.code == "model_invalid", (length, caught.value)


@pytest.mark.parametrize(
    ("content", "what"), [([1, 2], "a list"), ({"a": torch.ones(1), "steps": 7}, "no tensors: steps")]
)
def test_anything_but_named_tensors_is_refused(tmp_path: Path, content: Any, what: str) -> None:
    torch.save(content, tmp_path / "a.ckpt")

    with pytest.raises(Ex4dError, match=what) as caught:
        read_tensors(tmp_path / "a.ckpt")

    assert caught.value.code == "model_invalid"


def test_missing_files(tmp_path: Path) -> None:
    for path in (tmp_path / "none.safetensors", tmp_path):
        with pytest.raises(Ex4dError) as caught:
            read_tensors(path)
        assert caught.value.code == "model_missing"
