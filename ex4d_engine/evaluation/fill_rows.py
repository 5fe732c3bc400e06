# SPDX-License-Identifier: GPL-3.0-or-later
"""Ways to fill holes that need no model: the rows that a diffusion model has to beat.

Each returns whole frames; known pixels are the conditioning's in all of them.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import cv2
import numpy as np
from numpy.typing import NDArray

from ..dwmesh.walls import WALL_SHARE
from ..preview_fill import fill_from_around, fill_from_other_frame, without_fringe
from .fill_cases import FillCase
from .fill_conditioning import CaseMesh, FillConditioning, case_raster

INPAINT_RADIUS: Final = 3.0  # pixels around a hole's pixel that OpenCV's methods look at
OTHER_MOMENTS: Final = 4  # of the clip, that preset `preview` looks into, as the generate stage has it

Frames = NDArray[np.uint8]


def black(case: FillCase, known: FillConditioning) -> Frames:
    """Nothing is filled: the conditioning as it is."""
    return known.color


def nearest(case: FillCase, known: FillConditioning) -> Frames:
    """Every hole's pixel takes the colour of the nearest known one."""
    return np.stack([_nearest(color, mask) for color, mask in zip(known.color, known.mask, strict=True)])


def telea(case: FillCase, known: FillConditioning) -> Frames:
    """Telea's fast marching (2004) frame by frame."""
    return _inpainted(known, cv2.INPAINT_TELEA)


def navier_stokes(case: FillCase, known: FillConditioning) -> Frames:
    """Bertalmio, Bertozzi and Sapiro's (2001) fluid dynamics frame by frame."""
    return _inpainted(known, cv2.INPAINT_NS)


def preview(case: FillCase, known: FillConditioning) -> Frames:
    """Preset `preview`: other moments' pixels of the same surface, then the surroundings. Of the DW-Mesh only."""
    count = len(known.color)
    moments = sorted({round(float(moment)) for moment in np.linspace(0, count - 1, min(OTHER_MOMENTS, count))})
    filled = []
    with case_raster(case, WALL_SHARE) as (_, raster):
        mesh = CaseMesh(case, raster)
        for index in range(count):
            depth = known.depth[index]
            color, mask = known.color[index], without_fringe(known.mask[index], depth)
            for moment in sorted(moments, key=lambda moment, index=index: abs(moment - index)):  # type: ignore[misc]
                if moment != index and not mask.all():
                    color, mask, depth = fill_from_other_frame(color, mask, depth, mesh.draw(moment, index))
            filled.append(fill_from_around(color, mask, depth))
    return restored(np.stack(filled), known)


def restored(filled: Frames, known: FillConditioning) -> Frames:
    """The fill with the conditioning's pixels wherever it has any."""
    return np.where(known.holes[..., None], filled, known.color)


def _nearest(color: NDArray[np.uint8], mask: NDArray[np.uint8]) -> NDArray[np.uint8]:
    if not mask.any():
        return color
    _, labels = cv2.distanceTransformWithLabels(
        (mask == 0).astype(np.uint8), cv2.DIST_L2, 5, labelType=cv2.DIST_LABEL_PIXEL
    )
    by_label = np.zeros((int(labels.max()) + 1, 3), np.uint8)
    by_label[labels[mask > 0]] = color[mask > 0]
    return by_label[labels]


def _inpainted(known: FillConditioning, method: int) -> Frames:
    pairs = zip(known.color, known.mask, strict=True)
    frames = [cv2.inpaint(color, (mask == 0).astype(np.uint8), INPAINT_RADIUS, method) for color, mask in pairs]
    return restored(np.stack(frames), known)


CLASSICAL: Final[dict[str, Callable[[FillCase, FillConditioning], Frames]]] = {
    "black holes": black,
    "nearest pixel": nearest,
    "Telea": telea,
    "Navier-Stokes": navier_stokes,
    "preview": preview,
}
"""Rows by their names in the table, all on the DW-Mesh's conditioning."""
