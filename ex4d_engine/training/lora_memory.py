# SPDX-License-Identifier: GPL-3.0-or-later
"""What training an adapter needs of a machine, told before anything is loaded."""

from __future__ import annotations

from pathlib import Path
from typing import Final

import psutil
import torch

from ..diffusion.parallel import token_count
from ..diffusion.transformer_size import TransformerSize, transformer_size
from ..errors import Ex4dError
from .lora_config import LoraTraining

GIB: Final = 2**30
_MOST_ON_CPU: Final = 2e9
"""Parameters of the largest base that is trained without a graphics card: a step of it takes minutes."""
_BLOCK_WIDTHS: Final = 45
"""Values a token that a block at work remembers for its backward pass, in widths of the transformer."""
_WORKSPACE_GIB: Final = 1.0
_PROCESS_GIB: Final = 1.0
"""What else lies in main memory where that is the device's: the libraries, and what validation takes."""


def training_need_gib(training: LoraTraining, size: TransformerSize, ranks: int, bytes_per_value: int) -> float:
    """What one of `ranks` devices has to hold, about: weights, adapter and optimiser, what the backward pass reads.

    Args:
        training: what is trained.
        size: of the base's transformer.
        ranks: that share the weights.
        bytes_per_value: of the base's weights and activations: 2 in bfloat16.
    """
    data, shape, optimiser = training.data, training.adapter, training.optimiser
    tokens = token_count(data.frames, data.height, data.width) * optimiser.micro_batch
    block = size.parameters / size.layers
    weights = size.parameters / ranks + (2 * block if ranks > 1 else 0)  # the block at work and the next are whole
    ffn = max(0.0, (block - 10 * size.width**2) / (2 * size.width))
    lora = shape.rank * size.layers * (16 * size.width + 2 * (size.width + ffn)) * len(shape.targets) / 6
    camera = 2 * shape.camera_channels**2 + 4 * shape.camera_channels * size.width
    copies = 5 if optimiser.average_kept else 4  # weight, gradient, two moments, average; all in float32
    trained = 4 * copies * (lora + camera) / ranks
    remembered = size.layers + _BLOCK_WIDTHS if optimiser.gradient_checkpointing else size.layers * _BLOCK_WIDTHS
    activations = tokens * size.width * remembered * bytes_per_value
    # the camera encoder's three hidden layers, with four positions to a token, in float32
    activations += 4 * tokens * shape.camera_channels * 6 * 4
    return (weights * bytes_per_value + trained + activations) / GIB + _WORKSPACE_GIB


def check_machine(training: LoraTraining, model_folder: Path, device: torch.device, ranks: int) -> float:
    """What a device has to hold, in GiB, see `training_need_gib`.

    Raises:
        Ex4dError: `out_of_memory` if the machine cannot do it, with what it would take.
    """
    size = transformer_size(model_folder)
    millions = size.parameters / 1e6
    parameters = f"{millions / 1e3:.1f} billion parameters" if millions >= 1e3 else f"{millions:.0f} million parameters"
    if device.type != "cuda":
        if size.parameters > _MOST_ON_CPU:
            need = training_need_gib(training, size, 1, 2)
            raise Ex4dError(
                "out_of_memory",
                f"{training.model.title} has {parameters}: training it takes a graphics card with about {need:.0f} "
                "GiB, and there is none here.",
                "Train on a machine that has one, or choose a small model.",
            )
        free = psutil.virtual_memory().available / GIB
        need = training_need_gib(training, size, 1, 4) + _PROCESS_GIB
    else:
        free = torch.cuda.mem_get_info(device)[0] / GIB
        need = training_need_gib(training, size, ranks, 2)
    if need > free:
        hints = ["fewer frames", "a smaller size"]
        if training.optimiser.micro_batch > 1:
            hints.insert(0, "a smaller micro_batch")
        if not training.optimiser.gradient_checkpointing:
            hints.insert(0, "gradient_checkpointing")
        if device.type == "cuda":
            hints.append("more graphics cards (--gpus)")
        raise Ex4dError(
            "out_of_memory",
            f"Training {training.model.title} ({parameters}) so takes about {need:.1f} GiB of {device}, "
            f"which has {free:.1f} GiB free.",
            f"Choose {', '.join(hints[:-1])} or {hints[-1]}.",
        )
    return need
