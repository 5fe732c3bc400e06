# SPDX-License-Identifier: GPL-3.0-or-later
"""The parts of a dense prediction transformer's head (arXiv 2103.13413) under the names Depth Anything publishes.

Tokens of four depths of an encoder become maps at four sizes; from the coarsest on, each is merged into the next.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn
from torch.nn import functional


class Reassembled(nn.Module):
    """Base of the heads: tokens of four depths (N, patches, width) → maps at 4, 2, 1 and ½ times the patch grid."""

    def __init__(self, width: int, channels: Sequence[int]) -> None:
        super().__init__()
        self.projects = nn.ModuleList(nn.Conv2d(width, count, 1) for count in channels)
        self.resize_layers = nn.ModuleList(
            [
                nn.ConvTranspose2d(channels[0], channels[0], 4, stride=4),
                nn.ConvTranspose2d(channels[1], channels[1], 2, stride=2),
                nn.Identity(),
                nn.Conv2d(channels[3], channels[3], 3, stride=2, padding=1),
            ]
        )


class ResidualUnit(nn.Module):
    """Two convolutions whose result is added to their input."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, channels, 3, padding=1)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, maps: torch.Tensor) -> torch.Tensor:
        return maps + self.conv2(functional.relu(self.conv1(functional.relu(maps))))


class Fusion(nn.Module):
    """Merges a finer map into a coarser one and enlarges the sum.

    with_finer: has a unit for the finer map. The coarsest fusion has nothing to merge; some weights hold the unit
    nevertheless.
    """

    def __init__(self, channels: int, with_finer: bool = True) -> None:
        super().__init__()
        if with_finer:
            self.resConfUnit1 = ResidualUnit(channels)
        self.resConfUnit2 = ResidualUnit(channels)
        self.out_conv = nn.Conv2d(channels, channels, 1)

    def forward(
        self, maps: torch.Tensor, finer: torch.Tensor | None = None, size: torch.Size | None = None
    ) -> torch.Tensor:
        """maps, finer: (N, C, h, w) → (N, C, *size), twice as large without a size."""
        if finer is not None:
            maps = maps + self.resConfUnit1(finer)
        maps = self.resConfUnit2(maps)
        target = size or torch.Size(2 * side for side in maps.shape[2:])
        return self.out_conv(functional.interpolate(maps, size=tuple(target), mode="bilinear", align_corners=True))


class Scratch(nn.Module):
    """Four maps brought to one width, their fusions, and the last layers of a head.

    outputs: channels of the result. coarsest_with_finer: see `Fusion`.
    """

    def __init__(self, channels: Sequence[int], width: int, outputs: int, coarsest_with_finer: bool) -> None:
        super().__init__()
        self.layer1_rn = nn.Conv2d(channels[0], width, 3, padding=1, bias=False)
        self.layer2_rn = nn.Conv2d(channels[1], width, 3, padding=1, bias=False)
        self.layer3_rn = nn.Conv2d(channels[2], width, 3, padding=1, bias=False)
        self.layer4_rn = nn.Conv2d(channels[3], width, 3, padding=1, bias=False)
        self.refinenet1 = Fusion(width)
        self.refinenet2 = Fusion(width)
        self.refinenet3 = Fusion(width)
        self.refinenet4 = Fusion(width, coarsest_with_finer)
        self.output_conv1 = nn.Conv2d(width, width // 2, 3, padding=1)
        self.output_conv2 = nn.Sequential(nn.Conv2d(width // 2, 32, 3, padding=1), nn.ReLU(), nn.Conv2d(32, outputs, 1))

    def narrowed(self, maps: Sequence[torch.Tensor]) -> list[torch.Tensor]:
        """The four maps, each (N, width, h, w)."""
        layers = (self.layer1_rn, self.layer2_rn, self.layer3_rn, self.layer4_rn)
        return [layer(one) for layer, one in zip(layers, maps, strict=True)]

    def fine(self, path: torch.Tensor, second: torch.Tensor, first: torch.Tensor) -> torch.Tensor:
        """What is fused down to the third map, with the second and the first: (N, width // 2, 2h, 2w) of the first."""
        path = self.refinenet2(path, second, size=first.shape[2:])
        return self.output_conv1(self.refinenet1(path, first))


def patch_map(tokens: torch.Tensor, rows: int, columns: int) -> torch.Tensor:
    """(N, rows·columns, C) → (N, C, rows, columns)."""
    return tokens.transpose(1, 2).unflatten(2, (rows, columns))
