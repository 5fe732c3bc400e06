# SPDX-License-Identifier: GPL-3.0-or-later
"""Random numbers of a batch of scenes, drawn on the CPU so that a seed means the same scene on every machine."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch

Range = float | torch.Tensor


class Draw:
    """A stream of random tensors. Ranges may be numbers or tensors that broadcast to the shape."""

    def __init__(self, seed: int) -> None:
        self._generator = torch.Generator().manual_seed(seed)

    def uniform(self, shape: Sequence[int], low: Range = 0.0, high: Range = 1.0) -> torch.Tensor:
        """Evenly in [low, high)."""
        return torch.rand(tuple(shape), generator=self._generator) * (high - low) + low

    def log_uniform(self, shape: Sequence[int], low: Range, high: Range) -> torch.Tensor:
        """Evenly in the logarithm: as many between 1 and 2 as between 10 and 20."""
        low, high = torch.as_tensor(low, dtype=torch.float32), torch.as_tensor(high, dtype=torch.float32)
        return torch.exp(self.uniform(shape, low.log(), high.log()))

    def normal(self, shape: Sequence[int], sigma: Range = 1.0) -> torch.Tensor:
        """Gaussian around zero."""
        return torch.randn(tuple(shape), generator=self._generator) * sigma

    def coin(self, shape: Sequence[int], chance: Range = 0.5) -> torch.Tensor:
        """True with this chance."""
        return torch.rand(tuple(shape), generator=self._generator) < chance

    def pick(self, shape: Sequence[int], weights: Sequence[float]) -> torch.Tensor:
        """An index, int64, in proportion to the weights."""
        ladder = torch.tensor(weights, dtype=torch.float32).cumsum(0)
        drawn = torch.rand(tuple(shape), generator=self._generator) * ladder[-1]
        return torch.searchsorted(ladder, drawn, right=True).clamp_max(len(weights) - 1)

    def pick_each(self, weights: torch.Tensor) -> torch.Tensor:
        """An index (B,), int64, for each row of weights (B, n)."""
        ladder = weights.cumsum(-1)
        drawn = torch.rand(len(weights), 1, generator=self._generator) * ladder[:, -1:]
        return (drawn >= ladder).sum(-1).clamp_max(weights.shape[1] - 1)

    def integer(self, shape: Sequence[int], low: int, high: int) -> torch.Tensor:
        """Evenly among low … high − 1, int64."""
        return torch.randint(low, high, tuple(shape), generator=self._generator)

    def direction(self, shape: Sequence[int]) -> torch.Tensor:
        """Unit vectors (*shape, 3), evenly over the sphere."""
        return torch.nn.functional.normalize(self.normal((*shape, 3)), dim=-1)

    def turn(self, shape: Sequence[int]) -> torch.Tensor:
        """An angle in radians, evenly over the circle."""
        return self.uniform(shape, 0.0, 2 * math.pi)
