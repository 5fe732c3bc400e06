# SPDX-License-Identifier: GPL-3.0-or-later
"""Movies read frame by frame with PyAV: what is in one, and its frames upright, square, 8-bit sRGB, at a constant rate.

A movie is opened twice: `scan_movie` decodes one frame and walks through all packets without decoding, because the
frame count, the rate and the length in a container's header are often wrong; `read_movie` decodes.
"""

from __future__ import annotations

import re
from array import array
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any, Final

import av
import av.container
import numpy as np

from .conform import find_rate, hold_frames, tick, ticks
from .errors import Ex4dError
from .movie_picture import PictureLayout, convert, layout_of, picture_notes
from .plate import PlateFrame, PlateInfo
from .progress import Reporter

ASSUMED_RATE: Final = Fraction(24)
# A clip that would become this many times as long has broken time stamps: its frames are counted instead.
MAX_STRETCH: Final = 100
# Decoding from the start is always right; seeking pays where more frames than this lie before the first one wanted.
# Frames are stored out of order by up to 16, so the search for a key frame starts that much earlier.
SEEK_FROM: Final = 100
REORDER: Final = 16

_CLOCK: Final = re.compile(r"(\d+):(\d+):(\d+(?:\.\d+)?)")  # Matroska's length of a stream, 00:00:01.600000000
# FFmpeg's own VP8 and VP9 decoders leave the alpha plane out; libvpx gives it.
_ALPHA_DECODERS: Final = {"vp8": "libvpx", "vp9": "libvpx-vp9"}


@dataclass(frozen=True)
class Movie:
    """What `read_movie` needs to know besides `info`.

    start: time stamp of the first frame in units of `time_base`, or None where frames carry none and are counted.
    """

    info: PlateInfo
    start: int | None
    time_base: Fraction
    layout: PictureLayout


def scan_movie(path: Path, first_number: int = 1) -> Movie:
    """Everything about a movie but its pictures. Reads the file through once, decodes its first frame.

    Raises:
        Ex4dError: `no_such_file`; `unreadable_video` for what is no movie or has no readable frame;
            `no_video_stream` for sound alone; `no_frames`.
    """
    with _opened(path) as (container, stream):
        decoder = _decoder(stream)
        times, stored, packets, first, whole, key, end = array("q"), 0, 0, None, True, None, 0
        for packet in _packets(container, stream):
            whole = packet is not None
            if packet is not None and packet.size:
                stored += 1
                # Pictures shown before the first key frame, in a recording cut out of a stream, lack a reference.
                key = packet.pts if key is None and packet.is_keyframe else key
            if packet is not None and packet.size and not packet.is_discard:  # an edit list discards trimmed frames
                packets += 1
                if packet.pts is not None:
                    times.append(packet.pts)
                    end = max(end, packet.pts + (packet.duration or 0))
            if first is None:
                frames = _decode(decoder, packet) or []
                first = next((frame for frame in frames if None in (key, frame.pts) or frame.pts >= key), None)
        if packets == 0:
            raise Ex4dError("no_frames", f"{path} holds no frames.", "Export the clip again.")
        if first is None:
            raise Ex4dError("unreadable_video", f"No frame of {path} can be decoded.", "Export the clip again.")
        timing = _timing(stream, times, packets, first.pts)
        layout = layout_of(stream, first)
        notes = [*picture_notes(stream, first, layout), *timing.notes]
        missing = _stated_seconds(container, stream) - float(end * timing.time_base) if len(times) else 0.0
        # MP4 and MOV count frames that an edit list trims; their index, read with the header, does not hold those.
        stated = len(stream.index_entries) if "mov" in container.format.name else stream.frames
        if not whole or stored < stated or missing > 2.5 / timing.fps:
            of = f" of {stated}" if stated > stored else ""
            notes.append(f"The file is damaged or cut off: it holds {stored}{of} frames.")
        info = PlateInfo(
            path=path,
            kind="movie",
            width=layout.displayed[0],
            height=layout.displayed[1],
            fps=timing.fps,
            frame_count=timing.frame_count,
            first_number=first_number,
            has_alpha=layout.has_alpha,
            bit_depth=layout.bit_depth,
            notes=tuple(notes),
        )
        return Movie(info, timing.start, timing.time_base, layout)


