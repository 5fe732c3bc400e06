# SPDX-License-Identifier: GPL-3.0-or-later
"""The transformer in float8: multiplied in it, or only kept in it and widened for each use; and which of the two this
machine can do."""

from __future__ import annotations

import importlib.util
import sys
from typing import Final, Literal

import torch
from diffusers.hooks import apply_layerwise_casting
from diffusers.hooks.layerwise_casting import DEFAULT_SKIP_MODULES_PATTERN
from torch import nn

from ..errors import Ex4dError

Float8 = Literal["products", "storage"]
"""Products want a graphics card for them and torchao. Storage runs everywhere; it saves memory and no time."""

TORCHAO: Final = "torchao==0.18.0"
"""As in requirements/float8.txt."""
PRODUCTS_CAPABILITY: Final = (8, 9)
"""Ada. What torchao asks for, and the least that PyTorch has a kernel for with a scale a row."""


def platform_lack(device: torch.device) -> str | None:
    """Why there are no products of float8 with a scale a row here, as half a sentence; None where there are."""
    if device.type != "cuda" or torch.version.hip is not None:
        return "only NVIDIA's graphics cards multiply in float8"
    if sys.platform == "win32":  # PyTorch is built without that kernel there
        return "PyTorch does not multiply in float8 on Windows"
    if torch.cuda.get_device_capability(device) < PRODUCTS_CAPABILITY:
        return "this graphics card does not multiply in float8"
    return None


def torchao_lack() -> str | None:
    """What is wrong with torchao, as half a sentence; None where it loads."""
    if importlib.util.find_spec("torchao") is None:
        return "torchao is not installed"
    try:
        from torchao.quantization import (  # noqa: F401 - whether they can be had is the question
            Float8DynamicActivationFloat8WeightConfig,
            PerRow,
            quantize_,
        )
    except (ImportError, AttributeError) as error:  # made for another PyTorch, or too old
        return f"torchao does not load ({error})"
    return None


def torchao_missing(lack: str) -> Ex4dError:
    """`missing_package`: float8 was asked for by name, and torchao lacks.

    Args:
        lack: from `torchao_lack`.
    """
    return Ex4dError(
        "missing_package",
        f"Precision float8 needs torchao on this graphics card, and {lack}.",
        f"Run `pip install {TORCHAO}` in the engine's environment, or choose precision auto or exact.",
    )


def storage_note(lack: str, torchao_helps: bool) -> str:
    """The sentence that says why weights are only kept in float8, and what would change that.

    Args:
        lack: from `platform_lack` or `torchao_lack`.
        torchao_helps: whether installing it would bring products of float8.
    """
    note = f"Weights are kept in float8 and widened for each use, uncompiled, as {lack}"
    if torchao_helps:
        note += f"; with it (`pip install {TORCHAO}` in the engine's environment) products run in float8 too, faster"
    return f"{note}."


def quantise_float8(block: nn.Module, device: torch.device) -> None:
    """Linear layers of float8 weights and activations, a scale a row, by torchao.

    Raises:
        Ex4dError: `missing_package` without torchao.
    """
    if lack := torchao_lack():
        raise torchao_missing(lack)
    from torchao.quantization import Float8DynamicActivationFloat8WeightConfig, PerRow, quantize_

    # without torchao's settings of the compiler, which try kernels for minutes at the first forward
    config = Float8DynamicActivationFloat8WeightConfig(granularity=PerRow(), set_inductor_config=False)
    quantize_(block, config, device=device)


def store_in_float8(block: nn.Module, compute_dtype: torch.dtype) -> None:
    """Weights kept in float8 and widened for each use: half the memory, no faster, and nothing that compiles."""
    apply_layerwise_casting(
        block,
        storage_dtype=torch.float8_e4m3fn,
        compute_dtype=compute_dtype,
        skip_modules_pattern=(*DEFAULT_SKIP_MODULES_PATTERN, "norm", "scale_shift_table"),
    )
