# SPDX-License-Identifier: GPL-3.0-or-later
"""Plates in, movies out: one way to open any source, be it a movie, an image sequence or an image.

    info = probe(path)
    for frame in read_frames(path, first=1001, last=1048):
        frame.number, frame.image, frame.alpha

Frames are (H, W, 3) uint8 sRGB, upright, with square pixels, at one constant rate, and stream through: memory does
not grow with the clip. Sound is left aside.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from .errors import Ex4dError
from .image_sequence import find_sequence, probe_sequence, read_sequence
from .movie_reader import Movie, read_movie, scan_movie
from .movie_writer import MovieWriter
from .plate import PlateFrame, PlateInfo
from .progress import Reporter, Silent

__all__ = ["FrameReader", "MovieWriter", "PlateFrame", "PlateInfo", "probe", "read_frames"]


class FrameReader(Iterator[PlateFrame]):
    """Frames as they are read, and afterwards what turned out to be wrong with the clip.

    info: what `probe` says of the plate.
    notes: sentences about damage met while decoding; complete once the last frame has been given.
    """

    def __init__(self, info: PlateInfo, frames: Iterator[PlateFrame], notes: list[str], reporter: Reporter) -> None:
        self.info = info
        self.notes = notes
        self._frames = frames
        self._reporter = reporter
        self._said = 0

    def __next__(self) -> PlateFrame:
        try:
            return next(self._frames)
        finally:
            for note in self.notes[self._said :]:
                self._reporter.log(f"{self.info.path.name}: {note}")
            self._said = len(self.notes)


def probe(path: Path | str, *, first_number: int = 1) -> PlateInfo:
    """Describes a plate. A movie is read through once without decoding it, as headers are often wrong.

    Args:
        path: a movie, an image, a pattern (`name.####.exr`, `name.%04d.exr`), any one file of a sequence, or a folder
            that holds one sequence.
        first_number: the number of the first frame of a movie or single image. A sequence keeps its files' numbers.

    Raises:
        Ex4dError: `no_such_file`; `no_video_stream`; `unreadable_video`, `unreadable_image`; `no_frames`;
            `missing_frame` for a gap in a sequence; `bad_request` for a folder with several sequences.
    """
    sequence = find_sequence(Path(path), first_number)
    return probe_sequence(sequence) if sequence else scan_movie(Path(path), first_number).info


def read_frames(
    path: Path | str,
    *,
    first: int | None = None,
    last: int | None = None,
    stride: int = 1,
    reporter: Reporter | None = None,
    first_number: int = 1,
) -> FrameReader:
    """Frames `first`, `first + stride`, ... up to `last`, by source number, both ends included.

    Args:
        path, first_number: as in `probe`.
        first, last: None is the clip's own end. `last` may lie past it: the frames there are are given, and
            `reporter.log` says so.
        reporter: checked for cancelling at every frame, told about damage. Progress is left to whoever loops, for only
            they know what is done with a frame.

    Raises:
        Ex4dError: as `probe`, at once; `no_frames` if the range holds none; while reading, `unreadable_image` or
            `cancelled`.
    """
    if stride < 1:
        raise ValueError(f"stride is 1 or more, not {stride}")
    path, reporter = Path(path), reporter or Silent()
    sequence = find_sequence(path, first_number)
    source = sequence if sequence else scan_movie(path, first_number)
    info = source.info if isinstance(source, Movie) else probe_sequence(source)
    final = info.first_number + (info.frame_count or 0) - 1
    start = info.first_number if first is None else max(first, info.first_number)
    notes: list[str] = []
    if start > final or (last is not None and last < start):
        raise Ex4dError(
            "no_frames",
            f"{path} has no frames {start if first is None else first} to {final if last is None else last}: "
            f"it holds {info.first_number} to {final}.",
            "Choose a range inside the clip.",
        )
    if last is not None and last > final:
        notes.append(f"Frame {last} was asked for, but {final} is the last.")
    if isinstance(source, Movie):
        frames = read_movie(source, start, last, stride, reporter, notes)
    else:
        stop = final if last is None else min(last, final)
        frames = read_sequence(source, info, range(start, stop + 1, stride), reporter)
    return FrameReader(info, frames, notes, reporter)
