# SPDX-License-Identifier: GPL-3.0-or-later
"""Video Depth Anything (arXiv 2501.12375): DINOv2, and a depth head whose maps look at each other over time.

An independent implementation, under the tensor names of the published weights. Each pixel of four of the head's maps
attends to itself in the other frames of a window; nothing else sees more than one frame.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

import torch
from torch import nn
from torch.nn import functional

from ..network_loading import invalid, load_all, shape_of
from .dense_prediction import Reassembled, Scratch, patch_map
from .vision_transformer import PATCH, EncoderShape, VisionTransformer, encoder_shape

WINDOW: Final = 32
"""Frames that are looked at together; the network knows no further position in time."""
_HEADS: Final = 8
_NORM_GROUPS: Final = 32
_ATTENTIONS: Final = 2
_TOGETHER: Final = 4
"""Frames that are encoded and decoded at once, where they do not depend on each other."""
_UNUSED: Final = ("pretrained.mask_token",)
"""Of the encoder's training."""


class TimePositions(nn.Module):
    """The places in a window, as sines and cosines; a tensor of the weights like any other."""

    pe: torch.Tensor

    def __init__(self, width: int) -> None:
        super().__init__()
        self.register_buffer("pe", torch.zeros(1, WINDOW, width))


class TimeAttention(nn.Module):
    """Attention along time: (P, T, C) → (P, T, C), P pixels and T frames."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.pos_encoder = TimePositions(width)
        self.to_q = nn.Linear(width, width, bias=False)
        self.to_k = nn.Linear(width, width, bias=False)
        self.to_v = nn.Linear(width, width, bias=False)
        self.to_out = nn.Sequential(nn.Linear(width, width))

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        placed = tokens + self.pos_encoder.pe[:, : tokens.shape[1]]
        query, key, value = (
            layer(placed).unflatten(-1, (_HEADS, -1)).transpose(1, 2) for layer in (self.to_q, self.to_k, self.to_v)
        )
        mixed = functional.scaled_dot_product_attention(query, key, value)
        return self.to_out(mixed.transpose(1, 2).flatten(2))


class TimeBlock(nn.Module):
    """Two attentions along time and an MLP, each normalised before and added to its input."""

    def __init__(self, width: int) -> None:
        from diffusers.models.attention import FeedForward

        super().__init__()
        self.attention_blocks = nn.ModuleList(TimeAttention(width) for _ in range(_ATTENTIONS))
        self.norms = nn.ModuleList(nn.LayerNorm(width) for _ in range(_ATTENTIONS))
        self.ff = FeedForward(width, activation_fn="geglu")
        self.ff_norm = nn.LayerNorm(width)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        for attention, norm in zip(self.attention_blocks, self.norms, strict=True):
            tokens = tokens + attention(norm(tokens))
        return tokens + self.ff(self.ff_norm(tokens))


class TimeTransformer(nn.Module):
    """Maps of a window (T, C, h, w) that have looked at each other."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = nn.GroupNorm(_NORM_GROUPS, width, eps=1e-6)
        self.proj_in = nn.Linear(width, width)
        self.transformer_blocks = nn.ModuleList([TimeBlock(width)])
        self.proj_out = nn.Linear(width, width)

    def forward(self, maps: torch.Tensor) -> torch.Tensor:
        tokens = self.proj_in(self.norm(maps).permute(2, 3, 0, 1).flatten(0, 1))  # (h·w, T, C)
        for block in self.transformer_blocks:
            tokens = block(tokens)
        return maps + self.proj_out(tokens).unflatten(0, maps.shape[2:]).permute(2, 3, 0, 1)


class MotionModule(nn.Module):
    """A time transformer under the name the weights give it."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.temporal_transformer = TimeTransformer(width)

    def forward(self, maps: torch.Tensor) -> torch.Tensor:
        return self.temporal_transformer(maps)


class VideoDepthHead(Reassembled):
    """Patch tokens of a window's frames at four depths → inverse depth."""

    def __init__(self, width: int, channels: Sequence[int], features: int) -> None:
        super().__init__(width, channels)
        self.scratch = Scratch(channels, features, outputs=1, coarsest_with_finer=True)
        self.motion_modules = nn.ModuleList(
            MotionModule(count) for count in (channels[2], channels[3], features, features)
        )

    def forward(self, tokens: Sequence[torch.Tensor], rows: int, columns: int) -> torch.Tensor:
        """Four times (T, rows·columns, width) → (T, PATCH·rows, PATCH·columns), ≥ 0."""
        maps = [
            resize(project(patch_map(one, rows, columns)))
            for one, project, resize in zip(tokens, self.projects, self.resize_layers, strict=True)
        ]
        maps[2], maps[3] = self.motion_modules[0](maps[2]), self.motion_modules[1](maps[3])
        first, second, third, fourth = self.scratch.narrowed(maps)
        path = self.motion_modules[2](self.scratch.refinenet4(fourth, size=third.shape[2:]))
        path = self.motion_modules[3](self.scratch.refinenet3(path, third, size=second.shape[2:]))
        parts = zip(path.split(_TOGETHER), second.split(_TOGETHER), first.split(_TOGETHER), strict=True)
        return torch.cat([self._finished(*part, (PATCH * rows, PATCH * columns)) for part in parts])

    def _finished(
        self, path: torch.Tensor, second: torch.Tensor, first: torch.Tensor, size: tuple[int, int]
    ) -> torch.Tensor:
        path = self.scratch.fine(path, second, first)
        path = functional.interpolate(path, size=size, mode="bilinear", align_corners=True)
        return functional.relu(self.scratch.output_conv2(path)).squeeze(1)


class VideoDepthNetwork(nn.Module):
    """Frames of a window (T ≤ WINDOW, 3, H, W), normalised → inverse depth (T, H, W), up to one scale and shift."""

    def __init__(self, shape: EncoderShape, channels: Sequence[int], features: int) -> None:
        super().__init__()
        self.pretrained = VisionTransformer(shape)
        self.head = VideoDepthHead(shape.width, channels, features)
        self._layers = [(quarter + 1) * shape.blocks // 4 - 1 for quarter in range(4)]

    def forward(self, frames: torch.Tensor) -> torch.Tensor:
        parts = [self.pretrained.patch_features(part, self._layers) for part in frames.split(_TOGETHER)]
        tokens = [torch.cat(depth) for depth in zip(*parts, strict=True)]
        return self.head(tokens, frames.shape[2] // PATCH, frames.shape[3] // PATCH)


def load_video_depth(tensors: Mapping[str, torch.Tensor], path: Path, title: str) -> VideoDepthNetwork:
    """The network of published weights; its sizes are read off the tensors.

    Raises:
        Ex4dError: `model_invalid` if a tensor is missing, has no place or another shape.
    """
    used = {name: value for name, value in tensors.items() if name not in _UNUSED}

    def shape(name: str, dimensions: int) -> tuple[int, ...]:
        return shape_of(used, name, dimensions, path, title)

    encoder = encoder_shape(used, "pretrained.", path, title)
    channels = [shape(f"head.projects.{level}.weight", 4)[0] for level in range(4)]
    features = shape("head.scratch.layer1_rn.weight", 4)[0]
    if any(count % _NORM_GROUPS for count in (*channels[2:], features)):
        raise invalid(path, title, f"maps of {channels} and {features} channels")
    with torch.device("meta"):
        network = VideoDepthNetwork(encoder, channels, features)
    return load_all(network, used, path, title)
