# SPDX-License-Identifier: GPL-3.0-or-later
"""What surfaces are made of: families of materials with the colours, patterns and gloss such things have."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Final

import torch

from .draw import Draw
from .textures import FAMILIES as PATTERNS
from .textures import STARTS

Span = tuple[float, float]


@dataclass(frozen=True)
class Family:
    """Ranges from which a material is drawn. Hues in turns (may pass 1); periods as a share of the object's size."""

    patterns: tuple[str, ...]
    hue: Span
    saturation: Span
    brightness: Span
    period: Span = (0.5, 3.0)
    contrast: Span = (0.1, 0.6)
    detail: Span = (0.05, 0.4)
    relief: Span = (0.0, 0.5)
    gloss: Span = (0.0, 0.15)
    polish: Span = (5.0, 60.0)
    translucency: float = 0.0
    variation: float = 0.0
    glow: Span = (0.0, 0.0)


ANY: Final = (0.0, 1.0)
FAMILIES: Final[dict[str, Family]] = {
    "foliage": Family(("cloud", "marble", "cloud"), (0.17, 0.36), (0.35, 0.85), (0.12, 0.55), (1, 4), (0.1, 0.45),
                      gloss=(0, 0.3), polish=(8, 40), translucency=0.45, variation=0.35),
    "autumn": Family(("cloud", "marble"), (0.02, 0.17), (0.5, 0.95), (0.2, 0.75), (1, 4), gloss=(0, 0.2),
                     translucency=0.45, variation=0.5),
    "bark": Family(("marble", "cloud", "grain", "plank"), (0.04, 0.12), (0.1, 0.45), (0.12, 0.5), (0.5, 3), (0.3, 0.8),
                   relief=(0.4, 1.2)),
    "soil": Family(("cloud", "grain", "spot"), (0.06, 0.32), (0.15, 0.6), (0.18, 0.6), (0.3, 3), (0.2, 0.6),
                   (0.15, 0.6), (0.3, 1.2)),
    "turf": Family(("cloud", "grain", "spot", "cloud"), (0.16, 0.33), (0.3, 0.75), (0.15, 0.5), (0.3, 3), (0.2, 0.6),
                   (0.2, 0.6), (0.4, 1.2)),
    "stone": Family(("cloud", "grain", "spot", "tile", "marble"), (0.05, 0.65), (0.0, 0.14), (0.2, 0.8), (0.3, 3),
                    (0.1, 0.5), (0.1, 0.5), (0.1, 0.9), (0, 0.2)),
    "brick": Family(("brick",), (0.0, 0.09), (0.2, 0.65), (0.25, 0.75), (0.8, 2), (0.2, 0.6), (0.1, 0.3), (0.2, 0.8)),
    "wood": Family(("plank", "marble", "plank"), (0.04, 0.11), (0.3, 0.7), (0.25, 0.8), (0.5, 2), (0.15, 0.5),
                   relief=(0.0, 0.4), gloss=(0, 0.35)),
    "plaster": Family(("cloud", "grain", "cloud", "stripe"), ANY, (0.0, 0.28), (0.5, 0.97), (0.5, 4), (0.02, 0.25),
                      (0.02, 0.15), (0.0, 0.3)),
    "fabric": Family(("stripe", "grain", "tile", "spot", "cloud", "print", "cloud"), ANY, (0.05, 0.8), (0.08, 0.9),
                     (0.15, 1.5), (0.05, 0.9), (0.05, 0.4), (0.1, 0.8), variation=0.05),
    "skin": Family(("cloud",), (0.025, 0.075), (0.3, 0.62), (0.3, 0.97), (0.6, 2), (0.05, 0.2), (0.02, 0.12), (0, 0.15),
                   (0.02, 0.12), (6, 20)),
    "hair": Family(("grain", "cloud"), (0.02, 0.12), (0.15, 0.6), (0.05, 0.65), (0.3, 1), (0.2, 0.5), (0.1, 0.4),
                   gloss=(0.05, 0.4), polish=(10, 40), variation=0.3),
    "paint": Family(("cloud", "stripe", "print", "tile"), ANY, (0.1, 0.95), (0.1, 0.95), (0.3, 2), (0.0, 0.7),
                    (0, 0.1), (0, 0.1), (0.1, 0.8), (30, 300)),
    "metal": Family(("cloud", "grain", "spot"), (0.05, 0.65), (0.0, 0.15), (0.2, 0.8), (0.3, 2), (0.05, 0.3), (0, 0.2),
                    (0, 0.3), (0.3, 1.2), (20, 200)),
    "petal": Family(("cloud", "marble", "cloud"), (0.72, 1.18), (0.25, 1.0), (0.6, 1.0), (1, 4), (0.05, 0.4),
    (0.02, 0.15),
                    (0, 0.3), translucency=0.4, variation=0.12),
    "poster": Family(("print", "cloud", "stripe", "spot", "marble", "tile"), ANY, (0.1, 0.9), (0.3, 1.0), (0.7, 2.0),
                     (0.5, 1.0), (0, 0.1), (0, 0.05), (0, 0.3)),
    "facade": Family(("window", "window", "brick", "window"), (0.0, 0.7), (0.0, 0.3), (0.3, 0.9), (0.8, 1.4),
    (0.5, 1.0),
                     (0.05, 0.25), (0.05, 0.4), (0, 0.3)),
    "water": Family(("cloud", "stripe", "cloud", "marble"), (0.3, 0.62), (0.1, 0.6), (0.08, 0.4), (0.2, 1.5),
                    (0.1, 0.4), (0.05, 0.3), (0.3, 1.0), (0.6, 1.8), (30, 250)),
    "lamp": Family(("cloud",), (0.02, 0.2), (0.0, 0.6), (0.8, 1.0), contrast=(0, 0.1), detail=(0, 0),
                   glow=(6.0, 90.0)),
}  # fmt: skip
NAMES: Final = tuple(FAMILIES)


