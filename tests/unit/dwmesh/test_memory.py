# SPDX-License-Identifier: GPL-3.0-or-later
"""The mesh of a large plate is made without a second one beside it."""

from __future__ import annotations

import tracemalloc

import numpy as np

from ex4d_engine.dwmesh.ray_grid import ray_grid


def test_a_grid_takes_little_more_than_what_it_keeps() -> None:
    intrinsics = np.array([[900.0, 0, 480], [0, 900.0, 270], [0, 0, 1]])
    tracemalloc.start()
    try:
        grid = ray_grid(960, 540, intrinsics, 10.0)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    kept = sum(part.nbytes for part in (grid.rays, grid.pixels, grid.pinned, grid.uv, grid.topology.faces))
    assert peak < 1.3 * kept
