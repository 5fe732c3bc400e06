# SPDX-License-Identifier: GPL-3.0-or-later
"""The OpenGL raster: the plate comes back exactly, and what lies behind, inside and far away is right."""

from __future__ import annotations

import numpy as np
import pytest

from ex4d_engine.cameras import fitted_intrinsics, intrinsics_from_fov, rotation_about, scaled_intrinsics
from ex4d_engine.dwmesh.edges import edge_alpha, wall_widths
from ex4d_engine.dwmesh.occlusion import seen_faces, seen_pixels
from ex4d_engine.dwmesh.ray_grid import ray_grid
from ex4d_engine.dwmesh.walls import CARD_PIXELS, CLOSED, WIDE
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
    edges: bool = False,
) -> Rendering:
    """edges: with cards and widths, as shots have them since there are any."""
    height, width = depth.shape
    source = intrinsics_from_fov(width, height)
    seen = seen_faces(depth)
    alpha = edge_alpha(seen, width, height, None) if edges else seen_pixels(seen, width, height)
    widths = wall_widths(depth, seen, float(source[0, 0])) if edges else None
    albedo = np.dstack([image, alpha])
    grid = ray_grid(width, height, source, 1.25 * float(depth.max()))
    with make_raster("opengl", grid, nearest=float(depth.min()), wall_share=wall_share) as raster:
        raster.set_frame(depth, albedo, seen, widths)
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
@pytest.mark.parametrize(("wall_share", "edges"), [(CLOSED, False), (CLOSED, True), (0.25, False), (0.25, True)])
def test_the_source_camera_gets_its_plate_back_border_included(
    size: tuple[int, int], scale: float, wall_share: float, edges: bool
) -> None:
    width, height = size
    depth = np.random.default_rng(0).uniform(2, 40, (height, width)).astype(np.float32) * np.float32(scale)
    image = noise(width, height)
    drawn = draw(depth, image, np.eye(4), wall_share=wall_share, edges=edges)
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


