# SPDX-License-Identifier: GPL-3.0-or-later
"""The analytic shapes that every generated scene is made of, and how a ray meets them.

A shape lives in its own axes: centred, with half sizes in metres along x, y and z.

| kind | half sizes | `form`, eight numbers |
|---|---|---|
| CARD | width, length, – | bend_x, bend_y, profile, skew, notch depth, notches, wave, wave phase |
| SCREEN | width, length, – | bend_x, bend_y, profile, cut-out, cells across, cells along, fill, phase |
| ELLIPSOID | radii | – |
| BOX | half edges | – |
| LIMB | radius at −y, half length, radius at +y | roundness of the ends, – |

A card is the paraboloid patch z = bend_x·x² + bend_y·y², cut out along |x| < width·profile(y): a leaf, a petal, a
blade of grass, a strand of hair, a rectangle. A screen is a card with holes: foliage, wire mesh, bars. Seen from
inside, a box shows its far walls: a room.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, fields
from enum import IntEnum
from typing import Final, TypeAlias

import torch

FORM_SIZE: Final = 8

Triple: TypeAlias = tuple[torch.Tensor, torch.Tensor, torch.Tensor]


class Kind(IntEnum):
    """The shapes, in the order in which a scene's table holds them."""

    CARD = 0
    SCREEN = 1
    ELLIPSOID = 2
    BOX = 3
    LIMB = 4


class CutOut(IntEnum):
    """What a screen is cut into."""

    FOLIAGE = 0
    MESH = 1
    BARS = 2


@dataclass(frozen=True)
class Primitives:
    """N shapes in each of B scenes, sorted by kind; the same slots in every scene, unused ones inactive.

    Attributes:
        ranges: (start, stop) of each kind's slots.
        body: (B, N) int64, the moving body that carries the shape.
        rotation: (B, N, 3, 3), the shape's axes in the body's, as columns.
        centre: (B, N, 3) metres, in the body's axes.
        half: (B, N, 3) metres.
        form: (B, N, 8), see above.
        material: (B, N) int64.
        active: (B, N) bool.
    """

    ranges: tuple[tuple[int, int], ...]
    body: torch.Tensor
    rotation: torch.Tensor
    centre: torch.Tensor
    half: torch.Tensor
    form: torch.Tensor
    material: torch.Tensor
    active: torch.Tensor

    def to(self, device: torch.device) -> Primitives:
        """The same shapes on another device."""
        moved = {f.name: getattr(self, f.name).to(device) for f in fields(self) if f.name != "ranges"}
        return Primitives(self.ranges, **moved)

    def kinds(self) -> torch.Tensor:
        """(N,) int64: the kind of every slot."""
        sizes = torch.tensor([stop - start for start, stop in self.ranges])
        return torch.repeat_interleave(torch.arange(len(self.ranges)), sizes).to(self.body.device)


def bounds(shapes: Primitives) -> torch.Tensor:
    """(B, N, 3): half sizes of a box around each shape, in its own axes and about its centre."""
    x, y, z = shapes.half.unbind(-1)
    bend = shapes.form[..., 0].abs() * x * x + shapes.form[..., 1].abs() * y * y + 1e-4
    widest = torch.maximum(x, z)
    wave = 1 + shapes.form[..., 6].abs()
    per_kind = (
        (x * wave, y, bend),
        (x, y, bend),
        (x, y, z),
        (x, y, z),
        (widest, y + widest * shapes.form[..., 0], widest),
    )
    pieces = [
        torch.stack([part[:, start:stop] for part in box], dim=-1)
        for box, (start, stop) in zip(per_kind, shapes.ranges, strict=True)
    ]
    return torch.cat(pieces, dim=1)


def hit(
    kind: Kind, origin: Triple, ray: Triple, nearest: torch.Tensor, half: Triple, form: torch.Tensor
) -> torch.Tensor:
    """The first point of a shape on a ray: the ray parameter, inf where the ray misses.

    Args:
        origin, ray: coordinates in the shape's axes, each (P, L). The origin should lie near the shape (the
            point of the ray closest to its centre): float32 then suffices at any distance.
        nearest: (P, L), parameters at or below it lie behind the camera.
        half: three of (P, 1).
        form: (P, 8).
    """
    match kind:
        case Kind.CARD | Kind.SCREEN:
            return _hit_card(kind, origin, ray, nearest, half, form)
        case Kind.ELLIPSOID:
            return _hit_ellipsoid(origin, ray, nearest, half)
        case Kind.BOX:
            return _hit_box(origin, ray, nearest, half)
        case Kind.LIMB:
            return _hit_limb(origin, ray, nearest, half, form[:, :1])


