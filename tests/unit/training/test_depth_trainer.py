# SPDX-License-Identifier: GPL-3.0-or-later
"""Training of the depth network: it learns, ends in time, stops when told, and goes on exactly where it was."""

from __future__ import annotations

import dataclasses
import itertools
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from ex4d_engine.depth.network import DepthNetwork, NetworkShape
from ex4d_engine.depth.network_weights import load_weights
from ex4d_engine.errors import Cancelled, Ex4dError
from ex4d_engine.progress import Silent
from ex4d_engine.training import depth_trainer
from ex4d_engine.training.checkpoint import RunState
from ex4d_engine.training.depth_clips import HELD_OUT_SEED, SIZES, KeptClips, draw, predict, step_plan, vary_colours
from ex4d_engine.training.depth_losses import LossWeights, depth_losses, depth_target
from ex4d_engine.training.depth_trainer import (
    CHECKPOINT_NAME,
    WEIGHTS_NAME,
    DepthTraining,
    new_run,
    train_depth,
)
from ex4d_engine.training.run_progress import rate_at
from tests.conftest import REPOSITORY
from tests.unit.training.stand_in_clips import stand_in_clips
from tests.unit.training.watch import Watch

SHAPE = NetworkShape(
    widths=(4, 6, 8, 8, 8), blocks=(1, 1, 1, 1), key=4, reach=1, motion=4, memory=6, drawn=(8, 8, 6, 4)
)
CPU = torch.device("cpu")


def run(out: Path, **changes: Any) -> DepthTraining:
    settings = {
        "steps": 4,
        "batch": 2,
        "device": "cpu",
        "sizes": ((32, 64, 2), (64, 32, 3)),
        "shape": SHAPE,
        "held_out": 1,
    }
    return DepthTraining(out, **(settings | changes))


def test_a_run_makes_weights_that_can_be_used(tmp_path: Path) -> None:
    watch = Watch()
    weights = train_depth(run(tmp_path / "Lauf 1"), watch, stand_in_clips)
    assert weights == tmp_path / "Lauf 1" / WEIGHTS_NAME
    assert load_weights(weights).shape == SHAPE
    assert "clips/s" in watch.lines[-2] and "% of it drawing" in watch.lines[-2]
    assert "AbsRel" in watch.lines[-1]
    assert sorted(path.name for path in weights.parent.iterdir()) == [CHECKPOINT_NAME, WEIGHTS_NAME]


def test_a_resumed_run_equals_one_that_was_not_interrupted(tmp_path: Path) -> None:
    whole = train_depth(run(tmp_path / "whole", steps=6), Silent(), stand_in_clips)
    halves = run(tmp_path / "halves", steps=6)
    with pytest.raises(Cancelled):
        train_depth(halves, Watch(cancel_after=3), stand_in_clips)
    resumed = train_depth(halves, Silent(), stand_in_clips, resume=True)
    for name in (CHECKPOINT_NAME, WEIGHTS_NAME):
        one, other = load_file(whole.with_name(name)), load_file(resumed.with_name(name))
        assert one.keys() == other.keys()
        assert all(torch.equal(one[key], other[key]) for key in one), name


def test_a_run_whose_clips_are_drawn_ahead_is_resumed_like_any_other(tmp_path: Path) -> None:
    settings = {"steps": 6, "repeats": 2, "pool": 2, "draw_processes": 1}
    whole = train_depth(run(tmp_path / "whole", **settings), Silent(), stand_in_clips)
    halves = run(tmp_path / "halves", **settings)
    with pytest.raises(Cancelled):
        train_depth(halves, Watch(cancel_after=3), stand_in_clips)
    resumed = train_depth(dataclasses.replace(halves, draw_processes=2), Silent(), stand_in_clips, resume=True)
    one, other = load_file(whole.with_name(CHECKPOINT_NAME)), load_file(resumed.with_name(CHECKPOINT_NAME))
    assert all(torch.equal(one[key], other[key]) for key in one)
    assert not whole.with_name("drawn").exists() and not resumed.with_name("drawn").exists()


def test_a_clip_is_gone_through_as_often_as_asked_and_every_frame_is_seen(tmp_path: Path) -> None:
    orders = [run(tmp_path, sizes=((32, 64, 4),), passes=5).plan(step).order for step in range(40)]
    for order in orders:
        assert set(order) == {0, 1, 2, 3} and order[0] in (0, 3)
        assert all(abs(one - two) == 1 for one, two in itertools.pairwise(order))
    assert {len(order) for order in orders} == {4, 7, 10, 13, 16}
    assert {order[0] for order in orders} == {0, 3}


def test_the_clock_ends_a_run_and_counts_over_sittings(tmp_path: Path) -> None:
    ticks = iter(range(10_000))
    settings = run(tmp_path, steps=None, minutes=0.5)
    with pytest.raises(Cancelled):
        train_depth(settings, Watch(cancel_after=2), stand_in_clips, clock=lambda: float(next(ticks)))
    watch = Watch()
    train_depth(settings, watch, stand_in_clips, resume=True, clock=lambda: float(next(ticks)))
    assert "from step 2" in watch.lines[0]
    assert 2 < watch.checks < 30  # half a minute, less what the first sitting took


