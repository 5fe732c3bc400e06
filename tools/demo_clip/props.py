# SPDX-License-Identifier: GPL-3.0-or-later
"""The courtyard's furniture, each built at its own origin and put where a matrix says."""

from __future__ import annotations

from typing import Any

import numpy as np

from .objects import add
from .shapes import Floats, Shape, blocks, curve, joined, lathe, leaves, prism, transform, tube


def window(
    m: dict[str, Any], place: Floats, width: float, height: float, rng: np.random.Generator, flowers: bool
) -> Shape:
    """Glazing, stone sill and lintel, slatted shutters; returns the cutter for its recess, in the wall's own frame.

    place: the sill's middle on the wall's face, as a matrix in the wall's frame (x along, −y out, z up).
    """
    wall = place
    w, h = width, height
    add("pane", blocks([(0, 0.19, h / 2)], [(w, 0.02, h)], 0.002), m["glass"], wall)
    bars = [(0, 0.165, h / 2), (-w / 2 + 0.03, 0.165, h / 2), (w / 2 - 0.03, 0.165, h / 2)]
    bars += [(0, 0.165, 0.03), (0, 0.165, h - 0.03), (0, 0.165, h * 0.62)]
    bar_sizes = [(0.06, 0.05, h)] * 3 + [(w, 0.05, 0.06)] * 2 + [(w, 0.045, 0.04)]
    add("frame", blocks(bars, bar_sizes, 0.006), m["oak"], wall)
    add(
        "sill",
        blocks(
            [(0, -0.02, -0.05), (0, 0.02, h + 0.09)],
            [(w + 0.3, 0.28, 0.1), (w + 0.34, 0.16, 0.18)],
            0.015,
            jitter=0.004,
        ),
        m["stone"],
        wall,
    )
    pieces = []
    for side in (-1, 1):
        middle = side * (w * 0.75 + 0.03)
        half = w / 2
        rails = [(middle - half / 2 + 0.035, -0.045, h / 2), (middle + half / 2 - 0.035, -0.045, h / 2)]
        rails += [(middle, -0.045, z) for z in (0.04, h / 2, h - 0.04)]
        pieces.append(blocks(rails, [(0.07, 0.04, h)] * 2 + [(half, 0.04, 0.08)] * 3, 0.006))
        slats = [(middle, -0.045, z) for z in np.arange(0.11, h - 0.08, 0.052)]
        pieces.append(blocks(slats, [(half - 0.12, 0.05, 0.01)], 0.003, [(-0.6, 0, 0)] * len(slats)))
    add("shutters", joined(pieces), m["shutter"], wall)
    if flowers:
        add("flower box", blocks([(0, -0.17, 0.09)], [(w * 0.95, 0.2, 0.17)], 0.012), m["terracotta"], wall)
        spots = np.c_[rng.uniform(-w * 0.46, w * 0.46, 260), rng.normal(-0.18, 0.06, 260), rng.normal(0.22, 0.06, 260)]
        add("geranium", leaves(spots, 0.07, rng, np.array([0, -0.4, 0.5]), 0.7, 0.8), m["ivy"], wall)
        blooms = np.c_[rng.uniform(-w * 0.44, w * 0.44, 22), rng.normal(-0.20, 0.05, 22), rng.normal(0.31, 0.04, 22)]
        petals = (blooms[:, None] + rng.normal(0, 0.018, (22, 14, 3))).reshape(-1, 3)
        add("petals", leaves(petals, 0.034, rng, np.array([0, -0.4, 0.6]), 0.8, 0.6), m["petal"], wall)
    return prism([(-w / 2, 0), (w / 2, 0), (w / 2, h), (-w / 2, h)], -0.2, 0.185)


def roof_tiles(length: float, rows: int, rng: np.random.Generator) -> Shape:
    """Courses of half-round tiles along x, rising towards +y; origin at the eave's left end."""
    angle = np.linspace(0, np.pi, 7)
    pieces = []
    for row in range(rows):
        for x in np.arange(0.09, length, 0.185):
            r = np.array([0.088, 0.072])[:, None]
            y = np.array([0.0, 0.42])[:, None]
            outer = np.stack([r * np.cos(angle), np.broadcast_to(y, (2, 7)), r * np.sin(angle)], -1)
            inner = outer * [0.82, 1, 0.82]
            ring = np.concatenate([outer, inner[:, ::-1]], 1)
            index = np.arange(14)
            nxt = (index + 1) % 14
            faces = [tuple(map(int, quad)) for quad in np.stack([index, nxt, 14 + nxt, 14 + index], 1)]
            faces += [tuple(range(13, -1, -1)), tuple(range(14, 28))]
            tile = Shape(ring.reshape(-1, 3), faces)
            at = (x + rng.normal(0, 0.004), row * 0.34, row * 0.11 + rng.normal(0, 0.004))
            pieces.append(tile.moved(transform(at, (0.22, 0, rng.normal(0, 0.02)))))
    return joined(pieces)


