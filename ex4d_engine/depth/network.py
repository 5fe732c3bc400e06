# SPDX-License-Identifier: GPL-3.0-or-later
"""The bundled depth network: a small encoder–decoder that remembers the frames before.

Each frame's features are compared with the last frame's over a neighbourhood (parallax), a recurrent state gathers
what was learnt so far, attention at the smallest scale sees the whole frame, and a decoder draws inverse depth at the
frame's own size. Nothing but torch: training runs where little else is installed.
"""

from __future__ import annotations

import copy
import dataclasses
import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils.fusion import fuse_conv_bn_eval

STRIDE: Final = 32  # of the coarsest features: working sizes are multiples of it
_MEAN: Final = (0.485, 0.456, 0.406)
_DEVIATION: Final = (0.229, 0.224, 0.225)


@dataclass(frozen=True)
class NetworkShape:
    """Sizes of the network. It is stored with the weights.

    widths: channels at 1/2, 1/4, 1/8, 1/16 and 1/32 of the frame.
    blocks: residual blocks at 1/4, 1/8, 1/16 and 1/32.
    key: channels of the features that are compared between frames.
    reach: how far they are compared, in pixels of their own scale, each way.
    motion: channels that the comparison becomes, at each of its two scales.
    memory: channels of the recurrent state.
    drawn: channels of the decoder at 1/16, 1/8, 1/4 and 1/2.
    """

    widths: tuple[int, int, int, int, int] = (24, 48, 96, 160, 256)
    blocks: tuple[int, int, int, int] = (2, 2, 3, 3)
    key: int = 32
    reach: int = 4
    motion: int = 64
    memory: int = 112
    drawn: tuple[int, int, int, int] = (128, 80, 48, 32)

    def __post_init__(self) -> None:
        for name in ("widths", "blocks", "drawn"):  # JSON has no tuples
            object.__setattr__(self, name, tuple(getattr(self, name)))

    def to_json(self) -> dict[str, object]:
        return dataclasses.asdict(self)


class DepthMaps(NamedTuple):
    """What the network says of frames; each (..., H, W) float32.

    inverse_depth: ≥ 0, about 1 in the mean over the clip; 0 is infinitely far as well as the network could learn it.
    log_error: logarithm of the error that it expects of its inverse depth's logarithm.
    sky: logit of being sky.
    """

    inverse_depth: Tensor
    log_error: Tensor
    sky: Tensor


class Features(NamedTuple):
    """One batch of frames, (N, C, h, w): at 1/2, 1/4, 1/8 and 1/16, and unit keys at 1/8 and 1/16."""

    half: Tensor
    quarter: Tensor
    eighth: Tensor
    sixteenth: Tensor
    near_key: Tensor
    far_key: Tensor


class Memory(NamedTuple):
    """What one frame leaves to the next: its keys and the recurrent state, (B, C, h, w) each."""

    near_key: Tensor
    far_key: Tensor
    state: Tensor