def normal(kinds: torch.Tensor, point: torch.Tensor, half: torch.Tensor, form: torch.Tensor) -> torch.Tensor:
    """Outward unit normals in the shapes' axes, of points on them; a card's looks along +z.

    Args:
        kinds: (P,) int64.
        point, half: (P, 3).
        form: (P, 8).
    """
    x, y, z = point.unbind(-1)
    card = torch.stack([-2 * form[:, 0] * x, -2 * form[:, 1] * y, torch.ones_like(x)], dim=-1)
    round_ = point / half.clamp_min(1e-6).square()
    relative = point / half.clamp_min(1e-6)
    box = torch.nn.functional.one_hot(relative.abs().argmax(-1), 3) * relative.sign()
    length = half[:, 1].clamp_min(1e-6)
    slope = (half[:, 2] - half[:, 0]) / (2 * length)
    radial = torch.sqrt(x * x + z * z).clamp_min(1e-9)
    beyond = (y.abs() - length).clamp_min(0) * y.sign() / form[:, 0].clamp_min(1e-3).square()
    side = torch.stack([x / radial, -slope, z / radial], dim=-1)
    end = torch.stack([x, beyond, z], dim=-1)
    limb = torch.where((y.abs() > length)[:, None], end, side)
    chosen = torch.where(
        (kinds <= Kind.SCREEN)[:, None],
        card,
        torch.where(
            (kinds == Kind.ELLIPSOID)[:, None],
            round_,
            torch.where((kinds == Kind.BOX)[:, None], box.to(point.dtype), limb),
        ),
    )
    return torch.nn.functional.normalize(chosen, dim=-1)


def _hit_ellipsoid(origin: Triple, ray: Triple, nearest: torch.Tensor, half: Triple) -> torch.Tensor:
    ox, oy, oz = (o / h for o, h in zip(origin, half, strict=True))
    dx, dy, dz = (d / h for d, h in zip(ray, half, strict=True))
    a = dx * dx + dy * dy + dz * dz
    b = ox * dx + oy * dy + oz * dz
    root = b * b - a * (ox * ox + oy * oy + oz * oz - 1)
    t = (-b - root.clamp_min(0).sqrt()) / a
    return torch.where((root > 0) & (t > nearest), t, torch.inf)


def _hit_box(origin: Triple, ray: Triple, nearest: torch.Tensor, half: Triple) -> torch.Tensor:
    enter = torch.full_like(nearest, -torch.inf)
    leave = torch.full_like(nearest, torch.inf)
    for o, d, h in zip(origin, ray, half, strict=True):
        inverse = 1 / torch.where(d.abs() < 1e-9, 1e-9, d)
        middle, reach = -o * inverse, h * inverse.abs()
        enter = torch.maximum(enter, middle - reach)
        leave = torch.minimum(leave, middle + reach)
    t = torch.where(enter > nearest, enter, leave)
    return torch.where((enter < leave) & (t > nearest), t, torch.inf)


def _hit_limb(
    origin: Triple, ray: Triple, nearest: torch.Tensor, half: Triple, roundness: torch.Tensor
) -> torch.Tensor:
    (ox, oy, oz), (dx, dy, dz) = origin, ray
    low, length, high = half
    slope, middle = (high - low) / (2 * length), (high + low) / 2
    # the side: x² + z² = (middle + slope·y)²
    radius = middle + slope * oy
    a = dx * dx + dz * dz - (slope * dy).square()
    b = ox * dx + oz * dz - slope * dy * radius
    root = b * b - a * (ox * ox + oz * oz - radius * radius)
    t = (-b - root.clamp_min(0).sqrt()) / torch.where(a.abs() < 1e-9, 1e-9, a)
    y = oy + t * dy
    best = torch.where((root > 0) & (t > nearest) & (y.abs() < length) & (middle + slope * y > 0), t, torch.inf)
    # the ends: ellipsoids, flattened along y
    flat = roundness.clamp_min(1e-3)
    for end, r in ((-length, low), (length, high)):
        ey, dy_ = (oy - end) / flat, dy / flat
        a = dx * dx + dy_ * dy_ + dz * dz
        b = ox * dx + ey * dy_ + oz * dz
        root = b * b - a * (ox * ox + ey * ey + oz * oz - r * r)
        t = (-b - root.clamp_min(0).sqrt()) / a
        outward = (oy + t * dy - end) * torch.sign(end)
        best = torch.where((root > 0) & (t > nearest) & (outward >= 0), torch.minimum(best, t), best)
    return best


