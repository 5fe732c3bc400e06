# SPDX-License-Identifier: GPL-3.0-or-later
"""Where surfaces end: cards, and how wide the thing is that a wall begins at, against things of known width."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ex4d_engine.dwmesh.edges import (
    LIMITING_SHARE,
    card_pixels,
    edge_alpha,
    wall_begins,
    wall_ends,
    wall_widths,
)
from ex4d_engine.dwmesh.occlusion import seen_faces
from ex4d_engine.dwmesh.walls import EDGE, UNSEEN, WHOLE, WIDE


def widths_of(depth: np.ndarray, focal_px: float) -> np.ndarray:
    return wall_widths(depth, seen_faces(depth), focal_px)


def alpha_of(depth: np.ndarray, cover: np.ndarray | None = None) -> np.ndarray:
    return edge_alpha(seen_faces(depth, cover), depth.shape[1], depth.shape[0], cover)


def corners(values: np.ndarray) -> np.ndarray:
    """(4,H+1,W+1): of each cell its four pixels."""
    ringed = np.pad(values, 1, mode="edge")
    return np.stack([ringed[:-1, :-1], ringed[:-1, 1:], ringed[1:, :-1], ringed[1:, 1:]])


@pytest.mark.parametrize("size", [(9, 7), (7, 9), (1, 1), (5, 1)])
def test_a_plane_has_no_cards_and_is_wide_everywhere(size: tuple[int, int]) -> None:
    width, height = size
    depth = np.full((height, width), 3, np.float32)
    alpha, widths = alpha_of(depth), widths_of(depth, 400.0)
    assert alpha.shape == (height, width) and alpha.dtype == np.uint8 and (alpha == WHOLE).all()
    assert widths.shape == (height + 1, width + 1) and widths.dtype == np.uint16 and (widths == WIDE).all()
    assert not card_pixels(alpha).any()


def test_pixels_on_both_sides_of_a_jump_have_cards() -> None:
    depth = np.full((6, 10), 2, np.float32)
    depth[:, 5:] = 10
    expected = np.full((6, 10), WHOLE)
    expected[:, 4:6] = EDGE
    assert (alpha_of(depth) == expected).all()
    assert (card_pixels(alpha_of(depth)) == (expected == EDGE)).all()


def test_what_is_transparent_is_unseen_and_has_no_cards_but_its_rim_does() -> None:
    depth, cover = np.full((7, 11), 5, np.float32), np.full((7, 11), 255, np.uint8)
    cover[:, 7:] = 127
    expected = np.full((7, 11), WHOLE)
    expected[:, 6], expected[:, 7:] = EDGE, UNSEEN
    assert (alpha_of(depth, cover) == expected).all()
    assert (card_pixels(alpha_of(depth, cover)) == (expected == EDGE)).all()


def test_shots_of_an_earlier_version_have_no_cards() -> None:
    assert not card_pixels(np.array([[0, 255]], np.uint8)).any()


@pytest.mark.parametrize(
    ("across", "expected"), [(1, 1), (2, 1), (3, 3), (4, 3), (5, 5), (7, 7), (9, 9), (10, 9), (11, 9), (13, 13)]
)
def test_a_card_is_at_most_as_wide_as_it_is_and_the_wall_behind_it_is_wide(across: int, expected: int) -> None:
    """Discs of radius 1, 2, 3, 4 and 6; from a quarter of 80 px on all is wide. Cells on the outline are its own."""
    depth = np.full((30, 60), 10, np.float32)
    depth[:, 20 : 20 + across] = 3
    widths = widths_of(depth, 80.0)
    assert (widths[:, 20 : 20 + across + 1] == expected).all()
    assert (widths[:, :20] == WIDE).all() and (widths[:, 20 + across + 1 :] == WIDE).all()


def test_from_a_share_of_the_focal_length_on_a_thing_is_wide() -> None:
    depth = np.full((30, 80), 10, np.float32)
    depth[:, 30:43] = 3  # a disc of 13 pixels fits
    assert widths_of(depth, 12.9 / LIMITING_SHARE)[15, 36] == WIDE
    assert widths_of(depth, 13.1 / LIMITING_SHARE)[15, 36] == 13


def test_a_single_pixel_is_one_wide_and_so_is_a_line_along_either_diagonal() -> None:
    depth = np.full((15, 15), 10, np.float32)
    depth[7, 7] = 3
    assert (widths_of(depth, 400.0)[7:9, 7:9] == 1).all()
    for direction in (1, -1):
        depth = np.where(np.eye(15)[::direction] > 0, 3, 10).astype(np.float32)
        nearer = corners(depth).min(0) == 3
        assert (widths_of(depth, 400.0)[nearer] == 1).all()


@pytest.mark.parametrize("degrees", [0, 10, 20, 26.565, 45, 70, -10, -20, -26.565, -45, -70])
@pytest.mark.parametrize("across", [7, 20, 60, 90])
def test_a_block_is_as_wide_as_it_is_at_its_silhouette_too_however_it_leans(across: int, degrees: float) -> None:
    """Narrower than what would be wide: within a third, on its long sides away from its ends."""
    size, focal_px = 300, 480.0
    row, column = np.mgrid[:size, :size] - (size - 1) / 2
    turn = np.radians(degrees)
    side, along = column * np.cos(turn) + row * np.sin(turn), row * np.cos(turn) - column * np.sin(turn)
    depth = np.where((abs(side) < across / 2) & (abs(along) < 120), 4, 20).astype(np.float32)
    begins = corners(depth)
    on_outline = (begins.min(0) < begins.max(0)) & (corners(abs(along)).max(0) < 115 - across / 2)
    widths = widths_of(depth, focal_px)[on_outline]
    assert len(widths) > 100
    assert widths.min() >= 2 / 3 * (across - 1) and widths.max() <= across + 1


@pytest.mark.parametrize("radius", [8, 14, 20, 27, 30, 38, 45])
def test_a_ball_is_about_as_wide_at_its_outline_as_within(radius: int) -> None:
    row, column = np.mgrid[:200, :260]
    depth = np.where((column - 130) ** 2 + (row - 100) ** 2 < radius**2, 3, 15).astype(np.float32)
    widths, begins = widths_of(depth, 480.0), corners(depth).min(0)
    across = 2 * radius - 1
    assert widths[begins == 3].min() >= 0.6 * across and widths[begins == 3].max() <= across
    assert (widths[begins == 15] == WIDE).mean() > 0.99


def test_walls_begin_at_the_nearest_pixel_and_end_by_what_is_narrowest() -> None:
    depth = np.array([[2, 4, 8], [2, 4, 8]], np.float32)
    assert (wall_begins(depth) == np.array([2, 2, 4, 8])).all()
    widths = np.broadcast_to(np.array([10, 50, WIDE, 1], np.uint16), (3, 4))
    ends = wall_ends(depth, widths, 0.15, 100.0)
    assert ends.shape == (3, 4) and ends.dtype == np.float32
    np.testing.assert_allclose(ends, np.broadcast_to([2 * 1.1, 2 * 1.15, 4 * 1.15, 8 * 1.01], (3, 4)), rtol=1e-6)


@st.composite
def surfaces(draw: st.DrawFn) -> np.ndarray:
    """(H,W) int: rectangles, lines and dust of up to five surfaces, each flat."""
    height, width = draw(st.integers(3, 22)), draw(st.integers(3, 22))
    random = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    surface = np.zeros((height, width), int)
    for number in range(1, draw(st.integers(1, 5))):
        top, left = random.integers(height), random.integers(width)
        surface[top : top + random.integers(1, height + 1), left : left + random.integers(1, width + 1)] = number
    dust = random.random((height, width)) < draw(st.sampled_from([0, 0, 0.05, 0.3]))
    surface[dust] = random.integers(0, 5, dust.sum())
    return surface


def largest_discs(surface: np.ndarray) -> np.ndarray:
    """(H,W): at each pixel the diameter of the largest disc of pixels, by whole radii, that reaches it to within one
    and has no pixel of another surface; inf if none of another is there.
    """
    places = np.argwhere(np.ones_like(surface, bool))
    apart = np.linalg.norm(places[:, None] - places, axis=-1)
    same = surface.reshape(-1)[:, None] == surface.reshape(-1)
    radius = np.ceil(np.where(same, np.inf, apart).min(1)) - 1  # of the largest disc about each pixel
    return np.where(same & (apart <= radius + 1), 2 * radius + 1, 1).max(1).reshape(surface.shape)


@settings(max_examples=150, deadline=None)
@given(surfaces(), st.sampled_from([8.0, 40.0, 400.0]))
def test_nothing_is_wider_than_the_largest_disc_that_fits(surface: np.ndarray, focal_px: float) -> None:
    """Into it or a neighbour of the same surface: an outline's pixels take their neighbours' widths."""
    depth = (3.0 * 2**surface).astype(np.float32)
    widths = widths_of(depth, focal_px).astype(float)
    assert widths.min() >= 1
    discs, (height, width) = largest_discs(surface), surface.shape
    limit = np.zeros((height, width))
    for row, column in np.ndindex(height, width):
        around = slice(max(row - 1, 0), row + 2), slice(max(column - 1, 0), column + 2)
        limit[row, column] = discs[around][surface[around] == surface[row, column]].max()
    begins, nearest = corners(depth), corners(depth).min(0)
    allowed = np.where(begins == nearest, corners(limit), 0).max(0)
    most = LIMITING_SHARE * focal_px
    assert (np.where(widths == WIDE, most, widths) <= allowed).all()


@settings(max_examples=60, deadline=None)
@given(surfaces(), st.floats(0.01, 2), st.floats(1, 5000), st.integers(0, 2**32 - 1))
def test_walls_end_beyond_their_beginning_and_within_their_share(
    surface: np.ndarray, share: float, focal_px: float, seed: int
) -> None:
    depth = (3.0 * 2**surface).astype(np.float32)
    random = np.random.default_rng(seed)
    widths = random.integers(1, WIDE + 1, (depth.shape[0] + 1, depth.shape[1] + 1)).astype(np.uint16)
    widths[random.random(widths.shape) < 0.3] = WIDE
    ends, begins = wall_ends(depth, widths, share, focal_px), wall_begins(depth)
    assert (ends > begins).all()
    assert (ends <= begins * (1 + share) * (1 + 1e-6)).all()
