# SPDX-License-Identifier: GPL-3.0-or-later
"""A plate's frames as a network wants to see them, whatever their size, and its answer back at the plate's size.

The network sees a bounded size: a frame of 8K is reduced before anything becomes a float. What comes back is enlarged
to the plate with its steps on the frame's own edges (`edge_snap`), band by band, so that memory stays bounded too.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import closing, nullcontext
from typing import TYPE_CHECKING, Final

import cv2
import numpy as np
import numpy.typing as npt

from ..errors import Ex4dError
from ..progress import Reporter
from .edge_snap import enlarge_to_edges
from .registry import DepthFrame, PlatePass
from .small_maps import SmallMaps

if TYPE_CHECKING:
    import torch

Array = npt.NDArray[np.float32]
Image = npt.NDArray[np.uint8]

IMAGENET: Final = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
"""Mean and standard deviation of R, G, B in 0…1 that the networks' pictures are normalised by."""
LONGEST: Final = 1.84
"""Of a frame longer than this times its other side, the area counts and no longer the short side: attention grows
with the square of it."""
ESTIMATE: Final = "estimate depth"
"""The stage that progress is reported under while the network runs."""
_BLANK: Final = 8


def network_size(size: tuple[int, int], short: int, multiple: int) -> tuple[int, int]:
    """(width, height) near the plate's shape with a short side of about `short`, both divisible by `multiple`."""
    width, height = size
    ratio = max(size) / min(size)
    factor = short / min(size) * min(1.0, np.sqrt(LONGEST / ratio))
    return _multiple(width * factor, multiple), _multiple(height * factor, multiple)


def network_size_within(size: tuple[int, int], longest: int, multiple: int) -> tuple[int, int]:
    """(width, height) near the plate's shape with a long side of about `longest`, both divisible by `multiple`."""
    factor = longest / max(size)
    return _multiple(size[0] * factor, multiple), _multiple(size[1] * factor, multiple)


def _multiple(length: float, multiple: int) -> int:
    return max(multiple, round(length / multiple) * multiple)


def resized(image: Image, size: tuple[int, int]) -> Image:
    """The frame at (width, height): averaged where it shrinks, bicubic where it grows."""
    shrinks = image.shape[1] * image.shape[0] > size[0] * size[1]
    return np.asarray(cv2.resize(image, size, interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_CUBIC), np.uint8)


def is_blank(image: Image) -> bool:
    """Whether a frame shows nothing at all: black, white, or one colour."""
    return int((image.max((0, 1)).astype(int) - image.min((0, 1))).max()) < _BLANK


def as_tensor(images: list[Image], normalised_by: tuple[tuple[float, ...], tuple[float, ...]]) -> torch.Tensor:
    """Frames (h, w, 3) of one size as (N, 3, h, w) float32 on the CPU, (x / 255 − mean) / deviation."""
    import torch

    mean, deviation = (np.array(values, np.float32) for values in normalised_by)
    stack = (np.stack(images).astype(np.float32) / 255.0 - mean) / deviation
    return torch.from_numpy(np.ascontiguousarray(stack.transpose(0, 3, 1, 2)))


def usable(values: Array, title: str, index: int) -> Array:
    """The network's map with NaN for what is no number.

    Args:
        values: (h, w).
        title: the network's name, index: the frame's place in the clip from 0, for the message.

    Raises:
        Ex4dError: `depth_invalid` if none of it is a number.
    """
    finite = np.isfinite(values)
    if not finite.any():
        raise Ex4dError(
            "depth_invalid",
            f"{title} gave no usable depth for frame {index + 1} of the clip: all of it is NaN or infinite.",
            "Leave the frame out of the range, or choose another depth source.",
        )
    return np.where(finite, values, np.float32(np.nan)).astype(np.float32)


def per_frame(
    plate: PlatePass,
    frame_count: int,
    size: tuple[int, int],
    predict: Callable[[Image], Array],
    title: str,
    reporter: Reporter,
) -> tuple[SmallMaps, list[bool]]:
    """A network that looks at one frame at a time, run over the clip.

    Args:
        size: (width, height) that the network sees.
        predict: a frame of that size → its map (h, w).

    Returns:
        The maps, and for each frame whether it showed anything that a clip's scale may rest on.
    """
    maps, counted = SmallMaps(), []
    for index, image in enumerate(plate()):
        reporter.check()
        small = resized(image, size)
        maps.append(usable(predict(small), title, index))
        counted.append(not is_blank(small))
        reporter.progress(ESTIMATE, index + 1, frame_count)
    return maps, counted


def counted_maps(maps: SmallMaps, counted: list[bool]) -> Iterator[Array]:
    """The maps of frames that show something; all of them in a clip of nothing."""
    return (maps[index] for index in range(len(maps)) if counted[index] or not any(counted))


def counted_values(values: list[float], counted: list[bool]) -> list[float]:
    """What was said of frames that show something; of all of them in a clip of nothing."""
    return [value for value, counts in zip(values, counted, strict=True) if counts or not any(counted)]


def enlarged(
    plate: PlatePass,
    maps: SmallMaps,
    inverse_z: Callable[[int, Array], Array],
    reporter: Reporter,
    confidence: SmallMaps | None = None,
) -> Iterator[DepthFrame]:
    """Every frame's depth at the plate's size. The maps are closed at the end.

    Args:
        inverse_z: (the frame's index, its map) → positive inverse z, NaN where unknown.
        confidence: maps in 0…1.
    """
    with closing(maps), closing(confidence) if confidence is not None else nullcontext():
        for index, image in enumerate(plate()):
            reporter.check()
            depth = depth_at_plate_size(inverse_z(index, maps[index]), image)
            sure = None if confidence is None else _enlarge(confidence[index], image.shape[1::-1])
            yield DepthFrame(depth, sure)
            reporter.progress("depth", index + 1, len(maps))


def depth_at_plate_size(inverse_z: Array, image: Image) -> Array:
    """z (H, W) of a frame (H, W, 3) from a small map (h, w) of positive inverse z, NaN where unknown."""
    size = (image.shape[1], image.shape[0])
    unknown = ~np.isfinite(inverse_z) | (inverse_z <= 0)
    if unknown.any():
        inverse_z = _filled(inverse_z, unknown)
    if inverse_z.shape[0] < size[1] and inverse_z.shape[1] < size[0]:
        depth = 1.0 / enlarge_to_edges(inverse_z, image)
    else:
        depth = 1.0 / _enlarge(inverse_z, size)
    if unknown.any():
        depth[cv2.resize(unknown.astype(np.uint8), size, interpolation=cv2.INTER_NEAREST_EXACT) > 0] = np.nan
    return np.asarray(depth, np.float32)


def _enlarge(values: Array, size: tuple[int, int]) -> Array:
    shrinks = values.shape[1] > size[0] and values.shape[0] > size[1]
    interpolation = cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR
    return np.asarray(cv2.resize(values, size, interpolation=interpolation), np.float32)


def _filled(values: Array, unknown: npt.NDArray[np.bool_]) -> Array:
    """Each unknown value replaced by its nearest known one, so that an enlargement mixes no NaN in."""
    from scipy.ndimage import distance_transform_edt

    rows, columns = distance_transform_edt(unknown, return_distances=False, return_indices=True)
    filled: Array = values[rows, columns]
    return filled
