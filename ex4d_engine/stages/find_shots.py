# SPDX-License-Identifier: GPL-3.0-or-later
"""Which shots a clip is edited from, before anything is made of it."""

from __future__ import annotations

from dataclasses import dataclass

from ..progress import Reporter
from ..source_cameras.cuts import CutFinder, shot_ranges
from ..video import read_frames


@dataclass(frozen=True)
class ClipShots:
    """shots: (first, last) of every shot in the clip's own frame numbers; one for a clip without a cut.

    dissolves: (first, last) of the frames between two shots that are of neither.
    """

    shots: list[tuple[int, int]]
    dissolves: list[tuple[int, int]]


def find_shots(source: str, reporter: Reporter, *, first_number: int | None = None) -> ClipShots:
    """The shots that a clip is edited from.

    Args:
        source, first_number: as in `ReconstructSettings`.

    Raises:
        Ex4dError: for a clip that cannot be read, as `reconstruct` does.
    """
    reader = read_frames(source, reporter=reporter, first_number=1 if first_number is None else first_number)
    finder, number, total = CutFinder(float(reader.info.fps)), reader.info.first_number, reader.info.frame_count or 1
    for done, frame in enumerate(reader, 1):
        number = frame.number
        finder.add(number, frame.image)
        reporter.progress("find cuts", done, max(done, total))
    dissolves = [(found.first, found.last) for found in finder.dissolves()]
    return ClipShots(shot_ranges(range(reader.info.first_number, number + 1), finder.cuts(), dissolves), dissolves)
