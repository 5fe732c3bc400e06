# SPDX-License-Identifier: GPL-3.0-or-later
"""`ex4d models` as a user types it."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from ex4d_engine.cli import main
from ex4d_engine.models import store
from tests.conftest import REPOSITORY
from tests.tiny_model import save_adapter_file
from tests.unit.models.hub import Hub


def said(capsys: pytest.CaptureFixture[str], *arguments: str, status: int = 0) -> tuple[str, str]:
    assert main(["models", *arguments]) == status
    return capsys.readouterr()


def test_download_verify_path_and_list(hub: Hub, capsys: pytest.CaptureFixture[str]) -> None:
    out, err = said(capsys, "download", "small")
    folder = store.find("small")
    assert json.loads(out) == {"model": "small", "path": str(folder)}
    assert "licence Apache-2.0" in err and "MB" in err
    assert said(capsys, "path", "small")[0] == f"{folder}\n"
    out, _ = said(capsys, "list")
    assert f"installed: {folder}" in out and "wan2.1-i2v-14b-480p" in out and "not installed" in out
    out, err = said(capsys, "verify")
    assert json.loads(out)["whole"] is True and "check files" in err


def test_verify_and_repair(hub: Hub, capsys: pytest.CaptureFixture[str]) -> None:
    said(capsys, "download", "small")
    weights = store.find("small") / "vae/weights.safetensors"
    weights.write_bytes(bytes(weights.stat().st_size))
    out, _ = said(capsys, "verify", "small", status=1)
    assert json.loads(out)["damaged"] == ["vae/weights.safetensors"]
    assert json.loads(said(capsys, "verify", "small", "--repair")[0])["whole"] is True


def test_verify_where_nothing_is_here(capsys: pytest.CaptureFixture[str]) -> None:
    assert "No model is installed" in said(capsys, "verify")[1]
    assert "not installed" in said(capsys, "verify", "small", status=1)[1]


def test_a_licence_is_accepted_by_an_option(hub: Hub, capsys: pytest.CaptureFixture[str]) -> None:
    hub.files["LICENSE"] = "§ 1. You may läugh.".encode()
    _, err = said(capsys, "download", "restricted", status=1)
    assert "Academic use only" in err and "--accept-licence" in err and "§ 1. You may läugh." in err
    out, err = said(capsys, "download", "restricted", "--accept-licence")
    assert "§ 1. You may läugh." in err, "whoever accepts it unread has it on the screen"
    assert json.loads(out)["model"] == "restricted", "and what programs read has none of it"


@pytest.mark.parametrize(("answer", "status"), [("y\n", 0), ("YES\n", 0), ("n\n", 1), ("\n", 1), ("", 1)])
def test_in_a_terminal_the_licence_is_asked_for(
    hub: Hub, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, answer: str, status: int
) -> None:
    hub.files["LICENSE"] = b"You may laugh."
    terminal = io.StringIO(answer)
    terminal.isatty = lambda: True  # type: ignore[method-assign]
    monkeypatch.setattr(sys, "stdin", terminal)
    monkeypatch.setattr(type(sys.stderr), "isatty", lambda _: True, raising=False)
    _, err = said(capsys, "download", "restricted", status=status)
    assert err.index("You may laugh.") < err.index("Do you accept the licence of Small model? [y/N]")
    assert ("--accept-licence" in err) == (status == 1)


def test_offline_and_unknown(hub: Hub, capsys: pytest.CaptureFixture[str]) -> None:
    assert "offline mode" in said(capsys, "download", "small", "--offline", status=1)[1]
    assert "no model 'smell'" in said(capsys, "path", "smell", status=1)[1]


def test_register_and_unregister(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    adapter = save_adapter_file(tmp_path / "mein Modell ü.safetensors")
    out, _ = said(capsys, "register", "ex4d-lora", str(adapter))
    assert json.loads(out) == {"model": "ex4d-lora", "path": str(adapter)}
    assert f"registered: {adapter}" in said(capsys, "list")[0]
    out, _ = said(capsys, "verify", "ex4d-lora")
    assert json.loads(out)["without_checksum"] == [adapter.name]
    assert json.loads(said(capsys, "unregister", "ex4d-lora")[0])["unregistered"] is True
    assert json.loads(said(capsys, "unregister", "ex4d-lora")[0])["unregistered"] is False


def test_convert_says_what_is_lacking(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    _, err = said(capsys, "convert", str(tmp_path), "--out", str(tmp_path / "made"), status=1)
    assert "Wan2.1_VAE.pth" in err and "umt5-xxl" in err
    assert not (tmp_path / "made").exists()


def test_a_list_that_nobody_reads_to_its_end() -> None:
    """As with `| head`: no failure of ours, and no report of one."""
    reader, writer = os.pipe()
    os.close(reader)
    try:
        ended = subprocess.run(
            [sys.executable, str(REPOSITORY / "ex4d_engine"), "models", "list"],
            stdout=writer,
            stderr=subprocess.PIPE,
            text=True,
            timeout=60,
        )
    finally:
        os.close(writer)
    assert (ended.stderr, ended.returncode) == ("", 1)
