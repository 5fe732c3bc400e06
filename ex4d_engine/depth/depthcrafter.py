# SPDX-License-Identifier: GPL-3.0-or-later
"""The `depthcrafter` source: a video diffusion model's depth, consistent over long shots; slow, and it needs a card."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

import numpy as np
import numpy.typing as npt

from ..models.store import find
from ..progress import Reporter
from .affine_depth import read_clip
from .network_frames import ESTIMATE, counted_maps, enlarged, is_blank, network_size_within, resized, usable
from .network_loading import compute_device, network_side, running, whole_number
from .registry import DepthClip, PlatePass
from .small_maps import SmallMaps

Image = npt.NDArray[np.uint8]

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

        from .video_diffusion_depth import Sampling, disparity, load_video_diffusion

        device = compute_device(self._device)
        dtype = torch.float16 if device.type == "cuda" else torch.float32
        small = network_size_within(size, min(self._size, max(size)), _MULTIPLE)
        maps, counted = SmallMaps(), []

        def frames() -> Iterator[Image]:
            for image in plate():
                reporter.check()
                frame = resized(image, small)
                counted.append(not is_blank(frame))
                yield frame

        with running(self.title):
            model = load_video_diffusion(self._unet, self._shared, dtype, device)
            sampling = Sampling(steps=self._steps, seed=self._seed)
            for index, values in enumerate(disparity(frames(), model, sampling, reporter)):
                maps.append(usable(values, self.title, index))
                reporter.progress(ESTIMATE, index + 1, frame_count)
        reading = read_clip(counted_maps(maps, counted), zero_is_far=False)
        return DepthClip(
            frames=enlarged(plate, maps, lambda _, values: reading.inverse_z(values), reporter),
            intrinsics=None,
            camera_to_world=None,
            scale="relative",
            note="Depth is from DepthCrafter: consistent over time, its scale and its farthest distance assumed.",
            alignment="affine",
        )
