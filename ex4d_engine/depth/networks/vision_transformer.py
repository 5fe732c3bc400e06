# SPDX-License-Identifier: GPL-3.0-or-later
"""The DINOv2 encoder (arXiv 2304.07193) under the tensor names its authors publish, which others' weights keep.

transformers has the network too, with names of its own; a renaming on loading would be longer than this.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import torch
from torch import nn
from torch.nn import functional

from ..network_loading import invalid, shape_of

HEAD_WIDTH: Final = 64
"""Channels of an attention head, in every size of DINOv2."""
PATCH: Final = 14
"""Side of a patch in pixels."""
_NORM_EPS: Final = 1e-6
_GRID_OFFSET: Final = 0.1
"""Added to a grid's side when positions are interpolated: how DINOv2 was trained, and what its weights expect."""

Rotate = Callable[[torch.Tensor], torch.Tensor]
"""Turns queries or keys (N, heads, tokens, HEAD_WIDTH) by the tokens' positions."""


@dataclass(frozen=True)
class EncoderShape:
    """width: channels of a token; grid: patches of a side at training; hidden: width inside the MLPs.

    normalised_from: first block whose queries and keys are normalised; None: no block.
    """

    width: int
    blocks: int
    grid: int
    hidden: int
    normalised_from: int | None = None


class Attention(nn.Module):
    """Self-attention over tokens (N, T, C)."""

    def __init__(self, width: int, heads: int, normalised: bool = False) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width)
        self.q_norm = nn.LayerNorm(width // heads) if normalised else nn.Identity()
        self.k_norm = nn.LayerNorm(width // heads) if normalised else nn.Identity()
        self.proj = nn.Linear(width, width)

    def forward(self, tokens: torch.Tensor, rotate: Rotate | None = None) -> torch.Tensor:
        """(N, T, C) → (N, T, C)."""
        query, key, value = self.qkv(tokens).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        query, key = self.q_norm(query), self.k_norm(key)
        if rotate is not None:
            query, key = rotate(query), rotate(key)
        mixed = functional.scaled_dot_product_attention(query, key, value)
        return self.proj(mixed.transpose(1, 2).flatten(2))


class LayerScale(nn.Module):
    """One factor a channel."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.ones(width))

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        return tokens * self.gamma


class Mlp(nn.Module):
    """Two layers with a GELU between."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(width, hidden)
        self.fc2 = nn.Linear(hidden, width)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        return self.fc2(functional.gelu(self.fc1(tokens)))


class Block(nn.Module):
    """Attention and MLP, each normalised before and scaled after."""

    def __init__(self, shape: EncoderShape, normalised: bool) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(shape.width, eps=_NORM_EPS)
        self.attn = Attention(shape.width, shape.width // HEAD_WIDTH, normalised)
        self.ls1 = LayerScale(shape.width)
        self.norm2 = nn.LayerNorm(shape.width, eps=_NORM_EPS)
        self.mlp = Mlp(shape.width, shape.hidden)
        self.ls2 = LayerScale(shape.width)

    def forward(self, tokens: torch.Tensor, rotate: Rotate | None = None) -> torch.Tensor:
        """(N, T, C) → (N, T, C)."""
        tokens = tokens + self.ls1(self.attn(self.norm1(tokens), rotate))
        return tokens + self.ls2(self.mlp(self.norm2(tokens)))


class PatchEmbedding(nn.Module):
    """Each patch of PATCH × PATCH pixels becomes a token."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.proj = nn.Conv2d(3, width, PATCH, stride=PATCH)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.proj(images).flatten(2).transpose(1, 2)


class VisionTransformer(nn.Module):
    """Images (N, 3, H, W), normalised, H and W divisible by PATCH → tokens: one for the image, then its patches."""

    def __init__(self, shape: EncoderShape, norm_eps: float = _NORM_EPS) -> None:
        super().__init__()
        self.shape = shape
        self.cls_token = nn.Parameter(torch.zeros(1, 1, shape.width))
        self.pos_embed = nn.Parameter(torch.zeros(1, 1 + shape.grid**2, shape.width))
        self.patch_embed = PatchEmbedding(shape.width)
        first = shape.blocks if shape.normalised_from is None else shape.normalised_from
        self.blocks = nn.ModuleList(Block(shape, index >= first) for index in range(shape.blocks))
        self.norm = nn.LayerNorm(shape.width, eps=norm_eps)

    def embed(self, images: torch.Tensor) -> torch.Tensor:
        """(N, 1 + patches, width): tokens with their positions, before the first block."""
        patches = self.patch_embed(images)
        first = self.cls_token.expand(len(images), -1, -1)
        return torch.cat([first, patches], dim=1) + self._positions(images.shape[2] // PATCH, images.shape[3] // PATCH)

    def _positions(self, rows: int, columns: int) -> torch.Tensor:
        grid = self.shape.grid
        if rows == columns == grid:
            return self.pos_embed
        square = self.pos_embed[:, 1:].unflatten(1, (grid, grid)).permute(0, 3, 1, 2)
        factors = ((rows + _GRID_OFFSET) / grid, (columns + _GRID_OFFSET) / grid)
        fitted = functional.interpolate(square, scale_factor=factors, mode="bicubic")
        return torch.cat([self.pos_embed[:, :1], fitted.flatten(2).transpose(1, 2)], dim=1)

    def patch_features(self, images: torch.Tensor, layers: Sequence[int]) -> list[torch.Tensor]:
        """Normalised patch tokens (N, patches, width) after each of the blocks `layers`."""
        tokens = self.embed(images)
        features = []
        for index, block in enumerate(self.blocks):
            tokens = block(tokens)
            if index in layers:
                features.append(self.norm(tokens)[:, 1:])
        return features


def encoder_shape(tensors: Mapping[str, torch.Tensor], prefix: str, path: Path, title: str) -> EncoderShape:
    """The sizes of the encoder whose tensors begin with `prefix`.

    Raises:
        Ex4dError: `model_invalid` where a tensor that tells them is missing.
    """
    _, positions, width = shape_of(tensors, f"{prefix}pos_embed", 3, path, title)
    if width % HEAD_WIDTH:
        raise invalid(path, title, f"1 of another shape: {prefix}pos_embed")
    hidden, _ = shape_of(tensors, f"{prefix}blocks.0.mlp.fc1.weight", 2, path, title)
    blocks = 0
    while f"{prefix}blocks.{blocks}.norm1.weight" in tensors:
        blocks += 1
    normalised = [n for n in range(blocks) if f"{prefix}blocks.{n}.attn.q_norm.weight" in tensors]
    return EncoderShape(width, blocks, round((positions - 1) ** 0.5), hidden, normalised[0] if normalised else None)