def potted(
    m: dict[str, Any], rng: np.random.Generator, at: tuple[float, float, float], size: float, plant: str
) -> None:
    """A terracotta pot with soil and a plant, `size` times half a metre high."""
    profile = [
        (0.17, 0),
        (0.185, 0.02),
        (0.22, 0.2),
        (0.255, 0.38),
        (0.262, 0.40),
        (0.29, 0.405),
        (0.295, 0.43),
        (0.295, 0.48),
        (0.285, 0.5),
        (0.255, 0.5),
        (0.245, 0.48),
        (0.24, 0.42),
    ]
    place = transform(at, scale=size)
    add("pot", lathe(profile, 48, 60, cap=False), m["terracotta"], place)
    add("soil", lathe([(0.001, 0.44), (0.24, 0.43)], 24), m["soil"], place)
    stems = 150
    lean = rng.normal(0, 0.55, (stems, 2))
    if plant == "lavender":
        height = rng.uniform(0.3, 0.52, (stems, 1))
        root = np.c_[rng.normal(0, 0.09, (stems, 2)), np.full(stems, 0.44)]
        tip = root + np.c_[lean * 0.32, height]
        add(
            "stems",
            joined(
                [tube(curve([a, (a + b) / 2 + [0, 0, 0.04], b], 5), 0.0035, 5) for a, b in zip(root, tip, strict=True)]
            ),
            m["olive"],
            place,
        )
        t = rng.uniform(0.72, 1.04, (stems, 16, 1))
        buds = (root[:, None] + (tip - root)[:, None] * t + rng.normal(0, 0.007, (stems, 16, 3))).reshape(-1, 3)
        add("buds", leaves(buds, 0.030, rng, spread=0.7, slender=0.9), m["lavender"], place)
        t = rng.uniform(0.05, 0.6, (stems, 9, 1))
        needles = (root[:, None] + (tip - root)[:, None] * t).reshape(-1, 3)
        add("needles", leaves(needles, 0.085, rng, spread=0.6, slender=2.6), m["olive"], place)
        return
    direction = rng.normal(0, 1, (900, 3))
    direction /= np.linalg.norm(direction, axis=1, keepdims=True)
    ball = direction * rng.uniform(0.55, 1.0, (900, 1)) ** 0.5 * [0.36, 0.36, 0.34] + [0, 0, 0.78]
    add("shrub", leaves(ball, 0.085, rng, direction, 0.6), m["leaf" if plant == "shrub" else "olive"], place)
    add("stem", tube([(0, 0, 0.4), (0.01, 0, 0.6), (0, 0, 0.8)], 0.025, 8), m["bark"], place)
    if plant == "shrub":
        outer = direction[:60] * [0.37, 0.37, 0.35] + [0, 0, 0.78]
        petals = (outer[:, None] + rng.normal(0, 0.016, (60, 10, 3))).reshape(-1, 3)
        add("blossom", leaves(petals, 0.045, rng, np.repeat(direction[:60], 10, 0), 0.7, 0.7), m["petal"], place)


def bench(m: dict[str, Any], place: Floats) -> None:
    """Slatted park bench with cast-iron ends, seat towards −y."""
    slats = [(0, y, 0.44) for y in (-0.20, -0.10, 0.0, 0.10, 0.20)]
    back = [(0, 0.25 + 0.22 * (z - 0.5), z) for z in (0.58, 0.69, 0.80, 0.91)]
    turns = [(0, 0, 0)] * 5 + [(1.35, 0, 0)] * 4
    add("slats", blocks(slats + back, [(1.6, 0.085, 0.034)], 0.008, turns), m["oak"], place)
    ends = []
    for x in (-0.66, 0.66):
        for path in (
            [
                (x, -0.26, 0.0),
                (x, -0.20, 0.2),
                (x, -0.22, 0.41),
                (x, 0.0, 0.42),
                (x, 0.22, 0.42),
                (x, 0.28, 0.6),
                (x, 0.37, 0.98),
            ],
            [(x, 0.32, 0.0), (x, 0.22, 0.2), (x, 0.22, 0.42)],
            [(x, -0.21, 0.42), (x, -0.25, 0.56), (x, -0.20, 0.66), (x, 0.05, 0.66), (x, 0.29, 0.68)],
        ):
            ends.append(tube(curve(path, 30), 0.021, 10))
    add("ends", joined(ends), m["iron"], place)


