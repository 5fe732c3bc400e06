# SPDX-License-Identifier: GPL-3.0-or-later
"""The DW-Mesh drawn by OpenGL 3.3, off-screen: EGL on Linux, the native context elsewhere."""

from __future__ import annotations

import math
import sys
from functools import cache
from typing import Any, Self

import cv2
import moderngl
import numpy as np
from numpy.typing import NDArray

from ..dwmesh.edges import card_pixels, wall_ends
from ..dwmesh.ray_grid import RayGrid
from ..dwmesh.topology import corner_classes
from ..dwmesh.walls import WIDE
from ..errors import Ex4dError
from . import Rendering
from .opengl_cards import Cards
from .opengl_programs import set_uniform, shader

FAR_SHARE = 1e3  # the depth range ends this many times beyond the mesh: nothing is ever clipped far
_EGL: dict[str, Any] = {"backend": "egl"}
_RUNTIME_NAMES: dict[str, Any] = {"libgl": "libGL.so.1", "libegl": "libEGL.so.1"}


def open_context() -> moderngl.Context:
    """An off-screen OpenGL 3.3 context.

    Raises:
        Ex4dError: `no_opengl`, naming the package that is missing.
    """
    try:
        if sys.platform.startswith("linux"):
            return _linux_context()
        return moderngl.create_standalone_context(require=330)
    except Exception as error:  # moderngl and glcontext raise bare Exception for every kind of failure
        hint = "Install the graphics driver, or a software OpenGL."
        if sys.platform.startswith("linux"):
            hint = "Install it: sudo apt-get install libegl1 libgl1 libgl1-mesa-dri (or your system's Mesa packages)."
        raise Ex4dError("no_opengl", f"OpenGL 3.3 is not available ({error}).", hint) from error


def _linux_context() -> moderngl.Context:
    # glcontext looks for the bare names that only development packages hold; name the runtime's as well
    try:
        return moderngl.create_standalone_context(require=330, **_EGL, **_RUNTIME_NAMES)
    except Exception:  # as above
        return moderngl.create_standalone_context(require=330, **_EGL)


@cache
def device_name() -> str:
    """The name of the OpenGL device, for `doctor` and the benchmarks."""
    context = open_context()
    try:
        return str(context.info["GL_RENDERER"])
    finally:
        context.release()


