# SPDX-License-Identifier: GPL-3.0-or-later
"""The `depthcrafter` source: a video diffusion model's depth, consistent over long shots; slow, and it needs a card."""

from __future__ import annotations

from typing import Final

from ...models.store import find
from ...progress import Reporter
from ...torch_device import torch_device
from ..network_frames import network_size_within
from ..network_loading import network_side, running, whole_number
from ..registry import DepthClip, PlatePass
from ..whole_clip import affine_clip, over_clip

MODELS: Final = ("depthcrafter", "stable-video-diffusion")
_MULTIPLE: Final = 64


class DepthCrafter:
    """The `depthcrafter` source: the one that EX-4D's authors used.

    Args:
        size: long side in pixels of what the network sees; smaller frames are not enlarged.
        steps: of the solver.
        seed: of the noise.
        device: "auto", "cpu", "cuda", …
    """

    name = "depthcrafter"
    title = "DepthCrafter"
    licence = "academic use only; Stability AI Community for the parts it shares"
    needs_download = True

    def __init__(self, size: int = 1024, steps: int = 5, seed: int = 0, device: str = "auto") -> None:
        self._unet, self._shared = (find(name) for name in MODELS)
        self._size = network_side(size, self.title, _MULTIPLE)
        self._steps = whole_number(steps, "number of steps", 1, 1000)
        self._seed, self._device = whole_number(seed, "seed", 0, 2**63 - 1), device

    def estimate(self, plate: PlatePass, frame_count: int, size: tuple[int, int], reporter: Reporter) -> DepthClip:
        """Denoises the clip now, window by window, holding one window; enlarges each frame when asked.

        Raises:
            Ex4dError: `model_invalid`, `bad_request`, `out_of_memory`; `depth_invalid` for a frame of which nothing
                is a number; `cancelled`.
        """
        import torch

        from ..networks.video_diffusion_depth import Sampling, disparity, load_video_diffusion

        device = torch_device(self._device)
        dtype = torch.float16 if device.type == "cuda" else torch.float32
        small = network_size_within(size, min(self._size, max(size)), _MULTIPLE)
        with running(self.title):
            model = load_video_diffusion(self._unet, self._shared, dtype, device)
            sampling = Sampling(steps=self._steps, seed=self._seed)
            maps, counted = over_clip(
                plate,
                frame_count,
                small,
                lambda frames: disparity(frames, model, sampling, reporter),
                self.title,
                reporter,
            )
        note = "Depth is from DepthCrafter: consistent over time, its scale and its farthest distance assumed."
        return affine_clip(plate, maps, counted, note, reporter, zero_is_far=False)
