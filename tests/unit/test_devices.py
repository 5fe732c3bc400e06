# SPDX-License-Identifier: GPL-3.0-or-later
"""What the engine says it computes on, with an `nvidia-smi` of our own."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from ex4d_engine import devices, protocol

TWO_CARDS = """\
0, GPU-1111aaaa-0000, 24105, 24564, NVIDIA GeForce RTX 4090
1, GPU-2222bbbb-0000, 1024, 81559, NVIDIA H100, 80GB HBM3
"""
ENGINE = Path(devices.__file__).with_name("__main__.py")

FakeSmi = Callable[[str], None]


@pytest.fixture
def fake_smi(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FakeSmi:
    """`fake_smi(script)` makes a Python script the only `nvidia-smi` there is, in a folder with a hard name."""
    folder = tmp_path / "Ünï 作業 bin"
    folder.mkdir()
    monkeypatch.setenv("PATH", str(folder))
    monkeypatch.delenv(devices.VISIBLE_VARIABLE, raising=False)

    def make(script: str) -> None:
        file = folder / "nvidia_smi.py"
        file.write_text(script, "utf-8")
        if sys.platform == "win32":
            (folder / "nvidia-smi.cmd").write_text(f'@"{sys.executable}" "%~dp0nvidia_smi.py" %*\n')
        else:
            launcher = folder / "nvidia-smi"
            launcher.write_text(f'#!/bin/sh\nexec "{sys.executable}" "{file}" "$@"\n', "utf-8")
            launcher.chmod(0o755)

    return make


def answering(text: str) -> str:
    return f"""
import sys
assert sys.argv[1:] == [{devices.QUERY!r}, "--format=csv,noheader,nounits"], sys.argv
sys.stdout.write({text!r})
"""


def test_cards_are_named_with_their_memory(fake_smi: FakeSmi) -> None:
    fake_smi(answering(TWO_CARDS))
    first, second = devices.nvidia_gpus()
    assert first == devices.Gpu("NVIDIA GeForce RTX 4090", 23.54, 23.99, "0", "GPU-1111aaaa-0000")
    assert (second.name, second.free_gib, second.total_gib) == ("NVIDIA H100, 80GB HBM3", 1.0, 79.65)


def test_one_card_is_the_main_device_and_of_several_the_first(fake_smi: FakeSmi) -> None:
    fake_smi(answering(TWO_CARDS.splitlines()[0]))
    assert devices.main_device() == devices.Device("NVIDIA GeForce RTX 4090", 23.54, 23.99)
    fake_smi(answering(TWO_CARDS))
    assert devices.main_device() == devices.Device("NVIDIA GeForce RTX 4090 (first of 2)", 23.54, 23.99)


@pytest.mark.parametrize(
    ("listed", "shown"),
    [
        (None, ["0", "1"]),
        ("1,0", ["1", "0"]),
        ("GPU-2222", ["1"]),
        ("0,7,1", ["0"]),  # as CUDA reads it
        ("-1", []),
        ("", []),
    ],
)
def test_only_cards_that_cuda_shows_count(listed: str | None, shown: list[str]) -> None:
    assert [gpu.index for gpu in devices.visible(devices.parse_gpus(TWO_CARDS), listed)] == shown


def test_hidden_cards_leave_the_cpu(fake_smi: FakeSmi, monkeypatch: pytest.MonkeyPatch) -> None:
    fake_smi(answering(TWO_CARDS))
    monkeypatch.setenv(devices.VISIBLE_VARIABLE, "")
    assert devices.main_device().name == f"CPU, {os.cpu_count()} threads"


@pytest.mark.parametrize(
    "script",
    [
        None,
        answering(TWO_CARDS) + "sys.exit(9)",
        answering("No devices were found\n"),
        answering("0, GPU-1, [N/A], [N/A], NVIDIA GB10\n"),
        answering("0, GPU-1, 100\n\n"),
        "import sys; sys.stdout.buffer.write(bytes(range(256)))",
    ],
    ids=["no driver", "failed", "no card", "no figures", "cut", "garbage"],
)
def test_without_a_clear_answer_it_is_the_cpu(fake_smi: FakeSmi, script: str | None) -> None:
    if script is not None:
        fake_smi(script)
    device = devices.main_device()
    assert device.name == f"CPU, {os.cpu_count()} threads"
    assert 0 < device.free_gib <= device.total_gib


@pytest.mark.skipif(os.name != "posix", reason="a file that is no program, by its mode and content")
def test_an_nvidia_smi_that_cannot_be_started_is_the_cpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program = tmp_path / "nvidia-smi"
    program.write_bytes(b"\x00\x01\x02")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert devices.nvidia_gpus() == ()


def test_a_driver_that_hangs_is_not_waited_for(fake_smi: FakeSmi, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(devices, "NVIDIA_SMI_TIMEOUT_S", 0.3)
    fake_smi("import time; time.sleep(60)")
    began = time.monotonic()
    assert devices.nvidia_gpus() == ()
    assert time.monotonic() - began < 10


def test_the_engine_s_hello_names_the_card(fake_smi: FakeSmi) -> None:
    fake_smi(answering(TWO_CARDS))
    ended = subprocess.run(
        [sys.executable, "-I", str(ENGINE), "worker"], input=b"", capture_output=True, timeout=30, check=True
    )
    hello = protocol.decode(ended.stdout.splitlines()[0])
    assert isinstance(hello, protocol.Hello)
    assert (hello.device, hello.memory_gib) == ("NVIDIA GeForce RTX 4090 (first of 2)", (23.54, 23.99))