class OpenGLRaster:
    """See `raster.Raster`. Bound to the thread that made it."""

    def __init__(self, grid: RayGrid, *, near: float, wall_share: float, reference: bool) -> None:
        self._context = open_context()
        limit = self._context.info["GL_MAX_TEXTURE_SIZE"]
        self._seen_shape = grid.topology.seen_shape
        needed = max(*self._seen_shape, *grid.plate_size)
        if needed > limit:
            self._context.release()
            raise Ex4dError(
                "no_opengl",
                f"This plate needs textures of {needed} texels; the OpenGL device takes {limit}.",
                "Reconstruct at a smaller size.",
            )
        self._near, self._plate_size = near, grid.plate_size
        # closed walls are a shader of their own: leaving out what lies beyond a wall's end costs a fifth
        defined = ("REFERENCE",) if reference else ("WALLS",) if math.isfinite(wall_share) else ()
        self._program = self._context.program(
            vertex_shader=shader("mesh.vert.glsl", defined),
            fragment_shader=shader("mesh.frag.glsl", defined),
        )
        self._deepest = float(grid.pinned.max())
        self._reference = reference
        self._vertices, self._buffers = self._vertex_array(grid)
        self._depth_map = self._texture(grid.plate_size, 1, "f4")
        self._albedo_map = self._texture(grid.plate_size, 4, "f1", linear=True)
        self._seen_map = self._texture(self._seen_shape[::-1], 1, "f1")
        self._target: moderngl.Framebuffer | None = None
        self._set("depth_map", 0)
        self._set("albedo_map", 1)
        self._set("seen_map", 2)
        self._set("seen_width", self._seen_shape[1])
        self._set("grid_faces", grid.topology.grid_faces)
        # closed walls hide what cards would show, and know no ends
        self._cards: Cards | None = None
        self._wall_share = wall_share
        self._ends_map = self._texture((1, 1), 1, "f4")
        if "WALLS" in defined:
            width, height = grid.plate_size
            self._cards = Cards(self._context)
            self._ends_map = self._texture((width + 1, height + 1), 1, "f4")
            self._set("ends_map", 3)
        self._set_lens(grid)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        if self._target is not None:
            self._release_target(self._target)
        if self._cards is not None:
            self._cards.release()
        held: list[Any] = [self._vertices, *self._buffers, *self._maps(), self._program]
        for item in held:
            item.release()
        self._context.release()

    def set_grid(self, grid: RayGrid) -> None:
        """See `raster.Raster.set_grid`."""
        for item in (self._vertices, *self._buffers):
            item.release()
        self._vertices, self._buffers = self._vertex_array(grid)
        self._set_lens(grid)

    def set_frame(
        self,
        depth: NDArray[np.float32],
        albedo: NDArray[np.uint8],
        seen: NDArray[np.uint8],
        widths: NDArray[np.uint16] | None = None,
    ) -> None:
        """See `raster.Raster.set_frame`."""
        width, height = self._plate_size
        if depth.shape != (height, width) or albedo.shape != (height, width, 4) or seen.shape != self._seen_shape:
            raise Ex4dError(
                "depth_mismatch",
                f"A frame's depth {depth.shape}, albedo {albedo.shape} and flags {seen.shape} do not fit "
                f"the mesh ({height}, {width}).",
                "Reconstruct the clip again.",
            )
        self._depth_map.write(np.ascontiguousarray(depth, dtype="f4"))
        self._albedo_map.write(np.ascontiguousarray(albedo))
        self._seen_map.write(np.ascontiguousarray(seen))
        if self._cards is not None:
            if widths is None:
                widths = np.full((height + 1, width + 1), WIDE, np.uint16)
            ends = wall_ends(depth, widths, self._wall_share, self._focal_px)
            self._ends_map.write(np.ascontiguousarray(ends, dtype="f4"))
            self._cards.set_pixels(np.argwhere(card_pixels(albedo[..., 3]))[:, ::-1])

    def draw(
        self, intrinsics: NDArray[np.float64], source_to_camera: NDArray[np.float64], size: tuple[int, int]
    ) -> Rendering:
        """See `raster.Raster.draw`."""
        width, height = size
        target = self._framebuffer(size)
        target.use()
        target.clear(0.0, 0.0, 0.0, 0.0, depth=1.0)
        self._context.enable_only(moderngl.DEPTH_TEST)
        travelled = float(np.linalg.norm(source_to_camera[:3, 3]))
        view = {
            "octaves": math.log2(FAR_SHARE * (self._deepest + travelled) / self._near),
            "near": self._near,
            "skew": 2 * intrinsics[0, 1] / width,
            "lens": (
                2 * intrinsics[0, 0] / width,
                2 * intrinsics[1, 1] / height,
                2 * intrinsics[0, 2] / width - 1,
                2 * intrinsics[1, 2] / height - 1,
            ),
            "source_to_camera": tuple(source_to_camera.T.reshape(-1)),
        }
        for name, value in view.items():
            set_uniform(self._program, name, value)
        camera_to_source = np.linalg.inv(source_to_camera)
        self._set("source_z", (*(camera_to_source[2, :3] @ np.linalg.inv(intrinsics)), camera_to_source[2, 3]))
        for unit, texture in enumerate(self._maps()):
            texture.use(unit)
        self._vertices.render(moderngl.TRIANGLES)
        if self._cards is not None:
            self._cards.draw(view)
        rgba = np.frombuffer(target.read(components=4, alignment=1), np.uint8).reshape(height, width, 4)
        depth = np.frombuffer(target.read(components=1, attachment=1, dtype="f4", alignment=1), np.float32)
        # OpenCV takes channels apart several times faster than numpy's strided copies
        return Rendering(
            cv2.cvtColor(rgba, cv2.COLOR_RGBA2RGB), cv2.extractChannel(rgba, 3), depth.reshape(height, width)
        )

    def _vertex_array(self, grid: RayGrid) -> tuple[moderngl.VertexArray, tuple[moderngl.Buffer, moderngl.Buffer]]:
        columns = [
            grid.rays,
            grid.pixels[:, ::-1],
            grid.pinned[:, None],
            grid.uv,
            corner_classes(grid.topology)[:, None],
        ]
        static = np.concatenate(columns, axis=1).astype("f4")
        buffer = self._context.buffer(static.tobytes())
        index = self._context.buffer(np.ascontiguousarray(grid.topology.faces, dtype="i4").tobytes())
        # the reference's shading has no use for the last two
        layout: list[Any] = [(buffer, "3f 2f 1f 3x4", "ray", "pixel", "pinned")]
        if not self._reference:
            layout = [(buffer, "3f 2f 1f 2f 1f", "ray", "pixel", "pinned", "place", "corner")]
        return self._context.vertex_array(self._program, layout, index, index_element_size=4), (buffer, index)

    def _texture(self, size: tuple[int, int], components: int, dtype: str, *, linear: bool = False) -> moderngl.Texture:
        texture = self._context.texture(size, components, dtype=dtype, alignment=1)
        kind = moderngl.LINEAR if linear else moderngl.NEAREST
        texture.filter = (kind, kind)
        texture.repeat_x = texture.repeat_y = False  # the edge ring samples the border pixel, not the far side
        return texture

    def _maps(self) -> tuple[moderngl.Texture, ...]:
        """In the order of their units."""
        return self._depth_map, self._albedo_map, self._seen_map, self._ends_map

    def _framebuffer(self, size: tuple[int, int]) -> moderngl.Framebuffer:
        if self._target is not None and self._target.size == size:
            return self._target
        if self._target is not None:
            self._release_target(self._target)
        self._target = self._context.framebuffer(
            [self._context.texture(size, 4), self._context.texture(size, 1, dtype="f4")],
            self._context.depth_texture(size),
        )
        return self._target

    @staticmethod
    def _release_target(target: moderngl.Framebuffer) -> None:
        attachments: list[Any] = [*target.color_attachments, target.depth_attachment]
        target.release()
        for attachment in attachments:
            attachment.release()

    def _set(self, name: str, value: Any) -> None:
        set_uniform(self._program, name, value)

    def _set_lens(self, grid: RayGrid) -> None:
        if self._cards is not None:
            corner, right, down = grid.plate_rays()
            self._focal_px = 1 / float(right[0])
            self._cards.set_lens(corner, right, down)
