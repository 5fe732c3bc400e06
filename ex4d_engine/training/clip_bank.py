# SPDX-License-Identifier: GPL-3.0-or-later
"""Generated clips kept on the training device, each seen many times in other windows, crops, speeds and colours.

Drawing a clip takes far longer than a step's share of it, so a step takes what is there; every few steps fresh clips
come in, and once the bank is full the oldest leave.
"""

from __future__ import annotations

import random
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from ..errors import Ex4dError
from .bank_masks import MaskDrawer, WindowMask, drawn
from .depth_clips import HELD_OUT_SEED, ClipSource, vary_colours

if TYPE_CHECKING:
    from .clip_cache import ClipCache

PictureSize = tuple[int, int]
SIZES: Final[tuple[PictureSize, ...]] = ((192, 336), (336, 192), (256, 256), (208, 304), (304, 208))
"""(height, width) of a step's clips: about 64k pixels, multiples of 16."""

_UNSCALED: Final = 0.5  # share of crops that are not resampled
_SMALLEST_CROP: Final = 0.75  # of a step's size, enlarged to it

_MOST_WAITING: Final = 16  # groups whose masks are not done: there is no point in drawing more


@dataclass(frozen=True)
class BankSettings:
    """What a bank holds.

    seed: of scenes and of what steps see of them.
    sizes: of a step's clips; fresh clips take them in turn.
    clip_frames: frames of a clip in the bank: what is more than a step's makes windows at several times.
    margin: how much larger than a step's size its pictures are, so that they can be cropped.
    first: clips drawn before the first step. most: clips kept.
    group: clips drawn together.
    refresh_every: steps from one group to the next.
    draw_share: the most of the time that drawing may take after the first clips; a group that comes too early is
        skipped. 1 for no limit, which makes what a step sees independent of the clock.
    """

    seed: int = 0
    sizes: tuple[PictureSize, ...] = SIZES
    clip_frames: int = 61
    margin: float = 0.125
    first: int = 160
    most: int = 800
    group: int = 4
    refresh_every: int = 4
    draw_share: float = 0.25

    def __post_init__(self) -> None:
        if not self.sizes or min(self.group, self.refresh_every, self.clip_frames) < 1:
            raise _refused("an empty bank", "1 or more of everything")
        if not self.group * len(self.sizes) <= self.first <= self.most:
            raise _refused(
                f"first {self.first} and most {self.most}",
                f"at least {self.group * len(self.sizes)} clips, a group of each size, and no more first than most",
            )
        if not 0 < self.draw_share <= 1 or not 0 <= self.margin <= 1:
            raise _refused(f"draw_share {self.draw_share} and margin {self.margin}", "shares up to 1")


@dataclass(frozen=True)
class MaskedClips:
    """video: (B, 3, F, H, W) float32 in [−1, 1]. keep: (B, 1, F, H, W) float32, 1 where a pixel is kept, else 0; the
    first frame is whole.
    """

    video: Tensor
    keep: Tensor


@dataclass(frozen=True)
class _Group:
    """images: (N, 3, F, H, W) uint8. masks: of each clip, bits on the device; empty lists without masks."""

    size: PictureSize
    images: Tensor
    masks: list[list[tuple[WindowMask, Tensor]]]


@dataclass(frozen=True)
class _Waiting:
    size: PictureSize
    images: Tensor
    masks: list[Future[list[WindowMask]]]


@dataclass(frozen=True)
class _View:
    """What a step sees of a clip. rows, columns: of the crop, which is resampled to the step's size."""

    group: _Group
    clip: int
    mask: int
    start: int
    step: int
    rows: slice
    columns: slice
    mirrored: bool


