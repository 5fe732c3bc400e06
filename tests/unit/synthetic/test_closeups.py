# SPDX-License-Identifier: GPL-3.0-or-later
"""Close-ups: how many there are, what closes their view, and that their subject is where the lens is focused."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch

from ex4d_engine.synthetic import camera_path, random_clips, random_scenes, render_views
from ex4d_engine.synthetic.animals import add_animals
from ex4d_engine.synthetic.builder import SceneBuilder
from ex4d_engine.synthetic.draw import Draw
from ex4d_engine.synthetic.hands import add_hands
from ex4d_engine.synthetic.materials import NAMES as MATERIALS
from ex4d_engine.synthetic.scenes import Scenes
from ex4d_engine.synthetic.settings import NAMES, SETTINGS, Backdrop, Plan, make_plan
from ex4d_engine.synthetic.surfaces import cameras_at, see

from .small_scenes import CPU, intrinsics

LEVEL = torch.tensor([SETTINGS[name].level for name in NAMES])
CLOSE = torch.tensor([SETTINGS[name].level or name in ("macro", "tabletop") for name in NAMES])


@pytest.fixture(scope="module")
def plan() -> Plan:
    return make_plan(Draw(7), 4000, 8)


def scenes_of(name: str, *, count: int = 6) -> list[Scenes]:
    """Single scenes of one setting."""
    found = []
    for seed in range(200, 600):
        if NAMES[int(make_plan(Draw(seed), 1, 1).setting)] == name:
            found.append(random_scenes(seed, 1, 1, CPU))
        if len(found) == count:
            return found
    raise AssertionError(f"too few scenes of {name}")


def straight_at_the_subject(scenes: Scenes, size: int = 32) -> tuple[torch.Tensor, torch.Tensor]:
    """Depth and slots (size, size) of a camera where the plan's stands, aimed at the subject, of the plan's lens."""
    eye, subject = scenes.plan.eye()[0], scenes.plan.subject[0]
    forward = torch.nn.functional.normalize(subject - eye, dim=0)
    right = torch.nn.functional.normalize(torch.linalg.cross(torch.tensor([0.0, 1.0, 0.0]), forward), dim=0)
    pose = torch.eye(4)
    pose[:3, :3] = torch.stack([right, torch.linalg.cross(forward, right), forward], -1)
    pose[:3, 3] = eye
    K = intrinsics(size / 2 / math.tan(float(scenes.plan.fov[0]) / 2), size, size)
    sight = see(scenes, cameras_at(scenes, K[None, None], pose[None, None], torch.zeros(1, 1)), size, size)
    return sight.depth[0], sight.slot[0]


def test_a_third_of_all_scenes_are_close_ups_with_a_shallow_depth_of_field(plan: Plan) -> None:
    close = CLOSE[plan.setting]
    shallow = close & (plan.defocus > 0.4)
    assert 0.28 < float(shallow.float().mean()) < 0.42
    # of those, ground or table is in most not even there; in rooms the floor lies below what a long lens sees
    standing = plan.ground | plan.table
    open_air = shallow & ~plan.indoor
    assert float((~standing)[open_air].float().mean()) > 0.5
    assert 0.3 < float((plan.backdrop == Backdrop.WOODS)[open_air].float().mean()) < 0.7


def test_close_ups_look_at_their_subject_about_level(plan: Plan) -> None:
    level = LEVEL[plan.setting]
    way = plan.subject - plan.eye()
    pitch = torch.rad2deg(torch.atan2(way[:, 1], way[:, 2]))[level]
    assert float(pitch.abs().max()) < 46 and float(pitch.abs().median()) < 15
    assert float(plan.eye_height.min()) > 0


def test_a_room_has_no_backdrop(plan: Plan) -> None:
    assert bool((plan.backdrop[plan.indoor] == Backdrop.NONE).all())
    assert set(plan.backdrop.tolist()) == set(Backdrop)


@pytest.mark.parametrize("wanted", [Backdrop.WALL, Backdrop.LAMPS])
def test_a_backdrop_closes_the_view_behind_the_subject(wanted: Backdrop) -> None:
    seen = 0
    for seed in range(900):
        plan = make_plan(Draw(seed), 1, 1)
        if int(plan.backdrop) != wanted or seen == 4:
            continue
        depth, _ = straight_at_the_subject(random_scenes(seed, 1, 1, CPU))
        assert torch.isfinite(depth).all()
        assert float(depth.max()) > 0.95 * float(plan.subject[0, 2])
        seen += 1
    assert seen == 4


@pytest.mark.parametrize("name", ["bust", "animal", "hand"])
def test_the_subject_is_where_the_lens_is_focused(name: str) -> None:
    """Something stands within a sixth of the subject's distance in the middle of most pictures: the rest is hidden by
    what happens to stand before it."""
    hits = 0
    for scenes in scenes_of(name):
        depth, _ = straight_at_the_subject(scenes)
        distance = float((scenes.plan.subject[0] - scenes.plan.eye()[0]).norm())
        hits += bool(((depth[10:22, 10:22] / distance - 1).abs() < 1 / 6).any())
    assert hits >= 4


@pytest.mark.parametrize(("name", "add"), [("animal", add_animals), ("hand", add_hands)])
def test_animals_and_hands_are_seen_in_their_own_scenes_only(
    name: str, add: Callable[[SceneBuilder, Plan], None]
) -> None:
    plan = make_plan(Draw(3), 60, 1)
    builder = SceneBuilder(Draw(4), 60)
    add(builder, plan)
    has_one = builder.primitives().active.any(1)
    assert 0 < int(has_one.sum()) < 60
    assert torch.equal(has_one, plan.setting == NAMES.index(name))


def test_lamps_are_brighter_than_what_they_light() -> None:
    scenes = random_scenes(3, 4, 1, CPU)
    glow = scenes.materials.glow
    assert float(glow.max()) > 6 and float((glow > 0).float().mean()) < 0.05
    assert "lamp" in MATERIALS and "water" in MATERIALS


def test_blur_leaves_depth_alone_and_grows_with_the_picture() -> None:
    scenes = scenes_of("bust", count=1)[0]
    K, pose = camera_path(scenes.plan, Draw(1), 1, 48, 64)
    times = torch.zeros(1, 1)
    blurred = render_views(scenes, K, pose, times, 48, 64, effects=True)
    sharp = render_views(scenes, K, pose, times, 48, 64, effects=False)
    assert torch.equal(blurred.depth, sharp.depth) and not torch.equal(blurred.images, sharp.images)


def test_every_close_up_setting_makes_finite_clips() -> None:
    for name in (name for name in NAMES if SETTINGS[name].level):
        seed = scenes_of(name, count=1)[0].seed
        clip = random_clips(seed, 1, 2, 40, 56, CPU)
        assert torch.isfinite(clip.images).all() and torch.isfinite(clip.flow).all(), name
        assert bool((clip.depth > 0).all()), name
