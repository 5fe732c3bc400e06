# SPDX-License-Identifier: GPL-3.0-or-later
"""Which clips a step of training sees, and how: a pure function of the run's seed and the step's number.

A resumed run therefore sees what an uninterrupted one would have seen.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final, Protocol

import torch
from torch import Tensor

from ..depth.network import DepthMaps, DepthNetwork
from .depth_losses import DepthTarget, depth_target

HELD_OUT_SEED: Final = 2**30
"""Seeds from here on are never trained on: evaluation takes its clips from them."""

Size = tuple[int, int, int]
SIZES: Final[tuple[Size, ...]] = (
    (256, 448, 6),
    (448, 256, 6),
    (320, 320, 6),
    (384, 384, 4),
    (256, 384, 7),
    (384, 256, 7),
    (256, 256, 8),
    (320, 416, 5),
    (416, 320, 5),
)
"""(height, width, frames) of a step's clips: about as many pixels in each, so that steps take about as long."""

LONG_SIZES: Final[tuple[Size, ...]] = (
    (192, 320, 16),
    (320, 192, 16),
    (256, 320, 12),
    (320, 256, 12),
    (256, 256, 14),
    (224, 384, 11),
    (384, 224, 11),
    (320, 320, 9),
    (384, 384, 7),
)
"""For a last stage: short clips do not teach what to forget, and in long ones what moves is smeared."""

PICTURE_SIZES: Final[tuple[Size, ...]] = ((192, 320, 1), (320, 192, 1), (256, 256, 1))
"""For a first stage: what one picture tells of depth is learnt from many scenes, sooner than from many frames."""

_CROPPED: Final = 0.25
_MARGIN: Final = 0.25
"""Share of steps that see a window of a larger picture, as of a lens that is shifted; how much larger it is."""


class Clips(Protocol):
    """B clips of F frames with their truth, as `ex4d_engine.synthetic.random_clips` makes them."""

    @property
    def images(self) -> Tensor:
        """(B, F, 3, H, W) float32, 0…1."""

    @property
    def depth(self) -> Tensor:
        """(B, F, H, W) float32, z in metres, inf for sky."""

    @property
    def flow(self) -> Tensor:
        """(B, F−1, 2, H, W) in pixels."""

    @property
    def flow_valid(self) -> Tensor:
        """(B, F−1, H, W) bool."""


class ClipSource(Protocol):
    """Draws clips; the same seed gives the same clips."""

    def __call__(
        self, seed: int, batch: int, frames: int, height: int, width: int, device: torch.device
    ) -> Any:  # Clips: NamedTuples and dataclasses alike
        ...


@dataclass(frozen=True)
class StepPlan:
    """One step's clips and what is done with them.

    seed: of the scenes. look: seed of the colours.
    window: rows and columns cut off above and left, of a picture `margin` rows and columns larger than the size.
    mirrored: left and right are exchanged.
    order: in which the frames are seen (see `DepthNetwork.forward`).
    """

    seed: int
    look: int
    height: int
    width: int
    frames: int
    margin: tuple[int, int]
    window: tuple[int, int]
    mirrored: bool
    order: tuple[int, ...]


def step_plan(
    run_seed: int,
    step: int,
    batch: int,
    sizes: Sequence[Size] = SIZES,
    repeats: int = 1,
    pool: int = 1,
    passes: int = 2,
) -> StepPlan:
    """The plan of a step.

    repeats: every so many steps new clips are drawn, and seen at once; the steps between see clips from among the
        last `pool` drawings again, each time in another look. Drawings share no clip, even where a source counts its
        clips on from the seed.
    passes: how often a clip is gone through at most, there and back.
    """
    drawing = step // repeats
    if step % repeats:
        drawing = max(0, drawing - random.Random(f"ex4d depth pool {run_seed} {step}").randrange(pool))  # noqa: S311
    # seeded by text, which random hashes the same on every machine
    rng = random.Random(f"ex4d depth {run_seed} {drawing}")  # noqa: S311
    height, width, frames = rng.choice(sizes)
    margin = (0, 0)
    if rng.random() < _CROPPED:
        margin = (round(_MARGIN * height), round(_MARGIN * width))
    rng = random.Random(f"ex4d depth look {run_seed} {step}")  # noqa: S311
    window = (rng.randint(0, margin[0]), rng.randint(0, margin[1]))
    return StepPlan(
        seed=(run_seed * 7_368_787 + drawing) * batch % HELD_OUT_SEED,
        look=rng.getrandbits(32),
        height=height,
        width=width,
        frames=frames,
        margin=margin,
        window=window,
        mirrored=rng.random() < 0.5,
        order=_order(frames, rng, passes),
    )


