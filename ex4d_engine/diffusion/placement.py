# SPDX-License-Identifier: GPL-3.0-or-later
"""The transformer made fast and small on its device: adapters fused, precision, offloading, attention, compilation.

The order matters: adapters are fused into full-precision weights, the result is cast or quantised, then hooks and
compilation go on top. It is done block by block, so that the card never holds more than the finished model and one
block.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import torch
from diffusers import FirstBlockCacheConfig
from diffusers.hooks import apply_group_offloading, apply_layerwise_casting
from diffusers.hooks.layerwise_casting import DEFAULT_SKIP_MODULES_PATTERN
from diffusers.utils.peft_utils import recurse_remove_peft_layers
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import nn

from ..errors import Ex4dError
from ..progress import Reporter
from .tiers import Precision
from .transformer import Ex4dTransformer3DModel

FIRST_BLOCK_THRESHOLD: Final = 0.05
ROW_SCALE_CAPABILITY: Final = (9, 0)  # Hopper; scales per row need it


def place_transformer(
    transformer: Ex4dTransformer3DModel,
    device: torch.device,
    *,
    precision: Precision,
    offloaded: bool,
    adapters: Sequence[str],
    reporter: Reporter,
) -> None:
    """Fuses the adapters and brings the transformer where it computes, in its precision.

    Args:
        transformer: on the CPU, with the adapters attached.
        device: where it computes.
        precision: "float8" quantises the blocks' linear layers to float8, dynamically and per row, where the device
            multiplies in float8 (`can_multiply_float8`) and the blocks stay there; else they are only kept in it.
        offloaded: blocks stay in the CPU's memory and visit the device one ahead of their turn.
        adapters: names to fuse, each at scale 1; none to leave all attached, as for training.
        reporter: told of each block; its `check` is called between them.
    """
    blocks = transformer.blocks
    for done, block in enumerate(blocks):
        reporter.check()
        reporter.progress("place model", done, len(blocks))
        block.to(device)
        if adapters:
            fuse_adapters(block, adapters)
        if precision == "float8":
            if offloaded or not can_multiply_float8(device):
                _store_in_float8(block, transformer.dtype)
            else:
                quantise_float8(block, device)
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


def can_multiply_float8(device: torch.device) -> bool:
    """Whether the device has matrix products of float8 with a scale a row."""
    return device.type == "cuda" and torch.cuda.get_device_capability(device) >= ROW_SCALE_CAPABILITY


def quantise_float8(block: nn.Module, device: torch.device) -> None:
    """Linear layers of float8 weights and activations, a scale a row, by torchao.

    Raises:
        Ex4dError: `missing_package` without torchao.
    """
    try:
        from torchao.quantization import Float8DynamicActivationFloat8WeightConfig, PerRow, quantize_
    except ImportError as error:
        raise Ex4dError(
            "missing_package",
            f"Precision float8 needs torchao, which does not load ({error}).",
            "Install torchao into the engine's environment, or choose precision exact.",
        ) from error
    # without torchao's settings of the compiler, which try kernels for minutes at the first forward
    config = Float8DynamicActivationFloat8WeightConfig(granularity=PerRow(), set_inductor_config=False)
    quantize_(block, config, device=device)


def _store_in_float8(block: nn.Module, compute_dtype: torch.dtype) -> None:
    """Weights kept in float8 and widened for each use: half the memory, no faster."""
    apply_layerwise_casting(
        block,
        storage_dtype=torch.float8_e4m3fn,
        compute_dtype=compute_dtype,
        skip_modules_pattern=(*DEFAULT_SKIP_MODULES_PATTERN, "norm", "scale_shift_table"),
    )


def compile_blocks(transformer: Ex4dTransformer3DModel) -> None:
    """Compiles what a block computes, once for all of them, at the first forward.

    The inner forward and not the whole call, so that the hooks of caches and offloading, which decide in Python,
    stay outside of the graph. Sizes are compiled for as they come, since one video has one or two of them.
    """
    torch._dynamo.config.recompile_limit = max(torch._dynamo.config.recompile_limit, 64)
    for block in transformer.blocks:
        block.forward = torch.compile(block.forward, fullgraph=True, dynamic=False)


def enable_cache(transformer: Ex4dTransformer3DModel, threshold: float = FIRST_BLOCK_THRESHOLD) -> None:
    """FirstBlockCache: a forward ends after its first block where that block's outcome hardly changed. Not exact.

    After `compile_blocks`. The pipeline empties it between runs.

    Args:
        threshold: relative change of the first block's residual below which the other blocks' is used again.
    """
    transformer.enable_cache(FirstBlockCacheConfig(threshold=threshold))
