# SPDX-License-Identifier: GPL-3.0-or-later
"""A bank of tileable patterns with mip levels, and how surfaces look into it.

Patterns hold no colour: a *value*, its two slopes (relief), and a second value that is constant over a brick, a
spot or a plank. Materials paint them. Lookups pick the mip level by the pixel's footprint, so that patterns blur
with distance as they do in a camera, instead of flickering.
"""

from __future__ import annotations

import functools
import math
from typing import Final

import torch

SIZE: Final = 256
LEVELS: Final = 9
CLOUDS: Final = 10  # patterns of each family, in the bank's order
FAMILIES: Final = {
    "cloud": CLOUDS,
    "marble": 6,
    "brick": 6,
    "plank": 4,
    "tile": 4,
    "stripe": 6,
    "spot": 8,
    "grain": 4,
    "window": 6,
    "print": 6,
}
COUNT: Final = sum(FAMILIES.values())
STARTS: Final = {name: sum(list(FAMILIES.values())[:index]) for index, name in enumerate(FAMILIES)}


@functools.lru_cache(maxsize=3)
def bank(number: int, device: torch.device) -> torch.Tensor:
    """The patterns of one bank with all their mip levels.

    Returns:
        (COUNT, 87381, 4) float16: per pattern 256² + 128² + … + 1² texels of value, its slopes along u and v (a
        unit of height a texel of the largest level), second value; values in [0, 1], on average ½.
    """
    generator = torch.Generator().manual_seed(0x0E4D + number)
    value, second = _patterns(generator)
    slope_u = (value.roll(-1, 2) - value.roll(1, 2)) / 2
    slope_v = (value.roll(-1, 1) - value.roll(1, 1)) / 2
    level = torch.stack([value, slope_u, slope_v, second], 1)
    levels = []
    for _ in range(LEVELS):
        levels.append(level.flatten(2).transpose(1, 2))
        level = torch.nn.functional.avg_pool2d(level, 2) if level.shape[-1] > 1 else level
    return torch.cat(levels, 1).half().contiguous().to(device)


def look(
    patterns: torch.Tensor, pattern: torch.Tensor, u: torch.Tensor, v: torch.Tensor, footprint: torch.Tensor
) -> torch.Tensor:
    """Trilinear lookups.

    Args:
        patterns: a bank.
        pattern: (P,) int64.
        u, v: (P,) in periods of the pattern.
        footprint: (P,) periods that a pixel covers.

    Returns:
        (P, 4) float32.
    """
    detail = torch.log2(footprint.clamp_min(1e-9) * SIZE).clamp(0, LEVELS - 1)
    lower = torch.floor(detail)
    blend = (detail - lower)[:, None]
    fine = _bilinear(patterns, pattern, u, v, lower.long())
    return fine + (_bilinear(patterns, pattern, u, v, (lower.long() + 1).clamp_max(LEVELS - 1)) - fine) * blend


def _bilinear(
    patterns: torch.Tensor, pattern: torch.Tensor, u: torch.Tensor, v: torch.Tensor, level: torch.Tensor
) -> torch.Tensor:
    side = torch.bitwise_right_shift(torch.full_like(level, SIZE), level)
    # texels before this level: (4·256² − 4·side²) / 3
    start = (4 * SIZE * SIZE - 4 * side * side) // 3 + pattern * patterns.shape[1]
    x, y = (u - torch.floor(u)) * side - 0.5, (v - torch.floor(v)) * side - 0.5
    x0, y0 = torch.floor(x), torch.floor(y)
    fx, fy = (x - x0)[:, None], (y - y0)[:, None]
    left, top = x0.long() % side, y0.long() % side
    right, bottom = (left + 1) % side, (top + 1) % side
    flat = patterns.view(-1, 4)

    def texel(column: torch.Tensor, row: torch.Tensor) -> torch.Tensor:
        return flat[start + row * side + column].float()

    upper = texel(left, top) * (1 - fx) + texel(right, top) * fx
    lower = texel(left, bottom) * (1 - fx) + texel(right, bottom) * fx
    return upper * (1 - fy) + lower * fy


