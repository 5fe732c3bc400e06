# SPDX-License-Identifier: GPL-3.0-or-later
"""What the extension's zip holds of the engine's assets: the models it needs, not the demo's clip."""

from __future__ import annotations

import importlib.util
import shutil
import zipfile
from pathlib import Path
from types import ModuleType

import pytest

from tests.conftest import REPOSITORY


@pytest.fixture
def builder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The tool, on a checkout with little in it."""
    spec = importlib.util.spec_from_file_location("build_extension", REPOSITORY / "tools" / "build_extension.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    root = tmp_path / "Ünï checkout"
    for name in module.FILES:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(REPOSITORY / name, root / name)
    for name in ("ex4d_blender/panels.py", "ex4d_engine/shot.py"):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text("code", encoding="utf-8")
    assets = root / "ex4d_engine" / "assets"
    (assets / "bundled" / "transformer").mkdir(parents=True)
    (assets / "courtyard.mp4").write_bytes(b"clip")
    (assets / "bundled" / "model_index.json").write_text("{}", encoding="utf-8")
    for name in ("depth_bundled.safetensors", "bundled/transformer/model-00001-of-00002.safetensors"):
        (assets / name).write_bytes(bytes(5000))
    monkeypatch.setattr(module, "ROOT", root)
    return module


def test_models_travel_uncompressed_and_the_clip_stays(builder: ModuleType, tmp_path: Path) -> None:
    with zipfile.ZipFile(builder.build_extension(tmp_path / "ex4d.zip")) as archive:
        assets = {
            info.filename.removeprefix("ex4d_engine/assets/"): info.compress_type
            for info in archive.infolist()
            if "assets" in info.filename
        }
        assert archive.testzip() is None and "ex4d_engine/shot.py" in archive.namelist()
    assert assets == {
        "depth_bundled.safetensors": zipfile.ZIP_STORED,
        "bundled/model_index.json": zipfile.ZIP_DEFLATED,
        "bundled/transformer/model-00001-of-00002.safetensors": zipfile.ZIP_STORED,
    }


def test_the_same_sources_give_the_same_bytes(builder: ModuleType, tmp_path: Path) -> None:
    first, again = (builder.build_extension(tmp_path / name).read_bytes() for name in ("a.zip", "b.zip"))
    assert first == again
