# SPDX-License-Identifier: GPL-3.0-or-later
"""Where models are found, folders and files of the user's own, and checksums."""

from __future__ import annotations

import hashlib
import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.numpy import save_file

from ex4d_engine import places as places_module
from ex4d_engine.diffusion.folder_adapter import ADAPTER_FILE
from ex4d_engine.errors import Cancelled, Ex4dError
from ex4d_engine.models import store
from ex4d_engine.models.download import download, repair
from ex4d_engine.models.registry import MODELS
from ex4d_engine.models.verify import verify
from ex4d_engine.progress import Silent
from tests.tiny_model import save_adapter_file, save_model_folder
from tests.unit.models.conftest import CONTENT
from tests.unit.models.hub import Hub

WAN, ADAPTER, LORA = "wan2.1-i2v-14b-480p", "ex4d-lora", "wan2.1-fast-lora"


@pytest.fixture(scope="module")
def wan(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_model_folder(tmp_path_factory.mktemp("Мои модели") / "wan 2.1 ü")


@pytest.fixture(scope="module")
def adapter(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_adapter_file(tmp_path_factory.mktemp("adapter") / "my ex4d.safetensors")


def refused(name: str, path: Path, code: str = "model_invalid") -> Ex4dError:
    with pytest.raises(Ex4dError) as caught:
        store.register(name, path)
    assert caught.value.code == code and caught.value.hint
    return caught.value


def test_the_three_models() -> None:
    assert {WAN, ADAPTER, LORA} <= MODELS.keys()
    for name in (WAN, ADAPTER, LORA):
        model = MODELS[name]
        assert model.name == name and model.licence and model.licence_url.startswith("https://")
        assert not model.needs_acceptance
    assert [name for name in (WAN, ADAPTER, LORA) if "fast" in MODELS[name].presets] == [WAN, ADAPTER, LORA]
    assert [name for name in (WAN, ADAPTER, LORA) if "final" in MODELS[name].presets] == [WAN, ADAPTER]


def test_a_published_folder_s_files_are_selected(wan: Path) -> None:
    paths = [path.relative_to(wan).as_posix() for path in wan.rglob("*") if path.is_file()]
    others = ["README.md", "assets/logo.png", ".gitattributes"]
    assert MODELS[WAN].selected([*paths, *others]) == sorted(paths)


def test_what_is_pinned_can_be_right() -> None:
    for model in MODELS.values():
        assert model.revision == "main" or re.fullmatch("[0-9a-f]{40}", model.revision), model.name
        assert model.selected(model.sha256) == sorted(model.sha256), model.name
        assert all(re.fullmatch("[0-9a-f]{64}", checksum) for checksum in model.sha256.values()), model.name
        assert model.revision != "main" or len(model.sha256) == 0, model.name


def test_places(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert places_module.models_folder() == tmp_path / "Модели ü 模型"
    assert places_module.cache_folder() == tmp_path / "cache"
    monkeypatch.delenv("EX4D_MODELS")
    monkeypatch.delenv("EX4D_CACHE")
    assert places_module.models_folder().name == "models"
    assert "ex4d" in places_module.models_folder().parts and "ex4d" in places_module.cache_folder().parts


def test_a_model_that_is_not_here() -> None:
    with pytest.raises(Ex4dError, match="not installed") as caught:
        store.find(WAN)
    assert (caught.value.code, caught.value.action) == ("model_missing", f"models:{WAN}")
    assert f"ex4d models download {WAN}" in caught.value.hint and "about 90" in caught.value.hint
    assert store.installed() == []


def test_a_folder_of_one_s_own(wan: Path) -> None:
    assert store.register(WAN, wan) == wan
    assert store.find(WAN) == wan
    assert [(entry.model.name, entry.path, entry.registered) for entry in store.installed()] == [(WAN, wan, True)]
    assert download(WAN, Silent(), offline=True) == wan  # nothing is fetched in its stead
    assert store.unregister(WAN) and not store.unregister(WAN)
    assert store.installed() == []
    assert wan.is_dir()


def test_a_file_of_one_s_own(adapter: Path) -> None:
    store.register(ADAPTER, adapter)
    assert store.find(ADAPTER) == adapter
    with pytest.raises(Ex4dError, match="latent_encoder") as caught:
        store.register(ADAPTER, plain_lora(adapter.parent))
    assert caught.value.code == "model_invalid"
    assert store.register(LORA, plain_lora(adapter.parent)).is_file()


def plain_lora(folder: Path) -> Path:
    path = folder / "lora.safetensors"
    save_file({"diffusion_model.blocks.0.self_attn.q.lora_down.weight": np.zeros((4, 8), np.float32)}, path)
    return path


def test_a_torch_checkpoint(adapter: Path, tmp_path: Path) -> None:
    from safetensors.torch import load_file

    path = tmp_path / "ex4d.ckpt"
    torch.save(load_file(adapter), path)
    assert store.register(ADAPTER, path) == path


def test_what_cannot_be_the_model(wan: Path, adapter: Path, tmp_path: Path) -> None:
    assert "vae" in refused(WAN, tmp_path, "model_missing").message
    refused(ADAPTER, tmp_path / "none.ckpt", "model_missing")
    cut = tmp_path / "cut.safetensors"
    cut.write_bytes(adapter.read_bytes()[:-100])
    refused(ADAPTER, cut)
    text = tmp_path / "page.html"
    text.write_text("<html>", encoding="utf-8")
    refused(ADAPTER, text)
    evil = tmp_path / "evil.ckpt"
    torch.save({"a": Path}, evil)
    assert "run code" in refused(ADAPTER, evil).message
    assert store.registrations() == {}


def test_a_registered_folder_that_is_gone(tmp_path: Path, adapter: Path) -> None:
    path = tmp_path / "moved.safetensors"
    path.write_bytes(adapter.read_bytes())
    store.register(ADAPTER, path)
    path.unlink()
    with pytest.raises(Ex4dError, match="nothing is now") as caught:
        store.find(ADAPTER)
    assert caught.value.code == "model_missing" and "unregister" in caught.value.hint
    assert store.installed() == []


def test_a_damaged_list_of_registered_models(places: Path, adapter: Path) -> None:
    store.register(ADAPTER, adapter)
    path = places / store.REGISTERED_NAME
    for text in ("{", "[]", '{"schema": 2, "models": {}}', f'{{"schema": 1, "models": {{"{WAN}": 3}}}}'):
        path.write_text(text, encoding="utf-8")
        with pytest.raises(Ex4dError) as caught:
            store.find(WAN)
        assert caught.value.code == "model_invalid" and str(path) in caught.value.message
    path.write_text('{"schema": 1, "models": {"of a later version": "x"}}', encoding="utf-8")
    assert store.registrations() == {}


def test_checksums_of_a_download(hub: Hub) -> None:
    folder = download("small", Silent())
    expected = {path: hashlib.sha256(content).hexdigest() for path, content in CONTENT.items() if path != "README.md"}
    assert store.checksums("small") == dict(sorted(expected.items()))
    assert not (folder.parent.parent / "cache").exists()  # nothing had to be computed


def test_checksums_of_one_s_own_are_remembered(adapter: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "own.safetensors"
    path.write_bytes(adapter.read_bytes())
    store.register(ADAPTER, path)
    expected = {path.name: hashlib.sha256(path.read_bytes()).hexdigest()}
    assert store.checksums(ADAPTER) == expected

    read = []
    original = store.sha256
    monkeypatch.setattr(store, "sha256", lambda *arguments: read.append(arguments) or original(*arguments))
    assert store.checksums(ADAPTER) == expected
    assert read == []

    cache = tmp_path / "cache" / store.CHECKSUMS_NAME
    for damaged in (b"{", b"[]", b'{"schema": 1, "files": {"%s": 3}}' % path.name.encode()):
        cache.write_bytes(damaged)
        assert store.checksums(ADAPTER) == expected
    assert len(read) == 3 and json.loads(cache.read_bytes())["files"][str(path)]["sha256"] == expected[path.name]

    path.write_bytes(path.read_bytes() + b" ")
    assert store.checksums(ADAPTER) != expected


def test_checksums_of_a_folder_of_one_s_own(wan: Path) -> None:
    (wan / "notes.txt").write_text("mine", encoding="utf-8")
    (wan / ADAPTER_FILE).write_bytes(b"an adapter, as in a converted folder")
    store.register(WAN, wan)
    checksums = store.checksums(WAN)
    assert checksums[ADAPTER_FILE] == hashlib.sha256((wan / ADAPTER_FILE).read_bytes()).hexdigest()
    assert "transformer/diffusion_pytorch_model.safetensors" in checksums and "notes.txt" not in checksums
    reporter = Silent()
    reporter.cancelled.set()
    with pytest.raises(Cancelled):
        store.checksums(WAN, reporter)


def test_verifying_what_has_no_published_checksum(wan: Path) -> None:
    store.register(WAN, wan)
    result = verify(WAN, Silent())
    assert result.whole and not result.intact
    assert "vae/config.json" in result.unknown


def test_a_damaged_model_of_one_s_own_is_left_alone(hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    copy = download("small", Silent()).rename(tmp_path / "copied from elsewhere")  # with its lock
    monkeypatch.setattr("ex4d_engine.diffusion.loading.check_model_folder", lambda folder: None)
    store.register("small", copy)
    assert verify("small", Silent()).whole
    (copy / "vae/weights.safetensors").write_bytes(bytes(30_000))
    assert verify("small", Silent()).damaged == ("vae/weights.safetensors",)
    with pytest.raises(Ex4dError, match="your own") as caught:
        repair("small", Silent())
    assert caught.value.code == "model_invalid"
    assert (copy / "vae/weights.safetensors").read_bytes() == bytes(30_000)
