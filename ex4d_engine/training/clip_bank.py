# SPDX-License-Identifier: GPL-3.0-or-later
"""Generated clips kept on the training device, each seen many times in other windows, crops, speeds and colours.

Drawing a clip takes far longer than a step's share of it, so a step takes what is there; every few steps fresh clips
come in, and once the bank is full the oldest leave.
"""

from __future__ import annotations

import dataclasses
import random
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import torch
from torch import Tensor

from ..errors import Ex4dError
from .bank_masks import MaskDrawer, drawn
from .clip_drawing import DrawnGroup, GroupDrawer
from .clip_views import View, Viewer, ViewPlaces, view_places
from .depth_clips import HELD_OUT_SEED, ClipSource, drawn_looks

if TYPE_CHECKING:
    from .clip_cache import ClipCache
    from .drawing_processes import DrawingProcesses

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
        put off. 1 for no limit, which makes what a step sees independent of the clock unless a thread draws.
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

    def identity(self) -> dict[str, Any]:
        """What a resumed run must have in common with its first sitting, as it comes back from JSON."""
        values = dataclasses.asdict(self) | {"sizes": [list(size) for size in self.sizes]}
        return {f"bank.{name}": value for name, value in values.items()}

    def size_of(self, number: int) -> PictureSize:
        """(height, width) of the steps that the group of that number is for."""
        return self.sizes[number % len(self.sizes)]

    def stored_size(self, size: PictureSize) -> PictureSize:
        """(height, width) of the stored clips for a size: multiples of 8, which the scenes' own codec likes."""
        height, width = (8 * round(side * (1 + self.margin) / 8) for side in size)
        return height, width

    @property
    def drawn_as(self) -> str:
        """What tells clips of these settings from others of the same seed and size, for a `ClipCache`."""
        return f"{self.clip_frames} frames, margin {self.margin:g}, groups of {self.group}"

    @property
    def held(self) -> int:
        """Groups kept."""
        return self.most // self.group


@dataclass(frozen=True)
class MaskedClips:
    """video: (B, 3, F, H, W) float32 in [−1, 1]. keep: (B, 1, F, H, W) float32, 1 where a pixel is kept, else 0; the
    first frame is whole.
    """

    video: Tensor
    keep: Tensor


@dataclass
class _Store:
    """The clips of one size, each group in a place of its own until another takes it.

    clips: (N, 3, F, H, W) uint8. bits: (N, M, F', H, ⌈W/8⌉) uint8, None without masks.
    windows: of each clip's masks, without their bits.
    """

    clips: Tensor
    bits: Tensor | None = None
    windows: dict[int, list[tuple[int, int]]] = field(default_factory=dict)


