# SPDX-License-Identifier: GPL-3.0-or-later
"""What works on this machine, in lines a person can act on."""

from __future__ import annotations

import importlib.util
import platform
import shutil
import sys
from importlib import metadata
from pathlib import Path

import psutil

from . import __version__
from .errors import Ex4dError

LIBRARIES = ("av", "cv2", "OpenEXR", "moderngl", "torch", "diffusers", "transformers", "peft", "trimesh")
LOW_MEMORY_GIB, LOW_DISK_GIB = 4.0, 2.0


def report() -> tuple[list[str], bool]:
    """Lines to print, and whether everything that `preview` needs is there."""
    lines = [f"EX-4D {__version__}, Python {platform.python_version()} ({sys.executable}), {platform.platform()}"]
    problems = 0
    for name in LIBRARIES:
        if importlib.util.find_spec(name) is None:
            lines.append(f"  missing  {name}: run python3 tools/bootstrap.py setup")
            problems += 1
        else:
            lines.append(f"  ok       {name} {_version(name)}")
    line, works = _opengl()
    problems += not works
    lines += [line, _nvdiffrast(), _accelerator(), *_room()]
    lines += _depth_sources()
    lines.append("  presets  preview works here; draft, final and fast need weights that are not installed")
    lines.append(
        "Everything that preset preview needs is here." if not problems else f"{problems} problems, see above."
    )
    return lines, problems == 0


def _version(name: str) -> str:
    package = {"cv2": "opencv-python-headless"}.get(name, name)
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:  # the same module from another distribution, such as opencv-python
        return "(version unknown)"


def _opengl() -> tuple[str, bool]:
    from .raster.opengl import device_name

    try:
        return f"  ok       OpenGL: {device_name()}", True
    except Ex4dError as error:
        return f"  missing  {error}", False


def _nvdiffrast() -> str:
    if importlib.util.find_spec("nvdiffrast") is None:
        return "  absent   nvdiffrast (optional; its licence allows research and evaluation only)"
    return f"  ok       nvdiffrast {_version('nvdiffrast')} (research and evaluation only)"


def _accelerator() -> str:
    import torch

    if torch.cuda.is_available():
        free, total = torch.cuda.mem_get_info()
        return f"  ok       {torch.cuda.get_device_name()}: {free / 2**30:.1f} of {total / 2**30:.1f} GiB free"
    return "  absent   CUDA device (final and fast need one; preview and draft do not)"


def _room() -> list[str]:
    memory, disk = psutil.virtual_memory(), shutil.disk_usage(Path.cwd())
    free_memory, free_disk = memory.available / 2**30, disk.free / 2**30
    return [
        f"  {_ok(free_memory >= LOW_MEMORY_GIB)} memory: {free_memory:.1f} of {memory.total / 2**30:.1f} GiB free",
        f"  {_ok(free_disk >= LOW_DISK_GIB)} disk here: {free_disk:.1f} GiB free",
    ]


def _depth_sources() -> list[str]:
    from .depth import depth_sources

    return [f"  depth    {name}: {source.title} ({source.licence})" for name, source in depth_sources().items()]  # type: ignore[attr-defined]


def _ok(enough: bool) -> str:
    return "ok      " if enough else "low     "
