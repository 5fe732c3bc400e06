# SPDX-License-Identifier: GPL-3.0-or-later
"""Rendering masks on shapes whose holes can be worked out by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest

from ex4d_engine.cameras import intrinsics_from_fov, rotation_about
from ex4d_engine.errors import Ex4dError
from ex4d_engine.training.rendering_masks import rendering_masks, usable_depth
from ex4d_engine.trajectories import dolly, orbit, still

WIDTH, HEIGHT = 96, 64
K = intrinsics_from_fov(WIDTH, HEIGHT)
FOCAL = float(K[0, 0])


def beside(x: float) -> np.ndarray:
    """A path of two frames: at the source, then x to the right of it with the same line of sight."""
    path = still(2)
    path[1, 0, 3] = x
    return path


def step(near: float, far: float, edge: int) -> np.ndarray:
    """Two frames of a near surface left of column `edge` and a far one from there on."""
    depth = np.full((2, HEIGHT, WIDTH), far, np.float32)
    depth[:, :, :edge] = near
    return depth


@pytest.mark.parametrize("wall_share", [0.1, math.inf])
def test_the_identity_path_keeps_everything_even_of_noise(wall_share: float) -> None:
    depth = np.random.default_rng(0).uniform(2, 9, (3, HEIGHT, WIDTH)).astype(np.float32)
    assert (rendering_masks(depth, K, still(3), wall_share=wall_share) == 255).all()


def test_a_plane_has_no_holes_while_it_stays_in_the_picture() -> None:
    plane = np.full((4, HEIGHT, WIDTH), 5, np.float32)
    backwards = dolly(4, -3.0, smooth=False)
    assert (rendering_masks(plane, K, backwards) == 255).all()


def test_a_slanted_plane_seen_at_a_grazing_angle_does_not_hide_itself() -> None:
    """Turned away by 40° already and then by 40° more, and far enough off that all of it stays in the picture."""
    slope = math.tan(math.radians(40))
    x = (np.arange(WIDTH) + 0.5 - K[0, 2]) / FOCAL
    depth = np.broadcast_to((5 / (1 - slope * x)).astype(np.float32), (2, HEIGHT, WIDTH))
    path = orbit(2, -40, 5.0, smooth=False)
    path[1] = path[1] @ dolly(2, -14.0, smooth=False)[1]
    assert (rendering_masks(np.ascontiguousarray(depth), K, path)[1] == 255).all()


@pytest.mark.parametrize("wall_share", [0.1, math.inf])
@pytest.mark.parametrize("shift", [0.5, 1.0, 1.5])
def test_a_step_edge_hides_the_band_predicted_by_hand(shift: float, wall_share: float) -> None:
    """A camera that goes left by b sees the near surface shifted right by f·b/near and the far one by f·b/far.

    So the near surface covers f·b·(1/near − 1/far) columns of the far one, right of the edge; less one, as the mesh
    ends at a pixel's centre and the next one's is a column on, and less up to one for the benefit of the doubt. What
    leaves the picture is lost too: f·b/far columns at the right, of the far surface.
    """
    near, far, edge = 4.0, 10.0, 40
    kept = rendering_masks(step(near, far, edge), K, beside(-shift), wall_share=wall_share)[1]
    assert (kept == kept[0]).all()
    lost = np.flatnonzero(kept[0] == 0)
    hidden, left = lost[lost < 80], lost[lost >= 80]
    covered = FOCAL * shift * (1 / near - 1 / far)
    assert hidden[0] == edge
    assert np.all(np.diff(hidden) == 1)
    assert covered - 2 <= len(hidden) <= covered
    assert len(left) == pytest.approx(FOCAL * shift / far, abs=1)


def test_the_other_way_a_step_edge_hides_nothing() -> None:
    """From the right all of the far surface is still to be seen; only what leaves the picture at the left is lost."""
    kept = rendering_masks(step(4.0, 10.0, 40), K, beside(0.5))[1]
    lost = np.flatnonzero((kept == 0).any(axis=0))
    assert lost.tolist() == list(range(len(lost)))
    assert len(lost) == pytest.approx(FOCAL * 0.5 / 4.0, abs=1)


def test_deeper_walls_hide_more() -> None:
    depth = np.full((2, HEIGHT, WIDTH), 20, np.float32)
    depth[:, 20:44, 40:56] = 5
    path = orbit(2, 35, 6.0, smooth=False)
    shares = [(rendering_masks(depth, K, path, wall_share=wall)[1] == 0).mean() for wall in (0.01, 0.5, math.inf)]
    assert shares[0] < shares[1] < shares[2]


def test_poses_of_the_source_are_taken_into_account() -> None:
    """A path that goes where the source itself went sees what the source sees."""
    depth = step(4.0, 10.0, 40)
    poses = still(2)
    poses[0, :3, :3] = poses[1, :3, :3] = rotation_about([0.1, 1, 0], 1.2)
    poses[:, :3, 3] = [[3, 2, 1], [3.4, 2.2, 0.9]]
    followed = np.linalg.inv(poses[0]) @ poses
    assert (rendering_masks(depth, K, followed, poses) == 255).all()
    assert (rendering_masks(depth, K, followed)[1] == 0).any()


def test_unknown_depth_and_sky_are_repaired() -> None:
    depth = step(4.0, 10.0, 40)
    depth[:, :20] = np.inf
    depth[:, 30, 30] = np.nan
    usable = usable_depth(depth)
    assert np.isfinite(usable).all()
    assert (usable[:, :20] == 40).all()
    assert (rendering_masks(depth, K, still(2)) == 255).all()


def test_what_does_not_fit_is_refused() -> None:
    depth = step(4.0, 10.0, 40)
    with pytest.raises(Ex4dError) as error:
        rendering_masks(depth, K, still(3))
    assert error.value.code == "depth_mismatch"
    with pytest.raises(Ex4dError) as error:
        rendering_masks(depth, K, still(2), still(3))
    assert error.value.code == "depth_mismatch"
    with pytest.raises(Ex4dError) as error:
        rendering_masks(depth, K, still(2), wall_share=0)
    assert error.value.code == "bad_request"
    with pytest.raises(Ex4dError) as error:
        rendering_masks(np.full_like(depth, np.nan), K, still(2))
    assert error.value.code == "depth_invalid"
