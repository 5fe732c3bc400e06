# SPDX-License-Identifier: GPL-3.0-or-later
"""Drawing the DW-Mesh from a new camera: colour, mask and depth. One small interface, two backends.

`opengl` is the default everywhere. `nvdiffrast` is optional: its licence allows research and evaluation only.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final, Protocol, Self

import numpy as np
from numpy.typing import NDArray

from ..dwmesh.ray_grid import RayGrid
from ..dwmesh.walls import CLOSED
from ..errors import Ex4dError


@dataclass(frozen=True)
class Rendering:
    """color: (H,W,3) uint8, black where unseen; mask: (H,W) uint8, 255 = seen in the plate;
    depth: (H,W) float32 z in the new camera of whatever was hit, seen or not; 0 where nothing was.
    """

    color: NDArray[np.uint8]
    mask: NDArray[np.uint8]
    depth: NDArray[np.float32]


class Raster(Protocol):
    """Holds one shot's static mesh on a device. Use as a context manager, from one thread."""

    def __enter__(self) -> Self: ...

    def __exit__(self, *error: object) -> None: ...

    def set_grid(self, grid: RayGrid) -> None:
        """Takes another mesh of the same plate, no deeper than the first, where its faces change by the frame.

        A frame has to be set after it.
        """
        ...

    def set_frame(
        self,
        depth: NDArray[np.float32],
        albedo: NDArray[np.uint8],
        seen: NDArray[np.uint8],
        widths: NDArray[np.uint16] | None = None,
    ) -> None:
        """Gives the frame to draw: depth (H,W) float32, albedo (H,W,4) uint8, seen as in dwmesh/topology.py.

        What short walls want (dwmesh/edges.py): the albedo's alpha says which pixels have cards, and `widths`, of
        `wall_widths`, how deep walls may be; without, all are as deep as the raster's share. Closed ones ignore both.
        """
        ...

    def draw(
        self, intrinsics: NDArray[np.float64], source_to_camera: NDArray[np.float64], size: tuple[int, int]
    ) -> Rendering:
        """Draws the frame for a camera.

        Args:
            intrinsics: (3,3) for an output of `size` = (width, height).
            source_to_camera: (4,4) from the source camera's space to the new camera's.
        """
        ...


def _opengl(grid: RayGrid, **settings: Any) -> Raster:
    from .opengl import OpenGLRaster

    return OpenGLRaster(grid, **settings)


def _nvdiffrast(grid: RayGrid, **settings: Any) -> Raster:
    from .nvdiffrast import NvdiffrastRaster

    return NvdiffrastRaster(grid, **settings)


BACKENDS: Final[dict[str, Callable[..., Raster]]] = {"opengl": _opengl, "nvdiffrast": _nvdiffrast}
AT_VERTEX: Final = 1e-3  # barycentric distance at which a fragment is a vertex, and so a pixel that the plate saw
NEAR_SHARE: Final = 1e-4  # of the shot's nearest depth: a camera may pass this close to a surface


def make_raster(
    name: str, grid: RayGrid, *, nearest: float, wall_share: float = CLOSED, reference: bool = False
) -> Raster:
    """A raster for a shot's mesh.

    Args:
        nearest: the shot's smallest depth; the near plane is a small share of it, so any scene scale works.
        wall_share: how far a face that the plate did not see is drawn; see dwmesh/walls.py.
        reference: shade by vertex flags as the reference does, instead of by face.

    Raises:
        Ex4dError: unknown name, or what the backend lacks (`no_opengl`, `missing_package`).
    """
    if name not in BACKENDS:
        raise Ex4dError("missing_package", f"There is no raster {name!r}.", f"Choose one of {', '.join(BACKENDS)}.")
    return BACKENDS[name](grid, near=NEAR_SHARE * nearest, wall_share=wall_share, reference=reference)
