# SPDX-License-Identifier: GPL-3.0-or-later
"""What a run takes of the computer's main memory, compared with what is free before anything is loaded.

Weights whose files are in the precision they compute in are mapped: the system may take those pages back, and they
are not counted. Everything else is a copy of its own, in each process that shares the work.
"""

from __future__ import annotations

from typing import Final

import psutil
import torch

from ..bundled_model import smaller_preset
from ..errors import Ex4dError
from .tiers import GIB, OTHER_MODELS_GIB, OTHER_MODELS_OF, Precision, Tier, bytes_a_weight, next_smaller
from .transformer_size import TransformerSize

PINNED_SHARE: Final = 1.5
"""Page-locked memory for a byte of weights: PyTorch rounds each tensor up to a power of two. Of the 14B model's blocks,
10 matrices of 5120 × 5120 and 2 of 5120 × 13824: by 1.28 and 1.90."""


def loading_gib(size: TransformerSize, dtype: torch.dtype) -> float:
    """What loading takes, GiB: the copy in the precision it computes in, until the weights are where they belong.

    The published files are float32, so that a card's bfloat16 is such a copy in every memory tier.
    """
    return 0.0 if size.stored == dtype else size.parameters * dtype.itemsize / GIB


def running_gib(size: TransformerSize, tier: Tier, precision: Precision, frames: int = 0) -> float:
    """What is there from the first forward on, GiB.

    diffusers keeps a page-locked copy of each block that waits, beside the block, which goes when the block has been
    to the card and back: in the first forward, for which the frames are there already.

    Args:
        size: of the transformer.
        tier, precision: how it is kept on a graphics card.
        frames: bytes of the frames in hand, see `VideoPlan.host_bytes`.
    """
    waiting = size.parameters * bytes_a_weight(precision) * (1 + PINNED_SHARE) / GIB if tier.offloaded else 0.0
    # mapped until a layer has been to the card and back
    others = OTHER_MODELS_GIB * min(1.0, size.parameters / OTHER_MODELS_OF) if tier.small_offloaded else 0.0
    return waiting + others + frames / GIB


def require_main_memory(
    size: TransformerSize, tier: Tier, precision: Precision, dtype: torch.dtype, *, frames: int = 0, ranks: int = 1
) -> None:
    """Refuses a run on graphics cards whose models and frames do not fit the main memory.

    Not to be asked while models of this process still hold that memory. Ranks ask at the same time, before any of
    them loads.

    Args:
        size, tier, precision, frames: as of `running_gib`.
        dtype: in which the transformer computes.
        ranks: processes that each load the models.

    Raises:
        Ex4dError: `out_of_memory`; its action is the next tier that would fit, else a smaller preset.
    """
    free = psutil.virtual_memory().available / GIB
    loading = loading_gib(size, dtype)

    def need(of: Tier, kept_as: Precision) -> float:
        return ranks * max(loading, running_gib(size, of, kept_as, frames))

    if need(tier, precision) <= free:
        return
    smaller = next_smaller(tier)
    while smaller is not None and need(smaller, smaller.precision) > free:
        smaller = next_smaller(smaller)
    if tier.offloaded:
        why = f"In memory tier {tier.name} the model waits in main memory, which takes"
    else:
        why = f"Loading this model in memory tier {tier.name} takes"
    by = f" for {ranks} graphics cards" if ranks > 1 else ""
    preset = smaller_preset(size.parameters)
    remedy = f"Choose memory tier {smaller.name}, " if smaller else "Share the work among fewer, " if ranks > 1 else ""
    raise Ex4dError(
        "out_of_memory",
        f"{why} about {need(tier, precision):.0f} GiB of main memory{by}, and {free:.0f} are free.",
        f"{remedy}or close other programs." if remedy else f"Close other programs, or use preset {preset}.",
        f"tier:{smaller.name}" if smaller else f"preset:{preset}",
    )


def check_main_memory(need_bytes: int) -> None:
    """Refuses, before any work, frames whose windows do not fit the CPU's memory; see `VideoPlan.host_bytes`.

    Raises:
        Ex4dError: `out_of_memory`.
    """
    free = psutil.virtual_memory().available
    if need_bytes > free:
        raise Ex4dError(
            "out_of_memory",
            f"Frames of this size take about {need_bytes / GIB:.0f} GiB of main memory, and {free / GIB:.0f} are free.",
            "Choose less detail or a shorter window, or close other programs.",
        )