class DepthNetwork(nn.Module):
    """Frames in, inverse depth out; recurrent over time."""

    def __init__(self, shape: NetworkShape | None = None) -> None:
        super().__init__()
        self.shape = shape or NetworkShape()
        c2, c4, c8, c16, c32 = self.shape.widths
        b4, b8, b16, b32 = self.shape.blocks
        d16, d8, d4, d2 = self.shape.drawn
        memory, key, motion = self.shape.memory, self.shape.key, self.shape.motion
        cells = (2 * self.shape.reach + 1) ** 2
        self.to_half = _conv(5, c2, 3, stride=2)
        self.to_quarter = nn.Sequential(_conv(c2, c4, 3, stride=2), *(Residual(c4) for _ in range(b4)))
        self.to_eighth = nn.Sequential(_conv(c4, c8, 3, stride=2), *(Residual(c8) for _ in range(b8)))
        self.to_sixteenth = nn.Sequential(_conv(c8, c16, 3, stride=2), *(Wide(c16) for _ in range(b16)))
        self.near_key, self.far_key = nn.Conv2d(c8, key, 1), nn.Conv2d(c16, key, 1)
        self.near_motion = nn.Sequential(_conv(cells, motion, 1), _conv(motion, motion, 3, stride=2))
        self.far_motion = _conv(cells, motion, 1)
        self.fuse = _conv(c16 + 2 * motion, memory, 1)
        self.gate = nn.Conv2d(2 * memory, 2 * memory, 3, padding=1)
        self.candidate = nn.Conv2d(2 * memory, memory, 3, padding=1)
        self.to_thirty_second = nn.Sequential(
            _conv(memory, c32, 3, stride=2), *(Wide(c32) for _ in range(b32)), Attention(c32), Wide(c32)
        )
        self.up_sixteenth = Up(c32, (memory, c16), d16)
        self.up_eighth = Up(d16, (c8,), d8)
        self.up_quarter = Up(d8, (c4,), d4)
        self.up_half = Up(d4, (c2,), d2)
        self.head = nn.Conv2d(d2, 3, 3, padding=1)
        self.sharpen = nn.Conv2d(d2, 4 * 9, 1)

    def forward(self, images: Tensor, order: Sequence[int] | None = None) -> DepthMaps:
        """Depth of whole clips.

        Args:
            images: (B, F, 3, H, W) in 0…1, of any size.
            order: the frames' numbers in the order in which they are seen, some more than once, every one at least
                once; each is answered when it is seen last. None: from the first to the last.

        Returns: maps (B, F, H, W), in the order of `images`.
        """
        batch, count, _, height, width = images.shape
        order = list(range(count)) if order is None else list(order)
        last = {frame: place for place, frame in enumerate(order)}
        frames = self.encode(_padded(images.flatten(0, 1)))
        clips = [part.unflatten(0, (batch, count)) for part in frames]
        before = [order[max(place - 1, 0)] for place in range(len(order))]
        near = [clips[4][:, frame] for frame in range(count)]
        far = [clips[5][:, frame] for frame in range(count)]
        seen = self.parallax(
            torch.cat([near[frame] for frame in order]),
            torch.cat([near[frame] for frame in before]),
            torch.cat([far[frame] for frame in order]),
            torch.cat([far[frame] for frame in before]),
        ).chunk(len(order))
        state: Tensor | None = None
        states: list[Tensor | None] = [None] * count
        for place, frame in enumerate(order):
            state = self.remember(clips[3][:, frame], seen[place], state)
            if last[frame] == place:
                states[frame] = state
        answered = [known for known in states if known is not None]
        if len(answered) != count:
            raise ValueError("every frame must be in the order")
        maps = self.decode(torch.stack(answered, 1).flatten(0, 1), frames)
        return DepthMaps(*(value[:, :height, :width].unflatten(0, (batch, count)) for value in maps))

    def step(self, image: Tensor, memory: Memory | None = None) -> tuple[DepthMaps, Memory]:
        """Maps (B, H, W) of one more frame of each clip, and what is remembered of it.

        image: (B, 3, H, W) in 0…1, its sides multiples of 32. memory: what the frame before left; None at the start.
        """
        frame = self.encode(image)
        before = memory or Memory(frame.near_key, frame.far_key, self.blank(frame))
        seen = self.parallax(frame.near_key, before.near_key, frame.far_key, before.far_key)
        state = self.remember(frame.sixteenth, seen, before.state)
        return self.decode(state, frame), Memory(frame.near_key, frame.far_key, state)

    def blank(self, frame: Features) -> Tensor:
        """The state before a clip's first frame."""
        batch, _, height, width = frame.sixteenth.shape
        return frame.sixteenth.new_zeros(batch, self.shape.memory, height, width)

    def encode(self, images: Tensor) -> Features:
        """Features of frames (N, 3, H, W) in 0…1, each by itself."""
        mean, deviation = images.new_tensor(_MEAN), images.new_tensor(_DEVIATION)
        half = self.to_half(_placed((images - mean[:, None, None]) / deviation[:, None, None]))
        quarter = self.to_quarter(half)
        eighth = self.to_eighth(quarter)
        sixteenth = self.to_sixteenth(eighth)
        near = functional.normalize(self.near_key(eighth).float(), dim=1).to(eighth.dtype)
        far = functional.normalize(self.far_key(sixteenth).float(), dim=1).to(eighth.dtype)
        return Features(half, quarter, eighth, sixteenth, near, far)

    def parallax(self, near: Tensor, near_before: Tensor, far: Tensor, far_before: Tensor) -> Tensor:
        """What moved where, (N, 2 motion, H/16, W/16), from keys of frames and of those seen before them."""
        reach = self.shape.reach
        fine = self.near_motion(correlation(near, near_before, reach))
        return torch.cat([fine, self.far_motion(correlation(far, far_before, reach))], dim=1)

    def remember(self, sixteenth: Tensor, seen: Tensor, state: Tensor | None) -> Tensor:
        """The recurrent state after one more frame (a convolutional GRU)."""
        fresh = self.fuse(torch.cat([sixteenth, seen], dim=1))
        if state is None:
            state = torch.zeros_like(fresh)
        update, reset = torch.sigmoid(self.gate(torch.cat([state, fresh], dim=1))).chunk(2, dim=1)
        candidate = torch.tanh(self.candidate(torch.cat([reset * state, fresh], dim=1)))
        return state + update * (candidate - state)

    def decode(self, state: Tensor, frame: Features) -> DepthMaps:
        """Maps (N, H, W) of frames whose state is known."""
        coarse = self.up_sixteenth(self.to_thirty_second(state), state, frame.sixteenth)
        fine = self.up_half(
            self.up_quarter(self.up_eighth(coarse, frame.eighth), frame.quarter),
            frame.half,
        )
        # Eight bits of mantissa would cut depth into slices.
        with torch.autocast(fine.device.type, enabled=False):
            fine = fine.float()
            maps = enlarge(self.head(fine), self.sharpen(fine))
        return DepthMaps(functional.softplus(maps[:, 0]), maps[:, 1].clamp(-8, 4), maps[:, 2])


