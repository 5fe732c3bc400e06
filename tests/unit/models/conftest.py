# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

import dataclasses
import random
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
from huggingface_hub import constants, file_download

from ex4d_engine.models import registry
from ex4d_engine.models.registry import Model
from tests.unit.models.hub import Hub, serving

SMALL = Model(
    name="small",
    title="Small model",
    repository="someone/small",
    files=("model_index.json", "vae/*"),
    size_bytes=30_000,
    licence="Apache-2.0",
    licence_url="https://example.org/licence",
    needs_acceptance=False,
    presets=("final",),
    kind="folder",
)
LORA = dataclasses.replace(
    SMALL, name="lora", title="A LoRA", repository="someone/lora", files=("loras/a.safetensors",), kind="lora"
)
RESTRICTED = dataclasses.replace(SMALL, name="restricted", licence="Academic use only", needs_acceptance=True)
CONTENT = {
    "model_index.json": b'{"_class_name": "Small"}',
    "vae/config.json": b"{}",
    "vae/weights.safetensors": random.Random(0).randbytes(30_000),
    "README.md": b"not part of the model",
}


@pytest.fixture(autouse=True)
def places(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Models and cache lie in a folder with a space and letters of two scripts; nothing outside is touched."""
    monkeypatch.setenv("EX4D_MODELS", str(tmp_path / "Модели ü 模型"))
    monkeypatch.setenv("EX4D_CACHE", str(tmp_path / "cache"))
    for variable in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    return tmp_path / "Модели ü 模型"


@pytest.fixture(autouse=True)
def small_models(monkeypatch: pytest.MonkeyPatch) -> None:
    for model in (SMALL, LORA, RESTRICTED):
        monkeypatch.setitem(registry.MODELS, model.name, model)


@pytest.fixture(autouse=True)
def no_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    """Small pieces, and the library's pause of a second before it asks again left out."""
    monkeypatch.setattr(constants, "DOWNLOAD_CHUNK_SIZE", 1000)
    monkeypatch.setattr(file_download, "time", SimpleNamespace(sleep=lambda seconds: None))


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    with serving(Hub(SMALL.repository, CONTENT)) as running:
        monkeypatch.setattr(constants, "ENDPOINT", running.endpoint)  # what HF_ENDPOINT sets
        monkeypatch.setattr(
            constants,
            "HUGGINGFACE_CO_URL_TEMPLATE",
            running.endpoint + "/{repo_id}/resolve/{revision}/{filename}",
        )
        yield running
