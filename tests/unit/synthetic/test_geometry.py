# SPDX-License-Identifier: GPL-3.0-or-later
"""Depth of every shape against its closed form, and what is in front of what."""

from __future__ import annotations

import math

import torch

from ex4d_engine.synthetic.builder import SceneBuilder
from ex4d_engine.synthetic.primitives import CutOut, Kind
from ex4d_engine.synthetic.surfaces import rays

from .small_scenes import add, intrinsics, look, moved, scene_of

RAYS = rays(intrinsics(60.0, 48, 64)[None], 48, 64)[0].double()


def test_sphere() -> None:
    scenes = scene_of(lambda b: add(b, Kind.ELLIPSOID, (0.3, -0.2, 5.0), (1.0, 1.0, 1.0)))
    depth = look(scenes, moved())[1].depth[0].double()
    centre = torch.tensor([0.3, -0.2, 5.0], dtype=torch.float64)
    a, b, c = (RAYS * RAYS).sum(-1), RAYS @ centre, centre @ centre - 1
    root = b * b - a * c
    expected = torch.where(root > 0, (b - root.clamp_min(0).sqrt()) / a, torch.inf)
    clear = root.abs() > 0.01  # not on the outline itself
    assert torch.isinf(depth[clear & (root < 0)]).all()
    torch.testing.assert_close(depth[clear & (root > 0)], expected[clear & (root > 0)], atol=2e-5, rtol=0)
    assert 450 < int((root > 0).sum()) < 500  # π (60 px · 1 m / √(5² − 1²) m)² = 471


def test_far_sphere_keeps_its_precision() -> None:
    scenes = scene_of(lambda b: add(b, Kind.ELLIPSOID, (0.0, 0.0, 1000.0), (2.0, 2.0, 2.0)))
    depth = look(scenes, moved(), focal=20000.0)[1].depth[0]
    assert abs(float(depth[24, 32]) - 998.0) < 1e-3


def test_card_is_a_plane() -> None:
    tilt = moved(turn=0.4)[:3, :3]
    scenes = scene_of(lambda b: add(b, Kind.CARD, (0.0, 0.0, 4.0), (50.0, 50.0, 1.0), rotation=tilt))
    depth = look(scenes, moved())[1].depth[0].double()
    normal = tilt[:, 2].double()
    torch.testing.assert_close(depth, 4 * normal[2] / (RAYS @ normal), atol=1e-4, rtol=1e-5)


def test_bent_card_is_a_paraboloid() -> None:
    scenes = scene_of(lambda b: add(b, Kind.CARD, (0.0, 0.0, 3.0), (1.0, 1.0, 1.0), form=(0.2, 0.3)))
    depth = look(scenes, moved())[1].depth[0].double()
    hit = torch.isfinite(depth)
    point = RAYS[hit] * depth[hit][:, None]
    torch.testing.assert_close(point[:, 2] - 3, 0.2 * point[:, 0] ** 2 + 0.3 * point[:, 1] ** 2, atol=1e-5, rtol=0)
    assert float(point[:, :2].abs().max()) <= 1.0 and int(hit.sum()) > 1000


def test_box_front_face_and_room_from_inside() -> None:
    front = scene_of(lambda b: add(b, Kind.BOX, (0.0, 0.0, 5.0), (1.0, 1.0, 1.0)))
    depth = look(front, moved())[1].depth[0]
    assert float(depth[24, 32]) == 4.0
    expected = (RAYS[..., 0].abs() < 0.25) & (RAYS[..., 1].abs() < 0.25)
    assert torch.equal(torch.isfinite(depth), expected)
    room = scene_of(lambda b: add(b, Kind.BOX, (0.0, 0.0, 0.0), (2.0, 2.0, 3.0)))
    depth = look(room, moved())[1].depth[0]
    walls = torch.minimum(torch.tensor(3.0), 2 / torch.maximum(RAYS[..., 0].abs(), RAYS[..., 1].abs()).float())
    torch.testing.assert_close(depth, walls, atol=1e-5, rtol=1e-5)


def test_limb_is_a_cylinder_with_round_ends() -> None:
    scenes = scene_of(lambda b: add(b, Kind.LIMB, (0.0, 0.0, 5.0), (0.5, 1.0, 0.5), form=(1.0,)))
    depth = look(scenes, moved(), size=(49, 65))[1].depth[0]
    assert abs(float(depth[24, 32]) - 4.5) < 1e-5  # the middle: the side, its radius before the axis
    rows = torch.isfinite(depth[:, 32]).nonzero().squeeze(1)
    # the round end's top is tangent to the ray with slope 1.5 / √(5² − …); close to 1.5 m at 5 m
    assert abs((int(rows.max()) - int(rows.min()) + 1) - 2 * 1.5 / 5 * 60) <= 3


def test_leaf_outline_and_screen_holes() -> None:
    leaf = scene_of(lambda b: add(b, Kind.CARD, (0.0, 0.0, 2.0), (0.4, 0.6, 1.0), form=(0.0, 0.0, 0.5)))
    seen = torch.isfinite(look(leaf, moved())[1].depth[0])
    ellipse = ((RAYS[..., 0] * 2 / 0.4) ** 2 + (RAYS[..., 1] * 2 / 0.6) ** 2) < 1
    assert torch.equal(seen, ellipse)
    bars = (0.0, 0.0, 0.0, float(CutOut.BARS), 4.0, 1.0, 0.5, 0.0)
    screen = scene_of(lambda b: add(b, Kind.SCREEN, (0.0, 0.0, 2.0), (5.0, 5.0, 1.0), form=bars))
    across = RAYS[0, :, 0] * 2 / 5 * 4
    barred = (across - across.round()).abs() < 0.25
    assert torch.equal(torch.isfinite(look(screen, moved())[1].depth[0]), barred.expand(48, 64))


def test_nearest_shape_wins_and_nothing_behind_the_camera_is_seen() -> None:
    def build(b: SceneBuilder) -> None:
        add(b, Kind.CARD, (0.0, 0.0, 6.0), (50.0, 50.0, 1.0))
        add(b, Kind.ELLIPSOID, (0.0, 0.0, 3.0), (0.5, 0.5, 0.5))
        add(b, Kind.BOX, (0.0, 0.0, -3.0), (9.0, 9.0, 1.0))

    sight = look(scene_of(build), moved())[1]
    # slots are sorted by kind: the card is 0, the sphere 1, the box 2
    assert int(sight.slot[0, 24, 32]) == 1 and int(sight.slot[0, 2, 2]) == 0
    assert not bool((sight.slot == 2).any())
    assert abs(float(sight.depth[0, 24, 32]) - 2.5) < 1e-3


def test_sky_is_infinite() -> None:
    sight = look(scene_of(lambda b: add(b, Kind.ELLIPSOID, (0.0, 0.0, -5.0), (1.0, 1.0, 1.0))), moved())[1]
    assert torch.isinf(sight.depth).all() and bool((sight.slot == -1).all())


def test_a_ground_reaches_the_horizon_without_gaps() -> None:
    lying = torch.tensor([[1.0, 0, 0], [0, 0, -1], [0, 1, 0]])
    scenes = scene_of(lambda b: add(b, Kind.CARD, (0.0, 0.0, 0.0), (300.0, 300.0, 1.0), rotation=lying))
    depth = look(scenes, moved(y=-1.5))[1].depth[0]
    below = RAYS[..., 1] > 1.5 / 290
    torch.testing.assert_close(depth[below].double(), 1.5 / RAYS[..., 1][below], rtol=1e-4, atol=0)
    assert math.isinf(float(depth[0, 0]))
