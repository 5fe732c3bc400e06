# SPDX-License-Identifier: GPL-3.0-or-later
"""Depth somebody else made: a sequence of EXR, PNG or NPY/NPZ files, one NPY/NPZ stack, or a depth video.

Reading (`depth_files.py`) yields raw values; this file says what they mean, turns them into z, and
fits them to the plate. Whatever does not fit is resampled or refused, and said.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final, Literal, get_args

import cv2
import numpy as np
import numpy.typing as npt

from ...errors import Ex4dError
from ...progress import Reporter
from ..registry import DepthClip, DepthFrame, PlatePass
from .depth_files import RawDepth, open_depth_files

Meaning = Literal["z", "disparity", "normalised_disparity", "depthcrafter"]
"""What the numbers in the files are.

z: distance along the optical axis in scene units. Integer files (PNG) are multiplied by `unit`
    (one thousandth: millimetres, as depth cameras write them), or, when near and far are given,
    read as a linear ramp from near (0) to far (full).
disparity: 1 / z.
normalised_disparity: 0 at far, 1 at near, linear in 1 / z (`z_from_normalised_disparity`).
depthcrafter: the same 0…1, turned into z as the EX-4D reference does (`z_from_depthcrafter`).
"""

_SAME_SURFACE: Final = 0.03
# Renderers write a huge number where there is nothing: Blender 1e10, half precision its largest.
_NO_SURFACE: Final = 1e9
_LARGEST_HALF: Final = 65504.0
Array = npt.NDArray[np.float32]


def z_from_normalised_disparity(d: Array, near: float, far: float) -> Array:
    """z from disparity d in 0…1: 1/z = d/near + (1 − d)/far; far may be inf."""
    with np.errstate(divide="ignore"):
        return (1.0 / (d / near + (1.0 - d) / far)).astype(np.float32)


def z_from_depthcrafter(d: Array) -> Array:
    """z = 10000 / max(3900 d, 1e-5), at most 10⁴: EX-4D's reading of DepthCrafter's per-clip disparity in 0…1.

    Kept for parity with the reference; its nearest z is 2.564 whatever the scene.
    """
    return np.clip(10000.0 / np.maximum(3900.0 * d, 1e-5), 1e-4, 1e4).astype(np.float32)


class DepthFromFiles:
    """The `file` source.

    Args:
        path: a folder, a pattern (`depth.####.exr`, `depth.%04d.png`, `depth_*.npy`), one NPY or NPZ
            stack (F, H, W), one image, or a grey depth video.
        meaning: what the values are.
        near, far: z of disparity 1 and 0 for "normalised_disparity", of 0 and full for integer "z".
        unit: scene units per count of an integer file with meaning "z" and no near and far.
        key: the array inside an NPZ, or the channel inside an EXR; found when None.
        metric: the files' scene units are metres.
    """

    name = "file"
    title = "Depth files"
    licence = "the files' own"
    needs_download = False

    def __init__(
        self,
        path: str | Path,
        meaning: Meaning = "z",
        near: float | None = None,
        far: float | None = None,
        unit: float = 0.001,
        key: str | None = None,
        metric: bool = False,
    ) -> None:
        if meaning not in get_args(Meaning):
            raise Ex4dError(
                "depth_invalid", f"Depth cannot mean {meaning!r}.", f"Use one of: {', '.join(get_args(Meaning))}."
            )
        if meaning == "normalised_disparity" and (near is None or far is None):
            raise Ex4dError("depth_invalid", "Normalised disparity has no scale of its own.", "Give near and far.")
        if near is not None and far is not None and not 0 < near < far:
            raise Ex4dError(
                "depth_invalid",
                f"The depth range {near:g} to {far:g} is empty or reaches behind the camera.",
                "near must be above 0 and far beyond near.",
            )
        self.path = Path(path)
        self.meaning, self.near, self.far, self.unit, self.key, self.metric = meaning, near, far, unit, key, metric

    def estimate(self, plate: PlatePass, frame_count: int, size: tuple[int, int], reporter: Reporter) -> DepthClip:
        """Opens the files and checks their count now; reads, converts and fits each frame when asked.

        Raises:
            Ex4dError: "no_such_file"; "depth_mismatch" when there are more or fewer maps than frames
                (a map per frame or nothing: a guess would shift depth against picture);
                "depth_invalid" for a map with no usable value or values that cannot be what `meaning` says.
        """
        raw = open_depth_files(self.path, self.key)
        if raw.count != frame_count:
            raise Ex4dError(
                "depth_mismatch",
                f"{self.path.name} has {raw.count} depth map{'s' * (raw.count != 1)}, "
                f"the clip has {frame_count} frame{'s' * (frame_count != 1)}.",
                "Give one depth map for each frame of the clip, or set the clip's range to match.",
            )
        return DepthClip(
            frames=self._frames(raw, size, reporter),
            intrinsics=None if raw.intrinsics is None else raw.intrinsics * np.array([[size[0]], [size[1]], [1.0]]),
            camera_to_world=raw.camera_to_world,
            scale="metric" if self.metric else "relative",
            note=f"Depth read from {self.path.name} as {self.meaning.replace('_', ' ')}.",
            alignment="scale" if self.meaning in ("z", "disparity") else "affine",
        )

    def _frames(self, raw: RawDepth, size: tuple[int, int], reporter: Reporter) -> Iterator[DepthFrame]:
        said = False
        for done, (label, values) in enumerate(raw.frames(), start=1):
            reporter.check()
            z = self._z(values, label)
            height, width = z.shape
            if (width, height) != size:
                if not said:
                    reporter.log(f"Depth of {width}×{height} is resampled to the clip's {size[0]}×{size[1]}.")
                    said = True
                z = resample_depth(z, size)
            if not np.isfinite(z).any():
                raise Ex4dError(
                    "depth_invalid",
                    f"The depth of {label} has no usable value: all of it is NaN, infinite, zero or negative.",
                    "Replace that depth map, or leave the frame out of the range.",
                )
            yield DepthFrame(z)
            reporter.progress("depth", done, raw.count)

    def _z(self, values: npt.NDArray[Any], label: str) -> Array:
        """z of one raw map; negative and zero depth becomes NaN, zero disparity infinitely far."""
        full = float(np.iinfo(values.dtype).max) if np.issubdtype(values.dtype, np.integer) else None
        v = values.astype(np.float32)
        near, far = self.near, self.far
        if self.meaning == "z":
            if full is not None:
                if near is not None and far is not None:
                    v = near + v / full * (far - near)
                else:
                    v = v * self.unit
        elif self.meaning == "disparity":
            with np.errstate(divide="ignore"):
                v = np.where(v >= 0, 1.0 / np.maximum(v, 0), np.nan)
        else:
            v = v / full if full is not None else v
            with np.errstate(invalid="ignore"):
                outside = bool((np.abs(v - 0.5) > 0.51).any())
            if outside:
                raise Ex4dError(
                    "depth_invalid",
                    f"The depth of {label} runs from {np.nanmin(v):.4g} to {np.nanmax(v):.4g}; normalised disparity "
                    "lies between 0 and 1.",
                    'Say what the values mean: "z" or "disparity".',
                )
            v = np.clip(v, 0.0, 1.0)
            v = z_from_depthcrafter(v) if near is None or far is None else z_from_normalised_disparity(v, near, far)
        with np.errstate(invalid="ignore"):
            v = np.where(v > 0, v, np.nan)
            return np.where((v >= _NO_SURFACE) | (v == _LARGEST_HALF), np.inf, v).astype(np.float32)


def resample_depth(z: Array, size: tuple[int, int]) -> Array:
    """z (h, w) at another size (width, height), inventing no depth between two surfaces.

    Linear in 1/z where the neighbours lie on one surface, so that ramps get no steps; the nearest
    sample where they do not, or where a neighbour is unknown. Both keep the pixel centres.
    """
    with np.errstate(divide="ignore"):
        disparity = 1.0 / z
    nearest = cv2.resize(disparity, size, interpolation=cv2.INTER_NEAREST_EXACT)
    linear = cv2.resize(disparity, size, interpolation=cv2.INTER_LINEAR)
    with np.errstate(invalid="ignore", divide="ignore"):
        smooth = np.abs(linear - nearest) <= _SAME_SURFACE * nearest
        return (1.0 / np.where(smooth, linear, nearest)).astype(np.float32)
