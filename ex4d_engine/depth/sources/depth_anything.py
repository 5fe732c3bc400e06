# SPDX-License-Identifier: GPL-3.0-or-later
"""The `depth-anything-v2` source: one frame at a time, relative or in metres, through transformers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import numpy as np
import numpy.typing as npt

from ...models.store import find
from ...progress import Reporter
from ...torch_device import torch_device
from ..network_frames import IMAGENET, as_tensor, enlarged, network_size, per_frame
from ..network_loading import invalid, load_library_model, network_side, one_of, running
from ..registry import DepthClip, PlatePass
from ..whole_clip import affine_clip

Array = npt.NDArray[np.float32]
Image = npt.NDArray[np.uint8]

MODELS: Final = {
    "small": "depth-anything-v2-small",
    "base": "depth-anything-v2-base",
    "small-metric-indoor": "depth-anything-v2-small-metric-indoor",
    "small-metric-outdoor": "depth-anything-v2-small-metric-outdoor",
    "base-metric-indoor": "depth-anything-v2-base-metric-indoor",
    "base-metric-outdoor": "depth-anything-v2-base-metric-outdoor",
}
_NEAREST: Final = 0.01
"""Metres: what a metric network calls nearer than this is no surface."""


class DepthAnythingV2:
    """The `depth-anything-v2` source.

    Args:
        variant: "small" or "base"; with "-metric-indoor" or "-metric-outdoor" the depth is in metres.
        size: short side in pixels of what the network sees; it was trained with 518.
        device: "auto", "cpu", "cuda", …
    """

    name = "depth-anything-v2"
    title = "Depth Anything V2"
    licence = "Apache-2.0 (small), CC-BY-NC-4.0 (base)"
    needs_download = True

    def __init__(self, variant: str = "small", size: int = 518, device: str = "auto") -> None:
        self._variant = one_of(variant, MODELS, self.title)
        self._place = find(MODELS[variant])
        self._size = network_side(size, self.title, 28)
        self._device = device

    def estimate(self, plate: PlatePass, frame_count: int, size: tuple[int, int], reporter: Reporter) -> DepthClip:
        """Runs the network over the clip now, holding one frame at a time; enlarges each frame when asked.

        Raises:
            Ex4dError: `model_invalid`, `bad_request`, `out_of_memory`; `depth_invalid` for a frame of which nothing
                is a number; `cancelled`.
        """
        predict, metric = self._network()
        with running(self.title):
            small = network_size(size, self._size, 14)
            maps, counted = per_frame(plate, frame_count, small, predict, self.title, reporter)
        if not metric:
            note = (
                f"Depth is from Depth Anything V2 ({self._variant}), each frame on its own; its scale and its farthest "
                "distance are assumed."
            )
            return affine_clip(plate, maps, counted, note, reporter, zero_is_far=True)

        def inverse_z(_: int, values: Array) -> Array:
            return np.asarray(1 / np.maximum(values, _NEAREST), np.float32)

        return DepthClip(
            frames=enlarged(plate, maps, inverse_z, reporter),
            intrinsics=None,
            camera_to_world=None,
            scale="metric",
            note=f"Depth is from Depth Anything V2 ({self._variant}), in metres, each frame on its own.",
            alignment="affine",
        )

    def _network(self) -> tuple[Callable[[Image], Array], bool]:
        """A frame → the network's map (h, w), and whether that is z in metres."""
        import torch
        from transformers import DepthAnythingForDepthEstimation

        device = torch_device(self._device)
        metric = "metric" in self._variant
        network = load_library_model(DepthAnythingForDepthEstimation, self._place, torch.float32)
        kind = network.config.depth_estimation_type
        if metric != (kind == "metric"):
            raise invalid(self._place, self.title, f"their depth is {kind}")
        network.to(device)

        def predict(image: Image) -> Array:
            pixels = as_tensor([image], IMAGENET).to(device)
            result: Array = network(pixel_values=pixels).predicted_depth[0].float().cpu().numpy()
            return result

        return predict, metric