def test_a_folder_in_use_is_not_overwritten(tmp_path: Path) -> None:
    train_depth(run(tmp_path, steps=1), Silent(), stand_in_clips)
    with pytest.raises(Ex4dError, match="--resume") as caught:
        train_depth(run(tmp_path, steps=1), Silent(), stand_in_clips)
    assert caught.value.code == "bad_request"


def test_another_run_is_not_resumed(tmp_path: Path) -> None:
    train_depth(run(tmp_path, steps=1), Silent(), stand_in_clips)
    with pytest.raises(Ex4dError, match=r"batch \(.*, not 1\), seed \(0, not 5\)") as caught:
        train_depth(run(tmp_path, steps=2, seed=5, batch=1), Silent(), stand_in_clips, resume=True)
    assert caught.value.code == "bad_request"


def test_what_cannot_be_resumed_is_said(tmp_path: Path) -> None:
    with pytest.raises(Ex4dError) as caught:
        train_depth(run(tmp_path), Silent(), stand_in_clips, resume=True)
    assert caught.value.code == "no_such_file"
    (tmp_path / CHECKPOINT_NAME).write_bytes(b"\x10\0\0\0\0\0\0\0{torn")
    with pytest.raises(Ex4dError) as caught:
        train_depth(run(tmp_path), Silent(), stand_in_clips, resume=True)
    assert caught.value.code == "model_invalid"


@pytest.mark.parametrize("end", [{}, {"steps": 3, "minutes": 1.0}, {"steps": 0}, {"minutes": -1.0}])
def test_a_run_has_one_end(tmp_path: Path, end: dict[str, Any]) -> None:
    with pytest.raises(Ex4dError):
        DepthTraining(tmp_path, **end)


def test_the_rate_rises_and_falls_to_nothing() -> None:
    rates = [rate_at(done / 100) for done in range(101)]
    assert 0 < rates[0] < 0.1 and max(rates) == rates[2] == 1
    assert rates[2:] == sorted(rates[2:], reverse=True)
    assert rates[-1] == pytest.approx(0)


