# SPDX-License-Identifier: GPL-3.0-or-later
"""Depth Anything 3 (arXiv 2511.10647): one plain encoder that looks at several frames, a depth head, a camera head.

An independent implementation of its small and base models, under the tensor names of the published weights. The
encoder's first blocks look at each frame alone; after that every second block looks at all frames together, and the
image's token becomes the camera's.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import torch
from torch import nn
from torch.nn import functional

from ..network_loading import invalid, load_all, shape_of
from .dense_prediction import Reassembled, Scratch, patch_map
from .vision_transformer import HEAD_WIDTH, PATCH, EncoderShape, Rotate, VisionTransformer, encoder_shape

PREFIX: Final = "model."
LAYERS: Final = (5, 7, 9, 11)
"""Blocks whose tokens the heads read, in the models with twelve blocks."""
_FINAL_NORM_EPS: Final = 1e-5
_ROTARY_BASE: Final = 100.0
_GRID_BASE: Final = 100.0
_GRID_WEIGHT: Final = 0.1
_CHOOSE_FROM: Final = 3
"""Of fewer frames the first is the reference; of more, the one that is most alike the rest."""
_TOGETHER: Final = 4
_UNUSED: Final = (
    "cam_enc.",
    "head.scratch.output_conv1_aux.",
    "head.scratch.output_conv2_aux.",
    *(f"head.scratch.refinenet{level}_aux." for level in range(1, 5)),
)
"""Parts for cameras that are given, and for rays, from which cameras can be had in another way."""


@dataclass(frozen=True)
class Views:
    """What the network says of S frames of (H, W).

    depth: (S, H, W), along the optical axis, in a scale of its own that the cameras share.
    confidence: (S, H, W), above 1.
    rotation: (S, 4) quaternions x, y, z, w and position: (S, 3) of the cameras in their common world, OpenCV axes.
    fov: (S, 2) vertical and horizontal, radians.
    """

    depth: torch.Tensor
    confidence: torch.Tensor
    rotation: torch.Tensor
    position: torch.Tensor
    fov: torch.Tensor


class Encoder(VisionTransformer):
    """DINOv2 with frames that look at each other from the block on whose queries are normalised."""

    def __init__(self, shape: EncoderShape) -> None:
        super().__init__(shape, norm_eps=_FINAL_NORM_EPS)
        self.camera_token = nn.Parameter(torch.zeros(1, 2, shape.width))
        self._together_from = shape.blocks if shape.normalised_from is None else shape.normalised_from

    def forward(self, frames: torch.Tensor) -> tuple[list[torch.Tensor], torch.Tensor]:
        """Frames (S, 3, H, W) → patch tokens (S, patches, 2·width) at each of LAYERS, camera tokens (S, 2·width).

        A token is what its frame alone said last beside what all frames said.
        """
        rows, columns = frames.shape[2] // PATCH, frames.shape[3] // PATCH
        placed = rotation(_patch_places(rows, columns, frames.device), HEAD_WIDTH)
        # looked at together, a patch is only a patch and no place
        together = rotation(_same_places(rows * columns, frames.device).repeat(len(frames), 1), HEAD_WIDTH)
        tokens = self.embed(frames)
        alone = tokens
        order = torch.arange(len(frames), device=frames.device)
        features = []
        camera = tokens[:, 0]
        for index, block in enumerate(self.blocks):
            if index == self._together_from - 1 and len(frames) >= _CHOOSE_FROM:
                order = reference_first(tokens[:, 0])
                tokens = tokens[order]
            if index == self._together_from:
                others = self.camera_token[:, 1:].expand(1, len(frames) - 1, -1)
                cameras = torch.cat([self.camera_token[:, :1], others], dim=1)[0]
                tokens = torch.cat([cameras[:, None], tokens[:, 1:]], dim=1)
            if index >= self._together_from and index % 2 == 1:
                tokens = block(tokens.flatten(0, 1)[None], together)[0].unflatten(0, (len(frames), -1))
            else:
                tokens = block(tokens, placed if index >= self._together_from else None)
                alone = tokens
            if index in LAYERS:
                back = torch.argsort(order)
                camera = torch.cat([alone[:, 0], tokens[:, 0]], dim=-1)[back]
                features.append(torch.cat([alone, self.norm(tokens)], dim=-1)[back, 1:])
        return features, camera


def reference_first(cameras: torch.Tensor) -> torch.Tensor:
    """The frames' order (S,) with that one first whose token (S, C) is in the middle of all in three ways.

    How alike it is to the others, how long it is, and how much its channels differ: each brought to 0…1 over the
    frames, the reference is the one nearest to ½ in all.
    """
    length = cameras.norm(dim=-1, keepdim=True)
    direction = cameras / length
    likeness = ((direction @ direction.T).sum(1) - 1) / (len(cameras) - 1)
    distance = torch.zeros_like(likeness)
    for measure in (likeness, length[:, 0], direction.var(dim=-1)):
        low, high = measure.min(), measure.max()
        distance += ((measure - low) / (high - low + 1e-8) - 0.5).abs()
    first = int(distance.argmin())
    return torch.tensor([first, *(n for n in range(len(cameras)) if n != first)], device=cameras.device)


def _patch_places(rows: int, columns: int, device: torch.device) -> torch.Tensor:
    """(1 + rows·columns, 2) row and column of each token, counted from 1; the camera's is 0, 0."""
    places = torch.cartesian_prod(torch.arange(rows, device=device), torch.arange(columns, device=device)) + 1
    return torch.cat([places.new_zeros(1, 2), places])


