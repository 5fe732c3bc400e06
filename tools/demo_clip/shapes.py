# SPDX-License-Identifier: GPL-3.0-or-later
"""Meshes as arrays: the few generators (blocks, lofts, lathes, leaves) from which the demo scene is put together.

Lengths are metres, z is up. Nothing here imports Blender.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Points = Sequence[Sequence[float]] | Sequence[Floats] | Floats
Triple = Sequence[float] | Floats


@dataclass
class Shape:
    """A polygon mesh.

    vertices: (N, 3). faces: vertex indices per polygon. normals: (N, 3) shading normals, or None for smooth ones
    computed from the faces. grain: (N, 3) coordinates that follow each plank or stone, x along its longest side.
    """

    vertices: Floats
    faces: list[tuple[int, ...]]
    normals: Floats | None = None
    grain: Floats | None = field(default=None)

    def moved(self, matrix: Floats) -> Shape:
        """The shape under a 4×4 affine matrix (grain coordinates stay with the material)."""
        normals = None
        if self.normals is not None:
            normals = self.normals @ np.linalg.inv(matrix[:3, :3])
            normals /= np.linalg.norm(normals, axis=1, keepdims=True)
        return Shape(self.vertices @ matrix[:3, :3].T + matrix[:3, 3], self.faces, normals, self.grain)


def joined(shapes: Sequence[Shape]) -> Shape:
    """One shape from several; shading normals and grain survive only if all of them have them."""
    offsets = np.cumsum([0] + [len(s.vertices) for s in shapes])
    faces = [tuple(int(i + o) for i in f) for s, o in zip(shapes, offsets, strict=False) for f in s.faces]
    normals = [s.normals for s in shapes if s.normals is not None]
    grain = [s.grain for s in shapes if s.grain is not None]
    return Shape(
        np.concatenate([s.vertices for s in shapes]),
        faces,
        np.concatenate(normals) if len(normals) == len(shapes) else None,
        np.concatenate(grain) if len(grain) == len(shapes) else None,
    )


def transform(location: Triple = (0, 0, 0), turn: Triple = (0, 0, 0), scale: float | Triple = 1.0) -> Floats:
    """4×4 matrix: scale, then rotate about x, y, z (radians, in that order), then move."""
    (cx, cy, cz), (sx, sy, sz) = np.cos(turn), np.sin(turn)
    rx = np.array([[1, 0, 0], [0, cx, -sx], [0, sx, cx]])
    ry = np.array([[cy, 0, sy], [0, 1, 0], [-sy, 0, cy]])
    rz = np.array([[cz, -sz, 0], [sz, cz, 0], [0, 0, 1]])
    matrix = np.eye(4)
    matrix[:3, :3] = rz @ ry @ rx @ np.diag(np.broadcast_to(np.asarray(scale, float), (3,)))
    matrix[:3, 3] = location
    return matrix


_CORNERS = np.array([[x, y, z] for x in (-1, 1) for y in (-1, 1) for z in (-1, 1)], float)


def _block_faces() -> list[tuple[int, ...]]:
    """Faces of a chamfered cube whose vertex 3 * corner + axis lies on the cube's side facing along that axis."""
    faces: list[tuple[int, ...]] = []
    code = {tuple(c): i for i, c in enumerate(_CORNERS.astype(int))}
    for axis in range(3):
        u, v = (axis + 1) % 3, (axis + 2) % 3
        for side in (-1, 1):
            ring = []
            for su, sv in ((-1, -1), (1, -1), (1, 1), (-1, 1)):
                corner = [0, 0, 0]
                corner[axis], corner[u], corner[v] = side, su, sv
                ring.append(3 * code[tuple(corner)] + axis)
            faces.append(tuple(ring if side > 0 else ring[::-1]))
        for su in (-1, 1):
            for sv in (-1, 1):
                ends = []
                for side in (-1, 1):
                    corner = [0, 0, 0]
                    corner[axis], corner[u], corner[v] = side, su, sv
                    ends.append(code[tuple(corner)])
                quad = (3 * ends[0] + u, 3 * ends[1] + u, 3 * ends[1] + v, 3 * ends[0] + v)
                faces.append(quad[::-1] if su * sv > 0 else quad)
    for i, corner_signs in enumerate(_CORNERS):
        triangle = (3 * i, 3 * i + 1, 3 * i + 2)
        faces.append(triangle if np.prod(corner_signs) > 0 else triangle[::-1])
    return faces


_BLOCK_FACES = _block_faces()


