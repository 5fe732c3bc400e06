# SPDX-License-Identifier: GPL-3.0-or-later
"""What `ex4d doctor` says of the depth sources."""

from __future__ import annotations

from pathlib import Path

import pytest

from ex4d_engine import doctor
from ex4d_engine.depth import bundled, depth_sources, openvino_step
from ex4d_engine.models import store
from tests.tiny_depth_models import save_depth_anything
from tests.unit.diffusion.cards import give_torchao, take_torchao


@pytest.fixture(autouse=True)
def no_models(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EX4D_MODELS", str(tmp_path / "models ü"))


def depth_lines() -> dict[str, str]:
    lines = [line.removeprefix("  depth    ") for line in doctor.depth_lines()]
    return {name: state for name, _, state in (line.partition(": ") for line in lines)}


def test_each_depth_source_has_a_line_with_its_state(tmp_path: Path) -> None:
    said = depth_lines()
    assert set(said) == set(depth_sources())
    assert said["rough-pictorial"] == "works here"
    assert said["bundled"].startswith("works here (on a CPU by ") and said["bundled"].endswith("), the default")
    assert "your own" in said["file"]
    for name in ("depth-anything-v2", "depth-anything-3", "video-depth-anything", "depth-pro", "depthcrafter"):
        assert "not installed" in said[name] and f"ex4d models download {name}" in said[name], name

    store.register("depth-anything-v2-base", save_depth_anything(tmp_path / "base"))
    assert depth_lines()["depth-anything-v2"] == "works here (base)"
    assert "the default" in depth_lines()["bundled"]
    store.register("depth-anything-v2-small", tmp_path / "base")
    said = depth_lines()
    assert said["depth-anything-v2"] == "works here (small, base), the default"
    assert said["bundled"].startswith("works here") and "the default" not in said["bundled"]


def test_what_the_bundled_network_runs_by_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(openvino_step, "openvino_version", lambda: "2026.4.1")
    assert "on a CPU by OpenVINO 2026.4.1" in depth_lines()["bundled"]
    monkeypatch.setattr(openvino_step, "openvino_version", lambda: None)
    assert "on a CPU by torch: OpenVINO is not installed" in depth_lines()["bundled"]


def test_damage_is_said_and_stops_no_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bundled, "WEIGHTS", tmp_path / "gone.safetensors")
    folder = save_depth_anything(tmp_path / "small")
    store.register("depth-anything-v2-small", folder)
    folder.rename(tmp_path / "elsewhere")
    said = depth_lines()
    assert set(said) == set(depth_sources())
    assert "gone.safetensors" in said["bundled"] and "nothing is now" in said["depth-anything-v2"]
    (tmp_path / "models ü" / store.REGISTERED_NAME).write_text("{", "utf-8")
    said = depth_lines()
    assert set(said) == set(depth_sources())
    assert "could not be read" in said["depth-pro"] and said["rough-pictorial"] == "works here"


@pytest.mark.parametrize(("is_there", "word"), [(True, "ok"), (False, "absent")])
def test_torchao_is_listed_as_what_may_be_there(monkeypatch: pytest.MonkeyPatch, is_there: bool, word: str) -> None:
    (give_torchao if is_there else take_torchao)(monkeypatch)
    lines, works = doctor.report()
    (line,) = [line for line in lines if "torchao" in line]
    assert line.split()[0] == word and works
