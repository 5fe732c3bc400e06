# SPDX-License-Identifier: GPL-3.0-or-later
"""The `video-depth-anything` source: depth that does not flicker, from windows of 32 frames.

Each window but the first begins with ten frames that have been seen: two key frames from far back and the last
eight. On those it is aligned with what came before, by one scale and one shift, and over the eight it is faded in.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from ...models.store import find
from ...progress import Reporter
from ...torch_device import torch_device
from ..affine_depth import fit_scale_shift
from ..network_frames import IMAGENET, as_tensor, network_size
from ..network_loading import network_side, one_of, running
from ..registry import DepthClip, PlatePass
from ..whole_clip import affine_clip, over_clip

Array = npt.NDArray[np.float32]
Image = npt.NDArray[np.uint8]
Predict = Callable[[list[Image]], Array]
"""The frames of a window (WINDOW times (h, w, 3)) → inverse depth (WINDOW, h, w)."""

MODELS: Final = {"small": "video-depth-anything-small"}
WINDOW: Final = 32
FADE: Final = 8
REPEATED: Final = (0, 12, *range(WINDOW - FADE, WINDOW))
"""Places in a window whose frames begin the next one."""
FRESH: Final = WINDOW - len(REPEATED)


class VideoDepthAnything:
    """The `video-depth-anything` source.

    Args:
        variant: "small".
        size: short side in pixels of what the network sees.
        device: "auto", "cpu", "cuda", …
    """

    name = "video-depth-anything"
    title = "Video Depth Anything"
    licence = "Apache-2.0"
    needs_download = True

    def __init__(self, variant: str = "small", size: int = 518, device: str = "auto") -> None:
        self._place = find(MODELS[one_of(variant, MODELS, self.title)])
        self._size = network_side(size, self.title, 28)
        self._device = device

    def estimate(self, plate: PlatePass, frame_count: int, size: tuple[int, int], reporter: Reporter) -> DepthClip:
        """Runs the network over the clip now, holding two windows of small frames; enlarges each frame when asked.

        Raises:
            Ex4dError: `model_invalid`, `bad_request`, `out_of_memory`; `depth_invalid` for a frame of which nothing
                is a number; `cancelled`.
        """
        predict = self._network()
        small = network_size(size, self._size, 14)
        with running(self.title):
            maps, counted = over_clip(
                plate, frame_count, small, lambda frames: consistent(frames, predict), self.title, reporter
            )
        note = "Depth is from Video Depth Anything: consistent over time, its scale and farthest distance assumed."
        return affine_clip(plate, maps, counted, note, reporter, zero_is_far=True)

    def _network(self) -> Predict:
        from ...diffusion.tensor_files import read_tensors
        from ..networks.video_depth_network import load_video_depth

        device = torch_device(self._device)
        network = load_video_depth(read_tensors(self._place), self._place, self.title).to(device)

        def predict(images: list[Image]) -> Array:
            result: Array = network(as_tensor(images, IMAGENET).to(device)).cpu().numpy()
            return result

        return predict


def consistent(frames: Iterator[Image], predict: Predict) -> Iterator[Array]:
    """Inverse depth (h, w) of every frame, all in the scale and shift of the first window."""
    before: _Window | None = None
    for fresh in _batches(frames):
        window = _first(fresh, predict) if before is None else _next(before, fresh, predict)
        if before is not None:
            yield from window.maps[len(REPEATED) - FADE : len(REPEATED)]
        start = 0 if before is None else len(REPEATED)
        yield from window.maps[start : WINDOW - FADE][: len(fresh)]
        before, count = window, len(fresh) + start
    if before is not None:
        yield from before.maps[WINDOW - FADE : count]


@dataclass(frozen=True)
class _Window:
    """frames: WINDOW times (h, w, 3); maps: (WINDOW, h, w), aligned."""

    frames: list[Image]
    maps: Array


def _batches(frames: Iterator[Image]) -> Iterator[list[Image]]:
    """What each window has that no other had: WINDOW frames, then FRESH at a time, the last time what is left."""
    wanted, batch = WINDOW, []
    for frame in frames:
        batch.append(frame)
        if len(batch) == wanted:
            yield batch
            wanted, batch = FRESH, []
    if batch:
        yield batch


def _padded(frames: list[Image]) -> list[Image]:
    """A whole window: the network knows no shorter one, so the last frame stands still."""
    return frames + [frames[-1]] * (WINDOW - len(frames))


def _first(fresh: list[Image], predict: Predict) -> _Window:
    frames = _padded(fresh)
    return _Window(frames, predict(frames))


def _next(before: _Window, fresh: list[Image], predict: Predict) -> _Window:
    frames = _padded([before.frames[place] for place in REPEATED] + fresh)
    seen = before.maps[list(REPEATED)]
    maps = predict(frames)
    scale, shift = fit_scale_shift(maps[: len(REPEATED)], seen)
    maps = np.float32(scale) * maps + np.float32(shift)
    # the clip's first frame is in every window: kept as it was, it holds the whole chain to one scale
    maps[0] = seen[0]
    share = (np.arange(1, FADE + 1, dtype=np.float32) / (FADE + 1))[:, None, None]
    fading = slice(len(REPEATED) - FADE, len(REPEATED))
    maps[fading] = (1 - share) * seen[-FADE:] + share * maps[fading]
    return _Window(frames, maps)