def blocks(
    centres: Points,
    sizes: Points,
    bevel: float = 0.01,
    turns: Points | None = None,
    jitter: float = 0.0,
    seed: int = 0,
) -> Shape:
    """Chamfered boxes with soft edges: (N, 3) centres and full sizes, optional (N, 3) turns as in `transform`.

    jitter moves every corner by up to that many metres, for hewn stone.
    """
    centre, size = np.atleast_2d(np.asarray(centres, float)), np.atleast_2d(np.asarray(sizes, float))
    centre, size = np.broadcast_arrays(centre, size)
    count = len(centre)
    rng = np.random.default_rng(seed)
    half = size[:, None, None, :] / 2
    inset = np.minimum(bevel, half * 0.45)
    on_side = np.eye(3)[None, None]
    local = _CORNERS[None, :, None, :] * (half - inset * (1 - on_side))
    local = local + rng.uniform(-jitter, jitter, (count, 8, 1, 3))
    local = local.reshape(count, 24, 3)
    normal = np.broadcast_to((_CORNERS[:, None, :] * np.eye(3)[None]).reshape(24, 3), local.shape)
    order = np.argsort(-size, axis=1)
    grain = np.take_along_axis(local, np.broadcast_to(order[:, None, :], local.shape), 2)
    grain = grain + rng.uniform(-50, 50, (count, 1, 3))
    if turns is not None:
        turned = np.broadcast_to(np.asarray(turns, float), (count, 3))
        rotations = np.stack([transform(turn=t)[:3, :3] for t in turned])
        local = np.einsum("nij,nkj->nki", rotations, local)
        normal = np.einsum("nij,nkj->nki", rotations, normal)
    vertices = (local + centre[:, None]).reshape(-1, 3)
    faces = [tuple(24 * n + i for i in face) for n in range(count) for face in _BLOCK_FACES]
    return Shape(vertices, faces, normal.reshape(-1, 3), grain.reshape(-1, 3))


def rings(points: Floats, cap: bool = True) -> Shape:
    """Skin over closed cross-sections: points (R, S, 3), counter-clockwise seen against the ring order."""
    count, segments = points.shape[:2]
    index = np.arange(count * segments).reshape(count, segments)
    nxt = np.roll(index, -1, axis=1)
    quads = np.stack([index[:-1], nxt[:-1], nxt[1:], index[1:]], -1).reshape(-1, 4)
    faces: list[tuple[int, ...]] = [tuple(map(int, q)) for q in quads]
    if cap:
        faces += [tuple(map(int, index[0][::-1])), tuple(map(int, index[-1]))]
    return Shape(points.reshape(-1, 3), faces)


def tube(path: Points, radii: float | Triple, segments: int = 12) -> Shape:
    """A round tube along a polyline (N, 3) with one radius per point; its frame is carried along without twist."""
    line = np.asarray(path, float)
    radius = np.broadcast_to(np.asarray(radii, float), len(line))
    tangent = np.gradient(line, axis=0)
    tangent /= np.linalg.norm(tangent, axis=1, keepdims=True)
    side = np.cross(tangent[0], [0, 0, 1.0] if abs(tangent[0][2]) < 0.9 else [0, 1.0, 0])
    angle = np.linspace(0, 2 * np.pi, segments, endpoint=False)
    sections = []
    for point, direction, r in zip(line, tangent, radius, strict=True):
        side = side - direction * (side @ direction)
        side /= np.linalg.norm(side)
        up = np.cross(direction, side)
        sections.append(point + r * (np.cos(angle)[:, None] * side + np.sin(angle)[:, None] * up))
    return rings(np.array(sections))


def curve(points: Points, count: int) -> Floats:
    """Catmull-Rom curve through (N, 3) points, sampled at `count` places."""
    p = np.asarray(points, float)
    padded = np.concatenate([2 * p[:1] - p[1:2], p, 2 * p[-1:] - p[-2:-1]])
    u = np.linspace(0, len(p) - 1 - 1e-9, count)
    i = u.astype(int)
    t = (u - i)[:, None]
    a, b, c, d = (padded[i + k] for k in range(4))
    return 0.5 * (2 * b + (c - a) * t + (2 * a - 5 * b + 4 * c - d) * t**2 + (3 * b - a - 3 * c + d) * t**3)


def lathe(profile: Points, segments: int = 40, smooth: int = 0, cap: bool = True) -> Shape:
    """Turn (radius, z) pairs about the z axis, from the bottom up; smooth > 0 resamples the profile as a curve."""
    pairs = np.asarray(profile, float)
    if smooth:
        pairs = curve(np.c_[pairs, np.zeros(len(pairs))], smooth)[:, :2]
    angle = np.linspace(0, 2 * np.pi, segments, endpoint=False)
    circle = np.c_[np.cos(angle), np.sin(angle)]
    points = np.concatenate(
        [pairs[:, None, :1] * circle[None], np.broadcast_to(pairs[:, None, 1:], (len(pairs), segments, 1))], -1
    )
    return rings(points, cap)


