# SPDX-License-Identifier: GPL-3.0-or-later
"""A trained adapter as one file in the published checkpoint's layout, which `final` and every other tool reads."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from ..diffusion.checkpoints import LORA_TARGETS, original_lora_name
from ..tensor_saving import save_tensors
from .lora_config import AdapterShape


def export_adapter(
    path: Path, tensors: Mapping[str, Tensor], shape: AdapterShape, layers: Mapping[str, tuple[int, int]]
) -> None:
    """Writes trained tensors as an EX-4D adapter file, in float32.

    The layout has no place for alpha, so it is multiplied into the second matrix; and it has a LoRA at every layer of
    `LORA_TARGETS`, so layers that were not trained get one that adds nothing.

    Args:
        path: the file to write.
        tensors: by published name, whole and on the CPU.
        shape: rank and alpha they were trained with.
        layers: from `layer_sizes`.

    Raises:
        Ex4dError: `disk_full`, `read_only`.
    """
    save_tensors(path, adapter_tensors(tensors, shape, layers))


def adapter_tensors(
    tensors: Mapping[str, Tensor], shape: AdapterShape, layers: Mapping[str, tuple[int, int]]
) -> dict[str, Tensor]:
    """The tensors of an EX-4D adapter file in float32; arguments as of `export_adapter`."""
    scale = shape.alpha / shape.rank
    result = {name: value.float() * (scale if ".lora_B." in name else 1) for name, value in tensors.items()}
    for name, (inputs, outputs) in layers.items():
        result.setdefault(f"{name}.lora_A.default.weight", torch.zeros(shape.rank, inputs))
        result.setdefault(f"{name}.lora_B.default.weight", torch.zeros(outputs, shape.rank))
    return result


def layer_sizes(transformer: nn.Module) -> dict[str, tuple[int, int]]:
    """Inputs and outputs of the layers that an adapter has a LoRA at, by their names in the published checkpoint."""
    sizes = {}
    for name, module in transformer.named_modules():
        name = name.removesuffix(".base_layer")  # where a LoRA is attached
        if isinstance(module, nn.Linear) and name.startswith("blocks.") and name.endswith(LORA_TARGETS):
            sizes[original_lora_name(f"{name}.").removesuffix(".")] = (module.in_features, module.out_features)
    return sizes
