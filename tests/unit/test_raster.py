# SPDX-License-Identifier: GPL-3.0-or-later
"""The OpenGL raster: the plate comes back exactly, and what lies behind, inside and far away is right."""

from __future__ import annotations

import numpy as np
import pytest

from ex4d_engine.cameras import fitted_intrinsics, intrinsics_from_fov, rotation_about, scaled_intrinsics
from ex4d_engine.dwmesh.occlusion import seen_faces, seen_pixels
from ex4d_engine.dwmesh.ray_grid import ray_grid
from ex4d_engine.dwmesh.walls import CLOSED
from ex4d_engine.errors import Ex4dError
from ex4d_engine.raster import Rendering, make_raster
from ex4d_engine.trajectories import dolly, orbit


def draw(
    depth: np.ndarray,
    image: np.ndarray,
    pose: np.ndarray,
    K: np.ndarray | None = None,
    size=None,
    wall_share: float = CLOSED,
) -> Rendering:
    height, width = depth.shape
    source = intrinsics_from_fov(width, height)
    seen = seen_faces(depth)
    albedo = np.dstack([image, seen_pixels(seen, width, height)])
    grid = ray_grid(width, height, source, 1.25 * float(depth.max()))
    with make_raster("opengl", grid, nearest=float(depth.min()), wall_share=wall_share) as raster:
        raster.set_frame(depth, albedo, seen)
        return raster.draw(source if K is None else K, np.linalg.inv(pose), size or (width, height))


def noise(width: int, height: int) -> np.ndarray:
    return np.random.default_rng(3).integers(0, 256, (height, width, 3), dtype=np.uint8)


