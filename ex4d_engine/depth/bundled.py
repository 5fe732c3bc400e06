# SPDX-License-Identifier: GPL-3.0-or-later
"""Depth from the network that this project trains and ships: the source `bundled`.

The network works at a small size and remembers the frames before, so depth is steady without looking ahead; its maps
are enlarged with their steps on the image's edges. What is held is a handful of small frames, whatever the clip's
length. A frame that shows nothing gets depth and leaves no trace in that of the others.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Final

import cv2
import numpy as np
import numpy.typing as npt
import torch

from ..progress import Reporter
from ..torch_device import torch_device
from .guided_enlarge import enlarge_guided
from .network import STRIDE, DepthMaps, DepthNetwork, Memory, folded
from .network_frames import is_blank, usable
from .network_weights import load_weights
from .openvino_step import Step, openvino_step
from .registry import DepthClip, DepthFrame, PlatePass

Array = npt.NDArray[np.float32]
Image = npt.NDArray[np.uint8]
Look = Callable[[Image, Memory | None], tuple[DepthMaps, Memory]]
"""A small frame (h, w, 3), what the one before left → its maps (1, h, w), and what it leaves."""

WEIGHTS: Final = Path(__file__).resolve().parents[1] / "assets" / "depth_bundled.safetensors"
WORKING_SIDE: Final = 384  # longer side of the frames that the network sees
NEAR_Z: Final = 2.0
FARTHEST: Final = 50.0
"""Where the clip's near end is put, in scene units, and how many times farther finite depth may be. The network's
inverse depth has no scale of its own; its zero was trained to be infinity, so no shift is added."""
_NEAR_SHARE: Final = 95  # percentile of inverse depth that counts as the near end
_WARM_UP: Final = 12
_SURE: Final = 0.9  # probability from which sky is taken for sky
_SKYLINE: Final = 2**0.5  # between sky, 1, and what is not, 2


@dataclass(frozen=True)
class Start:
    """What the clip's opening frames settle for all of it.

    near: the network's inverse depth of the clip's near end. memory: what the first frame inherits.
    """

    near: float
    memory: Memory | None


class BundledDepth:
    """The `bundled` source.

    Args:
        weights: another weight file than the shipped one.
        device: "auto" (the graphics card where there is one), or torch's name of another.
    """

    name = "bundled"
    title = "Bundled network (no download)"
    licence = "GPL-3.0-or-later"
    needs_download = False

    def __init__(self, weights: Path | str | None = None, device: str = "auto") -> None:
        self._weights = WEIGHTS if weights is None else Path(weights)
        self._device = device

    def estimate(self, plate: PlatePass, frame_count: int, size: tuple[int, int], reporter: Reporter) -> DepthClip:
        """Loads the network now; looks at the opening frames, then at each frame, when asked.

        Raises:
            Ex4dError: `model_missing` or `model_invalid` where the weights cannot be used, `bad_request` for a device
                that is not there; from the frames, `depth_invalid` for one of which nothing is a number.
        """
        network = folded(load_weights(self._weights)).to(torch_device(self._device))
        return DepthClip(
            frames=self._frames(network, plate, frame_count, working_size(size), reporter),
            intrinsics=None,
            camera_to_world=None,
            scale="relative",
            note="Depth comes from the bundled network: shapes and their order are estimated, the scale is not known.",
        )

    def _frames(
        self,
        network: DepthNetwork,
        plate: PlatePass,
        frame_count: int,
        working: tuple[int, int],
        reporter: Reporter,
    ) -> Iterator[DepthFrame]:
        device = next(network.parameters()).device
        faster: Step | None = None
        if device.type == "cpu":
            faster = openvino_step(network, self._weights, working, frame_count, reporter)
        look = partial(_seen, faster or network.step, device)
        start = look_ahead(look, plate, working, reporter)
        memory = start.memory
        waiting: Future[DepthFrame] | None = None
        # a frame is enlarged while the network looks at the next one
        with ThreadPoolExecutor(1, thread_name_prefix="depth") as enlarging:
            for index, image in enumerate(plate()):
                reporter.check()
                small = _small(image, working)
                maps, after = look(small, memory)
                if not is_blank(small):
                    memory = after
                before, waiting = waiting, enlarging.submit(to_frame, _known(maps, index), image, start.near)
                if before is not None:
                    yield before.result()
                    reporter.progress("depth", index, frame_count)
            if waiting is not None:
                yield waiting.result()
                reporter.progress("depth", frame_count, frame_count)


def working_size(size: tuple[int, int]) -> tuple[int, int]:
    """(width, height) at which the network sees a plate of that size: whole strides, near its shape."""
    scale = WORKING_SIDE / max(size)
    width, height = (max(STRIDE, STRIDE * round(side * scale / STRIDE)) for side in size)
    return width, height


def look_ahead(look: Look, plate: PlatePass, working: tuple[int, int], reporter: Reporter) -> Start:
    """Goes through the clip's opening frames backwards, so that the first frame knows as much as later ones.

    Without it depth would settle into place on screen.
    """
    opening = _opening(plate, working, reporter)
    levels: list[Array] = []
    memory: Memory | None = None
    inherited: Memory | None = None
    while opening:
        reporter.check()
        inherited = memory
        maps, memory = look(opening.pop(), memory)
        levels.append(_numpy(maps.inverse_depth)[~_sky(maps)])
    solid = np.concatenate(levels) if levels else np.zeros(0, np.float32)
    solid = solid[np.isfinite(solid)]
    near = float(np.percentile(solid, _NEAR_SHARE)) if solid.size else 0.0
    return Start(max(near, 1e-6), inherited)


def _opening(plate: PlatePass, working: tuple[int, int], reporter: Reporter) -> deque[Image]:
    """The clip's first frames that show something; its very first where none does."""
    opening: deque[Image] = deque()
    very_first: deque[Image] = deque()
    for image in plate():
        reporter.check()
        small = _small(image, working)
        if not very_first:
            very_first.append(small)
        if not is_blank(small):
            opening.append(small)
        if len(opening) == _WARM_UP:
            break
    return opening or very_first


