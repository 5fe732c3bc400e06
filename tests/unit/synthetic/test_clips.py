# SPDX-License-Identifier: GPL-3.0-or-later
"""Clips keep the contract that training and evaluation rely on."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import fields

import pytest
import torch

from ex4d_engine.synthetic import ClipBatch, camera_path, random_clips, random_scenes, render_views
from ex4d_engine.synthetic.draw import Draw
from ex4d_engine.synthetic.settings import NAMES

from .small_scenes import CPU


@pytest.fixture(scope="module")
def clips() -> ClipBatch:
    return random_clips(3, 4, 3, 50, 70, CPU)


def test_shapes_types_and_ranges(clips: ClipBatch) -> None:
    shapes = {f.name: tuple(getattr(clips, f.name).shape) for f in fields(clips)}
    assert shapes == {
        "images": (4, 3, 3, 50, 70), "depth": (4, 3, 50, 70), "intrinsics": (4, 3, 3, 3),
        "camera_to_world": (4, 3, 4, 4),
        "flow": (4, 2, 2, 50, 70), "flow_valid": (4, 2, 50, 70),
    }  # fmt: skip
    assert clips.flow_valid.dtype == torch.bool
    assert all(getattr(clips, f.name).dtype == torch.float32 for f in fields(clips) if f.name != "flow_valid")
    assert float(clips.images.min()) >= 0 and float(clips.images.max()) <= 1
    assert bool((clips.depth > 0).all()) and not bool(clips.depth.isnan().any())
    for values in (clips.images, clips.intrinsics, clips.camera_to_world, clips.flow):
        assert torch.isfinite(values).all()
    rotation = clips.camera_to_world[..., :3, :3].double()
    torch.testing.assert_close(rotation @ rotation.mT, torch.eye(3).double().expand_as(rotation), atol=1e-5, rtol=0)


def test_pictures_show_something(clips: ClipBatch) -> None:
    assert bool((clips.images.flatten(1).std(1) > 0.03).all())
    assert 0.1 < float(clips.images.mean()) < 0.8


def test_same_seed_same_clips_and_other_seed_others(clips: ClipBatch) -> None:
    again, other = random_clips(3, 4, 3, 50, 70, CPU), random_clips(4, 4, 3, 50, 70, CPU)
    for f in fields(clips):
        assert torch.equal(getattr(clips, f.name), getattr(again, f.name)), f.name
    assert not torch.equal(clips.depth, other.depth)


def test_effects_change_pictures_and_nothing_else(clips: ClipBatch) -> None:
    plain = random_clips(3, 4, 3, 50, 70, CPU, effects=False)
    assert torch.equal(plain.depth, clips.depth) and torch.equal(plain.flow, clips.flow)
    assert not torch.equal(plain.images, clips.images)


def test_a_trainer_s_autocast_changes_nothing(clips: ClipBatch) -> None:
    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside = random_clips(3, 4, 3, 50, 70, CPU)
    assert all(torch.equal(getattr(inside, f.name), getattr(clips, f.name)) for f in fields(clips))
    weight = torch.ones(1, 3, 3, 3, requires_grad=True)
    torch.nn.functional.conv2d(inside.images[:, 0], weight).sum().backward()
    assert weight.grad is not None


def test_a_single_frame_has_no_flow() -> None:
    one = random_clips(6, 2, 1, 33, 47, CPU)
    assert tuple(one.flow.shape) == (2, 0, 2, 33, 47) and tuple(one.flow_valid.shape) == (2, 0, 33, 47)
    assert torch.isfinite(one.images).all()


def test_views_of_one_moment_share_their_surfaces() -> None:
    """Two cameras at one moment: a pixel's point seen from the other camera has the depth that camera saw."""
    scenes = random_scenes(9, 2, 4, CPU)
    K, pose = camera_path(scenes.plan, Draw(2), 2, 60, 80)
    pose = pose[:, :1].repeat(1, 2, 1, 1)
    K = K[:, :1].repeat(1, 2, 1, 1)
    pose[:, 1, :3, 3] += pose[:, 1, :3, 0] * 0.02 * scenes.plan.subject[:, 2:]  # a step to the right
    views = render_views(scenes, K, pose, torch.full((2, 2), 1.5), 60, 80, effects=False)
    y, x = torch.meshgrid(torch.arange(60) + 0.5, torch.arange(80) + 0.5, indexing="ij")
    for b in range(2):
        ray = torch.stack([(x - 40) / K[b, 0, 0, 0], (y - 30) / K[b, 0, 1, 1], torch.ones_like(x)], -1)
        world = (ray * views.depth[b, 0, ..., None]) @ pose[b, 0, :3, :3].T + pose[b, 0, :3, 3]
        local = (world - pose[b, 1, :3, 3]) @ pose[b, 1, :3, :3]
        column = (local[..., 0] / local[..., 2] * K[b, 1, 0, 0] + 40).floor()
        row = (local[..., 1] / local[..., 2] * K[b, 1, 1, 1] + 30).floor()
        fine = torch.isfinite(local).all(-1) & (column >= 0) & (column < 80) & (row >= 0) & (row < 60)
        there = views.depth[b, 1][row[fine].long(), column[fine].long()]
        agrees = ((there - local[..., 2][fine]).abs() < 0.03 * there).float().mean()
        assert float(agrees) > 0.8


def test_a_static_camera_s_static_pixels_stay_while_time_passes() -> None:
    """Over 120 frames, whatever is not carried by a moving body keeps its depth to the bit."""
    scenes = random_scenes(12, 2, 120, CPU)
    K, pose = camera_path(scenes.plan, Draw(1), 1, 40, 56)
    times = torch.tensor([[0.0, 60.0, 119.0]]).repeat(2, 1)
    views = render_views(scenes, K.repeat(1, 3, 1, 1), pose.repeat(1, 3, 1, 1), times, 40, 56, effects=False)
    for b in range(2):
        slot = views.shape_index[b]
        static = (slot[0] >= 0) & (scenes.shapes.body[b][slot[0].clamp_min(0)] == 0)
        same = static & (slot[0] == slot[2])
        assert int(same.sum()) > 50
        assert torch.equal(views.depth[b, 0][same], views.depth[b, 2][same])


def test_every_setting_comes_up_and_most_pictures_have_depth() -> None:
    drawn = torch.cat([random_scenes(seed, 64, 4, CPU).plan.setting for seed in range(4)])
    assert len(drawn.unique()) == len(NAMES)


def test_nothing_but_torch_is_needed() -> None:
    """The trainer's machine has torch and little else."""
    program = (
        "import sys\n"
        "for name in ('cv2', 'av', 'PIL', 'moderngl', 'OpenEXR', 'diffusers', 'scipy'):\n"
        "    sys.modules[name] = None\n"
        "import ex4d_engine.synthetic\n"
    )
    subprocess.run([sys.executable, "-c", program], check=True)