def folded(network: DepthNetwork) -> DepthNetwork:
    """The same network for use only, its normalisations folded into the convolutions before them."""
    network = copy.deepcopy(network).eval().requires_grad_(False)
    for block in [module for module in network.modules() if isinstance(module, nn.Sequential)]:
        for place, (layer, following) in enumerate(itertools.pairwise(list(block))):
            if isinstance(layer, nn.Conv2d) and isinstance(following, nn.BatchNorm2d):
                block[place], block[place + 1] = fuse_conv_bn_eval(layer, following), nn.Identity()
    network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # the stubs do not know it
    return network


def correlation(now: Tensor, before: Tensor, reach: int) -> Tensor:
    """Likeness of each place now to its neighbourhood before, (N, (2 reach + 1)², h, w), row by row.

    now, before: (N, C, h, w) unit vectors. What lies outside the frame is like nothing.
    """
    height, width = now.shape[-2:]
    padded = functional.pad(before, (reach, reach, reach, reach))
    cells = range(2 * reach + 1)
    return torch.stack([(now * padded[..., y : y + height, x : x + width]).sum(1) for y in cells for x in cells], dim=1)


def enlarge(maps: Tensor, choice: Tensor) -> Tensor:
    """Maps (N, C, h, w) at twice the size, each new pixel a mean of 3 × 3 old ones that `choice` (N, 36, h, w) weighs.

    A learnt mean keeps steps sharp where bilinear enlargement would blur them (the upsampling of RAFT, Teed and Deng
    2020).
    """
    height, width = maps.shape[-2:]
    weights = choice.unflatten(1, (9, 4)).softmax(1)
    padded = functional.pad(maps, (1, 1, 1, 1), mode="replicate")
    mixed = torch.zeros((), dtype=maps.dtype, device=maps.device)
    for cell in range(9):
        y, x = divmod(cell, 3)
        mixed = mixed + padded[:, :, None, y : y + height, x : x + width] * weights[:, None, cell]
    return functional.pixel_shuffle(mixed.flatten(1, 2), 2)


