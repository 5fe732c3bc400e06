# SPDX-License-Identifier: GPL-3.0-or-later
"""Movies as plates: every kind of file is made here with PyAV, then read through the public interface."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest

from ex4d_engine.errors import Cancelled, Ex4dError
from ex4d_engine.progress import Silent
from ex4d_engine.video import probe, read_frames

NTSC_FILM = Fraction(24000, 1001)
Picture = Callable[[int], np.ndarray]


class Listener(Silent):
    """Keeps what is logged; cancels when told to."""

    def __init__(self) -> None:
        super().__init__()
        self.lines: list[str] = []

    def log(self, message: str) -> None:
        self.lines.append(message)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    path = tmp_path / "Ünï 作業 shot"
    path.mkdir()
    return path


def level(index: int) -> int:
    """The grey that marks frame `index`: neighbours, and frames of the same place in a group, differ widely."""
    return 30 + index * 37 % 200


def numbered(width: int, height: int) -> Picture:
    """Frame i is flat grey `level(i)`."""
    return lambda index: np.full((height, width, 3), level(index), np.uint8)


def indices(frames: Sequence[Any], count: int) -> list[int]:
    """Which source frame each of these shows, by its grey."""
    levels = np.array([level(index) for index in range(count)])
    found = []
    for frame in frames:
        distance = np.abs(levels - float(frame.image.mean()))
        assert distance.min() < 3, "no source frame looks like this"
        found.append(int(distance.argmin()))
    return found


def make_movie(
    path: Path,
    picture: Picture,
    *,
    frames: int = 10,
    codec: str = "libx264",
    pix_fmt: str = "yuv420p",
    rate: Fraction = NTSC_FILM,
    times_ms: Sequence[int] | None = None,
    options: dict[str, str] | None = None,
    container_options: dict[str, str] | None = None,
    source_format: str = "rgb24",
    setup: Callable[[Any], None] = lambda stream: None,
    sound: bool = False,
) -> Path:
    """A movie of `picture(0)`, `picture(1)`, ...; `times_ms` gives every frame a time of its own."""
    with av.open(str(path), "w", options=container_options or {}) as container:
        stream: Any = container.add_stream(codec, rate=rate, options=options or {})
        first = picture(0)
        stream.height, stream.width = (
            first.shape[:2] if source_format[:3] != "yuv" else (first.shape[0] // 3, first.shape[1])
        )
        stream.pix_fmt = pix_fmt
        time_base = Fraction(1, 1000) if times_ms is not None else 1 / rate
        stream.codec_context.time_base = time_base
        setup(stream)
        if sound:
            _add_sound(container)
        for index in range(frames):
            frame = av.VideoFrame.from_ndarray(picture(index), format=source_format)
            if source_format != pix_fmt:
                frame = frame.reformat(format=pix_fmt)
            frame.pts = times_ms[index] if times_ms is not None else index
            frame.time_base = time_base
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


def _add_sound(container: Any, seconds: int = 1) -> None:
    sound = container.add_stream("aac", rate=48000)
    for start in range(0, 48000 * seconds, 1024):
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
        frame.sample_rate, frame.pts, frame.time_base = 48000, start, Fraction(1, 48000)
        container.mux(sound.encode(frame))
    container.mux(sound.encode(None))


LOSSLESS = {"qp": "0", "preset": "ultrafast"}


@pytest.mark.parametrize(
    ("name", "codec", "pix_fmt"),
    [
        ("clip.mp4", "libx264", "yuv420p"),
        ("clip.mov", "prores_ks", "yuv422p10le"),
        ("clip.mkv", "ffv1", "bgr0"),
        ("clip.avi", "mjpeg", "yuvj420p"),
        ("clip.avi", "mpeg4", "yuv420p"),
        ("clip.webm", "libvpx-vp9", "yuv420p"),
        ("clip.ts", "mpeg2video", "yuv420p"),
        ("clip.mp4", "libx265", "yuv420p10le"),
        ("clip.gif", "gif", "rgb8"),
    ],
)
def test_every_frame_once_in_order_with_the_exact_rate(folder: Path, name: str, codec: str, pix_fmt: str) -> None:
    rate = {"mpeg2video": Fraction(25), "gif": Fraction(25)}.get(codec, NTSC_FILM)
    make_movie(folder / name, numbered(64, 48), codec=codec, pix_fmt=pix_fmt, rate=rate, frames=12)
    info = probe(folder / name)
    frames = list(read_frames(folder / name))
    assert (info.kind, info.width, info.height, info.fps, info.frame_count) == ("movie", 64, 48, rate, 12)
    assert [frame.number for frame in frames] == list(range(1, 13))
    assert indices(frames, 12) == list(range(12))
    assert all(frame.image.shape == (48, 64, 3) and frame.image.dtype == np.uint8 for frame in frames)
    assert not any("damaged" in note or "varies" in note for note in info.notes)


def test_odd_size(folder: Path) -> None:
    path = make_movie(folder / "odd.mkv", numbered(33, 17), codec="ffv1", pix_fmt="bgr0", frames=3)
    assert [frame.image.shape for frame in read_frames(path)] == [(17, 33, 3)] * 3


def test_one_frame(folder: Path) -> None:
    path = make_movie(folder / "one.mp4", numbered(64, 48), frames=1)
    assert probe(path).frame_count == 1
    assert probe(path).fps == NTSC_FILM
    assert indices(list(read_frames(path)), 1) == [0]


def test_sound_is_left_aside(folder: Path) -> None:
    path = make_movie(folder / "sound.mp4", numbered(64, 48), sound=True, rate=Fraction(25))
    assert probe(path).frame_count == 10
    assert indices(list(read_frames(path)), 10) == list(range(10))


@pytest.mark.parametrize("suffix", [".mp4", ".mkv"])
def test_variable_rate_is_conformed_by_time_stamps(folder: Path, suffix: str) -> None:
    # 30 a second with jitter; nothing from 133 to 300 ms; two frames 5 ms apart.
    times = [0, 34, 66, 101, 133, 300, 334, 366, 371, 400]
    path = make_movie(folder / f"phone{suffix}", numbered(64, 48), times_ms=times, rate=Fraction(30))
    info = probe(path)
    assert info.fps == 30
    assert info.frame_count == 13
    assert any("varies" in note for note in info.notes)
    frames = list(read_frames(path))
    assert [frame.number for frame in frames] == list(range(1, 14))
    assert indices(frames, 10) == [0, 1, 2, 3, 4, 4, 4, 4, 4, 5, 6, 8, 9]


def test_a_clip_without_time_stamps_is_counted(folder: Path) -> None:
    path = make_movie(folder / "raw.h264", numbered(64, 48), rate=Fraction(25), frames=12)
    info = probe(path)
    assert (info.fps, info.frame_count) == (25, 12)
    assert any("no time stamps" in note for note in info.notes)
    assert indices(list(read_frames(path)), 12) == list(range(12))
    assert indices(list(read_frames(path, first=7, last=8)), 12) == [6, 7]


def test_time_stamps_that_make_no_sense_are_not_followed(folder: Path) -> None:
    times = [0, 40, 80, 120, 160, 10**7, 10**7 + 40]
    path = make_movie(folder / "broken.mkv", numbered(64, 48), frames=7, times_ms=times, rate=Fraction(25))
    assert probe(path).frame_count == 7
    assert any("no usable time stamps" in note for note in probe(path).notes)
    assert indices(list(read_frames(path)), 7) == list(range(7))


@pytest.mark.parametrize("degrees", [0, 90, 180, 270])
def test_rotation_flag(folder: Path, degrees: int) -> None:
    stored = np.zeros((32, 48, 3), np.uint8)
    stored[:16, :24], stored[:16, 24:], stored[16:, :24] = (200, 40, 40), (40, 200, 40), (40, 40, 200)
    path = make_movie(
        folder / "turned.mp4",
        lambda index: stored,
        frames=3,
        options=LOSSLESS,
        pix_fmt="yuv444p",
        setup=lambda stream: stream.set_display_rotation(degrees),
    )
    shown = np.rot90(stored, degrees // 90)  # FFmpeg counts the turn that displays the picture counter-clockwise
    info = probe(path)
    assert (info.height, info.width) == shown.shape[:2]
    for frame in read_frames(path):
        assert np.abs(frame.image.astype(int) - shown).max() <= 4


def test_mirror_flag(folder: Path) -> None:
    stored = np.zeros((32, 48, 3), np.uint8)
    stored[:, :24] = 200
    path = make_movie(
        folder / "selfie.mp4",
        lambda index: stored,
        frames=2,
        options=LOSSLESS,
        setup=lambda stream: stream.set_display_rotation(0, hflip=True),
    )
    frame = next(read_frames(path))
    assert frame.image[:, :20].max() < 10
    assert frame.image[:, 28:].min() > 190


def _yuv(rgb: np.ndarray, red: float, blue: float, *, full: bool, bits: int) -> np.ndarray:
    """R'G'B' in [0, 1] to integer Y'CbCr, from the definitions in BT.601, BT.709 and BT.2020."""
    luma = red * rgb[0] + (1 - red - blue) * rgb[1] + blue * rgb[2]
    chroma = (rgb[2] - luma) / (2 - 2 * blue), (rgb[0] - luma) / (2 - 2 * red)
    if full:
        peak = 2**bits - 1
        codes = [peak * luma, *(peak * value + 2 ** (bits - 1) for value in chroma)]
    else:
        scale = 2 ** (bits - 8)
        codes = [(16 + 219 * luma) * scale, *((128 + 224 * value) * scale for value in chroma)]
    return np.rint(codes)


BT601, BT709, BT2020 = (0.299, 0.114), (0.2126, 0.0722), (0.2627, 0.0593)


@pytest.mark.parametrize(
    ("weights", "tag", "full", "bits", "height"),
    [
        (BT709, 1, False, 8, 48),
        (BT709, 1, True, 8, 48),
        (BT601, 6, False, 8, 48),
        (BT601, 5, True, 8, 48),
        (BT709, 1, False, 10, 48),
        (BT2020, 9, False, 10, 48),
        (BT601, None, False, 8, 48),
        (BT709, None, False, 8, 720),
    ],
)
def test_colour_matrix_and_range(
    folder: Path, weights: tuple[float, float], tag: int | None, full: bool, bits: int, height: int
) -> None:
    colours = np.array([(200, 60, 40), (30, 180, 90), (40, 70, 220), (255, 255, 255), (0, 0, 0), (128, 128, 128)])
    pix_fmt = "yuv444p" if bits == 8 else "yuv444p10le"

    def planes(index: int) -> np.ndarray:
        codes = _yuv(colours[index] / 255, *weights, full=full, bits=bits)
        return (
            np.broadcast_to(codes[:, None, None], (3, height, 64)).astype(np.uint8 if bits == 8 else np.uint16).copy()
        )

    def tagged(stream: Any) -> None:
        stream.height, stream.width = height, 64
        if tag is not None:
            stream.codec_context.colorspace = tag
        if tag is not None or full:
            stream.codec_context.color_range = 2 if full else 1

    path = folder / "colour.mkv"
    with av.open(str(path), "w") as container:
        stream: Any = container.add_stream("ffv1", rate=24)
        stream.pix_fmt = pix_fmt
        tagged(stream)
        for index in range(len(colours)):
            frame = av.VideoFrame(64, height, pix_fmt)
            for plane, values in zip(frame.planes, planes(index), strict=True):
                padded = np.zeros((height, plane.line_size // values.itemsize), values.dtype)
                padded[:, :64] = values
                plane.update(padded.tobytes())
            frame.colorspace = tag if tag is not None else 2
            frame.color_range = 2 if full else 1
            frame.pts = index
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))

    info = probe(path)
    assert info.bit_depth == bits
    assert any("matrix" in note for note in info.notes) == (tag is None)
    read = np.array([frame.image.reshape(-1, 3).astype(int) for frame in read_frames(path)])
    assert np.abs(read - colours[:, None]).max() <= 2


def test_hdr_is_noted_and_not_tone_mapped(folder: Path) -> None:
    def hdr(stream: Any) -> None:
        stream.codec_context.color_trc, stream.codec_context.color_primaries = 16, 9
        stream.codec_context.colorspace, stream.codec_context.color_range = 9, 1

    path = make_movie(folder / "hdr.mkv", numbered(64, 48), frames=2, codec="ffv1", pix_fmt="yuv420p10le", setup=hdr)
    notes = " ".join(probe(path).notes)
    assert "PQ" in notes
    assert "BT.2020" in notes
    assert len(list(read_frames(path))) == 2


@pytest.mark.parametrize(
    ("name", "codec", "pix_fmt", "tolerance"),
    [
        ("alpha.mov", "qtrle", "argb", 0),
        ("alpha.mov", "png", "rgba", 0),
        ("alpha.mov", "prores_ks", "yuva444p10le", 6),
        ("alpha.webm", "libvpx-vp9", "yuva420p", 6),
    ],
)
def test_alpha_comes_apart_and_colour_stays_straight(
    folder: Path, name: str, codec: str, pix_fmt: str, tolerance: int
) -> None:
    picture = np.zeros((48, 64, 4), np.uint8)
    picture[..., :3] = (180, 120, 60)
    picture[:, :32, 3], picture[:, 32:, 3] = 64, 255
    profile = {"profile": "4444"} if codec == "prores_ks" else {}
    path = make_movie(
        folder / name,
        lambda index: picture,
        frames=3,
        codec=codec,
        pix_fmt=pix_fmt,
        options=profile,
        source_format="rgba",
        setup=lambda stream: stream.metadata.update({"alpha_mode": "1"}),
    )
    assert probe(path).has_alpha
    for frame in read_frames(path):
        assert frame.alpha is not None
        assert frame.alpha.shape == (48, 64)
        assert np.abs(frame.alpha.astype(int) - picture[..., 3]).max() <= tolerance
        assert np.abs(frame.image.astype(int) - picture[..., :3]).max() <= max(tolerance, 1)


def test_no_alpha_is_none(folder: Path) -> None:
    path = make_movie(folder / "opaque.mp4", numbered(64, 48), frames=1)
    assert not probe(path).has_alpha
    assert next(read_frames(path)).alpha is None


def test_pixels_that_are_not_square_are_resampled(folder: Path) -> None:
    def anamorphic(stream: Any) -> None:
        stream.codec_context.sample_aspect_ratio = Fraction(2, 1)

    path = make_movie(folder / "scope.mp4", numbered(64, 48), frames=2, setup=anamorphic)
    info = probe(path)
    assert (info.width, info.height) == (128, 48)
    assert any("2" in note and "wide" in note for note in info.notes)
    assert next(read_frames(path)).image.shape == (48, 128, 3)


def test_interlaced_is_noted(folder: Path) -> None:
    path = make_movie(
        folder / "tv.mp4", numbered(64, 64), frames=4, options={"x264-params": "tff=1", "flags": "+ildct"}
    )
    assert any("interlaced" in note for note in probe(path).notes)


def test_range_and_stride_by_source_number(folder: Path) -> None:
    path = make_movie(folder / "clip.mp4", numbered(64, 48), frames=20)
    frames = list(read_frames(path, first=4, last=15, stride=5))
    assert [frame.number for frame in frames] == [4, 9, 14]
    assert indices(frames, 20) == [3, 8, 13]
    shifted = list(read_frames(path, first=1004, last=1005, first_number=1001))
    assert [frame.number for frame in shifted] == [1004, 1005]
    assert indices(shifted, 20) == [3, 4]
    assert probe(path, first_number=1001).first_number == 1001


def test_a_range_past_the_end_is_cut_and_said(folder: Path) -> None:
    path = make_movie(folder / "clip.mp4", numbered(64, 48), frames=5)
    listener = Listener()
    assert len(list(read_frames(path, first=4, last=99, reporter=listener))) == 2
    assert any("99" in line for line in listener.lines)
    with pytest.raises(Ex4dError) as caught:
        read_frames(path, first=6)
    assert caught.value.code == "no_frames"


@pytest.mark.parametrize(
    ("name", "codec", "options"),
    [
        ("long.mp4", "libx264", {"preset": "ultrafast", "bf": "3", "g": "50"}),
        ("open.mp4", "libx264", {"preset": "fast", "bf": "3", "g": "40", "x264-params": "open-gop=1:keyint=40"}),
        ("long.mkv", "libx264", {"preset": "ultrafast", "bf": "3", "g": "250"}),
        ("long.avi", "mpeg4", {"g": "30"}),
        ("long.ts", "mpeg2video", {"g": "12", "bf": "2"}),
    ],
)
def test_seeking_gives_the_frames_that_reading_through_gives(
    folder: Path, name: str, codec: str, options: dict[str, str]
) -> None:
    path = make_movie(folder / name, numbered(32, 32), frames=270, codec=codec, options=options, rate=Fraction(25))
    through = {frame.number: frame.image for frame in read_frames(path)}
    assert len(through) == 270
    for first in (118, 161, 202, 266):
        sought = list(read_frames(path, first=first, last=first + 4))
        assert [frame.number for frame in sought] == list(range(first, first + 5))
        assert all(np.array_equal(frame.image, through[frame.number]) for frame in sought)


def test_seeking_in_a_clip_of_variable_rate(folder: Path) -> None:
    times = np.cumsum([0] + [33, 34, 33, 120] * 40).tolist()
    path = make_movie(folder / "vfr.mp4", numbered(32, 32), frames=len(times), times_ms=times, options={"g": "20"})
    through = list(read_frames(path))
    sought = list(read_frames(path, first=190, last=200))
    assert indices(sought, len(times)) == indices(through[189:200], len(times))


def _code(path: Path) -> str:
    with pytest.raises(Ex4dError) as caught:
        probe(path)
    assert caught.value.message
    assert caught.value.hint
    with pytest.raises(Ex4dError) as again:
        read_frames(path)
    assert again.value.code == caught.value.code
    return caught.value.code


def test_missing_file(folder: Path) -> None:
    assert _code(folder / "none.mp4") == "no_such_file"


def test_a_recording_cut_out_of_a_stream_starts_at_its_first_key_frame(folder: Path) -> None:
    options = {"preset": "fast", "bf": "3", "x264-params": "open-gop=1:keyint=15"}
    path = make_movie(folder / "cut.ts", _noise, frames=60, rate=Fraction(25), options=options)
    whole = [frame.image for frame in read_frames(path)]
    content = path.read_bytes()
    path.write_bytes(content[len(content) * 4 // 10 // 188 * 188 :])  # a transport stream is made of 188 bytes each
    info = probe(path)
    frames = list(read_frames(path))
    assert 15 < len(frames) < 45
    assert all(np.array_equal(frame.image, image) for frame, image in zip(frames, whole[-len(frames) :], strict=True))
    assert info.frame_count == len(frames)
    assert [frame.number for frame in frames] == list(range(1, len(frames) + 1))


def test_a_start_trimmed_by_an_edit_list_stays_away(folder: Path) -> None:
    path = make_movie(
        folder / "trimmed.mp4",
        numbered(64, 48),
        frames=30,
        times_ms=[40 * index - 400 for index in range(30)],
        rate=Fraction(25),
        container_options={"avoid_negative_ts": "disabled"},
    )
    info = probe(path)
    assert (info.frame_count, info.fps) == (20, 25)
    assert not any("cut off" in note for note in info.notes)
    assert indices(list(read_frames(path)), 30) == list(range(10, 30))


def test_a_cover_picture_is_no_video(folder: Path) -> None:
    path = folder / "song.m4a"
    with av.open(str(path), "w", format="mp4") as container:
        cover: Any = container.add_stream("mjpeg", rate=1)
        cover.width, cover.height, cover.pix_fmt = 64, 48, "yuvj420p"
        cover.disposition = av.stream.Disposition.attached_pic
        picture = av.VideoFrame.from_ndarray(numbered(64, 48)(0), format="rgb24").reformat(format="yuvj420p")
        packets = cover.encode(picture) + cover.encode(None)
        _add_sound(container)
        container.mux(packets)
    assert _code(path) == "no_video_stream"


def test_text_named_mp4(folder: Path) -> None:
    path = folder / "text.mp4"
    path.write_text("This is no movie.\n" * 100, encoding="utf-8")
    assert _code(path) == "unreadable_video"


def test_empty_file(folder: Path) -> None:
    path = folder / "empty.mp4"
    path.write_bytes(b"")
    assert _code(path) == "unreadable_video"


def test_unknown_codec(folder: Path) -> None:
    path = make_movie(folder / "clip.mp4", numbered(64, 48))
    path.write_bytes(path.read_bytes().replace(b"avc1", b"zzzz"))
    assert _code(path) == "unreadable_video"


def test_sound_only(folder: Path) -> None:
    path = folder / "sound.m4a"
    with av.open(str(path), "w", format="mp4") as container:
        _add_sound(container)
    assert _code(path) == "no_video_stream"


@pytest.mark.parametrize("suffix", [".mkv", ".avi"])
def test_zero_frames(folder: Path, suffix: str) -> None:
    path = folder / f"none{suffix}"
    with av.open(str(path), "w") as container:
        stream: Any = container.add_stream("mjpeg", rate=24)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuvj420p"
        container.start_encoding()
    assert _code(path) == "no_frames"


def test_movie_cut_off_before_its_index(folder: Path) -> None:
    path = make_movie(folder / "clip.mp4", numbered(64, 48))
    content = path.read_bytes()
    path.write_bytes(content[: content.index(b"moov") - 4])
    assert _code(path) == "unreadable_video"


def _noise(index: int) -> np.ndarray:
    return np.random.default_rng(index).integers(0, 256, (48, 64, 3), dtype=np.uint8)


@pytest.mark.parametrize(
    ("name", "options"), [("cut.mp4", {"movflags": "+faststart"}), ("cut.mkv", {}), ("cut.avi", {})]
)
def test_what_is_left_of_a_cut_off_movie_is_kept(folder: Path, name: str, options: dict[str, str]) -> None:
    path = make_movie(
        folder / name,
        _noise,
        frames=40,
        codec="mjpeg",
        pix_fmt="yuvj420p",
        container_options=options,
        rate=Fraction(25),
    )
    whole = [frame.image for frame in read_frames(path)]
    content = path.read_bytes()
    path.write_bytes(content[: len(content) * 6 // 10])
    listener = Listener()
    reader = read_frames(path, reporter=listener)
    frames = list(reader)
    assert 15 <= len(frames) <= 26
    assert all(np.array_equal(frame.image, whole[frame.number - 1]) for frame in frames[:-1])
    said = [*reader.info.notes, *reader.notes]
    assert any("damaged" in note or "cut off" in note or "cannot be decoded" in note for note in said)
    assert listener.lines == [f"{name}: {note}" for note in reader.notes]


def test_a_destroyed_frame_is_replaced_by_the_one_before_and_said(folder: Path) -> None:
    path = make_movie(folder / "clip.mov", _noise, frames=9, codec="png", pix_fmt="rgb24", rate=Fraction(25))
    content = bytearray(path.read_bytes())
    place = -1
    for _ in range(5):
        place = content.index(b"\x89PNG", place + 1)
    content[place : place + 40] = bytes(40)
    path.write_bytes(content)
    listener = Listener()
    reader = read_frames(path, reporter=listener)
    shown = [int(np.argmin([np.abs(frame.image - _noise(i).astype(int)).sum() for i in range(9)])) for frame in reader]
    assert shown == [0, 1, 2, 3, 3, 5, 6, 7, 8]
    assert any("1 frames cannot be decoded" in note for note in reader.notes)
    assert listener.lines


def test_cancel_stops_between_frames(folder: Path) -> None:
    path = make_movie(folder / "clip.mp4", numbered(64, 48))
    listener = Listener()
    reader = read_frames(path, reporter=listener)
    next(reader)
    listener.cancelled.set()
    with pytest.raises(Cancelled):
        next(reader)


MEASURE = """
import resource, sys
from ex4d_engine.video import read_frames
print(sum(1 for _ in read_frames(sys.argv[1])), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""


def test_memory_does_not_grow_with_the_clip(folder: Path) -> None:
    pytest.importorskip("resource", reason="peak memory is measured the Unix way")
    peaks = []
    for frames in (50, 400):
        path = make_movie(
            folder / f"{frames}.mp4", numbered(320, 180), frames=frames, options={"preset": "ultrafast", "g": "24"}
        )
        done = subprocess.run(
            [sys.executable, "-c", MEASURE, str(path)],
            capture_output=True,
            text=True,
            check=True,
            cwd=Path(__file__).parents[2],
        )
        count, peak = done.stdout.split()
        assert int(count) == frames
        peaks.append(int(peak) / (1024 if sys.platform == "linux" else 2**20))
    kept_frames_mb = 350 * 320 * 180 * 3 / 2**20
    assert peaks[1] - peaks[0] < kept_frames_mb / 4