@dataclass(frozen=True)
class Materials:
    """M materials in each of B scenes.

    Attributes:
        colours: (B, M, 3, 3) linear RGB where the pattern is 0, where it is 1, and the accent of its second value.
        pattern: (B, M, 2) int64, the broad and the fine pattern.
        period: (B, M, 2) metres.
        turn: (B, M) radians, how the patterns lie on the object.
        contrast, accent, detail, relief, gloss, polish, translucency, variation: (B, M).
        glow: (B, M) how much light it gives off by itself, as a multiple of its colour.
    """

    colours: torch.Tensor
    pattern: torch.Tensor
    period: torch.Tensor
    turn: torch.Tensor
    contrast: torch.Tensor
    accent: torch.Tensor
    detail: torch.Tensor
    relief: torch.Tensor
    gloss: torch.Tensor
    polish: torch.Tensor
    translucency: torch.Tensor
    variation: torch.Tensor
    glow: torch.Tensor

    def to(self, device: torch.device) -> Materials:
        """The same materials on another device."""
        return Materials(**{f.name: getattr(self, f.name).to(device) for f in fields(self)})


def family(*names: str) -> list[float]:
    """Weights for `Draw.pick`: one of these families, evenly; a name given twice is twice as likely."""
    return [float(names.count(name)) for name in NAMES]