class ClipBank:
    """Clips for training.

    With `draw_share` 1 and clips and masks drawn here and at once, a step's clips follow from the settings and the
    step alone, whenever the bank was made; otherwise which clips are there also depends on how fast they were drawn.

    Args:
        settings: see `BankSettings`.
        source: draws clips with depth and intrinsics, such as `ex4d_engine.synthetic.random_clips`.
        device: where the clips are kept and batches are made.
        masks: draws masks for the clips; None for none.
        cache: where drawn clips are kept for later runs of the same settings; None for nowhere.
        beside: where a thread draws while steps are made, the first of which then wait for a group of each size
            alone; None to draw between the steps.
        ahead: processes that draw into the cache what the thread then takes from it; None for none.
        compiled: whether torch compiles how batches are made.
        clock: seconds.
    """

    def __init__(
        self,
        settings: BankSettings,
        source: ClipSource,
        device: torch.device,
        masks: MaskDrawer | None = None,
        cache: ClipCache | None = None,
        *,
        beside: torch.device | None = None,
        ahead: DrawingProcesses | None = None,
        compiled: bool = False,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        self.settings = settings
        self._device, self._masks, self._clock = device, masks, clock
        self._viewer = Viewer(compiled=compiled)
        self._drawer = GroupDrawer(
            settings, source, beside or device, masks, cache, beside=beside is not None, ahead=ahead, clock=clock
        )
        self._stores: dict[PictureSize, _Store] = {}
        self._groups: deque[int] = deque()
        self._waiting: deque[tuple[int, DrawnGroup]] = deque()
        self._next = 0
        self._first: int | None = None  # the first group that is not of the first clips
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

    def identity(self) -> dict[str, Any]:
        """See `BankSettings.identity`."""
        return self.settings.identity()

    def batch(self, step: int, batch: int, frames: int) -> Tensor:
        """A step's clips, (B, 3, F, H, W) float32 in [−1, 1], all of one size.

        Raises:
            Ex4dError: `bad_request` for more frames than the bank's clips have.
        """
        store, places = self._seen(step, batch, frames, masked=False)
        return self._viewer.pictures(store.clips, places)

    def masked_batch(self, step: int, batch: int, frames: int) -> MaskedClips:
        """A step's clips with simulated masks.

        Raises:
            Ex4dError: `bad_request` for more frames than a mask has; and what drawing the masks raises.
        """
        store, places = self._seen(step, batch, frames, masked=True)
        assert store.bits is not None  # there are masks, or no frames of them
        return MaskedClips(self._viewer.pictures(store.clips, places), self._viewer.masks(store.bits, places))

    def _seen(self, step: int, batch: int, frames: int, *, masked: bool) -> tuple[_Store, ViewPlaces]:
        """The store that a step's clips are in, and where in it they are seen."""
        settings = self.settings
        longest = settings.clip_frames
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
        rng = random.Random(f"ex4d bank {settings.seed} {step}")  # noqa: S311
        # a size that has few clips so far is chosen less often, or they would be seen too often
        size = settings.size_of(rng.choice(self._groups))
        slots = [
            self._slot(number, clip)
            for number in self._groups
            if settings.size_of(number) == size
            for clip in range(settings.group)
        ]
        chosen = rng.sample(slots, batch) if batch <= len(slots) else rng.choices(slots, k=batch)
        store = self._stores[size]
        views = [self._view(rng, size, slot, store.windows.get(slot) if masked else None, frames) for slot in chosen]
        looks = drawn_looks(batch, rng.getrandbits(32))
        return store, view_places(views, frames, size, looks, self._device)

    def _view(
        self, rng: random.Random, size: PictureSize, slot: int, windows: list[tuple[int, int]] | None, frames: int
    ) -> View:
        mask = 0
        if windows is not None:
            mask = rng.randrange(len(windows))
            start, step = windows[mask]
        else:
            first = rng.randint(0, self.settings.clip_frames - frames)
            start, step = (first, 1) if rng.random() < 0.5 else (first + frames - 1, -1)
        height, width = size
        rows, columns = self.settings.stored_size(size)
        zoom = 1.0 if rng.random() < _UNSCALED else rng.uniform(_SMALLEST_CROP, min(rows / height, columns / width))
        crop = min(rows, round(zoom * height)), min(columns, round(zoom * width))
        top, left = rng.randint(0, rows - crop[0]), rng.randint(0, columns - crop[1])
        return View(slot, mask, start, step, top, left, *crop, mirrored=rng.random() < 0.5)

    # --- what is in the bank ----------------------------------------------------------------------------------------

    def _renew(self, step: int) -> None:
        """Brings the bank to what it should hold at a step, as far as the time allows."""
        settings, drawer = self.settings, self._drawer
        wanted = -(-settings.first // settings.group) + step // settings.refresh_every
        if self._first is None:
            # a resumed run begins with the newest of the clips that it would have by now
            self._next = max(0, wanted - settings.held)
            self._first = wanted
            enough = min(wanted, self._next + len(settings.sizes)) if drawer.is_beside else wanted
            while self._next < enough:
                self._begin()
                self._receive(wait=True)
            self._admit(wait=True)
        self._receive(wait=False)
        while not drawer.is_busy and self._next < wanted and self._may_draw():
            self._begin()
            self._receive(wait=False)
        self._admit(wait=False)
        if self._filled_at is None and self._next >= self._first and not drawer.is_busy:
            self._filled_at = self._clock()

    def _may_draw(self) -> bool:
        share = self.settings.draw_share
        return len(self._waiting) < _MOST_WAITING and (share >= 1 or self.drawing_share < share)

    def _begin(self) -> None:
        self._drawer.begin(self._next)
        self._next += 1

    def _receive(self, *, wait: bool) -> None:
        """A group that was drawn waits for its masks."""
        if (group := self._drawer.take(wait=wait)) is not None:
            self._waiting.append((self._next - 1, group))
            if self._filled_at is not None:
                self._drawing += group.seconds

    def _admit(self, *, wait: bool) -> None:
        """Groups whose masks are done join the bank, in the order of drawing, and the oldest leave."""
        while self._waiting and (wait or self._waiting[0][1].is_ready):
            number, group = self._waiting.popleft()
            self._keep(number, group)
            self._groups.append(number)
            if len(self._groups) > self.settings.held:
                self._groups.popleft()

    def _slot(self, number: int, clip: int) -> int:
        """Where in its size's store a clip lies: where one lay that has left, as sizes come in turn."""
        sizes = len(self.settings.sizes)
        return number // sizes % -(-self.settings.held // sizes) * self.settings.group + clip

    def _keep(self, number: int, group: DrawnGroup) -> None:
        settings = self.settings
        size, masks, first = settings.size_of(number), group.windows(), self._slot(number, 0)
        slots = -(-settings.held // len(settings.sizes)) * settings.group
        if size not in self._stores:
            self._stores[size] = _Store(_room(slots, group.images, self._device))
        store = self._stores[size]
        group.belong_here()
        store.clips[first : first + settings.group].copy_(group.images)
        if not masks:
            return
        bits = torch.from_numpy(np.stack([[mask.bits for mask in clip] for clip in masks]))
        if store.bits is None:
            store.bits = _room(slots, bits, self._device)
        store.bits[first : first + settings.group].copy_(bits)
        for slot, clip in enumerate(masks, first):
            store.windows[slot] = [(mask.start, mask.step) for mask in clip]


def _room(slots: int, like: Tensor, device: torch.device) -> Tensor:
    """Memory for as many clips or masks as `slots`, each as one of `like` (N, …)."""
    return torch.empty(slots, *like.shape[1:], dtype=like.dtype, device=device)


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
            shown_bits = np.unpackbits(mask.bits, axis=-1, count=size[1])
            keep = torch.from_numpy(shown_bits)[None].float().to(device)
            videos[-1] = videos[-1][:, :: mask.step] if mask.step > 0 else videos[-1].flip(1)
        keeps.append(keep)
    return MaskedClips(torch.stack(videos).float(), torch.stack(keeps))


def _refused(what: str, wanted: str) -> Ex4dError:
    return Ex4dError("bad_request", f"The bank of clips cannot be made with {what}.", f"Give {wanted}.")
