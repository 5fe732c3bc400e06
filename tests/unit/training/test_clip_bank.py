# SPDX-License-Identifier: GPL-3.0-or-later
"""The bank: the same step gives the same clips, fresh ones come and old ones leave, masks lie where they belong."""

from __future__ import annotations

import threading
import time
from concurrent.futures import Future
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path

import numpy as np
import pytest
import torch

from ex4d_engine.errors import Ex4dError
from ex4d_engine.training.bank_masks import BankMasks, MaskDrawer, WindowMask, drawn, window_masks
from ex4d_engine.training.clip_bank import BankSettings, ClipBank, held_out_clips
from ex4d_engine.training.clip_cache import ClipCache
from ex4d_engine.training.depth_clips import HELD_OUT_SEED
from tests.unit.training.bundled_material import CPU, SIZES, SmallClips, small_bank, small_clips

TRACKING = BankMasks("tracking", frames=5, per_clip=1)


class Counted:
    """A source that remembers what it was asked."""

    def __init__(self) -> None:
        self.seeds: list[int] = []

    def __call__(
        self, seed: int, batch: int, frames: int, height: int, width: int, device: torch.device | str
    ) -> SmallClips:
        self.seeds.append(seed)
        return small_clips(seed, batch, frames, height, width, device)


def test_batches_have_the_asked_shape_and_range_and_all_sizes_come() -> None:
    bank = ClipBank(small_bank(), small_clips, CPU)
    seen = set()
    for step in range(12):
        clips = bank.batch(step, 3, 5)
        assert clips.shape[:3] == (3, 3, 5) and clips.dtype == torch.float32
        assert clips.min() >= -1 and clips.max() <= 1
        seen.add(tuple(clips.shape[3:]))
    assert seen == set(SIZES)


def test_a_step_sees_the_same_whenever_the_bank_was_made() -> None:
    through = ClipBank(small_bank(), small_clips, CPU)
    batches = [through.batch(step, 3, 5) for step in range(9)]
    for step in (0, 4, 8):
        assert torch.equal(ClipBank(small_bank(), small_clips, CPU).batch(step, 3, 5), batches[step])
    assert not torch.equal(batches[4], ClipBank(small_bank(seed=1), small_clips, CPU).batch(4, 3, 5))


def test_fresh_clips_come_in_and_the_oldest_leave() -> None:
    source = Counted()
    bank = ClipBank(small_bank(), source, CPU)
    bank.batch(0, 1, 5)
    assert source.seeds == [0, 2] and bank.clips == 4
    for step in range(1, 9):
        bank.batch(step, 1, 5)
    assert source.seeds == [0, 2, 4, 6, 8, 10] and bank.clips == 6
    assert max(source.seeds) < HELD_OUT_SEED


def test_drawing_takes_no_more_than_its_share_of_the_time() -> None:
    source, now = Counted(), [0.0]

    def slow(seed: int, batch: int, frames: int, height: int, width: int, device: torch.device) -> SmallClips:
        now[0] += 1.0
        return source(seed, batch, frames, height, width, device)

    bank = ClipBank(small_bank(refresh_every=1, draw_share=0.25), slow, CPU, clock=lambda: now[0])
    bank.batch(0, 1, 5)
    for step in range(1, 101):
        now[0] += 0.1
        bank.batch(step, 1, 5)
    # 10 seconds of steps leave room for about 3.3 of drawing
    assert 3 <= len(source.seeds) - 2 <= 5
    assert bank.drawing_share < 0.35


def test_masks_cover_what_they_were_drawn_for() -> None:
    """Holes of a clip that is white where it is hidden would show; here the mask's own pixels are compared."""
    bank = ClipBank(small_bank(margin=0.0), small_clips, CPU, MaskDrawer(TRACKING, 0))
    holes = 0.0
    for step in range(6):
        clips = bank.masked_batch(step, 3, 5)
        assert clips.keep.shape == (3, 1, *clips.video.shape[2:])
        assert set(clips.keep.unique().tolist()) <= {0.0, 1.0}
        assert (clips.keep[:, :, 0] == 1).all()
        holes += float((clips.keep == 0).float().mean())
    assert holes > 0.05


def test_masks_follow_their_clip_through_window_crop_and_mirror() -> None:
    """A clip whose brightness is its keep-mask shows whether both are seen alike."""

    class Marked(MaskDrawer):
        def submit(self, seed, frames, depth, intrinsics):  # type: ignore[no-untyped-def]
            done = super().submit(seed, frames, depth, intrinsics)
            for mask in done.result():
                order = np.arange(mask.start, mask.start + 5 * mask.step, mask.step)
                mask.bits[:] = np.packbits(frames[order][..., 0] > 127, axis=-1)
            return done

    def marks(seed: int, batch: int, frames: int, height: int, width: int, device: object) -> SmallClips:
        clips = small_clips(seed, batch, frames, height, width, CPU)
        return clips._replace(images=(clips.depth < 5).float()[:, :, None].repeat(1, 1, 3, 1, 1))

    bank = ClipBank(small_bank(), marks, CPU, Marked(TRACKING, 0))
    for step in range(8):
        clips = bank.masked_batch(step, 3, 5)
        for video, keep in zip(clips.video.mean(1), clips.keep[:, 0], strict=True):
            bright = video > (video.min() + video.max()) / 2
            assert (bright == (keep > 0)).float().mean() > 0.97  # resampled edges differ a little


