# SPDX-License-Identifier: GPL-3.0-or-later
"""What this machine computes on, asked of the system: importing torch to learn it would take seconds."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import psutil

NVIDIA_SMI: Final = "nvidia-smi"  # comes with NVIDIA's driver on every system
NVIDIA_SMI_TIMEOUT_S: Final = 2.0
QUERY: Final = "--query-gpu=index,uuid,memory.free,memory.total,name"  # the name last: it may hold commas
VISIBLE_VARIABLE: Final = "CUDA_VISIBLE_DEVICES"
if sys.platform == "win32":
    _CREATION_FLAGS = subprocess.CREATE_NO_WINDOW
else:
    _CREATION_FLAGS = 0


@dataclass(frozen=True)
class Device:
    """name: to show; free_gib, total_gib: of its memory."""

    name: str
    free_gib: float
    total_gib: float


@dataclass(frozen=True)
class Gpu(Device):
    """A graphics card. index, uuid: what `nvidia-smi` and CUDA_VISIBLE_DEVICES call it."""

    index: str
    uuid: str


def main_device() -> Device:
    """The graphics card that a run uses unless told otherwise; the CPU where there is none."""
    gpus = visible(nvidia_gpus(), os.environ.get(VISIBLE_VARIABLE))
    if not gpus:
        return cpu()
    first = gpus[0]
    name = first.name if len(gpus) == 1 else f"{first.name} (first of {len(gpus)})"
    return Device(name, first.free_gib, first.total_gib)


def cpu() -> Device:
    """The CPU and the machine's memory."""
    memory = psutil.virtual_memory()
    return Device(f"CPU, {os.cpu_count()} threads", round(memory.available / 2**30, 2), round(memory.total / 2**30, 2))


def nvidia_gpus() -> tuple[Gpu, ...]:
    """NVIDIA's cards as the driver tells of them; none where there is no driver, or it does not answer in time."""
    command = shutil.which(NVIDIA_SMI)
    if command is None:
        return ()
    try:
        answer = subprocess.run(
            [command, QUERY, "--format=csv,noheader,nounits"],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=NVIDIA_SMI_TIMEOUT_S,
            check=True,
            creationflags=_CREATION_FLAGS,
        )
    except (OSError, subprocess.SubprocessError):
        return ()
    return parse_gpus(answer.stdout.decode("utf-8", "replace"))


def parse_gpus(text: str) -> tuple[Gpu, ...]:
    """Cards from `nvidia-smi`'s answer to `QUERY`, one a line, memory in MiB.

    A line without figures is left out: a card that is broken, or that shares the machine's memory, has none.
    """
    gpus: list[Gpu] = []
    for line in text.splitlines():
        fields = [field.strip() for field in line.split(",", 4)]
        if len(fields) == 5 and fields[2].isdecimal() and fields[3].isdecimal():
            index, uuid, free_mib, total_mib, name = fields
            gpus.append(Gpu(name, round(int(free_mib) / 1024, 2), round(int(total_mib) / 1024, 2), index, uuid))
    return tuple(gpus)


def visible(gpus: Sequence[Gpu], listed: str | None) -> tuple[Gpu, ...]:
    """The cards that CUDA shows to a process, in its order.

    Args:
        gpus: all cards.
        listed: CUDA_VISIBLE_DEVICES: numbers, or beginnings of uuids; the first that is neither ends the list.
            None where it is not set.
    """
    if listed is None:
        return tuple(gpus)
    shown: list[Gpu] = []
    for entry in listed.split(","):
        wanted = entry.strip()
        found = [gpu for gpu in gpus if wanted == gpu.index or (wanted and gpu.uuid.startswith(wanted))]
        if not found:
            break
        shown.append(found[0])
    return tuple(shown)