def ellipsoid(radii: Triple, power: float = 1.0, segments: int = 28) -> Shape:
    """An ellipsoid about the origin; power < 1 squares it off towards a cushion."""
    latitude = np.linspace(-np.pi / 2 + 0.02, np.pi / 2 - 0.02, segments // 2)
    longitude = np.linspace(0, 2 * np.pi, segments, endpoint=False)

    def shaped(v: Floats) -> Floats:
        return np.sign(v) * np.abs(v) ** power

    x = shaped(np.cos(latitude))[:, None] * shaped(np.cos(longitude))[None]
    y = shaped(np.cos(latitude))[:, None] * shaped(np.sin(longitude))[None]
    z = np.broadcast_to(shaped(np.sin(latitude))[:, None], x.shape)
    return rings(np.stack([x, y, z], -1) * np.asarray(radii, float))


def prism(outline: Points, y_from: float, y_to: float) -> Shape:
    """Extrude an (x, z) outline, counter-clockwise seen from −y, between two y planes."""
    flat = np.asarray(outline, float)
    front = np.c_[flat[:, 0], np.full(len(flat), y_from), flat[:, 1]]
    back = np.c_[flat[:, 0], np.full(len(flat), y_to), flat[:, 1]]
    count = len(flat)
    faces: list[tuple[int, ...]] = [tuple(range(count)), tuple(range(2 * count - 1, count - 1, -1))]
    faces += [(i, count + i, count + (i + 1) % count, (i + 1) % count) for i in range(count)]
    return Shape(np.concatenate([front, back]), faces)


def arch_outline(centre: float, width: float, spring: float, steps: int = 24) -> Floats:
    """(x, z) outline of a round-arched opening standing on z = 0."""
    angle = np.linspace(0, np.pi, steps)
    top = np.c_[centre + width / 2 * np.cos(angle), spring + width / 2 * np.sin(angle)]
    return np.concatenate([[[centre - width / 2, -0.2], [centre + width / 2, -0.2]], top])


_LEAF = np.array([[0, 0, 0], [0.32, 0.42, 0.10], [0, 0.5, 0], [-0.32, 0.42, 0.10], [0, 1, -0.08]])
_LEAF_FACES = [(0, 1, 4, 2), (0, 2, 4, 3)]


def leaves(
    places: Floats,
    size: float,
    rng: np.random.Generator,
    pointing: Floats | None = None,
    spread: float = 0.8,
    slender: float = 1.0,
) -> Shape:
    """One folded leaf per place (N, 3), of about `size` metres, pointing along `pointing` (default up) ± spread."""
    count = len(places)
    along = np.broadcast_to(np.array([0, 0, 1.0]) if pointing is None else pointing, (count, 3))
    along = along + rng.normal(0, spread, (count, 3))
    along = along / np.linalg.norm(along, axis=1, keepdims=True)
    across = np.cross(along, rng.normal(0, 1, (count, 3)))
    across /= np.linalg.norm(across, axis=1, keepdims=True)
    up = np.cross(across, along)
    frame = np.stack([across / slender, along, up], 1)
    scale = size * rng.uniform(0.65, 1.2, (count, 1, 1))
    vertices = (_LEAF[None] @ frame) * scale + places[:, None]
    faces = [tuple(5 * n + i for i in face) for n in range(count) for face in _LEAF_FACES]
    return Shape(vertices.reshape(-1, 3), faces)


def tree(rng: np.random.Generator, height: float, spread: float) -> tuple[Shape, Floats]:
    """Trunk and branches grown from the origin, and the twig tips (N, 3) on which leaves sit."""
    wood: list[Shape] = []
    tips: list[Floats] = []

    def grow(start: Floats, direction: Floats, length: float, radius: float, level: int) -> None:
        steps = 6
        path = [start]
        heading = direction
        for _ in range(steps):
            heading = heading + rng.normal(0, 0.10 if level == 0 else 0.2, 3) + np.array([0, 0, 0.05 * level])
            heading = heading / np.linalg.norm(heading)
            path.append(path[-1] + heading * length / steps)
        line = np.array(path)
        flare = np.array([1.5, 1.15, 1, 0.94, 0.88, 0.82, 0.76]) if level == 0 else np.linspace(1, 0.6, steps + 1)
        fine = curve(line, 16)
        wood.append(tube(fine, np.interp(np.linspace(0, 1, 16), np.linspace(0, 1, 7), flare) * radius, 14 - 3 * level))
        if level >= 2:
            tips.extend(line[2:])
        if level == 3:
            return
        for child in range((5, 4, 4)[level]):
            turn = 2 * np.pi * (child + rng.uniform(-0.25, 0.25)) / (5, 4, 4)[level]
            side = np.array([np.cos(turn), np.sin(turn), 0]) * spread
            aim = heading * (0.75 if level == 0 else 0.9) + side + rng.normal(0, 0.15, 3)
            place = line[-1] if child == 0 else line[rng.integers(4 if level == 0 else 2, steps + 1)]
            grow(place, aim / np.linalg.norm(aim), length * rng.uniform(0.5, 0.68), radius * 0.55, level + 1)

    grow(np.zeros(3), np.array([0.04, 0, 1.0]), height, height * 0.07, 0)
    return joined(wood), np.array(tips)