def scene(width: int = 96, height: int = 64) -> np.ndarray:
    depth = np.full((height, width), 12, np.float32)
    depth[height // 2 :] = np.linspace(12, 3, height - height // 2, dtype=np.float32)[:, None]
    depth[20:44, 30:50] = 4
    return depth


@pytest.mark.parametrize("size", [(96, 64), (63, 65), (5, 3)])
@pytest.mark.parametrize("scale", [1e-4, 1.0, 1e5])
@pytest.mark.parametrize("wall_share", [CLOSED, 0.25])
def test_the_source_camera_gets_its_plate_back_border_included(
    size: tuple[int, int], scale: float, wall_share: float
) -> None:
    width, height = size
    depth = np.random.default_rng(0).uniform(2, 40, (height, width)).astype(np.float32) * np.float32(scale)
    image = noise(width, height)
    drawn = draw(depth, image, np.eye(4), wall_share=wall_share)
    assert (drawn.mask == 255).all()
    assert np.abs(drawn.color.astype(int) - image).max() <= 1
    np.testing.assert_allclose(drawn.depth, depth, rtol=2e-4)


def test_a_smooth_plate_at_twice_the_size_is_the_plate_enlarged() -> None:
    width, height = 48, 32
    ramp = np.broadcast_to(np.linspace(0, 255, width)[None, :, None], (height, width, 3)).round().astype(np.uint8)
    K = scaled_intrinsics(intrinsics_from_fov(width, height), 2, 2)
    drawn = draw(np.full((height, width), 5, np.float32), ramp, np.eye(4), K, (2 * width, 2 * height))
    assert (drawn.mask == 255).all()
    expected = np.interp((np.arange(2 * width) + 0.5) / 2 - 0.5, np.arange(width), ramp[0, :, 0])
    assert np.abs(drawn.color[height, :, 0].astype(float) - expected).max() <= 1.5


def test_another_aspect_keeps_the_picture_and_shows_what_was_not_seen_as_unseen() -> None:
    width, height = 40, 40
    K = fitted_intrinsics(intrinsics_from_fov(width, height), (width, height), (80, 40))
    drawn = draw(np.full((height, width), 5, np.float32), noise(width, height), np.eye(4), K, (80, 40))
    assert (drawn.mask[:, 20:60] == 255).all()
    assert drawn.mask[:, :20].max() == 0
    assert drawn.mask[:, 60:].max() == 0


def test_an_orbit_opens_a_hole_on_the_side_it_moves_to_and_colours_stay_known() -> None:
    depth, image = scene(), np.full((64, 96, 3), 200, np.uint8)
    drawn = draw(depth, image, orbit(2, 20, 4.0)[-1])
    assert 0.02 < (drawn.mask == 0).mean() < 0.6
    assert set(np.unique(drawn.mask)) == {0, 255}
    assert (drawn.color[drawn.mask > 0] == 200).all()  # no darkening at edges
    assert (drawn.color[drawn.mask == 0] == 0).all()


def test_occluded_faces_hide_what_is_behind_them() -> None:
    """From the right, the wall behind the block is not to be seen through the bridge between them."""
    depth = np.full((40, 60), 20, np.float32)
    depth[:, :30] = 4
    drawn = draw(depth, noise(60, 40), orbit(2, 30, 4.0)[-1])
    bridge = drawn.mask == 0
    assert bridge.any()
    inside = drawn.depth[20, (drawn.mask[20] == 0) & (drawn.depth[20] > 0)]
    assert inside.min() < 19


@pytest.mark.parametrize("wall_share", [0.1, 0.25, 1.0])
def test_a_wall_ends_where_its_share_of_the_depth_is_over(wall_share: float) -> None:
    """Left of column 100 a surface at 4, from there on one at 20; a camera b to the right, its line of sight the same.

    Seen from there, what is at z is f·b/z further left. The wall goes on along the source's line of sight at the edge
    and ends at z = 4 · (1 + share); then there is nothing up to the far surface, which is moved by f·b/20.
    """
    width, height, near, far, b = 200, 8, 4.0, 20.0, 1.0
    depth = np.full((height, width), far, np.float32)
    depth[:, :100] = near
    K, pose = intrinsics_from_fov(width, height), np.eye(4)
    pose[0, 3] = b
    shift = K[0, 0] * b
    drawn = draw(depth, noise(width, height), pose, wall_share=wall_share)
    row, z = drawn.mask[height // 2], drawn.depth[height // 2]
    end = 100 - shift / (near * (1 + wall_share))
    wall = np.flatnonzero((row == 0) & (z > 0) & (z < near * (1 + wall_share) * 1.001))
    assert abs(wall[0] - (99.5 - shift / near)) <= 1 and abs(wall[-1] - end) <= 1.5
    assert (row[wall[-1] + 3 : round(100 - shift / far) - 2] == 0).all()  # what the source saw nothing of
    between = z[wall[-1] + 3 : round(100 - shift / far) - 2]
    assert ((between == 0) | (between > far)).all()  # nothing is there but the fan that closes the mesh behind


def test_behind_a_wall_that_ends_the_far_surface_is_seen() -> None:
    """A narrow card at 4 before a far surface at 20, from the side: closed walls hide what short ones show."""
    depth = np.full((48, 72), 20, np.float32)
    depth[12:36, 34:38] = 4
    image = noise(72, 48)
    closed, short, shorter = (
        draw(depth, image, orbit(2, 25, 4.0)[-1], wall_share=share) for share in (CLOSED, 0.5, 0.1)
    )
    assert (closed.mask > 0).sum() < (short.mask > 0).sum() < (shorter.mask > 0).sum()
    # what the closed mesh shows, all show, and alike
    kept = closed.mask > 0
    assert (short.mask[kept] == 255).all() and (short.color[kept] == closed.color[kept]).all()


@pytest.mark.parametrize("degrees", [140, 150, 165])
def test_the_back_of_what_was_seen_is_not_known(degrees: float) -> None:
    """A ball before a far wall, seen from behind past the end of its walls: it hides what is beyond, and is a hole."""
    depth, (row, column) = np.full((64, 96), 20, np.float32), np.mgrid[:64, :96]
    share = ((column - 48) ** 2 + (row - 32) ** 2) / 14**2
    depth[share < 1] = 4 - 0.5 * np.sqrt(1 - share[share < 1])
    pose, back = np.eye(4), np.eye(4)
    pose[:3, :3], pose[2, 3], back[2, 3] = rotation_about([0, 1, 0], -np.radians(degrees)), 4, -4
    short = draw(depth, noise(96, 64), pose @ back, wall_share=0.15)
    near = (short.depth > 0) & (short.depth < 6)
    assert near.sum() > 100  # the ball is there, and hides
    assert (short.mask[near] > 0).mean() < 0.02


def test_the_far_cap_does_not_fight_with_the_farthest_surface() -> None:
    depth = np.full((32, 32), 1e6, np.float32)
    depth[16:] = 1e-2
    drawn = draw(depth, noise(32, 32), dolly(2, 1e-3)[-1])
    assert (drawn.mask[:12] == 255).all()


def test_cameras_inside_and_behind_the_mesh_draw_something_sensible() -> None:
    depth, image = scene(), noise(96, 64)
    through = draw(depth, image, dolly(2, 8.0)[-1])  # past the block, in front of the wall
    assert (through.mask > 0).any()
    turned = np.eye(4)
    turned[:3, :3] = rotation_about([0, 1, 0], np.pi)
    behind = draw(depth, image, turned)  # at the source, looking back
    assert behind.mask.max() == 0
    outside = dolly(2, 100.0)[-1]
    outside[:3, :3] = turned[:3, :3]
    back = draw(depth, image, outside)  # behind the far surface, looking at its back
    assert back.mask.max() == 0
    assert back.depth.max() > 0


def test_drawing_twice_gives_the_same_and_sizes_may_alternate() -> None:
    depth, image = scene(), noise(96, 64)
    seen = seen_faces(depth)
    K = intrinsics_from_fov(96, 64)
    with make_raster("opengl", ray_grid(96, 64, K, 20.0), nearest=3.0) as raster:
        raster.set_frame(depth, np.dstack([image, seen_pixels(seen, 96, 64)]), seen)
        first = raster.draw(K, np.eye(4), (96, 64))
        raster.draw(scaled_intrinsics(K, 0.5, 0.5), np.eye(4), (48, 32))
        again = raster.draw(K, np.eye(4), (96, 64))
    assert (first.color == again.color).all()
    assert (first.depth == again.depth).all()


def test_frames_that_do_not_fit_and_unknown_backends_are_refused() -> None:
    grid = ray_grid(8, 8, intrinsics_from_fov(8, 8), 10.0)
    with make_raster("opengl", grid, nearest=1.0) as raster, pytest.raises(Ex4dError, match="do not fit"):
        raster.set_frame(np.ones((4, 4), np.float32), np.zeros((8, 8, 4), np.uint8), np.zeros((11, 22), np.uint8))
    with pytest.raises(Ex4dError, match="no raster 'vulkan'"):
        make_raster("vulkan", grid, nearest=1.0)


def test_without_opengl_the_error_names_the_package(monkeypatch: pytest.MonkeyPatch) -> None:
    import moderngl

    def fail(**_: object) -> None:
        raise Exception("libEGL.so not loaded")

    monkeypatch.setattr(moderngl, "create_standalone_context", fail)
    with pytest.raises(Ex4dError) as caught:
        make_raster("opengl", ray_grid(4, 4, intrinsics_from_fov(4, 4), 10.0), nearest=1.0)
    assert caught.value.code == "no_opengl"
    assert caught.value.hint.startswith("Install")


def test_nvdiffrast_is_optional_and_named_when_missing() -> None:
    pytest.importorskip("torch")
    import importlib.util

    if importlib.util.find_spec("nvdiffrast") is not None:
        pytest.skip("nvdiffrast is installed here")
    with pytest.raises(Ex4dError, match="nvdiffrast") as caught:
        make_raster("nvdiffrast", ray_grid(4, 4, intrinsics_from_fov(4, 4), 10.0), nearest=1.0)
    assert caught.value.code == "missing_package"


def test_a_grid_set_later_is_drawn_like_one_that_was_there_from_the_start() -> None:
    depth, image = scene(), noise(96, 64)
    seen = seen_faces(depth)
    albedo = np.dstack([image, seen_pixels(seen, 96, 64)])
    K, to_camera = intrinsics_from_fov(96, 64), np.linalg.inv(orbit(2, 20, 4.0)[-1])
    wanted, other = ray_grid(96, 64, K, 15.0), ray_grid(96, 64, scaled_intrinsics(K, 2, 1), 15.0)
    drawn = []
    for first in (wanted, other):
        with make_raster("opengl", first, nearest=float(depth.min())) as raster:
            raster.set_grid(wanted)
            raster.set_frame(depth, albedo, seen)
            drawn.append(raster.draw(K, to_camera, (96, 64)))
    np.testing.assert_array_equal(drawn[0].color, drawn[1].color)
    np.testing.assert_array_equal(drawn[0].depth, drawn[1].depth)
    assert (drawn[0].mask == 0).any()
