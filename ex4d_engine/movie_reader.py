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
from av.video.reformatter import ColorPrimaries, Colorspace, ColorTrc, Interpolation

from .conform import find_rate, hold_frames, tick, ticks
from .errors import Ex4dError
from .plate import PlateFrame, PlateInfo
from .progress import Reporter

ASSUMED_RATE: Final = Fraction(24)
# A clip that would become this many times as long has broken time stamps: its frames are counted instead.
MAX_STRETCH: Final = 100
# Decoding from the start is always right; seeking pays where more frames than this lie before the first one wanted.
# Frames are stored out of order by up to 16, so the search for a key frame starts that much earlier.
SEEK_FROM: Final = 100
REORDER: Final = 16

_QUALITY: Final = Interpolation.BICUBIC | Interpolation.ACCURATE_RND | Interpolation.FULL_CHR_H_INT
_UNSPECIFIED: Final = 2  # AVCOL_SPC_UNSPECIFIED
_HDR: Final = {ColorTrc.SMPTE2084: "PQ", ColorTrc.ARIB_STD_B67: "HLG", ColorTrc.LINEAR: "linear"}
_WIDE: Final = {
    ColorPrimaries.BT2020: "BT.2020",
    ColorPrimaries.SMPTE431: "DCI-P3",
    ColorPrimaries.SMPTE432: "Display P3",
}
_CLOCK: Final = re.compile(r"(\d+):(\d+):(\d+(?:\.\d+)?)")  # Matroska's length of a stream, 00:00:01.600000000
# FFmpeg's own VP8 and VP9 decoders leave the alpha plane out; libvpx gives it.
_ALPHA_DECODERS: Final = {"vp8": "libvpx", "vp9": "libvpx-vp9"}


@dataclass(frozen=True)
class Movie:
    """What `read_movie` needs to know besides `info`.

    start: time stamp of the first frame in units of `time_base`, or None where frames carry none and are counted.
    square: (width, height) with square pixels, before rotation.
    matrix: (a, b, c, d), each -1, 0 or 1, that takes stored to displayed coordinates: x' = a x + c y, y' = b x + d y.
    colorspace: matrix to decode YUV with where the stream is not tagged, else None.
    """

    info: PlateInfo
    start: int | None
    time_base: Fraction
    square: tuple[int, int]
    matrix: tuple[int, int, int, int]
    colorspace: Colorspace | None


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
        notes = [*_notes_on_picture(stream, first), *timing.notes]
        missing = _stated_seconds(container, stream) - float(end * timing.time_base) if len(times) else 0.0
        # MP4 and MOV count frames that an edit list trims; their index, read with the header, does not hold those.
        stated = len(stream.index_entries) if "mov" in container.format.name else stream.frames
        if not whole or stored < stated or missing > 2.5 / timing.fps:
            of = f" of {stated}" if stated > stored else ""
            notes.append(f"The file is damaged or cut off: it holds {stored}{of} frames.")
        matrix = _display_matrix(first)
        square = _square_size(stream, first)
        info = PlateInfo(
            path=path,
            kind="movie",
            width=square[0] if matrix[0] else square[1],
            height=square[1] if matrix[0] else square[0],
            fps=timing.fps,
            frame_count=timing.frame_count,
            first_number=first_number,
            has_alpha=_has_alpha(first),
            bit_depth=max(component.bits for component in first.format.components),
            notes=tuple(notes),
        )
        return Movie(info, timing.start, timing.time_base, square, matrix, _untagged_colorspace(first))


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
    shown: tuple[Any, PlateFrame] | None = None
    for index, frame in hold_frames(_ticked_frames(movie, first - offset, lost)):
        reporter.check()
        number = index + offset
        if last is not None and number > last:
            break
        given = number
        if number < first or (number - first) % stride:
            continue
        if shown is None or shown[0] is not frame:  # a repeated frame is converted once
            shown = frame, _convert(movie, frame)
        yield PlateFrame(number, shown[1].image, shown[1].alpha)
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


def _convert(movie: Movie, frame: Any) -> PlateFrame:
    """A decoded frame upright, square, in 8-bit RGB. The number is left 0."""
    picture = frame.reformat(
        width=movie.square[0],
        height=movie.square[1],
        format="rgba" if movie.info.has_alpha else "rgb24",
        src_colorspace=movie.colorspace,
        interpolation=_QUALITY,
    ).to_ndarray()
    a, b, c, d = movie.matrix
    if a:
        turned = picture[::d, ::a]
    else:
        turned = picture.transpose(1, 0, 2)[::b, ::c]
    alpha = np.ascontiguousarray(turned[..., 3]) if movie.info.has_alpha else None
    return PlateFrame(0, np.ascontiguousarray(turned[..., :3]), alpha)


def _display_matrix(frame: Any) -> tuple[int, int, int, int]:
    """The rotation and mirror flags of a clip, to the nearest quarter turn (ISO/IEC 14496-12, tkhd; y downwards)."""
    data = frame.side_data.get("DISPLAYMATRIX")
    if data is None:
        return 1, 0, 0, 1
    a, b, _, c, d, *_ = np.frombuffer(bytes(data), np.int32).tolist()
    if abs(a) >= abs(b):
        return (-1 if a < 0 else 1), 0, 0, (-1 if d < 0 else 1)
    return 0, (-1 if b < 0 else 1), (-1 if c < 0 else 1), 0


def _square_size(stream: Any, frame: Any) -> tuple[int, int]:
    """Width and height with square pixels: the width gives way, as in every player."""
    ratio = stream.sample_aspect_ratio
    return (max(round(frame.width * ratio), 1) if ratio else frame.width), frame.height


def _has_alpha(frame: Any) -> bool:
    return any(component.is_alpha for component in frame.format.components)


def _is_rgb(frame: Any) -> bool:
    return bool(frame.format.is_rgb) or "pal8" in frame.format.name


def _untagged_colorspace(frame: Any) -> Colorspace | None:
    """What players assume of YUV that does not say: BT.709 for high definition, BT.601 below."""
    if _is_rgb(frame) or frame.colorspace != _UNSPECIFIED:
        return None
    return Colorspace.ITU709 if frame.width >= 1280 or frame.height >= 720 else Colorspace.ITU601


def _notes_on_picture(stream: Any, frame: Any) -> list[str]:
    notes = []
    matrix = _display_matrix(frame)
    if matrix != (1, 0, 0, 1):
        notes.append("The clip is stored turned or mirrored: it is shown upright.")
    if _square_size(stream, frame)[0] != frame.width:
        notes.append(f"Pixels are {stream.sample_aspect_ratio} as wide as high: the width is resampled to square ones.")
    if frame.interlaced_frame:
        notes.append("The clip is interlaced: its fields are left as they are; deinterlace it for a good result.")
    if max(component.bits for component in frame.format.components) > 8:
        notes.append("The clip has more than 8 bits a channel: it is read as 8.")
    if frame.color_trc in _HDR:
        notes.append(f"The clip is {_HDR[frame.color_trc]} encoded and not tone mapped: convert it to Rec.709 first.")
    if frame.color_primaries in _WIDE:
        notes.append(f"The clip's primaries are {_WIDE[frame.color_primaries]}: they are taken for Rec.709.")
    if (assumed := _untagged_colorspace(frame)) is not None and "gray" not in frame.format.name:
        standard = "709" if assumed == Colorspace.ITU709 else "601"
        notes.append(f"The clip names no colour matrix: BT.{standard} is assumed.")
    if _has_alpha(frame):
        notes.append("Alpha is taken as straight.")
    return notes
