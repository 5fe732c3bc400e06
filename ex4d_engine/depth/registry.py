# SPDX-License-Identifier: GPL-3.0-or-later
"""What a depth source is, and the one place that knows their names.

A source turns a plate into a stream of z maps. It never repairs what it does not know: sky may be
infinite and unknown pixels NaN; the DW-Mesh stage mends both, the same way for every source.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib import import_module
from inspect import signature
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal, Protocol

import numpy as np
import numpy.typing as npt

from ..errors import Ex4dError

if TYPE_CHECKING:  # the network is trained where tqdm may be missing
    from ..progress import Reporter

PlatePass = Callable[[], Iterator[npt.NDArray[np.uint8]]]
"""Each call starts a fresh pass over the clip: frames (H, W, 3) uint8 sRGB, in order.

A callable and not an iterator, so that a source can look at the clip more than once and still hold
only a few frames of it.
"""


@dataclass(frozen=True)
class DepthFrame:
    """One frame's depth.

    depth: (H, W) float32, z along the optical axis (not ray length) in scene units; inf where
        infinitely far (sky), NaN where unknown.
    confidence: (H, W) float32 in 0…1, or None where the source has none. What it lacks of 1 grows as the error that
        the source expects of its depth; placement weighs by it.
    """

    depth: npt.NDArray[np.float32]
    confidence: npt.NDArray[np.float32] | None = None


@dataclass(frozen=True)
class DepthClip:
    """A source's answer for a whole clip; `frames` is consumed once.

    intrinsics: (3, 3) float64 in pixels of the plate, or None where the source does not know.
    camera_to_world: (F, 4, 4) float64, OpenCV axes, or None where the source does not know.
    scale: "metric" when scene units are metres.
    note: one sentence for the log.
    alignment: what of 1/z is left open where the scale is not metric: "scale" a factor, "affine" a factor and a
        shift. It decides what is fitted when the depth is placed in the world of a solved camera.
    lens_is_estimate: the source found `intrinsics` in the pictures, and its depth and poses follow from them: where
        the lens is known to be another, they are others (`stages/known_lens.py`).
    """

    frames: Iterator[DepthFrame]
    intrinsics: npt.NDArray[np.float64] | None
    camera_to_world: npt.NDArray[np.float64] | None
    scale: Literal["metric", "relative"]
    note: str
    alignment: Literal["scale", "affine"] = "scale"
    lens_is_estimate: bool = False


class DepthSource(Protocol):
    """A way to get depth. Its options are the keyword arguments of its constructor."""

    name: str
    title: str
    licence: str
    needs_download: bool

    def estimate(self, plate: PlatePass, frame_count: int, size: tuple[int, int], reporter: Reporter) -> DepthClip:
        """Depth for every frame of the plate.

        Args:
            plate: starts a fresh pass over the clip's frames.
            frame_count: how many frames one pass yields.
            size: (width, height) of the plate and of every returned map, in pixels.
            reporter: progress and cancellation while `DepthClip.frames` is consumed; log lines.
        """
        ...


# Imported on demand, so that a source with heavy requirements costs nothing until it is asked for.
_SOURCES: Final[dict[str, tuple[str, str]]] = {
    "depth-anything-v2": (".sources.depth_anything", "DepthAnythingV2"),
    "depth-anything-3": (".sources.depth_anything_3", "DepthAnything3"),
    "video-depth-anything": (".sources.video_depth_anything", "VideoDepthAnything"),
    "depth-pro": (".sources.depth_pro", "DepthPro"),
    "depthcrafter": (".sources.depthcrafter", "DepthCrafter"),
    "bundled": (".bundled", "BundledDepth"),
    "file": (".sources.from_files", "DepthFromFiles"),
    "rough-pictorial": (".pictorial.source", "RoughPictorialDepth"),
}

_PREFERRED: Final = ("depth-anything-v2", "depth-anything-v2-small")
"""The source that is taken where its model is here."""
_BUNDLED_WEIGHTS: Final = Path(__file__).parents[1] / "assets" / "depth_bundled.safetensors"


def depth_sources() -> dict[str, Callable[..., DepthSource]]:
    """Every source's constructor by its name; title, licence and needs_download are on the class."""
    return {name: _constructor(name) for name in _SOURCES}


def default_source() -> str:
    """The best source that needs nothing more: a downloaded network, else the bundled one, else the guess."""
    from ..models.store import find

    try:
        find(_PREFERRED[1])
    except Ex4dError:
        return "bundled" if _BUNDLED_WEIGHTS.is_file() else "rough-pictorial"
    return _PREFERRED[0]


def depth_source(name: str, **options: Any) -> DepthSource:
    """The source of that name with its options.

    Raises:
        Ex4dError: "unknown_depth_source" for a name or an option that does not exist.
    """
    if name not in _SOURCES:
        raise Ex4dError("unknown_depth_source", f"There is no depth source {name!r}.", f"Use one of: {_names()}.")
    constructor = _constructor(name)
    unknown = sorted(set(options) - set(_option_names(constructor)))
    if unknown:
        raise Ex4dError(
            "unknown_depth_source",
            f"The depth source {name!r} has no option {', '.join(map(repr, unknown))}.",
            f"Its options are: {', '.join(_option_names(constructor)) or 'none'}.",
        )
    return constructor(**options)


def _names() -> str:
    return ", ".join(_SOURCES)


def _constructor(name: str) -> Callable[..., DepthSource]:
    module, cls = _SOURCES[name]
    constructor: Callable[..., DepthSource] = getattr(import_module(module, __package__), cls)
    return constructor


def _option_names(constructor: Callable[..., DepthSource]) -> list[str]:
    return list(signature(constructor).parameters)