def _hit_card(
    kind: Kind, origin: Triple, ray: Triple, nearest: torch.Tensor, half: Triple, form: torch.Tensor
) -> torch.Tensor:
    (ox, oy, oz), (dx, dy, dz) = origin, ray
    bend_x, bend_y = form[:, 0:1], form[:, 1:2]
    a = bend_x * dx * dx + bend_y * dy * dy
    b = 2 * (bend_x * ox * dx + bend_y * oy * dy) - dz
    c = bend_x * ox * ox + bend_y * oy * oy - oz
    root = b * b - 4 * a * c
    # the form of the quadratic formula that does not cancel, so that a flat card is no special case
    q = -0.5 * (b + torch.where(b < 0, -1.0, 1.0) * root.clamp_min(0).sqrt())
    best = torch.full_like(nearest, torch.inf)
    for t in (c / torch.where(q.abs() < 1e-12, 1e-12, q), q / torch.where(a.abs() < 1e-12, 1e-12, a)):
        u, v = (ox + t * dx) / half[0], (oy + t * dy) / half[1]
        solid = _leaf(u, v, form) if kind == Kind.CARD else _screen(u, v, form)
        best = torch.where((root >= 0) & (t > nearest) & solid, torch.minimum(best, t), best)
    return best


def _profile(v: torch.Tensor, power: torch.Tensor) -> torch.Tensor:
    """Half width at v in [−1, 1]: power 0 is a rectangle, ½ an ellipse, 1 and more a pointed leaf."""
    return (1 - v * v).clamp_min(1e-6) ** power


def _leaf(u: torch.Tensor, v: torch.Tensor, form: torch.Tensor) -> torch.Tensor:
    power, skew, notch, notches, wave, phase = (form[:, k : k + 1] for k in range(2, 8))
    width = _profile(v, power) * (1 - skew * v) / (1 + skew.abs())
    width = width * (1 - notch * torch.sin(notches * v + phase).abs())
    return (v.abs() < 1) & ((u - wave * torch.sin(2.2 * v + phase) * (1 + v) * 0.5).abs() < width)


def _screen(u: torch.Tensor, v: torch.Tensor, form: torch.Tensor) -> torch.Tensor:
    power, cut, across, along, fill, phase = (form[:, k : k + 1] for k in range(2, 8))
    inside = (v.abs() < 1) & (u.abs() < _profile(v, power))
    gu, gv = u * across, v * along
    # foliage: one turned ellipse in each cell, its place and size by a hash of the cell
    iu, iv = torch.floor(gu), torch.floor(gv)
    noise = torch.frac(torch.sin(iu * 12.9898 + iv * 78.233 + phase * 37.7) * 4375.85).abs()
    other = torch.frac(noise * 61.7)
    turn = noise * (2 * math.pi)
    cu, cv = gu - iu - 0.35 - 0.3 * other, gv - iv - 0.35 - 0.3 * torch.frac(noise * 17.3)
    along_leaf, across_leaf = cu * torch.cos(turn) + cv * torch.sin(turn), cv * torch.cos(turn) - cu * torch.sin(turn)
    edge = 1 - (u * u + v * v) * 0.45
    foliage = (along_leaf.square() + 3.2 * across_leaf.square() < 0.28 * fill) & (other < edge)
    du, dv = (gu + gv) - torch.round(gu + gv), (gu - gv) - torch.round(gu - gv)
    mesh = torch.minimum(du.abs(), dv.abs()) < 0.5 * fill
    bars = (gu - torch.round(gu)).abs() < 0.5 * fill
    chosen = torch.where(cut < CutOut.MESH, foliage, torch.where(cut < CutOut.BARS, mesh, bars))
    return inside & chosen
