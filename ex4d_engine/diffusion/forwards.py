# SPDX-License-Identifier: GPL-3.0-or-later
"""How many forwards a run took, and how many of them a block cache cut short: counted, not computed from settings."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from diffusers.hooks.first_block_cache import _FBC_LEADER_BLOCK_HOOK
from torch import nn


@dataclass
class Forwards:
    """begun: forwards of the transformer. cut_short: those among them that ended after their first block."""

    begun: int = 0
    cut_short: int = 0

    def to_json(self) -> dict[str, int]:
        return {"begun": self.begun, "cut_short": self.cut_short}


@contextmanager
def counted_forwards(transformer: nn.Module, before: Forwards) -> Iterator[Forwards]:
    """Counts this process's forwards within the block, onto what an interrupted run had counted before.

    Args:
        transformer: with its cache enabled, or without one.
        before: where to begin.
    """
    counted = Forwards(before.begun, before.cut_short)

    def begin(module: nn.Module, arguments: Any) -> None:
        counted.begun += 1

    def end(module: nn.Module, arguments: Any, output: Any) -> None:
        counted.cut_short += _was_cut_short(module)

    hooks = (transformer.register_forward_pre_hook(begin), transformer.register_forward_hook(end))
    try:
        yield counted
    finally:
        for hook in hooks:
            hook.remove()


def _was_cut_short(transformer: Any) -> bool:
    """Whether FirstBlockCache let the forward that has just ended skip all blocks but the first."""
    registry = getattr(transformer.blocks[0], "_diffusers_hook", None)
    hook = registry.get_hook(_FBC_LEADER_BLOCK_HOOK) if registry is not None else None
    return hook is not None and not hook.state_manager.get_state().should_compute