def barrel(m: dict[str, Any], place: Floats) -> None:
    """A staved barrel with iron hoops, 0.9 m high."""
    z = np.linspace(0, 0.9, 9)
    radius = 0.28 + 0.065 * (1 - ((z - 0.45) / 0.45) ** 2)
    staves = []
    for n in range(20):
        angle = (n + np.array([0.03, 0.1, 0.9, 0.97])) / 20 * 2 * np.pi
        lift = np.array([-0.008, 0, 0, -0.008])
        r = radius[:, None] + lift
        skin = np.stack([r * np.cos(angle), r * np.sin(angle), np.broadcast_to(z[:, None], r.shape)], -1)
        index = np.arange(36).reshape(9, 4)
        faces = [
            tuple(map(int, f))
            for f in np.stack([index[:-1, :-1], index[:-1, 1:], index[1:, 1:], index[1:, :-1]], -1).reshape(-1, 4)
        ]
        grain = np.stack(
            [np.broadcast_to(z[:, None], r.shape), np.broadcast_to(angle * 0.3, r.shape), np.full(r.shape, n * 7.3)], -1
        )
        staves.append(Shape(skin.reshape(-1, 3), faces, None, grain.reshape(-1, 3)))
    add("staves", joined(staves), m["oak"], place)
    add("barrel inside", lathe(np.c_[radius - 0.012, z].tolist(), 40), m["soil"], place)
    boards = np.arange(-0.24, 0.25, 0.08)
    lid = [(x, 0, 0.875) for x in boards]
    lid_sizes = [(0.078, 2 * np.sqrt(0.27**2 - x**2), 0.02) for x in boards]
    add("lid", blocks(lid, lid_sizes, 0.004), m["oak"], place)
    hoops = []
    for at in (0.06, 0.24, 0.66, 0.84):
        r = float(np.interp(at, z, radius))
        hoops.append(
            lathe(
                [(r - 0.01, at - 0.024), (r + 0.006, at - 0.022), (r + 0.007, at + 0.022), (r - 0.01, at + 0.024)],
                48,
                cap=False,
            )
        )
    add("hoops", joined(hoops), m["iron"], place)


def crate(m: dict[str, Any], place: Floats, w: float, d: float, h: float) -> None:
    """A slatted fruit crate."""
    rows = np.arange(0.05, h, 0.115)
    centres = [(0.0, s * d / 2, z) for s in (-1, 1) for z in rows]
    centres += [(s * w / 2, 0.0, z) for s in (-1, 1) for z in rows]
    sizes = [(w, 0.016, 0.095)] * (2 * len(rows)) + [(0.016, d, 0.095)] * (2 * len(rows))
    centres += [(s * (w / 2 - 0.03), t * (d / 2 - 0.03), h / 2) for s in (-1, 1) for t in (-1, 1)]
    sizes += [(0.045, 0.045, h)] * 4
    centres += [(0, y, 0.02) for y in np.linspace(-d / 2 + 0.06, d / 2 - 0.06, 5)]
    sizes += [(w, 0.1, 0.014)] * 5
    add("crate", blocks(centres, sizes, 0.004), m["pine"], place)


def lamp_post(m: dict[str, Any], place: Floats) -> None:
    """A cast-iron street lamp, 3.6 m high."""
    profile = [
        (0.17, 0),
        (0.17, 0.06),
        (0.13, 0.10),
        (0.12, 0.35),
        (0.085, 0.42),
        (0.06, 0.5),
        (0.055, 0.9),
        (0.068, 0.93),
        (0.068, 0.97),
        (0.045, 1.0),
        (0.036, 2.7),
        (0.055, 2.73),
        (0.055, 2.78),
        (0.03, 2.82),
        (0.03, 2.9),
        (0.10, 3.0),
        (0.11, 3.02),
    ]
    add("post", lathe(profile, 24), m["iron"], place)
    add("glass", lathe([(0.10, 3.02), (0.165, 3.36), (0.15, 3.37)], 6), m["lamp"], place, False)
    bars = [
        tube([(0.102 * c, 0.102 * s, 3.02), (0.168 * c, 0.168 * s, 3.37)], 0.009, 6)
        for c, s in ((np.cos(a), np.sin(a)) for a in np.arange(6) * np.pi / 3)
    ]
    cap = lathe(
        [
            (0.2, 3.36),
            (0.2, 3.385),
            (0.10, 3.47),
            (0.05, 3.52),
            (0.03, 3.55),
            (0.035, 3.58),
            (0.02, 3.62),
            (0.004, 3.68),
        ],
        24,
    )
    arm = tube([(-0.28, 0, 2.62), (0.28, 0, 2.62)], 0.014, 8)
    add("lantern", joined([*bars, cap, arm]), m["iron"], place)
