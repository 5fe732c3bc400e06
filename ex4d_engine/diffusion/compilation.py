# SPDX-License-Identifier: GPL-3.0-or-later
"""The transformer's blocks compiled, and the way on where that fails."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Any, Final

import torch
from torch._dynamo.exc import FailOnRecompileLimitHit, TorchDynamoException

from ..progress import Reporter
from .transformer import Ex4dTransformer3DModel

FAILURES: Final = (TorchDynamoException, FailOnRecompileLimitHit)
"""What is raised while compiling: by PyTorch's tracer, and by its compilers as the tracer hands it on."""


class CompiledBlocks:
    """Compiles what a block computes, once for all of them, at the first forward; where that fails, all are uncompiled.

    The inner forward and not the whole call, so that the hooks of caches, which decide in Python, stay outside of the
    graph: to be made before them. Sizes are compiled for as they come, since one video has one or two of them.

    Args:
        transformer: whose blocks' `forward` is replaced. Weights that come or are widened for each use do not compile.
        reporter: told once, should compiling fail. Also an attribute: kept models serve one job after another.
    """

    def __init__(self, transformer: Ex4dTransformer3DModel, reporter: Reporter) -> None:
        self.reporter = reporter
        self._has_failed = False
        torch._dynamo.config.recompile_limit = max(torch._dynamo.config.recompile_limit, 64)
        for block in transformer.blocks:
            block.forward = self._guarded(block.forward)

    def _guarded(self, plain: Callable[..., Any]) -> Callable[..., Any]:
        compiled = torch.compile(plain, fullgraph=True, dynamic=False)

        @wraps(plain)
        def forward(*args: Any, **kwargs: Any) -> Any:
            if not self._has_failed:
                try:
                    return compiled(*args, **kwargs)
                except FAILURES as error:
                    self._has_failed = True
                    self.reporter.log(f"Compiling failed ({_reason(error)}): the run goes on uncompiled, slower.")
            # outside of the handler, as the error holds tensors
            return plain(*args, **kwargs)

        return forward


def _reason(error: BaseException) -> str:
    """The error's first line; of what a compiler raised, which the tracer wraps in many, its own."""
    error = getattr(error, "inner_exception", error)
    lines = str(error).splitlines()
    return lines[0].rstrip(".:") if lines else type(error).__name__
