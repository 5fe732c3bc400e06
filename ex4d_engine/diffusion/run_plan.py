# SPDX-License-Identifier: GPL-3.0-or-later
"""Whether and how a run fits this machine, decided before anything is loaded."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

import psutil
import torch

from ..bundled_model import smaller_preset
from ..errors import Ex4dError
from .float8 import Float8, platform_lack, storage_note, torchao_lack, torchao_missing
from .main_memory import require_main_memory
from .tiers import GIB, TIERS, WORKSPACE_GIB, Precision, Tier, chosen_tier, need_gib
from .transformer_size import WAN_I2V_14B_SIZE, TransformerSize, transformer_size

if TYPE_CHECKING:
    from .ranks import Ranks

NEEDS_CARD: Final = 2_000_000_000
"""Parameters above which a transformer is refused on a CPU: a step would take hours."""
SMALL: Final = 200_000_000
"""Parameters up to which a transformer computes in float32 wherever it runs: half precision would save nothing that
counts, older graphics cards lack it, and every device gives the same picture."""
LIBRARIES_GIB: Final = 0.8
"""Python with torch and diffusers, on a CPU."""
COMPILE_FROM_FORWARDS: Final = 30
"""Compiling anew took 17 s on an H100 and saves 0.19 s a forward, so it pays from 90; the code is kept for later runs,
for which loading it pays sooner. Excludes preset fast, of 4 forwards a window."""


@dataclass(frozen=True)
class RuntimeOptions:
    """How the models run. Plain values, recorded in the take.

    Attributes:
        tier: "auto" is the fastest that fits the free memory; else a name of `tiers.TIERS`.
        precision: "auto" is the tier's own; "exact" is bfloat16 (float32 on a CPU); "float8" multiplies in it where
            the device can and the blocks stay there, for which it needs torchao, and else keeps weights in it.
        attention: "auto" tries the kernels for a second; else a backend's name in diffusers.
        compile: "auto" compiles on a graphics card where there are enough forwards to pay; "on"; "off". Weights that
            come or are widened for each use are never compiled.
        cache: "none", or "first-block": forwards whose first block hardly changed are cut short.
    """

    tier: str = "auto"
    precision: str = "auto"
    attention: str = "auto"
    compile: str = "auto"
    cache: str = "none"


@dataclass(frozen=True)
class ModelPaths:
    """folder: diffusers' layout. adapter: EX-4D's, None where the folder holds it. fast_lora: step distillation."""

    folder: Path
    adapter: Path | None
    fast_lora: Path | None = None


@dataclass(frozen=True)
class RunPlan:
    """Where and how a run's models are kept, decided by the memory that was free.

    Attributes:
        size: of the transformer.
        tokens: of a window, or of the largest tile of it.
        device, dtype: where and in what they compute.
        tier, need_gib: from `tiers.chosen_tier`.
        float8: what precision float8 means here; None for exact.
        compiled: whether the blocks are compiled.
        notes: sentences for the user on what is not as he may expect.
    """

    size: TransformerSize
    tokens: int
    device: torch.device
    dtype: torch.dtype
    tier: Tier
    need_gib: float
    float8: Float8 | None
    compiled: bool
    notes: tuple[str, ...] = ()

    @property
    def precision(self) -> Precision:
        return "exact" if self.float8 is None else "float8"


def plan_run(
    paths: ModelPaths,
    options: RuntimeOptions,
    tokens: int,
    forwards: int,
    ranks: Ranks | None = None,
    frame_bytes: int = 0,
) -> RunPlan:
    """The plan of a run of `forwards` forwards.

    Args:
        paths, options, tokens, ranks, frame_bytes: as of `open_pipeline`.
        forwards: of the whole run.

    Raises:
        Ex4dError: `model_missing`, `model_invalid`; `out_of_memory` with what it would need; `missing_package` for
            float8 asked for by name; `bad_request`.
    """
    size = transformer_size(paths.folder)
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    device = compute_device(ranks, size)
    if ranks is None:
        device, tier, precision, need = _placement(size, options, tokens, device)
    else:  # which have to stay together
        tier, precision, need = _memory_plan(size, options, tokens, device, ranks=ranks.world_size)
    dtype = _compute_dtype(device, size)
    if device.type == "cuda":
        world = ranks.world_size if ranks is not None else 1
        require_main_memory(size, tier, precision, dtype, frames=frame_bytes, ranks=world)
    float8, note = _float8(options, device, tier, precision)
    notes = [note] if note else []
    can_compile = not tier.offloaded and float8 != "storage"  # no graph holds what brings or widens the weights
    if options.compile == "on" and not can_compile:
        notes.append("Nothing is compiled, as weights that come or are widened for each use cannot be.")
    compiled = can_compile and (
        options.compile == "on"
        or (
            options.compile == "auto"
            and device.type == "cuda"
            and os.name != "nt"  # no compiler for the graphics card comes with PyTorch there
            and forwards >= COMPILE_FROM_FORWARDS
        )
    )
    return RunPlan(size, tokens, device, dtype, tier, need, float8, compiled, tuple(notes))


def _float8(
    options: RuntimeOptions, device: torch.device, tier: Tier, precision: Precision
) -> tuple[Float8 | None, str]:
    """What precision float8 means on the device, and what is to be said of it.

    A graphics card that cannot multiply in it is as it is, and keeps weights in it whoever asks; a package can be
    installed, so who asked for float8 by name is told before anything is loaded.

    Raises:
        Ex4dError: `missing_package`.
    """
    if precision == "exact":
        return None, ""
    if tier.offloaded:  # what comes over the bus for each use is widened there
        return "storage", ""
    if lack := platform_lack(device):
        return "storage", storage_note(lack, torchao_helps=False)
    if (lack := torchao_lack()) is None:
        return "products", ""
    if options.precision == "float8":
        raise torchao_missing(lack)
    return "storage", storage_note(lack, torchao_helps=True)


def compute_device(ranks: Ranks | None = None, size: TransformerSize | None = None) -> torch.device:
    """The rank's device, else the first graphics card, else the CPU. Apple's graphics count for a small model only."""
    if ranks is not None:
        return ranks.device
    if torch.cuda.is_available():
        return torch.device("cuda", 0)
    if size is not None and size.parameters <= SMALL and torch.backends.mps.is_available():
        return torch.device("mps")
    return torch.device("cpu")


def _compute_dtype(device: torch.device, size: TransformerSize) -> torch.dtype:
    return torch.bfloat16 if device.type == "cuda" and size.parameters > SMALL else torch.float32


def check_memory(paths: ModelPaths | None, options: RuntimeOptions, tokens: int, held_gib: float = 0.0) -> None:
    """Refuses, before any work, what cannot run here; cheap.

    Args:
        paths, options, tokens: as of `open_pipeline`; without paths the model counts as Wan's, as published.
        held_gib: memory of the device that models of this process hold and would give back first.

    Raises:
        Ex4dError: `model_missing`, `model_invalid`; `out_of_memory` with what it would need; `missing_package` for
            float8 asked for by name; `bad_request`.
    """
    size = WAN_I2V_14B_SIZE if paths is None else transformer_size(paths.folder)
    if paths is not None and paths.fast_lora is not None and not paths.fast_lora.exists():
        raise Ex4dError("model_missing", f"There is no {paths.fast_lora}.", "Download it, or choose preset final.")
    device, tier, precision, _ = _placement(size, options, tokens, compute_device(None, size), held_gib)
    _float8(options, device, tier, precision)
    if device.type == "cuda" and not held_gib:  # models that are held may hold main memory too
        require_main_memory(size, tier, precision, _compute_dtype(device, size))


def _placement(
    size: TransformerSize, options: RuntimeOptions, tokens: int, device: torch.device, held_gib: float = 0.0
) -> tuple[torch.device, Tier, Precision, float]:
    """Where and how the transformer is kept, and what it needs. A small one goes to the CPU where others fill the
    graphics card."""
    try:
        return device, *_memory_plan(size, options, tokens, device, held_gib)
    except Ex4dError as error:
        is_small = size.parameters <= SMALL
        if error.code != "out_of_memory" or not is_small or device.type != "cuda" or options.tier != "auto":
            raise
    device = torch.device("cpu")
    return device, *_memory_plan(size, options, tokens, device)


def _memory_plan(
    size: TransformerSize,
    options: RuntimeOptions,
    tokens: int,
    device: torch.device,
    held_gib: float = 0.0,
    ranks: int = 1,
) -> tuple[Tier, Precision, float]:
    arguments = (size.parameters, size.layers, size.width, tokens, size.vae_gib)
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        free += torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        precision = "exact" if size.parameters <= SMALL else options.precision
        return chosen_tier(options.tier, precision, free / GIB + held_gib, *arguments)
    tier, exact, need = chosen_tier("48", "exact", float("inf"), *arguments)
    if size.parameters > NEEDS_CARD:
        smallest, preset = _smallest_need(arguments), smaller_preset(size.parameters)
        raise Ex4dError(
            "out_of_memory",
            f"This model has {size.parameters / 1e9:.0f} billion parameters and needs an NVIDIA graphics card with "
            f"{smallest:.0f} GiB free at least, {need:.0f} for full speed; this machine has none that PyTorch can use.",
            f"Use preset {preset} here, or run the shot folder on a machine with such a card.",
            f"preset:{preset}",
        )
    free = psutil.virtual_memory().available / GIB + held_gib
    need = 2 * (need - WORKSPACE_GIB) + LIBRARIES_GIB  # float32, and no graphics card's workspace
    if ranks * need > free:
        preset = smaller_preset(size.parameters)
        raise Ex4dError(
            "out_of_memory",
            f"This model needs about {ranks * need:.1f} GiB of memory, and {free:.1f} are free.",
            f"Close other programs, or use preset {preset}.",
            f"preset:{preset}",
        )
    return tier, exact, need


def _smallest_need(arguments: tuple[int, int, int, int, float]) -> float:
    return min(need_gib(tier, tier.precision, *arguments) for tier in TIERS)
