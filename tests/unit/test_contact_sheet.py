# SPDX-License-Identifier: GPL-3.0-or-later
"""The contact sheet: every shape and length of take fits on one picture."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from ex4d_engine.contact_sheet import BACKGROUND, CELL_PX, COLUMNS, GAP_PX, HEADER_PX, LABEL_PX, write_contact_sheet
from ex4d_engine.errors import Ex4dError
from ex4d_engine.image_files import read_png
from ex4d_engine.progress import Silent
from ex4d_engine.stages import generate, reconstruct, render
from tests.tiny_shot import orbit_take, settings


@pytest.mark.parametrize(("count", "size"), [(1, (64, 48)), (9, (64, 48)), (3, (30, 90)), (2, (200, 7))])
def test_a_row_a_layer_and_a_column_a_moment(tmp_path: Path, count: int, size: tuple[int, int]) -> None:
    shot = reconstruct(settings(tmp_path), tmp_path / "shot", Silent())
    take = generate(shot, render(shot, orbit_take(shot, 8.0, count, size=size), Silent()), "preview", Silent())
    path = tmp_path / "Ünï 作業.png"
    write_contact_sheet(shot, take, path)
    sheet = read_png(path)
    columns = min(count, COLUMNS)
    scale = CELL_PX / max(size)
    cell = (max(1, round(size[0] * scale)), max(1, round(size[1] * scale)))
    assert sheet.shape == (HEADER_PX + 4 * (cell[1] + GAP_PX), LABEL_PX + columns * (cell[0] + GAP_PX), 3)
    # the mask's first cell is white in the middle: the first frame sees the plate
    middle = HEADER_PX + 2 * (cell[1] + GAP_PX) + cell[1] // 2
    assert (sheet[middle, LABEL_PX + cell[0] // 2] == 255).all()
    assert (sheet[: HEADER_PX - 2, LABEL_PX:].astype(int) > 150).any()  # titles
    assert (sheet[HEADER_PX:, :LABEL_PX].astype(int) > 150).any()  # labels
    assert (np.array(BACKGROUND) == sheet[-1, -1]).all()


def test_an_unfinished_take_is_refused(tmp_path: Path) -> None:
    shot = reconstruct(settings(tmp_path), tmp_path / "shot", Silent())
    take = render(shot, orbit_take(shot), Silent())
    with pytest.raises(Ex4dError, match="composite"):
        write_contact_sheet(shot, take, tmp_path / "sheet.png")
    assert not (tmp_path / "sheet.png").exists()
