# SPDX-License-Identifier: GPL-3.0-or-later
"""Groups of clips drawn for a bank, with their masks: at once, or by a thread beside the training."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from .bank_masks import MaskDrawer, WindowMask, drawn
from .depth_clips import HELD_OUT_SEED, ClipSource

if TYPE_CHECKING:
    from .clip_bank import BankSettings
    from .clip_cache import ClipCache
    from .drawing_processes import DrawingProcesses


@dataclass(frozen=True)
class DrawnGroup:
    """images: (N, 3, F, H, W) uint8. masks: of each clip, to come; empty without masks. seconds: of drawing it."""

    images: Tensor
    masks: list[Future[list[WindowMask]]]
    seconds: float

    @property
    def is_ready(self) -> bool:
        """Whether all masks are there."""
        return all(mask.done() for mask in self.masks)

    def windows(self) -> list[list[WindowMask]]:
        """The masks of each clip; waits for them.

        Raises:
            Ex4dError: as `bank_masks.drawn`.
        """
        return [drawn(mask) for mask in self.masks]

    def belong_here(self) -> None:
        """Tells the memory's owner that this thread's queue uses the images too, though another one's made them."""
        if self.images.device.type == "cuda":
            self.images.record_stream(torch.cuda.current_stream(self.images.device))


class GroupDrawer:
    """Draws a bank's groups, one after the other.

    Args:
        settings: of the bank.
        source: draws clips.
        device: where it draws.
        masks: draws masks for the clips; None for none.
        cache: where drawn clips are kept; None for nowhere.
        beside: whether a thread draws while the caller goes on. On a graphics card it has a queue of its own there.
        ahead: processes that draw into the cache, where the group is then taken from; None for none.
        clock: seconds.
    """

    def __init__(
        self,
        settings: BankSettings,
        source: ClipSource,
        device: torch.device,
        masks: MaskDrawer | None,
        cache: ClipCache | None,
        *,
        beside: bool = False,
        ahead: DrawingProcesses | None = None,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        self._settings, self._source, self._device = settings, source, device
        self._masks, self._cache, self._ahead, self._clock = masks, cache, ahead, clock
        self._thread = ThreadPoolExecutor(1, "clip drawing") if beside else None
        self._queue: torch.cuda.Stream | None = None
        self._coming: Future[DrawnGroup] | None = None

    @property
    def is_beside(self) -> bool:
        """Whether a thread draws."""
        return self._thread is not None

    @property
    def is_busy(self) -> bool:
        """Whether a group that was begun has not been taken yet."""
        return self._coming is not None

    def begin(self, number: int) -> None:
        """Begins the group of that number; the one before has been taken."""
        if self._ahead is not None:
            self._ahead.want_group(number)
        if self._thread is not None:
            self._coming = self._thread.submit(self._draw, number)
            return
        self._coming = Future()
        self._coming.set_result(self._draw(number))

    def take(self, *, wait: bool) -> DrawnGroup | None:
        """The group that was begun, or None if it is not done. Raises what drawing it raised."""
        if self._coming is None or not (wait or self._coming.done()):
            return None
        group, self._coming = self._coming.result(), None
        return group

    def _draw(self, number: int) -> DrawnGroup:
        if self._ahead is not None:
            self._ahead.wait(number)
        started = self._clock()
        with self._own_queue():
            wants_depth = self._masks is not None
            images, depth, intrinsics = group_clips(
                self._settings, self._source, number, self._device, self._cache, wants_depth=wants_depth
            )
            masks = []
            if self._masks is not None:
                seed = group_seed(self._settings, number)
                frames = images.permute(0, 2, 3, 4, 1).contiguous().cpu().numpy()
                masks = [
                    self._masks.submit(seed + clip, frames[clip], depth[clip], intrinsics[clip])
                    for clip in range(self._settings.group)
                ]
        return DrawnGroup(images, masks, self._clock() - started)

    @contextmanager
    def _own_queue(self) -> Iterator[None]:
        """In a thread on a graphics card: a queue of its own, empty at the end."""
        if self._thread is None or self._device.type != "cuda":
            yield
            return
        if self._queue is None:
            self._queue = torch.cuda.Stream(self._device, priority=0)  # the lowest there is; see `preferred_queue`
        with torch.cuda.device(self._device), torch.cuda.stream(self._queue):
            yield
            self._queue.synchronize()


def group_seed(settings: BankSettings, number: int) -> int:
    """Of the first clip of a bank's group of that number; those of its other clips follow."""
    return (settings.seed * 7_368_787 + number * settings.group) % HELD_OUT_SEED


def group_clips(
    settings: BankSettings,
    source: ClipSource,
    number: int,
    device: torch.device,
    cache: ClipCache | None,
    *,
    wants_depth: bool = True,
) -> tuple[Tensor, NDArray[np.float32], NDArray[np.float64]]:
    """The clips of a bank's group of that number, from the cache, or drawn and kept there.

    Returns:
        Images (N, 3, F, H, W) uint8 on the device, depth (N, F, H, W), intrinsics (N, F, 3, 3); the two may be empty
        where they are not wanted.
    """
    seed, size = group_seed(settings, number), settings.size_of(number)
    if cache is not None and (kept := cache.load(seed, size)) is not None:
        images, kept_depth, intrinsics = kept
        return images.to(device), kept_depth, intrinsics
    clips = source(seed, settings.group, settings.clip_frames, *settings.stored_size(size), device)
    images = torch.nan_to_num(clips.images).clamp(0, 1).mul(255).round().to(torch.uint8).transpose(1, 2)
    images = images.contiguous()
    if not wants_depth and cache is None:
        return images, np.empty(0, np.float32), np.empty(0, np.float64)
    # rounded as the cache keeps it, so that masks do not depend on whether there is one
    depth = clips.depth.half().float().cpu().numpy()
    intrinsics = clips.intrinsics.double().cpu().numpy()
    if cache is not None:
        cache.save(seed, size, images, depth, intrinsics)
    return images, depth, intrinsics


def preferred_queue(device: torch.device) -> None:
    """Makes this thread's work on a graphics card go before what is drawn beside it. To be called first of all."""
    if device.type == "cuda":
        torch.cuda.set_stream(torch.cuda.Stream(device, priority=-1))