@dataclass(frozen=True)
class _Timing:
    """`start` and `time_base` as in `Movie`; rate and number of frames once the rate is constant."""

    start: int | None
    time_base: Fraction
    fps: Fraction
    frame_count: int
    notes: tuple[str, ...]


def _timing(stream: Any, times: array[int], packets: int, start: int | None) -> _Timing:
    """Rate and count from the packets' time stamps, where every packet has one and they make sense."""
    time_base = stream.time_base or 1 / ASSUMED_RATE
    guesses = [stream.guessed_rate, stream.average_rate, stream.base_rate]
    if start is not None and len(times) == packets:
        shown = np.sort(np.frombuffer(times, np.int64))
        shown = shown[shown >= start]
        fps, constant = find_rate(shown, time_base, guesses)
        if fps is not None and len(shown):
            count = int(ticks(shown, time_base, fps)[-1]) + 1
            said = f"The frame rate varies: {len(shown)} frames become {count} at {fps} a second by their times."
            if count <= MAX_STRETCH * packets:
                return _Timing(start, time_base, fps, count, () if constant else (said,))
    fps, _ = find_rate(np.zeros(0, np.int64), time_base, guesses)
    why = "no time stamps" if len(times) < packets else "no usable time stamps"
    rate = f"{fps} a second" if fps else f"{ASSUMED_RATE} a second are assumed"
    return _Timing(
        None, time_base, fps or ASSUMED_RATE, packets, (f"The clip carries {why}: its frames are counted, {rate}.",)
    )


def read_movie(
    movie: Movie, first: int, last: int | None, stride: int, reporter: Reporter, notes: list[str]
) -> Iterator[PlateFrame]:
    """Frames `first`, `first + stride`, ... up to `last` (None: the end), by number; memory of a few frames.

    What turns out damaged while decoding is left out, its place filled with the frame before, and said in `notes`.
    """
    offset = movie.info.first_number
    lost = _Losses()
    given = None
    shown: tuple[Any, np.ndarray, np.ndarray | None] | None = None
    for index, frame in hold_frames(_ticked_frames(movie, first - offset, lost)):
        reporter.check()
        number = index + offset
        if last is not None and number > last:
            break
        given = number
        if number < first or (number - first) % stride:
            continue
        if shown is None or shown[0] is not frame:  # a repeated frame is converted once
            shown = frame, *convert(frame, movie.layout)
        yield PlateFrame(number, shown[1], shown[2])
    else:
        expected = offset + (movie.info.frame_count or 0) - 1
        if given is not None and given < expected:
            notes.append(f"The clip ends early: frame {given} is the last that can be decoded, of {expected}.")
    notes.extend(lost.sentences())


@dataclass
class _Losses:
    undecodable: int = 0
    damaged: int = 0

    def sentences(self) -> list[str]:
        said = []
        if self.undecodable:
            said.append(f"{self.undecodable} frames cannot be decoded; the frame before each is shown in its place.")
        if self.damaged:
            said.append(f"{self.damaged} frames are damaged and may show blocks.")
        return said


def _ticked_frames(movie: Movie, wanted: int, lost: _Losses) -> Iterator[tuple[int, Any]]:
    """(index from 0, decoded frame) in display order, from `wanted` or any earlier one on, to the end."""
    if movie.start is not None and wanted > SEEK_FROM:
        target = movie.start + int((wanted - REORDER) / movie.info.fps / movie.time_base)
        found = None
        for index, frame in _decoded(movie, target, lost):
            if found is None and not frame.key_frame:
                continue  # pictures between a key frame's place in the file and on screen lack a reference
            if found is None and index > wanted:
                break  # the index led too far: a container without one, or a wrong one
            found = index
            yield index, frame
        if found is not None:
            return
        lost.undecodable = lost.damaged = 0
    yield from _decoded(movie, None, lost)


