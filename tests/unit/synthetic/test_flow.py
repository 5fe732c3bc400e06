# SPDX-License-Identifier: GPL-3.0-or-later
"""Flow is what depth and poses say it is, and says which surfaces stay in sight."""

from __future__ import annotations

import math

import torch

from ex4d_engine.synthetic import random_clips
from ex4d_engine.synthetic.builder import SceneBuilder
from ex4d_engine.synthetic.primitives import Kind
from ex4d_engine.synthetic.surfaces import arrives, flow_to, points

from .small_scenes import CPU, add, look, moved, scene_of


def test_static_flow_is_the_depth_reprojected() -> None:
    def build(b: SceneBuilder) -> None:
        add(b, Kind.CARD, (0.0, 0.0, 8.0), (90.0, 90.0, 1.0))
        add(b, Kind.ELLIPSOID, (0.4, 0.1, 4.0), (0.8, 0.6, 0.5))
        add(b, Kind.BOX, (-1.0, 0.2, 5.0), (0.5, 0.7, 0.4), rotation=moved(turn=0.5)[:3, :3])

    scenes = scene_of(build)
    now, sight = look(scenes, moved())
    pose = moved(x=0.2, y=-0.1, z=0.3, turn=0.05)
    then, _ = look(scenes, pose, time=1.0)
    flow = flow_to(scenes, now, sight, then)[0][0]
    K = now.intrinsics[0].double()
    y, x = torch.meshgrid(torch.arange(48) + 0.5, torch.arange(64) + 0.5, indexing="ij")
    ray = torch.stack([(x - 32) / 60, (y - 24) / 60, torch.ones_like(x)], -1).double()
    world = ray * sight.depth[0, ..., None].double()
    local = (world - pose[:3, 3].double()) @ pose[:3, :3].double()
    target = (local @ K.T)[..., :2] / local[..., 2:]
    expected = target - torch.stack([x, y], -1)
    assert float((flow.permute(1, 2, 0) - expected).abs().max()) < 1e-2


def test_moving_body_carries_its_surface() -> None:
    """A turning, travelling sphere: the flow of its points is the rigid motion's, worked out here by hand."""
    velocity, spin = torch.tensor([0.1, -0.05, -0.2]), 0.07

    def build(b: SceneBuilder) -> None:
        body = b.body(
            torch.tensor([[[0.2, 0.0, 4.0]]]),
            velocity=velocity,
            axis=torch.tensor([0.0, 1.0, 0.0]),
            spin=torch.tensor(spin),
        )
        add(b, Kind.ELLIPSOID, (0.0, 0.0, 0.0), (1.0, 1.0, 1.0), body=body)

    scenes = scene_of(build)
    now, sight = look(scenes, moved(), time=2.0)
    then, _ = look(scenes, moved(), time=3.0)
    flow = flow_to(scenes, now, sight, then)[0][0]
    hit = torch.isfinite(sight.depth[0])
    position = points(scenes, now, sight).position.view(48, 64, 3)[hit]
    centre = torch.tensor([0.2, 0.0, 4.0]) + 2 * velocity
    c, s = math.cos(spin), math.sin(spin)
    turn = torch.tensor([[c, 0, s], [0, 1, 0], [-s, 0, c]])
    later = (position - centre) @ turn.T + centre + velocity
    expected = (later[:, :2] / later[:, 2:] - position[:, :2] / position[:, 2:]) * 60
    assert float((flow.permute(1, 2, 0)[hit] - expected).abs().max()) < 1e-2
    assert float(expected.abs().max()) > 2


