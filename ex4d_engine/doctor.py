# SPDX-License-Identifier: GPL-3.0-or-later
"""What works on this machine, in lines a person can act on."""

from __future__ import annotations

import importlib.util
import platform
import shutil
import sys
from importlib import metadata
from pathlib import Path
from typing import Final

import psutil

from . import __version__
from .errors import Ex4dError

# import names and the distributions that bring them; preview runs with the first ones alone
NEEDED: Final = {
    "av": "av",
    "cv2": "opencv-python-headless",
    "numpy": "numpy",
    "OpenEXR": "OpenEXR",
    "moderngl": "moderngl",
    "tqdm": "tqdm",
}
FOR_MODELS: Final = {name: name for name in ("torch", "diffusers", "transformers", "peft", "trimesh")}
LOW_MEMORY_GIB: Final = 4.0
LOW_DISK_GIB: Final = 2.0
SETUP: Final = "run python3 tools/bootstrap.py setup"


def report() -> tuple[list[str], bool]:
    """Lines to print, and whether everything that `preview` needs is there. A missing package stops no line."""
    lines = [f"EX-4D {__version__}, Python {platform.python_version()} ({sys.executable}), {platform.platform()}"]
    needed = [_library(name, package) for name, package in NEEDED.items()]
    checks = [*needed, _opengl(), _h264()]
    lines += [line for line, _ in checks]
    lines += [_library(name, package)[0] for name, package in FOR_MODELS.items()]
    lines += [_nvdiffrast(), _torchao(), _accelerator(), *_room(), *depth_lines()]
    problems = sum(not works for _, works in checks)
    if problems:
        lines.append("  presets  none works until the problems above are solved")
        lines.append(f"{problems} problem{'s' * (problems != 1)}, see above.")
    else:
        lines += _presets()
        lines.append("Everything that preset preview needs is here.")
    return lines, problems == 0


def _library(name: str, package: str) -> tuple[str, bool]:
    if importlib.util.find_spec(name) is None:
        return f"  missing  {name}: {SETUP}", False
    return f"  ok       {name} {_version(package)}", True


def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:  # the same module from another distribution, such as opencv-python
        return "(version unknown)"


def _opengl() -> tuple[str, bool]:
    try:
        from .raster.opengl import device_name

        return f"  ok       OpenGL: {device_name()}", True
    except ImportError as error:
        return f"  missing  OpenGL: {error.name} is not installed", False
    except Ex4dError as error:
        return f"  missing  {error}", False


def _h264() -> tuple[str, bool]:
    try:
        import av

        av.CodecContext.create("libx264", "w")
    except ImportError as error:
        return f"  missing  H.264 encoder: {error.name} is not installed", False
    except (av.FFmpegError, ValueError):
        return f"  missing  H.264 encoder: this PyAV was built without x264; {SETUP}", False
    return "  ok       H.264 encoder", True


def _nvdiffrast() -> str:
    if importlib.util.find_spec("nvdiffrast") is None:
        return "  absent   nvdiffrast (optional; its licence allows research and evaluation only)"
    return f"  ok       nvdiffrast {_version('nvdiffrast')} (research and evaluation only)"


def _torchao() -> str:
    if importlib.util.find_spec("torchao") is None:
        return "  absent   torchao (optional; memory tier 24 is slower without it: see the README)"
    version = _version("torchao")
    try:
        importlib.import_module("torchao")
    except Exception as error:  # made for another PyTorch, say: its modules and libraries may raise anything
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        return (
            f"  broken   torchao {version} does not load ({reason}), and transformers not beside it: "
            "run `pip uninstall torchao` in the engine's environment"
        )
    return f"  ok       torchao {version} (for precision float8)"


def _accelerator() -> str:
    try:
        import torch
    except ImportError:
        return f"  absent   CUDA device: torch is not installed; {SETUP}"
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


def _presets() -> list[str]:
    """Whether `draft` could start here and the models of the others are here; whether those fit in memory is said
    when one is started."""
    from .stages.diffusion_presets import MODELS_OF, check_preset, preset_models
    from .stages.generate_options import GenerateOptions

    lines = ["  preset   preview: works here"]
    try:
        check_preset("draft", GenerateOptions())
        lines.append("  preset   draft: works here")
    except Ex4dError as error:
        lines.append(f"  preset   draft: {error}")
    for name in MODELS_OF:
        try:
            preset_models(name, GenerateOptions())
            lines.append(f"  preset   {name}: its models are here")
        except Ex4dError as error:
            lines.append(f"  preset   {name}: {error}")
    return lines


def depth_lines() -> list[str]:
    """A line for each depth source: whether it works here, and what it lacks otherwise."""
    try:
        from .depth import default_source, depth_sources

        names = list(depth_sources())
    except ImportError as error:
        return [f"  depth    none: {error.name} is not installed"]
    try:
        default = default_source()
    except Ex4dError:  # the sources that need a model say it
        default = ""
    return [f"  depth    {name}: {_depth_state(name)}{', the default' * (name == default)}" for name in names]


def _depth_state(name: str) -> str:
    from .depth import bundled, depth_source, depth_sources
    from .depth.network_weights import missing_weights
    from .depth.openvino_step import openvino_version
    from .models.store import installed

    if name == "file":
        return "works with depth maps of your own"
    try:
        if depth_sources()[name].needs_download:  # type: ignore[attr-defined]  # a class, as every source is
            models = [found.model.name for found in installed()]
            variants = [model.removeprefix(f"{name}-") for model in models if model.startswith(f"{name}-")]
            if variants:
                return f"works here ({', '.join(variants)})"
        depth_source(name)
        if name == "bundled":
            if not bundled.WEIGHTS.is_file():
                raise missing_weights(bundled.WEIGHTS)
            version = openvino_version()
            return (
                f"works here (on a CPU by {f'OpenVINO {version}' if version else 'torch: OpenVINO is not installed'})"
            )
    except Ex4dError as error:
        return str(error)
    return "works here"


def _ok(enough: bool) -> str:
    return "ok      " if enough else "low     "