def _patterns(generator: torch.Generator) -> tuple[torch.Tensor, torch.Tensor]:
    """(COUNT, 256, 256) twice: values, second values."""

    def uniform(count: int, low: float = 0.0, high: float = 1.0) -> torch.Tensor:
        return (torch.rand(count, generator=generator) * (high - low) + low)[:, None, None]

    def whole(count: int, low: int, high: int) -> torch.Tensor:
        return torch.randint(low, high, (count,), generator=generator)[:, None, None].float()

    def cells(count: int, row: torch.Tensor, column: torch.Tensor) -> torch.Tensor:
        """A number in [0, 1) for each cell."""
        table = torch.rand(count, 64, 64, generator=generator)
        return table[torch.arange(count)[:, None, None], row.long() % 64, column.long() % 64]

    grid = (torch.arange(SIZE) + 0.5) / SIZE
    y, x = grid[None, :, None], grid[None, None, :]

    def clouds(count: int, low: float, high: float) -> torch.Tensor:
        return _spectral(torch.randn(count, SIZE, SIZE, generator=generator), uniform(count, low, high))

    values, seconds = [], []
    n = FAMILIES["cloud"]
    values.append(clouds(n, 0.9, 2.2))
    seconds.append(clouds(n, 1.5, 2.5))

    n = FAMILIES["marble"]
    warp = clouds(n, 1.6, 2.4)
    bands = torch.sin(2 * math.pi * (whole(n, 0, 6) * x + whole(n, 1, 6) * y + uniform(n, 0.6, 2.5) * warp))
    values.append(1 - bands.abs() ** uniform(n, 0.3, 1.5))
    seconds.append(warp)

    n = FAMILIES["brick"]
    rows, across = whole(n, 4, 13) * 2, whole(n, 3, 9)
    row = torch.floor(y * rows)
    shifted = x * across + (row % 2) * 0.5
    column = torch.floor(shifted) % across
    gap = uniform(n, 0.03, 0.08)
    joint = torch.minimum(_from_edge(y * rows), _from_edge(shifted) * rows / across)
    values.append(_step(joint, gap, gap * 1.8) * (0.65 + 0.35 * clouds(n, 0.8, 1.6)))
    seconds.append(cells(n, row, column))

    n = FAMILIES["plank"]
    across = whole(n, 3, 12)
    column = torch.floor(x * across)
    offset = cells(n, torch.zeros(n, 1, 1), column)
    row = torch.floor((y + offset) * 2) % 2
    fibre = clouds(n, 1.0, 1.6)
    fibre = fibre[:, torch.arange(SIZE) // 8][:, :, torch.arange(SIZE)]  # drawn out along the plank
    rings = torch.sin(2 * math.pi * (8 * fibre + 3 * cells(n, row, column)))
    joint = torch.minimum(_from_edge(x * across), _from_edge((y + offset) * 2) * 6)
    values.append(_step(joint, torch.tensor(0.02), torch.tensor(0.05)) * (0.55 + 0.25 * fibre + 0.2 * rings))
    seconds.append(cells(n, row, column))

    n = FAMILIES["tile"]
    across = whole(n, 2, 9) * 2
    checks = (torch.floor(x * across) + torch.floor(y * across)) % 2
    joint = torch.minimum(_from_edge(x * across), _from_edge(y * across))
    values.append(
        (checks * uniform(n, 0.0, 1.0) + 0.3 * clouds(n, 1.2, 2.0))
        * _step(joint, uniform(n, 0.01, 0.05), torch.tensor(0.07))
    )
    seconds.append(cells(n, torch.floor(y * across), torch.floor(x * across)))

    n = FAMILIES["stripe"]
    fine, coarse, crossing = whole(n, 6, 24), whole(n, 2, 6), torch.rand(n, generator=generator)[:, None, None] < 0.5
    u = x + 0.03 * uniform(n) * torch.sin(2 * math.pi * 2 * y)
    stripes = 0.5 + 0.5 * torch.sin(2 * math.pi * fine * u)
    broad = _step(0.5 + 0.5 * torch.sin(2 * math.pi * coarse * u), torch.tensor(0.45), torch.tensor(0.55))
    weave = _step(0.5 + 0.5 * torch.sin(2 * math.pi * coarse * y), torch.tensor(0.45), torch.tensor(0.55))
    values.append(0.5 * stripes ** uniform(n, 0.4, 2.0) + 0.5 * torch.where(crossing, weave, broad))
    seconds.append(torch.where(crossing, (broad + weave) / 2, broad).expand(n, SIZE, SIZE))

    n = FAMILIES["spot"]
    nearest, border, owner = _cells_around(x, y, whole(n, 5, 26), generator)
    mode = torch.arange(n)[:, None, None] % 4
    disc = _step(nearest, uniform(n, 0.2, 0.35), uniform(n, 0.38, 0.5))
    crack = _step(border, torch.tensor(0.02), torch.tensor(0.1))
    pebble = (1 - nearest.square()).clamp_min(0)
    values.append(
        torch.where(
            mode == 0, 1 - disc, torch.where(mode == 1, crack, torch.where(mode == 2, pebble, nearest.clamp_max(1)))
        )
    )
    seconds.append(owner)

    n = FAMILIES["grain"]
    grain = clouds(n, 0.0, 0.8)
    values.append(grain)
    seconds.append(clouds(n, 1.2, 2.0))

    n = FAMILIES["window"]
    across, rows = whole(n, 3, 9), whole(n, 3, 9)
    inner_x, inner_y = uniform(n, 0.12, 0.3), uniform(n, 0.12, 0.3)
    pane = (_from_edge(x * across) > inner_x) & (_from_edge(y * rows) > inner_y)
    bar = (_from_edge(x * across * 2) > 0.05) & (_from_edge(y * rows * 2 + 0.4) > 0.06)
    lit = cells(n, torch.floor(y * rows), torch.floor(x * across))
    wall = 0.7 + 0.3 * clouds(n, 1.0, 2.0)
    values.append(torch.where(pane & bar, 0.25 * lit, wall))
    seconds.append(torch.where(pane, 0.15 + 0.35 * lit, 0.75).expand(n, SIZE, SIZE))

    n = FAMILIES["print"]
    # a page: rows of strokes, with blocks of pictures
    lines = whole(n, 12, 28)
    stroke = cells(n, torch.floor(y * lines), torch.floor(x * 61)) > 0.35
    inside_line = (_from_edge(y * lines) > 0.2) & (cells(n, torch.floor(y * lines), torch.floor(x * 7)) > 0.25)
    blocks = cells(n, torch.floor(y * 3), torch.floor(x * 4))
    picture = clouds(n, 1.2, 2.2)
    values.append(torch.where(blocks > 0.6, picture, torch.where(stroke & inside_line, 0.15, 0.95)))
    seconds.append(torch.where(blocks > 0.6, blocks, 0.9).expand(n, SIZE, SIZE))

    value, second = (
        torch.cat([v.expand(-1, SIZE, SIZE) for v in values]),
        torch.cat([s.expand(-1, SIZE, SIZE) for s in seconds]),
    )
    return _spread(value), second.clamp(0, 1)


def _spectral(white: torch.Tensor, slope: torch.Tensor) -> torch.Tensor:
    """Tileable noise (n, S, S) with amplitude falling as 1/f^slope, spread over [0, 1]."""
    fy, fx = torch.fft.fftfreq(SIZE)[:, None] * SIZE, torch.fft.rfftfreq(SIZE)[None, :] * SIZE
    frequency = torch.sqrt(fx * fx + fy * fy).clamp_min(1.0)
    gain = frequency**-slope
    gain[:, 0, 0] = 0
    noise = torch.fft.irfft2(torch.fft.rfft2(white) * gain, s=(SIZE, SIZE))
    noise = noise / noise.std(dim=(1, 2), keepdim=True)
    return torch.sigmoid(1.6 * noise)


def _cells_around(
    x: torch.Tensor, y: torch.Tensor, across: torch.Tensor, generator: torch.Generator
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Cellular noise: distance to the nearest point, lead over the second nearest (both in cells), its number."""
    count = across.shape[0]
    table = torch.rand(count, 64, 64, 3, generator=generator)
    px, py = x * across, y * across
    best = torch.full((count, SIZE, SIZE), 9.0)
    next_best, owner = best.clone(), best.clone()
    for dy in (-1, 0, 1):
        for dx in (-1, 0, 1):
            column, row = torch.floor(px) + dx, torch.floor(py) + dy
            point = table[torch.arange(count)[:, None, None], (row % across).long(), (column % across).long()]
            distance = torch.hypot(column + point[..., 0] - px, row + point[..., 1] - py)
            closer = distance < best
            next_best = torch.where(closer, best, torch.minimum(next_best, distance))
            owner = torch.where(closer, point[..., 2], owner)
            best = torch.where(closer, distance, best)
    return best, next_best - best, owner


def _from_edge(cells: torch.Tensor) -> torch.Tensor:
    """Distance to the nearer whole number: 0 on a grid line, ½ in the middle of a cell."""
    return 0.5 - (cells - torch.floor(cells) - 0.5).abs()


def _step(value: torch.Tensor, low: torch.Tensor, high: torch.Tensor) -> torch.Tensor:
    t = ((value - low) / (high - low).clamp_min(1e-4)).clamp(0, 1)
    return t * t * (3 - 2 * t)


def _spread(value: torch.Tensor) -> torch.Tensor:
    """Each pattern's 2nd … 98th percentile over [0, 1]."""
    flat = value.flatten(1)[:, ::7]
    low, high = torch.quantile(flat, 0.02, dim=1)[:, None, None], torch.quantile(flat, 0.98, dim=1)[:, None, None]
    return ((value - low) / (high - low).clamp_min(1e-3)).clamp(0, 1)