@pytest.mark.parametrize(("across", "widest"), [(4, 3), (6, 5), (9, 9)])
def test_a_wall_behind_a_thin_thing_is_as_deep_as_the_thing_is_wide(across: int, widest: int) -> None:
    """As above, with a thing `across` pixels wide up to column 180, into which a disc of `widest` goes.

    The camera looks at its right side, where the wall goes on to the next pixel at 20: what of it is at z is
    (b · f + 4 · 20 / (20 − 4)) · (1/4 − 1/z) pixels right of the last pixel's centre. Its card hides 0.75 of them, and
    the wall ends at z = 4 · (1 + widest / f), though the share allows five times as much.
    """
    width, height, near, far, b = 200, 8, 4.0, 20.0, 3.0
    depth = np.full((height, width), far, np.float32)
    depth[:, 180 - across : 180] = near
    K, pose = intrinsics_from_fov(width, height), np.eye(4)
    pose[0, 3] = b
    finer = 20  # pixels to one of the plate
    focal, lens, size = K[0, 0], scaled_intrinsics(K, finer, 1), (finer * width, height)
    share = 5 * widest / focal
    image, across_z = noise(width, height), focal * b + near * far / (far - near)
    for edges, end in ((True, near * (1 + widest / focal)), (False, near * (1 + share))):
        drawn = draw(depth, image, pose, lens, size, share, edges)
        row, z = drawn.mask[height // 2], drawn.depth[height // 2]
        wall = np.flatnonzero((row == 0) & (z > near * 1.0001) & (z < far / 2))
        right_of = (wall + 0.5) / finer - (179.5 - focal * b / near)
        np.testing.assert_allclose(z[wall], 1 / (1 / near - right_of / across_z), rtol=1e-4)
        assert abs(z[wall[-1]] - end) < 2 * end**2 / (across_z * finer)  # two pixels' worth
        assert not edges or abs(right_of[0] - CARD_PIXELS / 2) < 2 / finer


def bush(width: int = 96, height: int = 64) -> np.ndarray:
    random = np.random.default_rng(11)
    depth = np.full((height, width), 20, np.float32)
    leaves = random.random((height, width)) < 0.2
    depth[leaves] = random.uniform(3, 5, leaves.sum())
    return depth


@pytest.mark.parametrize("degrees", [-20, 20])
def test_of_a_bush_more_is_seen_with_cards_and_widths_and_all_in_the_colours_of_the_plate(degrees: float) -> None:
    """Things of one pixel: the grid's faces show nothing of them, and hide what is behind as if they were deep."""
    depth = bush()
    image = np.full((64, 96, 3), (20, 40, 60), np.uint8)
    image[depth < 10] = 200, 220, 240
    pose = orbit(2, degrees, 4.0)[-1]
    with_edges, without = (draw(depth, image, pose, wall_share=0.15, edges=edges) for edges in (True, False))
    assert (with_edges.mask > 0).mean() > 2 * (without.mask > 0).mean()
    for leaf, colour, exact in ((True, (200, 220, 240), 0.99), (False, (20, 40, 60), 0.85)):
        there = (with_edges.mask > 0) & ((with_edges.depth < 10) == leaf)
        assert there.sum() > 500
        # cards are exact; a face of the grid mixes a leaf's colour in where the fourth corner of its cell is one
        assert (with_edges.color[there] == colour).all(-1).mean() > exact
    known = with_edges.color[with_edges.mask > 0]
    assert ((known >= (20, 40, 60)) & (known <= (200, 220, 240))).all()
    assert (with_edges.color[with_edges.mask == 0] == 0).all()


def test_of_cards_that_overlap_the_one_whose_pixel_is_nearest_shows() -> None:
    """A row of one pixel's height and many colours, twice as large: each colour is as wide as the others."""
    depth = np.full((9, 48), 20, np.float32)
    depth[4] = 4
    image = noise(48, 9)
    pose = np.eye(4)
    pose[0, 3] = 0.1
    K = scaled_intrinsics(intrinsics_from_fov(48, 9), 8, 8)
    drawn = draw(depth, image, pose, K, (8 * 48, 8 * 9), 0.15, edges=True)
    shift = K[0, 0] * 0.1 / 4
    row = drawn.color[36]
    pixels = np.floor((np.arange(8 * 48) + 0.5 + shift) / 8).astype(int)
    inside = pixels < 48
    beside = np.abs((np.arange(8 * 48) + 0.5 + shift) % 8 - 4) < 3.9  # not where rounding chooses
    assert (row[inside & beside] == image[4][pixels[inside & beside]]).all()


@pytest.mark.parametrize("degrees", [150, 180, 200])
def test_the_backs_of_cards_hide_and_are_not_known(degrees: float) -> None:
    depth = bush()
    pose, back = np.eye(4), np.eye(4)
    pose[:3, :3], pose[2, 3], back[2, 3] = rotation_about([0, 1, 0], -np.radians(degrees)), 4, -4
    drawn = draw(depth, noise(96, 64), pose @ back, wall_share=0.15, edges=True)
    near = (drawn.depth > 0) & (drawn.depth < 6)
    assert near.mean() > 0.2  # of the picture; the grid's faces alone are in 1 %
    assert (drawn.mask[near] > 0).mean() < 0.02


@pytest.mark.parametrize("wall_share", [CLOSED, 0.25])
def test_a_shot_without_cards_and_widths_is_drawn_with_walls_of_one_share(wall_share: float) -> None:
    """As shots of an earlier version are: alpha 255 or 0, where a pixel has no card, and no widths."""
    depth, image = bush(), noise(96, 64)
    seen = seen_faces(depth)
    K, to_camera = intrinsics_from_fov(96, 64), np.linalg.inv(orbit(2, 20, 4.0)[-1])
    alphas = [seen_pixels(seen, 96, 64), np.full((64, 96), 255, np.uint8), np.zeros((64, 96), np.uint8)]
    wide = np.full((65, 97), WIDE, np.uint16)
    assert set(np.unique(alphas[0])) == {0, 255}
    with make_raster("opengl", ray_grid(96, 64, K, 25.0), nearest=3.0, wall_share=wall_share) as raster:
        drawn = []
        for alpha, widths in [(alphas[0], None), *((alpha, wide) for alpha in alphas)]:
            raster.set_frame(depth, np.dstack([image, alpha]), seen, widths)
            drawn.append(raster.draw(K, to_camera, (96, 64)))
    for other in drawn[1:]:
        np.testing.assert_array_equal(other.color, drawn[0].color)
        np.testing.assert_array_equal(other.mask, drawn[0].mask)
        np.testing.assert_array_equal(other.depth, drawn[0].depth)


def test_closed_walls_know_no_cards() -> None:
    pose = orbit(2, 20, 4.0)[-1]
    one, two = (draw(bush(), noise(96, 64), pose, edges=edges) for edges in (True, False))
    np.testing.assert_array_equal(one.color, two.color)
    np.testing.assert_array_equal(one.depth, two.depth)


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
