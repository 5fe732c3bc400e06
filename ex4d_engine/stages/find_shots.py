# SPDX-License-Identifier: GPL-3.0-or-later
"""Which shots a clip is edited from, before anything is made of it."""

from __future__ import annotations

from ..progress import Reporter
from ..source_cameras.cuts import CutFinder, shot_ranges
from ..video import read_frames


def find_shots(source: str, reporter: Reporter, *, first_number: int | None = None) -> list[tuple[int, int]]:
    """(first, last) of every shot in the clip's own frame numbers; one for a clip without a cut.

    Args:
        source, first_number: as in `ReconstructSettings`.

    Raises:
        Ex4dError: for a clip that cannot be read, as `reconstruct` does.
    """
    reader = read_frames(source, reporter=reporter, first_number=1 if first_number is None else first_number)
    finder, number, total = CutFinder(), reader.info.first_number, reader.info.frame_count or 1
    for done, frame in enumerate(reader, 1):
        number = frame.number
        finder.add(number, frame.image)
        reporter.progress("find cuts", done, max(done, total))
    return shot_ranges(range(reader.info.first_number, number + 1), finder.cuts())
