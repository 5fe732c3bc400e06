# SPDX-License-Identifier: GPL-3.0-or-later
"""The transformer's blocks compiled, and the way on where that fails.

PyTorch's tracer raises `TorchDynamoException` for what it cannot trace and for what its compilers raise, and
`FailOnRecompileLimitHit` where there are too many sizes.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Any, Final

import torch
from torch._dynamo.exc import FailOnRecompileLimitHit, TorchDynamoException

from ..progress import Reporter
from .transformer import Ex4dTransformer3DModel

SIZES: Final = 64
"""That are kept compiled at most, of all jobs of a process together."""


class CompiledBlocks:
    """Compiles what a block computes, once for all of them, at the first forward; where that fails, all are uncompiled.

    The inner forward and not the whole call, so that the hooks of caches, which decide in Python, stay outside of the
    graph: to be made before them. Sizes are compiled for as they come, since one video has one or two of them.

    Args:
        transformer: whose blocks' `forward` is replaced. Weights that come or are widened for each use do not compile.
        reporter: told once, should compiling fail. Also an attribute: kept models serve one job after another.

    Attributes:
        has_failed: the blocks turned out not to compile.
    """

    def __init__(self, transformer: Ex4dTransformer3DModel, reporter: Reporter) -> None:
        self.reporter = reporter
        self.has_failed = False
        self._has_begun_anew = False
        torch._dynamo.config.recompile_limit = max(torch._dynamo.config.recompile_limit, SIZES)
        for block in transformer.blocks:
            block.forward = self._guarded(block.forward)

    def _guarded(self, plain: Callable[..., Any]) -> Callable[..., Any]:
        compiled = torch.compile(plain, fullgraph=True, dynamic=False)

        @wraps(plain)
        def forward(*args: Any, **kwargs: Any) -> Any:
            while not self.has_failed:
                try:
                    return compiled(*args, **kwargs)
                except FailOnRecompileLimitHit as error:
                    if self._has_begun_anew:  # these models alone come in ever new sizes
                        self._fail(error)
                    else:
                        self._has_begun_anew = True
                        torch._dynamo.reset()  # most are of earlier jobs
                except TorchDynamoException as error:
                    self._fail(error)
            # outside of the handler, as the error holds tensors
            return plain(*args, **kwargs)

        return forward

    def _fail(self, error: Exception) -> None:
        self.has_failed = True
        self.reporter.log(f"Compiling failed ({_reason(error)}): the run goes on uncompiled, slower.")


def _reason(error: BaseException) -> str:
    """The error's first line; of what a compiler raised, which the tracer wraps in many, its own."""
    error = getattr(error, "inner_exception", error)
    lines = str(error).splitlines()
    return lines[0].rstrip(".:") if lines else type(error).__name__