def test_plans_depend_on_seed_and_step_alone() -> None:
    plans = [step_plan(7, step, 4) for step in range(200)]
    assert plans == [step_plan(7, step, 4) for step in range(200)]
    assert plans != [step_plan(8, step, 4) for step in range(200)]
    assert len({plan.seed // 4 for plan in plans}) == 200, "no two steps share a clip"
    assert all(plan.seed + 4 <= HELD_OUT_SEED for plan in plans)
    assert {(plan.height, plan.width, plan.frames) for plan in plans} == set(SIZES)
    assert {plan.mirrored for plan in plans} == {True, False}
    assert any(plan.margin != (0, 0) for plan in plans)
    assert all(set(plan.order) == set(range(plan.frames)) for plan in plans)
    assert max(len(plan.order) for plan in plans) > 8


def test_repeated_steps_share_their_clips_in_another_look() -> None:
    one, two, three = (step_plan(0, step, 4, repeats=2) for step in (8, 9, 10))
    assert one.seed == two.seed != three.seed
    assert (one.height, one.width, one.frames, one.margin) == (two.height, two.width, two.frames, two.margin)
    assert one.look != two.look


def test_steps_between_drawings_see_the_pool_again() -> None:
    plans = [step_plan(0, step, 4, repeats=4, pool=8) for step in range(400)]
    fresh = [plan.seed for plan in plans[::4]]
    assert len(set(fresh)) == 100
    for step, plan in enumerate(plans):
        assert plan.seed in fresh[max(0, step // 4 - 7) : step // 4 + 1]
    assert len({plan.seed for plan in plans[201:204]} - {plans[200].seed}) >= 1


def test_single_pictures_are_a_stage_too(tmp_path: Path) -> None:
    watch = Watch()
    weights = train_depth(run(tmp_path, sizes=((32, 64, 1), (64, 32, 1)), steps=2), watch, stand_in_clips)
    assert load_weights(weights).shape == SHAPE
    assert "AbsRel" in watch.lines[-1] and "temporal nan" in watch.lines[-1]


def test_a_training_that_diverges_goes_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It once wrote a checkpoint of NaN, and went on for minutes."""
    taken: list[int] = []

    def step(settings: DepthTraining, run: RunState, *rest: object) -> torch.Tensor:
        taken.append(run.step)
        if taken == [0, 1, 2]:  # the third step, the first time
            with torch.no_grad():
                next(run.network.parameters()).fill_(torch.nan)
            return torch.full((8,), torch.nan)
        return torch.zeros(8)

    monkeypatch.setattr(depth_trainer, "_step", step)
    watch = Watch()
    weights = train_depth(run(tmp_path, steps=4, checkpoint_s=0.0, log_s=0.0, held_out=0), watch, stand_in_clips)
    assert taken == [0, 1, 2, 2, 3]
    assert any("diverged before step 3: back to step 2" in line for line in watch.lines)
    assert all(torch.isfinite(value).all() for value in load_file(weights).values())


def test_a_training_that_diverges_at_once_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(depth_trainer, "_step", lambda *_: torch.full((8,), torch.nan))
    with pytest.raises(Ex4dError, match="smaller learning rate"):
        train_depth(run(tmp_path, log_s=0.0), Watch(), stand_in_clips)


def test_a_run_can_begin_with_weights(tmp_path: Path) -> None:
    first = train_depth(run(tmp_path / "first", steps=1), Silent(), stand_in_clips)
    begun = new_run(run(tmp_path, start=first), CPU).network.state_dict()
    trained = load_weights(first).state_dict()
    assert all(torch.equal(begun[name], value) for name, value in trained.items())


def test_kept_clips_are_drawn_once() -> None:
    seeds = []

    def counted(seed: int, *rest: Any) -> Any:
        seeds.append(seed)
        return stand_in_clips(seed, *rest)

    for count, drawn in ((1, [1, 2, 1]), (2, [1, 2])):
        kept = KeptClips(counted, count)
        for seed in (1, 1, 2, 1):
            assert torch.equal(kept(seed, 1, 2, 32, 32, CPU).images, stand_in_clips(seed, 1, 2, 32, 32, CPU).images)
        assert seeds == drawn
        seeds.clear()


def test_a_window_cuts_pictures_and_truth_alike() -> None:
    plan = dataclasses.replace(step_plan(0, 0, 1), height=32, width=48, frames=2, margin=(8, 12), window=(5, 7))
    _, truth = draw(plan, 1, stand_in_clips, CPU)
    whole = stand_in_clips(plan.seed, 1, 2, 40, 60, CPU)
    expected = depth_target(whole.depth, whole.flow, whole.flow_valid)
    for cut, full in zip(truth, expected, strict=True):
        assert torch.equal(cut, full[..., 5:37, 7:55])


def test_a_mirrored_answer_lies_as_the_picture_does() -> None:
    network = DepthNetwork(SHAPE).eval()
    plan = dataclasses.replace(step_plan(0, 0, 1), frames=2, order=(0, 1), mirrored=True)
    images = torch.rand(1, 2, 3, 32, 64)
    with torch.no_grad():
        torch.testing.assert_close(
            predict(network, images, plan).inverse_depth, network(images.flip(-1)).inverse_depth.flip(-1)
        )


def test_colours_vary_by_clip_and_not_by_frame() -> None:
    grey = torch.full((2, 3, 3, 4, 4), 0.5)
    varied = vary_colours(grey, seed=3)
    assert torch.equal(varied, vary_colours(grey, seed=3))
    assert torch.equal(varied[:, 0], varied[:, 2]) and not torch.allclose(varied[0], varied[1])
    assert varied.min() >= 0 and varied.max() <= 1


def test_it_can_learn_one_clip_by_heart() -> None:
    torch.manual_seed(0)
    clips = stand_in_clips(3, 1, 3, 64, 64, CPU)
    truth = depth_target(clips.depth, clips.flow, clips.flow_valid)
    network = DepthNetwork(
        NetworkShape((8, 12, 16, 16, 16), (1, 1, 1, 1), key=8, reach=2, motion=8, memory=16, drawn=(16, 16, 12, 12))
    )
    optimizer = torch.optim.AdamW(network.parameters(), lr=5e-3)
    losses = []
    for _ in range(60):
        parts = depth_losses(network(clips.images), truth)
        optimizer.zero_grad()
        parts.total(LossWeights()).backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        losses.append(float(parts.affine.detach()))
    assert losses[-1] < 0.3 * losses[0]


def test_training_needs_little_of_what_the_engine_needs() -> None:
    blocked = "cv2 av moderngl tqdm scipy PIL OpenEXR diffusers transformers peft accelerate trimesh huggingface_hub"
    code = f"""
import sys
class Blocked:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {blocked.split()!r}:
            raise ImportError(name)
sys.meta_path.insert(0, Blocked())
sys.path.insert(0, {str(REPOSITORY)!r})
import ex4d_engine.training.commands
import ex4d_engine.training.depth_trainer
import ex4d_engine.synthetic
"""
    answer = subprocess.run([sys.executable, "-I", "-c", code], capture_output=True, text=True, timeout=60, check=False)
    assert answer.returncode == 0, answer.stderr


def test_the_command_line_offers_it() -> None:
    answer = subprocess.run(
        [sys.executable, "-m", "ex4d_engine", "train", "depth", "--help"],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        cwd=REPOSITORY,
    )
    assert answer.returncode == 0 and "--minutes" in answer.stdout and "--resume" in answer.stdout
