# SPDX-License-Identifier: GPL-3.0-or-later
"""The transformer made fast and small on its device: adapters fused, precision, offloading, caching.

The order matters: adapters are fused into full-precision weights, the result is cast or quantised, then hooks and
compilation go on top. It is done block by block, so that the card never holds more than the finished model and one
block.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import torch
from diffusers import FirstBlockCacheConfig
from diffusers.hooks import apply_group_offloading
from diffusers.utils.peft_utils import recurse_remove_peft_layers
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import nn

from ..progress import Reporter
from .float8 import Float8, quantise_float8, store_in_float8
from .transformer import Ex4dTransformer3DModel

FIRST_BLOCK_THRESHOLD: Final = 0.05


def place_transformer(
    transformer: Ex4dTransformer3DModel,
    device: torch.device,
    *,
    float8: Float8 | None,
    offloaded: bool,
    adapters: Sequence[str],
    reporter: Reporter,
) -> None:
    """Fuses the adapters and brings the transformer where it computes, in its precision.

    Args:
        transformer: on the CPU, with the adapters attached.
        device: where it computes.
        float8: "products" quantises the blocks' linear layers, dynamically and per row; "storage" only keeps their
            weights in it; None leaves them as they are.
        offloaded: blocks stay in the CPU's memory and visit the device one ahead of their turn.
        adapters: names to fuse, each at scale 1; none to leave all attached, as for training.
        reporter: told of each block; its `check` is called between them.

    Raises:
        Ex4dError: `missing_package` for "products" without torchao; `cancelled`.
    """
    blocks = transformer.blocks
    for done, block in enumerate(blocks):
        reporter.check()
        reporter.progress("place model", done, len(blocks))
        block.to(device)
        if adapters:
            fuse_adapters(block, adapters)
        if float8 == "products":
            quantise_float8(block, device)
        elif float8 == "storage":
            store_in_float8(block, transformer.dtype)
        if offloaded:
            block.to("cpu")
    if adapters:
        recurse_remove_peft_layers(transformer)
        transformer.unload_lora()
    if offloaded:
        apply_group_offloading(
            transformer,
            onload_device=device,
            offload_type="block_level",
            num_blocks_per_group=1,
            use_stream=device.type == "cuda",
            non_blocking=device.type == "cuda",
        )
    else:
        transformer.to(device)
    reporter.progress("place model", len(blocks), len(blocks))


@torch.no_grad()
def fuse_adapters(module: nn.Module, adapters: Sequence[str]) -> None:
    """Adds the adapters' changes to the linear layers below `module` and takes the adapters away."""
    for layer in module.modules():
        if isinstance(layer, BaseTunerLayer):
            layer.merge(adapter_names=list(adapters))
    recurse_remove_peft_layers(module)


def enable_cache(transformer: Ex4dTransformer3DModel, threshold: float = FIRST_BLOCK_THRESHOLD) -> None:
    """FirstBlockCache: a forward ends after its first block where that block's outcome hardly changed. Not exact.

    After `CompiledBlocks`. The pipeline empties it between runs.

    Args:
        threshold: relative change of the first block's residual below which the other blocks' is used again.
    """
    transformer.enable_cache(FirstBlockCacheConfig(threshold=threshold))
