# SPDX-License-Identifier: GPL-3.0-or-later
"""The `depth-anything-3` source: depth, its confidence, the lens and the camera's way, from frames seen together.

A clip longer than the network can see at once is cut into overlapping chunks. Each chunk has a world and a scale of
its own; by one similarity (scale, rotation, translation), found on the overlap, it joins the world of the first.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import numpy as np
import numpy.typing as npt

from ...errors import Ex4dError
from ...models.store import find
from ...progress import Reporter
from ...torch_device import torch_device
from ..network_frames import (
    ESTIMATE,
    IMAGENET,
    as_tensor,
    counted_values,
    enlarged,
    network_size_within,
    usable,
)
from ..network_loading import network_side, one_of, running
from ..registry import DepthClip, PlatePass
from ..small_maps import SmallMaps
from ..whole_clip import shown_frames
from .camera_chunks import Chunk, chain
from .depth_pro import clip_fov

Array = npt.NDArray[np.float32]
Image = npt.NDArray[np.uint8]

MODELS: Final = {"small": "depth-anything-3-small", "base": "depth-anything-3-base"}
_NEAREST: Final = 1e-6
"""Depth in the network's scale; it gives no 0, but its exponent may."""
WINDOW: Final = 32
OVERLAP: Final = 8
"""Frames of a chunk, and those it has in common with the last. What it costs grows with the square of the former."""


class DepthAnything3:
    """The `depth-anything-3` source.

    Args:
        variant: "small" or "base".
        size: long side in pixels of what the network sees; its authors use 504.
        device: "auto", "cpu", "cuda", …
    """

    name = "depth-anything-3"
    title = "Depth Anything 3"
    licence = "Apache-2.0"
    needs_download = True

    def __init__(self, variant: str = "base", size: int = 504, device: str = "auto") -> None:
        self._variant = one_of(variant, MODELS, self.title)
        self._place = find(MODELS[variant])
        self._size = network_side(size, self.title, 28)
        self._device = device

    def estimate(self, plate: PlatePass, frame_count: int, size: tuple[int, int], reporter: Reporter) -> DepthClip:
        """Runs the network over the clip now, holding two chunks of small frames; enlarges each frame when asked.

        The first frame's camera is the origin of the world.

        Raises:
            Ex4dError: `model_invalid`, `bad_request`, `out_of_memory`; `depth_invalid` for a frame of which nothing
                is a number; `cancelled`.
        """
        inverse, confidence = SmallMaps(), SmallMaps()
        poses: list[npt.NDArray[np.float64]] = []
        fields: list[npt.NDArray[np.float64]] = []
        counted: list[bool] = []
        small = network_size_within(size, self._size, 14)
        frames = shown_frames(plate, small, counted, reporter)
        with running(self.title):
            for index, view in enumerate(chain(frames, self._network(), WINDOW, OVERLAP)):
                inverse.append(view.inverse_z)
                confidence.append(view.confidence)
                poses.append(view.camera_to_world)
                fields.append(view.fov)
                reporter.progress(ESTIMATE, index + 1, frame_count)
        vertical, horizontal = (counted_values(list(angles), counted) for angles in np.degrees(np.array(fields)).T)
        across = clip_fov(horizontal, self.title, reporter)
        down = float(np.median(vertical))
        focal = [side / 2 / np.tan(np.radians(angle) / 2) for side, angle in zip(size, (across, down), strict=True)]
        return DepthClip(
            frames=enlarged(plate, inverse, lambda _, values: values, reporter, confidence),
            intrinsics=np.array([[focal[0], 0.0, size[0] / 2], [0.0, focal[1], size[1] / 2], [0.0, 0.0, 1.0]]),
            camera_to_world=np.asarray(np.linalg.inv(poses[0]) @ np.array(poses), np.float64),
            scale="relative",
            note=f"Depth, lens and camera are from Depth Anything 3 ({self._variant}); their common scale is its own.",
            lens_is_estimate=True,
        )

    def _network(self) -> Callable[[list[Image], int], Chunk]:
        from ...diffusion.tensor_files import read_tensors
        from ..networks.multi_view_network import load_multi_view

        device = torch_device(self._device)
        network = load_multi_view(read_tensors(self._place), self._place, self.title).to(device)

        def predict(images: list[Image], first: int) -> Chunk:
            views = network(as_tensor(images, IMAGENET).to(device))
            depth = views.depth.float().cpu().numpy()
            known = np.stack([usable(values, self.title, first + index) for index, values in enumerate(depth)])
            cameras = [part.cpu().double().numpy() for part in (views.rotation, views.position, views.fov)]
            if not all(np.isfinite(part).all() for part in cameras):
                raise Ex4dError(
                    "depth_invalid",
                    f"{self.title} gave no usable camera for the frames from {first + 1} of the clip.",
                    "Leave those frames out of the range, or choose another depth source.",
                )
            return Chunk(
                inverse_z=np.asarray(1 / np.maximum(known, _NEAREST), np.float32),
                # from 1 upwards to 0…1
                confidence=np.nan_to_num(1.0 - 1.0 / views.confidence.float().cpu().numpy(), nan=0.0),
                camera_to_world=camera_to_world(cameras[0], cameras[1]),
                fov=cameras[2],
            )

        return predict


def camera_to_world(rotation: npt.NDArray[np.float64], position: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """(S, 4, 4) of quaternions (S, 4), x, y, z, w of any length, and positions (S, 3)."""
    from scipy.spatial.transform import Rotation

    poses = np.tile(np.eye(4), (len(position), 1, 1))
    lengths = np.linalg.norm(rotation, axis=1, keepdims=True)
    unturned = np.array([0.0, 0.0, 0.0, 1.0])
    poses[:, :3, :3] = Rotation.from_quat(np.where(lengths > 0, rotation, unturned)).as_matrix()
    poses[:, :3, 3] = position
    return poses