def _known(maps: DepthMaps, index: int) -> DepthMaps:
    """The maps (1, h, w) of the clip's frame `index` with NaN for inverse depth that is no number."""
    inverse = usable(_numpy(maps.inverse_depth), "The bundled depth network", index)
    return maps._replace(inverse_depth=torch.from_numpy(inverse)[None])


def to_frame(maps: DepthMaps, image: Image, near: float) -> DepthFrame:
    """Depth at the size of the image (H, W, 3), from maps (1, h, w) and the inverse depth of the clip's near end."""
    least, sky, inverse = 1 / FARTHEST, _sky(maps), _numpy(maps.inverse_depth)
    unknown = np.isnan(inverse) & ~sky
    disparity = np.maximum(np.nan_to_num(inverse, nan=0.0) / near, least)
    full = enlarge_guided(_covered(disparity, sky | unknown), image)
    depth = (NEAR_Z / np.maximum(full, least)).astype(np.float32)
    if sky.any():
        # By itself: where three surfaces meet, sky and what stands before it would mix in the middle one.
        depth[enlarge_guided(np.where(sky, np.float32(1), np.float32(2)), image) < _SKYLINE] = np.inf
    if unknown.any():
        there = cv2.resize(unknown.astype(np.uint8), image.shape[1::-1], interpolation=cv2.INTER_NEAREST_EXACT)
        depth[there > 0] = np.nan
    expected = np.nan_to_num(np.exp(-np.exp(_numpy(maps.log_error))), nan=0.0)
    confidence = cv2.resize(expected, (image.shape[1], image.shape[0]), interpolation=cv2.INTER_LINEAR)
    return DepthFrame(depth, confidence)


def _covered(disparity: Array, hidden: npt.NDArray[np.bool_]) -> Array:
    """The map with each hidden pixel (sky, unknown) as near as the nearest other, so that nothing steps down to it."""
    if hidden.all() or not hidden.any():
        return disparity
    _, nearest = cv2.distanceTransformWithLabels(
        hidden.astype(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_5, labelType=cv2.DIST_LABEL_PIXEL
    )
    by_label = np.zeros(int(nearest.max()) + 1, np.float32)
    by_label[nearest[~hidden]] = disparity[~hidden]
    return np.asarray(by_label[nearest])


@torch.inference_mode()
def _seen(step: Step, device: torch.device, small: Image, memory: Memory | None) -> tuple[DepthMaps, Memory]:
    image = torch.from_numpy(small).to(device).permute(2, 0, 1)[None].float() / 255
    return step(image.contiguous(memory_format=torch.channels_last), memory)


def _small(image: Image, working: tuple[int, int]) -> Image:
    shrinks = image.shape[1] > working[0]
    small = cv2.resize(image, working, interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR)
    return np.asarray(small, np.uint8)


def _sky(maps: DepthMaps) -> npt.NDArray[np.bool_]:
    return np.asarray(torch.sigmoid(maps.sky[0]).cpu().numpy() > _SURE)


def _numpy(values: torch.Tensor) -> Array:
    return np.asarray(values[0].float().cpu().numpy())