def paint(draw: Draw, families: torch.Tensor, size: torch.Tensor) -> Materials:
    """Draws a material for each entry.

    Args:
        families: (B, M) int64 into NAMES.
        size: (B, M) metres, of the object that wears it.
    """
    shape = tuple(families.shape)

    def span(field: str) -> torch.Tensor:
        low, high = torch.tensor([getattr(FAMILIES[name], field) for name in NAMES]).unbind(-1)
        return draw.uniform(shape, low[families], high[families])

    def constant(field: str) -> torch.Tensor:
        return torch.tensor([float(getattr(FAMILIES[name], field)) for name in NAMES])[families]

    hue, saturation, brightness = span("hue"), span("saturation"), span("brightness")
    # most things are muted: push saturations down, keep a tail
    least = torch.where(families == NAMES.index("skin"), 0.85, 0.5)
    saturation = (saturation * draw.uniform(shape, least, 1.15)).clamp(0, 1)
    main = hsv_to_linear(hue, saturation, brightness)
    darker = hsv_to_linear(
        hue + draw.normal(shape, 0.02), (saturation * draw.uniform(shape, 0.7, 1.3)).clamp(0, 1),
        brightness * draw.uniform(shape, 0.25, 0.9),
    )  # fmt: skip
    stranger = draw.coin(shape, 0.15)[..., None]
    accent = torch.where(
        stranger,
        hsv_to_linear(draw.uniform(shape), draw.uniform(shape, 0.0, 0.8), draw.uniform(shape, 0.1, 1.0)),
        hsv_to_linear(
            hue + draw.normal(shape, 0.04),
            saturation * draw.uniform(shape, 0.5, 1.0),
            (brightness * draw.uniform(shape, 0.6, 1.4)).clamp(0, 1),
        ),
    )
    swap = draw.coin(shape, 0.35)[..., None]
    colours = torch.stack([torch.where(swap, main, darker), torch.where(swap, darker, main), accent], -2)
    broad = _pattern(draw, families)
    fine = STARTS["cloud"] + draw.integer(shape, 0, PATTERNS["cloud"])
    grain = STARTS["grain"] + draw.integer(shape, 0, PATTERNS["grain"])
    fine = torch.where(draw.coin(shape, 0.4), grain, fine)
    low, high = torch.tensor([FAMILIES[name].period for name in NAMES]).unbind(-1)
    period = size * draw.log_uniform(shape, low[families], high[families])
    return Materials(
        colours=colours,
        pattern=torch.stack([broad, fine], -1),
        period=torch.stack([period, period * draw.log_uniform(shape, 0.07, 0.6)], -1),
        turn=torch.where(draw.coin(shape, 0.5), draw.integer(shape, 0, 4) * (torch.pi / 2), draw.turn(shape)),
        contrast=span("contrast"),
        accent=draw.uniform(shape) * draw.coin(shape, 0.5),
        detail=span("detail"),
        relief=span("relief"),
        gloss=span("gloss"),
        polish=span("polish"),
        translucency=constant("translucency"),
        variation=constant("variation") * draw.uniform(shape, 0.3, 1.2),
        glow=span("glow"),
    )


def hsv_to_linear(hue: torch.Tensor, saturation: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
    """Display HSV (hue in turns, any; the others in [0, 1]) to linear RGB (..., 3)."""
    offsets = torch.tensor([5.0, 3.0, 1.0])
    k = torch.remainder(offsets + 6 * hue[..., None], 6.0)
    wheel = torch.minimum(k, 4 - k).clamp(0, 1)
    return (value[..., None] * (1 - saturation[..., None] * wheel)).clamp(0, 1) ** 2.2


def _pattern(draw: Draw, families: torch.Tensor) -> torch.Tensor:
    """A pattern that suits the family, (B, M) int64."""
    longest = max(len(f.patterns) for f in FAMILIES.values())
    kinds = list(PATTERNS)
    table = torch.tensor(
        [[kinds.index(FAMILIES[n].patterns[i % len(FAMILIES[n].patterns)]) for i in range(longest)] for n in NAMES]
    )
    count = torch.tensor([len(FAMILIES[n].patterns) for n in NAMES])
    shape = tuple(families.shape)
    chosen = table[families, (draw.uniform(shape) * count[families]).long()]
    start = torch.tensor([STARTS[kind] for kind in kinds])[chosen]
    return start + (draw.uniform(shape) * torch.tensor([PATTERNS[kind] for kind in kinds])[chosen]).long()
