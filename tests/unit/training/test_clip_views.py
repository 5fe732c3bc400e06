# SPDX-License-Identifier: GPL-3.0-or-later
"""A batch of views is what each view alone would be by slicing, flipping and torch's own resampling."""

from __future__ import annotations

import numpy as np
import torch
from torch.nn import functional

from ex4d_engine.training.clip_views import View, Viewer, view_places
from ex4d_engine.training.depth_clips import drawn_looks, with_looks

CPU = torch.device("cpu")
SIZE, FRAMES = (16, 24), 3
NEUTRAL = torch.tensor([[1.0, 1.0, 1.0, 1.0, 1.0, 1.0]])
VIEWS = [
    View(2, 0, 1, 1, 3, 2, *SIZE, mirrored=False),
    View(0, 1, 4, -1, 0, 5, 12, 18, mirrored=True),
    View(1, 1, 0, 1, 1, 0, 19, 29, mirrored=False),
]


def stored() -> tuple[torch.Tensor, torch.Tensor]:
    rng = np.random.default_rng(0)
    clips = torch.from_numpy(rng.integers(0, 256, (3, 3, 6, 20, 30), np.uint8))
    return clips, torch.from_numpy(rng.integers(0, 2, (3, 2, FRAMES, 20, 30), np.uint8))


def cut(frames: torch.Tensor, view: View) -> torch.Tensor:
    return frames[..., view.top : view.top + view.height, view.left : view.left + view.width]


def test_pictures_are_cut_turned_and_resampled() -> None:
    clips, _ = stored()
    looks = torch.cat([NEUTRAL, NEUTRAL, drawn_looks(1, 5)])
    seen = Viewer(compiled=False).pictures(clips, view_places(VIEWS, FRAMES, SIZE, looks, CPU))
    assert seen.shape == (3, 3, FRAMES, *SIZE) and seen.is_contiguous()
    for number, view in enumerate(VIEWS):
        order = [view.start + view.step * frame for frame in range(FRAMES)]
        part = cut(clips[view.slot][:, order], view).float() / 255
        part = functional.interpolate(part, size=SIZE, mode="bilinear", align_corners=False)
        part = part.flip(-1) if view.mirrored else part
        part = with_looks(part.transpose(0, 1)[None], looks[number : number + 1])[0].transpose(0, 1)
        torch.testing.assert_close(seen[number], part * 2 - 1, rtol=0, atol=1e-4)


def test_a_view_of_its_own_size_is_exact() -> None:
    clips, _ = stored()
    seen = Viewer(compiled=False).pictures(clips, view_places(VIEWS[:1], FRAMES, SIZE, NEUTRAL, CPU))
    assert torch.equal(((seen[0] + 1) * 127.5).round().byte(), cut(clips[2][:, 1:4], VIEWS[0]))


def test_masks_lie_where_their_pictures_do() -> None:
    _, keep = stored()
    bits = torch.from_numpy(np.packbits(keep.numpy(), axis=-1))
    seen = Viewer(compiled=False).masks(bits, view_places(VIEWS, FRAMES, SIZE, NEUTRAL.repeat(3, 1), CPU))
    assert seen.shape == (3, 1, FRAMES, *SIZE)
    for number, view in enumerate(VIEWS):
        part = cut(keep[view.slot][view.mask], view)[None].float()
        part = functional.interpolate(part, size=SIZE, mode="nearest-exact")[0]
        assert torch.equal(seen[number, 0], part.flip(-1) if view.mirrored else part)