def _decoded(movie: Movie, target: int | None, lost: _Losses) -> Iterator[tuple[int, Any]]:
    """Every frame that can be decoded, from the key frame at or before the time stamp `target`, with its index."""
    with _opened(movie.info.path) as (container, stream):
        if target is not None:
            try:
                container.seek(target, stream=stream, backward=True)
            except (av.FFmpegError, OSError):
                return  # no frames: the caller then reads from the start
        decoder = _decoder(stream)
        counted = 0
        for packet in _packets(container, stream):
            frames = _decode(decoder, packet)
            lost.undecodable += packet is None or frames is None
            for frame in frames or []:
                lost.damaged += frame.is_corrupt
                if movie.start is None:
                    yield counted, frame
                    counted += 1
                elif frame.pts is not None and frame.pts >= movie.start:
                    yield tick(frame.pts, movie.start, movie.time_base, movie.info.fps), frame


@contextmanager
def _opened(path: Path) -> Iterator[tuple[av.container.InputContainer, Any]]:
    """The container and its picture stream (the largest one that is not a cover picture)."""
    if not path.is_file():
        raise Ex4dError("no_such_file", f"There is no file {path}.", "Check the path.")
    try:
        container = av.open(str(path), "r", metadata_errors="replace")
    except av.EOFError as error:
        raise Ex4dError("no_frames", f"{path} ends before its first frame.", "Export the clip again.") from error
    except (av.FFmpegError, OSError) as error:
        raise Ex4dError(
            "unreadable_video", f"{path} is not a movie, or it is cut off before its index.", "Export the clip again."
        ) from error
    with container:
        cover = av.stream.Disposition.attached_pic
        streams = [stream for stream in container.streams.video if not stream.disposition & cover]
        if not streams:
            raise Ex4dError("no_video_stream", f"{path} holds no picture.", "Choose a file with video.")
        streams = [stream for stream in streams if stream.codec_context is not None]
        if not streams:
            raise Ex4dError("unreadable_video", f"The codec of {path} is not known.", "Export the clip as H.264.")
        stream = max(streams, key=lambda stream: stream.width * stream.height)
        stream.thread_type = "AUTO"
        yield container, stream


def _stated_seconds(container: av.container.InputContainer, stream: Any) -> float:
    """Where the header says that the pictures end, in seconds; 0 where it does not say."""
    if clock := _CLOCK.fullmatch(stream.metadata.get("DURATION", "")):
        return int(clock[1]) * 3600 + int(clock[2]) * 60 + float(clock[3])
    if len(container.streams) == 1 and container.duration:  # with sound it is the longer one's
        return float((container.start_time or 0) + container.duration) / av.time_base
    return 0.0


def _decoder(stream: Any) -> Any:
    """The stream's decoder, or one that gives alpha where the default one does not."""
    name = stream.codec_context.name
    tags = {key.lower(): value for key, value in stream.metadata.items()}
    if name in _ALPHA_DECODERS and tags.get("alpha_mode") == "1":
        decoder = av.CodecContext.create(_ALPHA_DECODERS[name], "r")
        decoder.extradata = stream.codec_context.extradata
        return decoder
    return stream.codec_context


def _packets(container: av.container.InputContainer, stream: Any) -> Iterator[Any]:
    """The stream's packets; at the end an empty one, which flushes the decoder, or None where reading broke off."""
    try:
        yield from container.demux(stream)
    except (av.FFmpegError, OSError):
        yield None


def _decode(decoder: Any, packet: Any) -> list[Any] | None:
    """Frames that come out when a packet goes in, or the rest for an empty one or None; None if it is undecodable."""
    try:
        return list(decoder.decode(packet if packet is not None and packet.size else None))
    except (av.FFmpegError, OSError):
        return None