def _order(frames: int, rng: random.Random, passes: int) -> tuple[int, ...]:
    """Forwards or backwards, and on there and back: a longer clip at little cost, as real ones have hundreds."""
    way = tuple(range(frames)) if rng.random() < 0.5 else tuple(range(frames - 1, -1, -1))
    order = way
    for _ in range(rng.randint(1, passes) - 1):
        way = way[::-1]
        order += way[1:]
    return order


class KeptClips:
    """A source that remembers its last answers, and does not draw them again."""

    def __init__(self, source: ClipSource, count: int = 1) -> None:
        self._source = source
        self._count = count
        self._kept: dict[tuple[Any, ...], Any] = {}

    def __call__(self, seed: int, batch: int, frames: int, height: int, width: int, device: torch.device) -> Any:
        question = (seed, batch, frames, height, width, device)
        if question not in self._kept:
            while len(self._kept) >= self._count:  # before the new one is drawn: memory is what there is little of
                del self._kept[next(iter(self._kept))]
            self._kept[question] = self._source(*question)
        return self._kept[question]


def question(plan: StepPlan, batch: int, device: torch.device) -> tuple[int, int, int, int, int, torch.device]:
    """What a source is asked for a step's clips."""
    return plan.seed, batch, plan.frames, plan.height + plan.margin[0], plan.width + plan.margin[1], device


def draw(plan: StepPlan, batch: int, source: ClipSource, device: torch.device) -> tuple[Tensor, DepthTarget]:
    """The step's images (B, F, 3, H, W), colours varied, and their truth."""
    clips: Clips = source(*question(plan, batch, device))
    y = slice(plan.window[0], plan.window[0] + plan.height)
    x = slice(plan.window[1], plan.window[1] + plan.width)
    images = torch.nan_to_num(clips.images[..., y, x]).clamp(0, 1)
    target = depth_target(clips.depth[..., y, x], clips.flow[..., y, x], clips.flow_valid[..., y, x])
    return vary_colours(images, plan.look), target


def predict(network: DepthNetwork, images: Tensor, plan: StepPlan) -> DepthMaps:
    """The network's answer to the images as the plan shows them, turned back to how they lie."""
    if not plan.mirrored:
        return network(images, plan.order)
    mirrored: DepthMaps = network(images.flip(-1), plan.order)
    return DepthMaps(*(values.flip(-1) for values in mirrored))


def vary_colours(images: Tensor, seed: int) -> Tensor:
    """Images (B, F, 3, H, W) in 0…1 as another camera or grade would show them, one look a clip."""
    return with_looks(images, drawn_looks(len(images), seed).to(images.device, non_blocking=True))


def drawn_looks(batch: int, seed: int) -> Tensor:
    """(B, 6) on the CPU: gamma, gain of red, green and blue, contrast, saturation."""
    generator = torch.Generator().manual_seed(seed)

    def between(low: float, high: float, channels: int = 1) -> Tensor:
        return low + (high - low) * torch.rand(batch, channels, generator=generator)

    gamma, gain = between(0.7, 1.4), between(0.8, 1.2) * between(0.9, 1.1, 3)
    contrast, saturation = between(0.8, 1.25), between(0.0, 1.3).clamp_max(1.2)
    return torch.cat([gamma, gain, contrast, saturation], dim=1)


def with_looks(images: Tensor, looks: Tensor) -> Tensor:
    """Images (B, F, 3, H, W) in 0…1 in looks (B, 6) on their device; arithmetic only, so that it can be compiled."""
    gamma, gain, contrast, saturation = looks[:, None, :, None, None].split([1, 3, 1, 1], dim=2)
    look = images.clamp_min(1e-4) ** gamma * gain
    look = (look - 0.5) * contrast + 0.5
    grey = look.mean(2, keepdim=True)
    return (grey + (look - grey) * saturation).clamp(0, 1)