def test_validity_of_two_planes() -> None:
    """A near card moves right by 8 px before a far one: it hides 8 columns of it,
    and leaves the picture at the edge."""
    shift = 8 / 60 * 2.0

    def build(b: SceneBuilder) -> None:
        body = b.body(torch.zeros(1, 1, 3), velocity=torch.tensor([shift, 0.0, 0.0]))
        add(b, Kind.CARD, (0.0, 0.0, 6.0), (50.0, 50.0, 1.0))
        # 16 px wide at 2 m, from column 16 to 32
        add(b, Kind.CARD, (-8 / 60 * 2.0, 0.0, 2.0), (8 / 60 * 2.0, 50.0, 1.0), body=body)

    scenes = scene_of(build)
    now, sight = look(scenes, moved())
    then, after = look(scenes, moved(), time=1.0)
    flow, depth, facing = flow_to(scenes, now, sight, then)
    valid = arrives(flow, depth, facing, sight.slot, after)[0]
    row = valid[20]
    assert bool(row[17:31].all())  # the card itself
    assert not bool(row[33:39].any())  # what it is about to hide
    assert bool(row[42:].all()) and bool(row[:15].all())
    # the camera turns: what leaves the picture is not valid
    turned, beyond = look(scenes, moved(turn=0.2), time=0.0)
    flow, depth, facing = flow_to(scenes, now, sight, turned)
    valid = arrives(flow, depth, facing, sight.slot, beyond)[0]
    assert not bool(valid[:, :5].any()) and bool(valid[20, 45:60].all())


def test_a_surface_that_turns_away_is_not_valid() -> None:
    def build(b: SceneBuilder) -> None:
        body = b.body(torch.tensor([[[0.0, 0.0, 4.0]]]), axis=torch.tensor([0.0, 1.0, 0.0]), spin=torch.tensor(0.8))
        add(b, Kind.ELLIPSOID, (0.0, 0.0, 0.0), (1.0, 1.0, 1.0), body=body)

    scenes = scene_of(build)
    now, sight = look(scenes, moved())
    then, after = look(scenes, moved(), time=1.0)
    valid = arrives(*flow_to(scenes, now, sight, then), sight.slot, after)[0]
    columns = torch.isfinite(sight.depth[0, 24]).nonzero().squeeze(1)
    # about y by a positive angle the near side goes right … to −x: one side turns away, the other stays
    ends = bool(valid[24, columns[2]]), bool(valid[24, columns[-3]])
    assert sorted(ends) == [False, True]
    assert bool(valid[24, 32])


def test_sky_flows_with_the_camera_s_turn_only() -> None:
    scenes = scene_of(lambda b: add(b, Kind.ELLIPSOID, (0.0, 0.0, -5.0), (1.0, 1.0, 1.0)))
    now, sight = look(scenes, moved())
    then, after = look(scenes, moved(x=5.0, turn=0.1), time=1.0)
    flow, depth, facing = flow_to(scenes, now, sight, then)
    assert abs(float(flow[0, 0, 24, 32]) + 60 * math.tan(0.1)) < 0.1
    assert torch.isinf(depth).all()
    assert bool(arrives(flow, depth, facing, sight.slot, after)[0, 24, 32])


def test_flow_of_random_clips_agrees_with_their_depth() -> None:
    """Where the flow is valid, the depth of the next picture at its end is that of the same point, or a border's."""
    clips = random_clips(5, 3, 2, 60, 80, CPU, effects=False)
    depth, flow, valid = clips.depth, clips.flow[:, 0], clips.flow_valid[:, 0]
    y, x = torch.meshgrid(torch.arange(60) + 0.5, torch.arange(80) + 0.5, indexing="ij")
    share = []
    for b in range(3):
        K, first, second = clips.intrinsics[b, 0], clips.camera_to_world[b, 0], clips.camera_to_world[b, 1]
        ray = torch.stack([(x - K[0, 2]) / K[0, 0], (y - K[1, 2]) / K[1, 1], torch.ones_like(x)], -1)
        world = (ray * depth[b, 0, ..., None]) @ first[:3, :3].T + first[:3, 3]
        local = (world - second[:3, 3]) @ second[:3, :3]
        target = (local @ clips.intrinsics[b, 1].T)[..., :2] / local[..., 2:]
        gap = (target - torch.stack([x, y], -1) - flow[b].permute(1, 2, 0)).norm(dim=-1)
        seen = valid[b] & torch.isfinite(depth[b, 0])
        share.append(float((gap[seen] < 1e-2).float().mean()))
    assert max(share) > 0.5  # static surfaces; the rest moves by itself
    assert torch.isfinite(clips.flow).all()