class Residual(nn.Module):
    """Two dense convolutions beside an identity."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.body = nn.Sequential(_conv(channels, channels, 3), _conv(channels, channels, 3, active=False))

    def forward(self, x: Tensor) -> Tensor:
        return functional.relu(x + self.body(x))


class Wide(nn.Module):
    """A large depthwise window, then a bottleneck turned inside out (ConvNeXt, Liu et al. 2022)."""

    def __init__(self, channels: int, expansion: int = 3) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(channels, channels, 7, padding=3, groups=channels, bias=False),
            nn.BatchNorm2d(channels),
            _conv(channels, expansion * channels, 1),
            _conv(expansion * channels, channels, 1, active=False),
        )

    def forward(self, x: Tensor) -> Tensor:
        return x + self.body(x)


class Attention(nn.Module):
    """Every place of the frame looks at every other."""

    def __init__(self, channels: int, heads: int = 4) -> None:
        super().__init__()
        self.heads = heads
        self.norm = nn.LayerNorm(channels)
        self.queries, self.out = nn.Linear(channels, 3 * channels), nn.Linear(channels, channels)

    def forward(self, x: Tensor) -> Tensor:
        height, width = x.shape[-2:]
        tokens = self.norm(x.flatten(2).transpose(1, 2))
        q, k, v = self.queries(tokens).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4).unbind(0)
        mixed = functional.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)
        return x + self.out(mixed).transpose(1, 2).unflatten(2, (height, width))


class Up(nn.Module):
    """Coarse features at twice the size, mixed with the encoder's at that size."""

    def __init__(self, coarse: int, beside: Sequence[int], channels: int) -> None:
        super().__init__()
        self.coarse = nn.Conv2d(coarse, channels, 1)
        self.beside = nn.ModuleList(nn.Conv2d(width, channels, 1) for width in beside)
        self.mix = _conv(channels, channels, 3)
        self.body = Residual(channels)

    def forward(self, coarse: Tensor, *beside: Tensor) -> Tensor:
        x = functional.interpolate(self.coarse(coarse), scale_factor=2, mode="nearest")
        for layer, features in zip(self.beside, beside, strict=True):
            x = x + layer(features)
        out: Tensor = self.body(self.mix(x))
        return out


def _conv(inputs: int, outputs: int, size: int, *, stride: int = 1, active: bool = True) -> nn.Sequential:
    layers: list[nn.Module] = [
        nn.Conv2d(inputs, outputs, size, stride, size // 2, bias=False),
        nn.BatchNorm2d(outputs),
    ]
    return nn.Sequential(*layers, *([nn.ReLU(inplace=True)] if active else []))


def _padded(images: Tensor) -> Tensor:
    height, width = images.shape[-2:]
    below, right = -height % STRIDE, -width % STRIDE
    return functional.pad(images, (0, right, 0, below), mode="replicate") if below or right else images


def _placed(images: Tensor) -> Tensor:
    """With two more channels that say where in the frame a pixel lies: −1…1 along the longer side."""
    count, _, height, width = images.shape
    longer = max(height, width)
    y = (torch.arange(height, device=images.device, dtype=images.dtype) * 2 + (1 - height)) / longer
    x = (torch.arange(width, device=images.device, dtype=images.dtype) * 2 + (1 - width)) / longer
    places = torch.stack([y[:, None].expand(height, width), x[None, :].expand(height, width)])
    return torch.cat([images, places.expand(count, -1, -1, -1)], dim=1)
