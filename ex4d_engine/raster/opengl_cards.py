# SPDX-License-Identifier: GPL-3.0-or-later
"""The cards of a frame's pixels (dwmesh/edges.py), drawn over the mesh by OpenGL: an instance a card."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import moderngl
import numpy as np
from numpy.typing import NDArray

from ..dwmesh.walls import CARD_PIXELS, CARD_SETBACK
from .opengl_programs import set_uniform, shader


class Cards:
    """Draws into the framebuffer in use, with the depth map as texture 0 and the albedo as texture 1."""

    def __init__(self, context: moderngl.Context) -> None:
        self._context = context
        self._program = context.program(
            vertex_shader=shader("cards.vert.glsl"), fragment_shader=shader("cards.frag.glsl")
        )
        self._pixels: tuple[moderngl.Buffer, moderngl.VertexArray] | None = None
        self._count = 0
        set_uniform(self._program, "depth_map", 0)
        set_uniform(self._program, "albedo_map", 1)
        set_uniform(self._program, "card_pixels", CARD_PIXELS)
        set_uniform(self._program, "setback", CARD_SETBACK)

    def set_lens(self, corner: NDArray[np.float64], right: NDArray[np.float64], down: NDArray[np.float64]) -> None:
        """The plate's rays, as `RayGrid.plate_rays` gives them."""
        for name, ray in (("corner_ray", corner), ("right_ray", right), ("down_ray", down)):
            set_uniform(self._program, name, tuple(ray))

    def set_pixels(self, pixels: NDArray[np.int64]) -> None:
        """The frame's cards: (N,2) column and row."""
        self._release_pixels()
        self._count = len(pixels)
        if self._count:
            buffer = self._context.buffer(np.ascontiguousarray(pixels, dtype="i4").tobytes())
            self._pixels = buffer, self._context.vertex_array(self._program, [(buffer, "2i/i", "pixel")])

    def draw(self, view: Mapping[str, Any]) -> None:
        """view: the uniforms of the camera."""
        if self._pixels is None:
            return
        for name, value in view.items():
            set_uniform(self._program, name, value)
        self._pixels[1].render(moderngl.TRIANGLE_STRIP, vertices=4, instances=self._count)

    def release(self) -> None:
        """Gives back what the device holds."""
        self._release_pixels()
        self._program.release()

    def _release_pixels(self) -> None:
        for item in self._pixels or ():
            item.release()
        self._pixels = None