def test_rendering_masks_are_drawn_by_other_processes_too() -> None:
    """The same masks, whoever draws them."""
    settings = BankMasks("rendering", frames=3, per_clip=1)
    clips = small_clips(0, 1, 4, 32, 48, CPU)
    frames = (clips.images[0].permute(0, 2, 3, 1) * 255).to(torch.uint8).numpy()
    depth, K = clips.depth[0].numpy(), clips.intrinsics[0].double().numpy()
    here = window_masks(7, frames, depth, K, settings)
    with MaskDrawer(settings, 1) as drawer:
        there = drawer.submit(7, frames, depth, K).result()
    assert [(mask.start, mask.step) for mask in here] == [(mask.start, mask.step) for mask in there]
    assert np.array_equal(here[0].bits, there[0].bits)
    assert not np.unpackbits(here[0].bits, axis=-1).all()


def test_a_process_that_was_ended_is_told_as_such() -> None:
    broken: Future[list[WindowMask]] = Future()
    broken.set_exception(BrokenProcessPool())
    with pytest.raises(Ex4dError, match="ended by the system"):
        drawn(broken)


def test_held_out_clips_are_of_seeds_that_are_never_trained_on() -> None:
    source = Counted()
    clips = held_out_clips(source, 2, 5, (32, 48), CPU, MaskDrawer(TRACKING, 0))
    assert source.seeds == [HELD_OUT_SEED, HELD_OUT_SEED + 1]
    assert clips.video.shape == (2, 3, 5, 32, 48) and clips.keep.shape == (2, 1, 5, 32, 48)
    assert (clips.keep[:, :, 0] == 1).all() and (clips.keep == 0).any()


def test_clips_that_were_kept_are_not_drawn_again(tmp_path: Path) -> None:
    first, again, other = Counted(), Counted(), Counted()
    folder = tmp_path / "Clips für später"
    bank = ClipBank(small_bank(), first, CPU, MaskDrawer(TRACKING, 0), ClipCache(folder, "a"))
    clips = bank.masked_batch(5, 2, 5)
    bank = ClipBank(small_bank(), again, CPU, MaskDrawer(TRACKING, 0), ClipCache(folder, "a"))
    kept = bank.masked_batch(5, 2, 5)
    assert len(first.seeds) == 3 and not again.seeds
    assert torch.equal(clips.video, kept.video) and torch.equal(clips.keep, kept.keep)
    next(folder.glob("*.safetensors")).write_bytes(b"damaged")
    ClipBank(small_bank(), again, CPU, None, ClipCache(folder, "a")).batch(5, 2, 5)
    assert len(again.seeds) == 1
    ClipBank(small_bank(), other, CPU, None, ClipCache(folder, "b")).batch(5, 2, 5)
    assert len(other.seeds) == 3


def test_what_cannot_be_is_refused() -> None:
    with pytest.raises(Ex4dError, match="longer clips"):
        ClipBank(small_bank(), small_clips, CPU).batch(0, 1, 9)
    with pytest.raises(Ex4dError, match="cannot be cut"):
        ClipBank(small_bank(), small_clips, CPU).masked_batch(0, 1, 5)
    with pytest.raises(Ex4dError, match="a group of each size"):
        BankSettings(first=4, group=4)
    with pytest.raises(Ex4dError, match="no 'most' masks"):
        BankMasks("most")
    with pytest.raises(Ex4dError, match="do not fit clips of 4"):
        frames = np.zeros((4, 8, 8, 3), np.uint8)
        window_masks(0, frames, np.ones((4, 8, 8), np.float32), np.eye(3)[None].repeat(4, 0), TRACKING)


def test_a_thread_draws_the_same_clips_beside_the_steps() -> None:
    source = Counted()
    masks = MaskDrawer(TRACKING, 0)
    # both draw what a step finds there in the end; the thread may take its time
    bank = ClipBank(small_bank(), source, CPU, masks, beside=CPU)
    there = ClipBank(small_bank(), small_clips, CPU, masks)
    bank.masked_batch(8, 2, 5)
    deadline = time.monotonic() + 60
    while source.seeds != [6, 8, 10] or bank.clips < 6:
        assert time.monotonic() < deadline
        seen = bank.masked_batch(8, 2, 5)
    expected = there.masked_batch(8, 2, 5)
    assert torch.equal(seen.video, expected.video) and torch.equal(seen.keep, expected.keep)


def test_steps_begin_as_soon_as_there_is_a_group_of_each_size() -> None:
    """And what a thread stumbles over is told, at a later step."""
    may_go_on = threading.Event()
    calls: list[int] = []

    def slow(seed: int, batch: int, frames: int, height: int, width: int, device: torch.device) -> SmallClips:
        calls.append(seed)
        if len(calls) > len(SIZES):
            may_go_on.wait(60)
            raise Ex4dError("out_of_memory", "There is no room.", "Draw less.")
        return small_clips(seed, batch, frames, height, width, device)

    bank = ClipBank(small_bank(first=6), slow, CPU, beside=CPU)
    assert bank.batch(0, 2, 5).shape[0] == 2 and bank.clips == 4
    may_go_on.set()
    deadline = time.monotonic() + 60
    with pytest.raises(Ex4dError, match="no room"):
        while time.monotonic() < deadline:
            bank.batch(1, 2, 5)