def _same_places(patches: int, device: torch.device) -> torch.Tensor:
    """(1 + patches, 2): 1 for every patch, 0 for the camera."""
    places = torch.ones(1 + patches, 2, device=device)
    places[0] = 0
    return places


def rotation(places: torch.Tensor, width: int) -> Rotate:
    """Rotary positions in the plane (arXiv 2403.13298): half of the channels turn by the row, half by the column.

    places: (T, 2). width: channels of a head.
    """
    quarter = width // 4
    speeds = _ROTARY_BASE ** (-torch.arange(quarter, device=places.device) / quarter)
    angles = places.float()[:, :, None] * speeds  # (T, 2, quarter)
    cosine, sine = angles.cos(), angles.sin()

    def rotate(values: torch.Tensor) -> torch.Tensor:
        first, second = values.unflatten(-1, (2, 2, quarter)).unbind(-2)
        turned = torch.stack([first * cosine - second * sine, second * cosine + first * sine], dim=-2)
        return turned.flatten(-3)

    return rotate


class MultiViewHead(Reassembled):
    """Patch tokens at four depths → depth and confidence."""

    def __init__(self, width: int, channels: Sequence[int], features: int) -> None:
        super().__init__(width, channels)
        self.norm = nn.LayerNorm(width)
        self.scratch = Scratch(channels, features, outputs=2, coarsest_with_finer=False)

    def forward(self, tokens: Sequence[torch.Tensor], rows: int, columns: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Four times (N, rows·columns, width) → depth > 0 and confidence > 1, (N, PATCH·rows, PATCH·columns) each."""
        shape = columns / rows
        maps = [
            resize(with_grid(project(patch_map(self.norm(one), rows, columns)), shape))
            for one, project, resize in zip(tokens, self.projects, self.resize_layers, strict=True)
        ]
        first, second, third, fourth = self.scratch.narrowed(maps)
        path = self.scratch.refinenet4(fourth, size=third.shape[2:])
        path = self.scratch.refinenet3(path, third, size=second.shape[2:])
        path = self.scratch.fine(path, second, first)
        path = functional.interpolate(path, size=(PATCH * rows, PATCH * columns), mode="bilinear", align_corners=True)
        depth, confidence = self.scratch.output_conv2(with_grid(path, shape)).exp().unbind(1)
        return depth, confidence + 1


def with_grid(maps: torch.Tensor, shape: float) -> torch.Tensor:
    """Maps (N, C, h, w) that know where their pixels lie in a frame `shape` times as wide as high.

    Positions of pixel centres, the frame's half diagonal being 1, as sines and cosines of growing wavelength.
    """
    count, height, width = maps.shape[1:]
    diagonal = (shape**2 + 1) ** 0.5
    speeds = _GRID_BASE ** -(torch.arange(count // 4, device=maps.device) / (count / 4))

    def waves(span: float, steps: int) -> torch.Tensor:
        end = span * (steps - 1) / steps
        angles = torch.linspace(-end, end, steps, device=maps.device)[:, None] * speeds
        return torch.cat([angles.sin(), angles.cos()], dim=1).T  # (C/2, steps)

    across = waves(shape / diagonal, width)[:, None, :].expand(-1, height, -1)
    down = waves(1 / diagonal, height)[:, :, None].expand(-1, -1, width)
    return maps + _GRID_WEIGHT * torch.cat([across, down])


class CameraHead(nn.Module):
    """Camera tokens (S, C) → position (S, 3), rotation (S, 4), field of view (S, 2)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.backbone = nn.Sequential(nn.Linear(width, width), nn.ReLU(), nn.Linear(width, width), nn.ReLU())
        self.fc_t = nn.Linear(width, 3)
        self.fc_qvec = nn.Linear(width, 4)
        self.fc_fov = nn.Sequential(nn.Linear(width, 2), nn.ReLU())

    def forward(self, tokens: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        tokens = self.backbone(tokens)
        return self.fc_t(tokens), self.fc_qvec(tokens), self.fc_fov(tokens)


class _Backbone(nn.Module):
    """The encoder under the name the weights give it."""

    def __init__(self, shape: EncoderShape) -> None:
        super().__init__()
        self.pretrained = Encoder(shape)


class MultiViewNetwork(nn.Module):
    """Frames of one scene (S, 3, H, W), normalised, H and W divisible by PATCH → their depth and cameras."""

    def __init__(self, shape: EncoderShape, channels: Sequence[int], features: int) -> None:
        super().__init__()
        self.backbone = _Backbone(shape)
        self.head = MultiViewHead(2 * shape.width, channels, features)
        self.cam_dec = CameraHead(2 * shape.width)

    def forward(self, frames: torch.Tensor) -> Views:
        features, cameras = self.backbone.pretrained(frames)
        rows, columns = frames.shape[2] // PATCH, frames.shape[3] // PATCH
        parts = [
            self.head(part, rows, columns)
            for part in zip(*(tokens.split(_TOGETHER) for tokens in features), strict=True)
        ]
        depth, confidence = (torch.cat(maps) for maps in zip(*parts, strict=True))
        position, quaternion, fov = self.cam_dec(cameras)
        return Views(depth, confidence, quaternion, position, fov)


def load_multi_view(tensors: Mapping[str, torch.Tensor], path: Path, title: str) -> MultiViewNetwork:
    """The network of published weights; its sizes are read off the tensors.

    Raises:
        Ex4dError: `model_invalid` if a tensor is missing, has no place or another shape, or for the larger models.
    """
    unused = tuple(PREFIX + name for name in _UNUSED)
    used = {name: value for name, value in tensors.items() if not name.startswith(unused)}
    shape = encoder_shape(used, f"{PREFIX}backbone.pretrained.", path, title)
    if shape.blocks != LAYERS[-1] + 1 or shape.normalised_from is None:
        raise invalid(path, title, f"its encoder has {shape.blocks} blocks, not {LAYERS[-1] + 1}")
    channels = [shape_of(used, f"{PREFIX}head.projects.{level}.weight", 4, path, title)[0] for level in range(4)]
    features = shape_of(used, f"{PREFIX}head.scratch.layer1_rn.weight", 4, path, title)[0]
    with torch.device("meta"):
        network = MultiViewNetwork(shape, channels, features)
    wrapped = nn.ModuleDict({PREFIX.removesuffix("."): network})
    load_all(wrapped, used, path, title)
    return network
