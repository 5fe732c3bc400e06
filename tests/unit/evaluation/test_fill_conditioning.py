# SPDX-License-Identifier: GPL-3.0-or-later
"""Conditioning of every kind on surfaces whose views are plain, and the fills without a model."""

from __future__ import annotations

import numpy as np
import pytest

from ex4d_engine.dwmesh.occlusion import seen_faces
from ex4d_engine.dwmesh.ray_grid import ray_grid
from ex4d_engine.errors import Ex4dError
from ex4d_engine.evaluation.fill_conditioning import KINDS, FillConditioning, conditioning, open_grid, splatted
from ex4d_engine.evaluation.fill_rows import CLASSICAL, restored

from .fill_material import HEIGHT, WIDTH, case_of, moved, textured

FRAMES = 3


def card_before_wall() -> np.ndarray:
    depth = np.full((FRAMES, HEIGHT, WIDTH), 10.0)
    depth[:, :, WIDTH // 3 : WIDTH // 2] = 4.0
    return depth


@pytest.mark.parametrize("kind", KINDS)
def test_a_plane_that_fills_the_view_has_no_holes(kind: str) -> None:
    depth = np.full((FRAMES, HEIGHT, WIDTH), 4.0)
    known = conditioning(case_of(depth, textured(FRAMES), moved(FRAMES, z=0.8)), kind)
    assert not known.holes.any()
    assert known.depth[-1] == pytest.approx(3.2, rel=1e-4)


@pytest.mark.parametrize("kind", KINDS)
def test_at_the_source_the_picture_is_the_sources(kind: str) -> None:
    case = case_of(card_before_wall(), textured(FRAMES), moved(FRAMES))
    known = conditioning(case, kind)
    assert not known.holes[0].any()
    seen = ~known.holes
    assert np.abs(known.color[seen].astype(int) - case.source[seen]).max() <= 1


@pytest.mark.parametrize("kind", KINDS)
def test_a_card_uncovers_a_hole_as_wide_as_predicted(kind: str) -> None:
    shift = 1.0
    case = case_of(card_before_wall(), textured(FRAMES), moved(FRAMES, x=shift))
    holes = conditioning(case, kind).holes[-1]
    wide = shift * case.intrinsics[0, 0] * (1 / 4 - 1 / 10)
    beyond = shift * case.intrinsics[0, 0] / 10  # what the source's picture did not hold, at the right border
    middle = holes[HEIGHT // 2]
    assert np.count_nonzero(middle) == pytest.approx(wide + beyond, abs=2)


def test_a_splat_shows_the_nearest_surface() -> None:
    image = textured(1)[0]
    depth = np.full((HEIGHT, WIDTH), 10.0, np.float32)
    depth[:, 20:24] = 5.0
    image[:, 20:24] = 255
    case = case_of(depth[None], image[None], moved(1))
    to_camera = np.eye(4)
    to_camera[0, 3] = -10 / case.intrinsics[0, 0] * 5 / 10  # the card by 1 pixel, the wall by half of one
    drawn = splatted(image, depth, case.intrinsics, to_camera)
    assert (drawn.color[:, 19:23] == 255).all() and (drawn.depth[:, 19:23] == 5).all()


def test_an_open_grid_keeps_seen_faces_and_their_numbers() -> None:
    depth = card_before_wall()[0].astype(np.float32)
    case = case_of(depth[None], textured(1), moved(1))
    grid = ray_grid(WIDTH, HEIGHT, case.intrinsics, 12.5)
    seen = seen_faces(depth)
    opened = open_grid(grid, seen)
    assert opened.topology.grid_faces == grid.topology.grid_faces
    a, b, c = opened.topology.faces.T
    whole = (a != b) & (b != c)
    flags = seen.reshape(-1) > 0
    assert (whole[: len(flags)] == flags).all() and not whole[len(flags) :].any()


def test_an_unknown_kind_is_refused() -> None:
    with pytest.raises(Ex4dError, match="no conditioning 'cubes'"):
        conditioning(case_of(card_before_wall(), textured(FRAMES), moved(FRAMES)), "cubes")


@pytest.mark.parametrize("row", CLASSICAL)
def test_every_row_keeps_what_is_known_and_but_one_fills_the_rest(row: str) -> None:
    case = case_of(card_before_wall(), textured(FRAMES), moved(FRAMES, x=1.0))
    known = conditioning(case, "mesh")
    filled = CLASSICAL[row](case, known)
    seen = ~known.holes
    assert (filled[seen] == known.color[seen]).all()
    black = (filled[known.holes] == 0).all()
    assert black == (row == "black holes")


def test_a_hole_without_any_surroundings_stays_black() -> None:
    case = case_of(card_before_wall(), textured(FRAMES), moved(FRAMES))
    nothing = np.zeros((FRAMES, HEIGHT, WIDTH), np.uint8)
    known = FillConditioning(np.zeros_like(case.source), nothing, np.zeros(nothing.shape, np.float32))
    for fill in CLASSICAL.values():
        assert not fill(case, known).any()


def test_the_nearest_pixel_is_the_nearest() -> None:
    case = case_of(card_before_wall(), textured(FRAMES), moved(FRAMES))
    mask = np.zeros((FRAMES, HEIGHT, WIDTH), np.uint8)
    mask[:, :, 0], mask[:, :, -1] = 255, 255
    known = FillConditioning(np.where(mask[..., None] > 0, case.source, 0), mask, case.depth)
    filled = CLASSICAL["nearest pixel"](case, known)
    assert (filled[:, :, : WIDTH // 2 - 1] == case.source[:, :, :1]).all()
    assert (filled[:, :, WIDTH // 2 + 1 :] == case.source[:, :, -1:]).all()


def test_restoring_takes_the_fill_in_holes_only() -> None:
    case = case_of(card_before_wall(), textured(FRAMES), moved(FRAMES, x=1.0))
    known = conditioning(case, "mesh")
    result = restored(np.full_like(case.source, 9), known)
    assert (result[known.holes] == 9).all() and (result[~known.holes] == known.color[~known.holes]).all()
