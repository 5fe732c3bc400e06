# SPDX-License-Identifier: GPL-3.0-or-later
"""Windows cut from stored clips and masks: frames, crop, scale, mirror and look of a whole batch in one pass.

Every pixel of a batch says where it comes from, so that neither the clips' number nor their crops' sizes mean loops,
and the card is asked for nothing that it would have to wait for.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from .depth_clips import with_looks
from .host_transfer import sent


@dataclass(frozen=True)
class View:
    """What a step sees of a stored clip.

    slot: where the clip is stored. mask: which of its masks, 0 without.
    start, step: its first frame, and 1 or −1.
    top, left, height, width: of the crop, which is resampled to the step's size.
    """

    slot: int
    mask: int
    start: int
    step: int
    top: int
    left: int
    height: int
    width: int
    mirrored: bool


class ViewPlaces(NamedTuple):
    """A batch of views on the device.

    slots, masks: (B,). times: (B, F). rows: (B, H), columns: (B, W) float, in pixels of the stored clips, whose first
    centre is 0. looks: (B, 6), see `drawn_looks`.
    """

    slots: Tensor
    masks: Tensor
    times: Tensor
    rows: Tensor
    columns: Tensor
    looks: Tensor


def view_places(
    views: Sequence[View], frames: int, size: tuple[int, int], looks: Tensor, device: torch.device
) -> ViewPlaces:
    """Where a batch's pixels come from.

    Args:
        views: of clips stored together.
        frames: of each.
        size: (height, width) of what is seen.
        looks: (B, 6) on the CPU.
        device: where the clips are.
    """
    starts, steps = (np.array([getattr(view, name) for view in views]) for name in ("start", "step"))
    stored = np.array([(view.slot, view.mask) for view in views])
    times = starts[:, None] + steps[:, None] * np.arange(frames)
    rows = _centres([(view.top, view.height, False) for view in views], size[0])
    columns = _centres([(view.left, view.width, view.mirrored) for view in views], size[1])
    # one transfer for all, in float32, which holds these whole numbers exactly
    parts = [stored, times, rows, columns, looks.numpy()]
    together = sent(torch.from_numpy(np.concatenate(parts, axis=1, dtype=np.float32, casting="same_kind")), device)
    both, times, rows, columns, looks = together.split([part.shape[1] for part in parts], dim=1)
    return ViewPlaces(both[:, 0].long(), both[:, 1].long(), times.long(), rows, columns, looks)


def seen_pictures(clips: Tensor, places: ViewPlaces) -> Tensor:
    """(B, 3, F, H, W) float32 in [−1, 1] of clips (N, 3, F', H', W') uint8; resampled bilinearly."""
    channels = torch.arange(3, device=clips.device)[None, :, None, None, None]
    slots, times = places.slots[:, None, None, None, None], places.times[:, None, :, None, None]
    height, width = clips.shape[-2:]
    upper, left = places.rows.floor(), places.columns.floor()
    down = (places.rows - upper)[:, None, None, :, None]
    right = (places.columns - left)[:, None, None, None, :]
    y, x = upper.long(), left.long()

    def corner(below: int, beside: int) -> Tensor:
        # one beyond the edge weighs nothing
        ys = (y + below).clamp_max(height - 1)[:, None, None, :, None]
        xs = (x + beside).clamp_max(width - 1)[:, None, None, None, :]
        return clips[slots, channels, times, ys, xs].float()

    above = torch.lerp(corner(0, 0), corner(0, 1), right)
    images = torch.lerp(above, torch.lerp(corner(1, 0), corner(1, 1), right), down) / 255
    return with_looks(images.transpose(1, 2), places.looks).transpose(1, 2).contiguous() * 2 - 1


def seen_masks(bits: Tensor, places: ViewPlaces) -> Tensor:
    """(B, 1, F, H, W) float32, 0 or 1, of masks (N, M, F', H', ⌈W'/8⌉) uint8, a pixel a bit as of `numpy.packbits`.

    A mask's frames come in the order in which they are seen; each pixel is that of the nearest centre.
    """
    frames = torch.arange(places.times.shape[1], device=bits.device)[None, :, None, None]
    slots, masks = places.slots[:, None, None, None], places.masks[:, None, None, None]
    y, x = (places.rows + 0.5).floor().long()[:, None, :, None], (places.columns + 0.5).floor().long()[:, None, None]
    kept = (bits[slots, masks, frames, y, x >> 3].int() >> (7 - (x & 7))) & 1
    return kept[:, None].float()


class Viewer:
    """`seen_pictures` and `seen_masks`, or what torch compiles of them: for all sizes at once, in some ten seconds."""

    def __init__(self, *, compiled: bool) -> None:
        self.pictures: Callable[[Tensor, ViewPlaces], Tensor] = seen_pictures
        self.masks: Callable[[Tensor, ViewPlaces], Tensor] = seen_masks
        if compiled:
            self.pictures, self.masks = (torch.compile(see, dynamic=True) for see in (seen_pictures, seen_masks))


def _centres(crops: Sequence[tuple[int, int, bool]], wanted: int) -> NDArray[np.float64]:
    """(B, wanted): centres of `wanted` pixels spread over crops (first stored pixel, count, whether mirrored)."""
    first, count, mirrored = (np.array(values)[:, None] for values in zip(*crops, strict=True))
    places = (np.arange(wanted) + 0.5) * (count / wanted) - 0.5
    places = np.clip(places, 0, count - 1) + first
    return np.where(mirrored, places[:, ::-1], places)