class ClipBank:
    """Clips for training.

    With `draw_share` 1 and masks drawn here and at once, a step's clips follow from the settings and the step alone,
    whenever the bank was made; otherwise which clips are there also depends on how fast they were drawn.

    Args:
        settings: see `BankSettings`.
        source: draws clips with depth and intrinsics, such as `ex4d_engine.synthetic.random_clips`.
        device: where the clips are kept and batches are made.
        masks: draws masks for the clips; None for none.
        cache: where drawn clips are kept for later runs of the same settings; None for nowhere.
        clock: seconds.
    """

    def __init__(
        self,
        settings: BankSettings,
        source: ClipSource,
        device: torch.device,
        masks: MaskDrawer | None = None,
        cache: ClipCache | None = None,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        self.settings = settings
        self._source, self._device, self._masks, self._cache, self._clock = source, device, masks, cache, clock
        self._groups: deque[_Group] = deque()
        self._waiting: deque[_Waiting] = deque()
        self._next = 0
        self._filled_at: float | None = None
        self._drawing = 0.0

    @property
    def clips(self) -> int:
        """Clips that steps choose from now."""
        return self.settings.group * len(self._groups)

    @property
    def drawing_share(self) -> float:
        """Share of the time since the first clips were there that was spent on drawing others."""
        if self._filled_at is None:
            return 0.0
        return self._drawing / max(self._clock() - self._filled_at, 1e-9)

    def batch(self, step: int, batch: int, frames: int) -> Tensor:
        """A step's clips, (B, 3, F, H, W) float32 in [−1, 1], all of one size.

        Raises:
            Ex4dError: `bad_request` for more frames than the bank's clips have.
        """
        views, size, look = self._views(step, batch, frames, masked=False)
        return _coloured([_pictures(view, frames, size) for view in views], look)

    def masked_batch(self, step: int, batch: int, frames: int) -> MaskedClips:
        """A step's clips with simulated masks.

        Raises:
            Ex4dError: `bad_request` for more frames than a mask has; and what drawing the masks raises.
        """
        views, size, look = self._views(step, batch, frames, masked=True)
        video = _coloured([_pictures(view, frames, size) for view in views], look)
        return MaskedClips(video, torch.stack([_kept(view, frames, size) for view in views]))

    def _views(self, step: int, batch: int, frames: int, *, masked: bool) -> tuple[list[_View], PictureSize, int]:
        longest = self.settings.clip_frames
        if masked:
            longest = self._masks.settings.frames if self._masks else 0
        if frames > longest:
            raise Ex4dError(
                "bad_request",
                f"A step of {frames} frames cannot be cut from clips or masks of {longest}.",
                "Give fewer frames, or longer clips and masks.",
            )
        self._renew(step)
        # seeded by text, which random hashes the same on every machine
        rng = random.Random(f"ex4d bank {self.settings.seed} {step}")  # noqa: S311
        # a size that has few clips so far is chosen less often, or they would be seen too often
        size = rng.choice(self._groups).size
        clips = [(group, clip) for group in self._groups if group.size == size for clip in range(len(group.images))]
        chosen = rng.sample(clips, batch) if batch <= len(clips) else rng.choices(clips, k=batch)
        return [self._view(rng, group, clip, frames, masked) for group, clip in chosen], size, rng.getrandbits(32)

    def _view(self, rng: random.Random, group: _Group, clip: int, frames: int, masked: bool) -> _View:
        mask = rng.randrange(len(group.masks[clip])) if masked else 0
        if masked:
            window = group.masks[clip][mask][0]
            start, step = window.start, window.step
        else:
            first = rng.randint(0, self.settings.clip_frames - frames)
            start, step = (first, 1) if rng.random() < 0.5 else (first + frames - 1, -1)
        height, width = group.size
        rows, columns = group.images.shape[-2:]
        zoom = 1.0 if rng.random() < _UNSCALED else rng.uniform(_SMALLEST_CROP, min(rows / height, columns / width))
        crop = min(rows, round(zoom * height)), min(columns, round(zoom * width))
        top, left = rng.randint(0, rows - crop[0]), rng.randint(0, columns - crop[1])
        return _View(
            group,
            clip,
            mask,
            start,
            step,
            slice(top, top + crop[0]),
            slice(left, left + crop[1]),
            mirrored=rng.random() < 0.5,
        )

    # --- what is in the bank ----------------------------------------------------------------------------------------

    def _renew(self, step: int) -> None:
        """Brings the bank to what it should hold at a step, as far as the time allows."""
        settings = self.settings
        wanted = -(-settings.first // settings.group) + step // settings.refresh_every
        held = settings.most // settings.group
        if self._filled_at is None:
            # a resumed run begins with the newest of the clips that it would have by now
            self._next = max(0, wanted - held)
            while self._next < wanted:
                self._draw()
            self._admit(wait=True)
            self._filled_at = self._clock()
        while self._next < wanted and self._may_draw():
            started = self._clock()
            self._draw()
            self._drawing += self._clock() - started
        self._admit(wait=False)
        while len(self._groups) > held:
            self._groups.popleft()

    def _may_draw(self) -> bool:
        share = self.settings.draw_share
        return len(self._waiting) < _MOST_WAITING and (share >= 1 or self.drawing_share < share)

    def _draw(self) -> None:
        """Draws the next group and has its masks drawn."""
        number, settings = self._next, self.settings
        size = settings.sizes[number % len(settings.sizes)]
        seed = (settings.seed * 7_368_787 + number * settings.group) % HELD_OUT_SEED
        images, depth, intrinsics = self._clips(seed, size)
        masks = []
        if self._masks is not None:
            frames = images.permute(0, 2, 3, 4, 1).contiguous().cpu().numpy()
            masks = [
                self._masks.submit(seed + clip, frames[clip], depth[clip], intrinsics[clip])
                for clip in range(settings.group)
            ]
        self._waiting.append(_Waiting(size, images, masks))
        self._next += 1

    def _clips(self, seed: int, size: PictureSize) -> tuple[Tensor, NDArray[np.float32], NDArray[np.float64]]:
        """Images (N, 3, F, H, W) uint8 on the device, depth (N, F, H, W), intrinsics (N, F, 3, 3)."""
        settings = self.settings
        if self._cache is not None and (kept := self._cache.load(seed, size)) is not None:
            images, kept_depth, intrinsics = kept
            return images.to(self._device), kept_depth, intrinsics
        # sides are multiples of 8, which the scenes' own codec likes
        rows, columns = (8 * round(side * (1 + settings.margin) / 8) for side in size)
        clips = self._source(seed, settings.group, settings.clip_frames, rows, columns, self._device)
        images = torch.nan_to_num(clips.images).clamp(0, 1).mul(255).round().to(torch.uint8).transpose(1, 2)
        images = images.contiguous()
        if self._masks is None and self._cache is None:
            return images, np.empty(0, np.float32), np.empty(0, np.float64)
        # rounded as the cache keeps it, so that masks do not depend on whether there is one
        depth = clips.depth.half().float().cpu().numpy()
        intrinsics = clips.intrinsics.double().cpu().numpy()
        if self._cache is not None:
            self._cache.save(seed, size, images, depth, intrinsics)
        return images, depth, intrinsics

    def _admit(self, *, wait: bool) -> None:
        """Groups whose masks are done join the bank, in the order of drawing."""
        while self._waiting:
            group = self._waiting[0]
            if not wait and not all(mask.done() for mask in group.masks):
                return
            masks = [
                [(mask, torch.from_numpy(mask.bits).to(self._device)) for mask in drawn(future)]
                for future in group.masks
            ]
            self._groups.append(_Group(group.size, group.images, masks))
            self._waiting.popleft()


def held_out_clips(
    source: ClipSource, count: int, frames: int, size: PictureSize, device: torch.device, masks: MaskDrawer | None
) -> MaskedClips:
    """Clips that no run is trained on, as they are, each with a mask or without holes.

    Args:
        source: as of `ClipBank`.
        count: how many.
        frames: of a clip; those of `masks` where there are some.
        size: (height, width).
        device: where they are wanted.
        masks: draws their masks; None for masks that keep everything.
    """
    videos, keeps = [], []
    for number in range(count):
        clip = source(HELD_OUT_SEED + number, 1, frames, *size, device)
        images = torch.nan_to_num(clip.images[0]).clamp(0, 1)
        videos.append(images.transpose(0, 1) * 2 - 1)
        keep = torch.ones(1, frames, *size, device=device)
        if masks is not None:
            shown = (images * 255).round().to(torch.uint8).permute(0, 2, 3, 1).cpu().numpy()
            depth, intrinsics = clip.depth[0].float().cpu().numpy(), clip.intrinsics[0].double().cpu().numpy()
            # without more frames than the mask has, its window is the clip; only its direction is left to chance
            mask = drawn(masks.submit(HELD_OUT_SEED + number, shown, depth, intrinsics))[0]
            keep = _unpacked(torch.from_numpy(mask.bits).to(device), size[1])[None].float()
            videos[-1] = videos[-1][:, :: mask.step] if mask.step > 0 else videos[-1].flip(1)
        keeps.append(keep)
    return MaskedClips(torch.stack(videos).float(), torch.stack(keeps))


def _pictures(view: _View, frames: int, size: PictureSize) -> Tensor:
    """(3, F, H, W) float32 in 0…1."""
    clip = _window(view.group.images[view.clip], 1, view, frames)[..., view.rows, view.columns]
    images = clip.float() / 255
    if images.shape[-2:] != size:
        images = functional.interpolate(images, size=size, mode="bilinear", align_corners=False, antialias=True)
    return images.flip(-1) if view.mirrored else images


def _kept(view: _View, frames: int, size: PictureSize) -> Tensor:
    """(1, F, H, W) float32, 0 or 1."""
    bits = view.group.masks[view.clip][view.mask][1][:frames]
    keep = _unpacked(bits, view.group.images.shape[-1])[None, :, view.rows, view.columns].float()
    if keep.shape[-2:] != size:
        keep = functional.interpolate(keep, size=size, mode="nearest-exact")
    return keep.flip(-1) if view.mirrored else keep


def _window(frames: Tensor, dimension: int, view: _View, count: int) -> Tensor:
    if view.step > 0:
        return frames.narrow(dimension, view.start, count)
    return frames.narrow(dimension, view.start - count + 1, count).flip(dimension)


def _unpacked(bits: Tensor, width: int) -> Tensor:
    """(F, H, W) bool of bits (F, H, ⌈W/8⌉) uint8, as of `numpy.unpackbits`."""
    places = torch.arange(7, -1, -1, dtype=torch.uint8, device=bits.device)
    return ((bits[..., None] >> places) & 1).bool().flatten(-2)[..., :width]


def _coloured(clips: Sequence[Tensor], look: int) -> Tensor:
    """(B, 3, F, H, W) in [−1, 1] of clips (3, F, H, W) in 0…1, each as another camera or grade would show it."""
    images = vary_colours(torch.stack([clip.transpose(0, 1) for clip in clips]), look)
    return (images * 2 - 1).transpose(1, 2).contiguous()


def _refused(what: str, wanted: str) -> Ex4dError:
    return Ex4dError("bad_request", f"The bank of clips cannot be made with {what}.", f"Give {wanted}.")
