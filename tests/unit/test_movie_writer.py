# SPDX-License-Identifier: GPL-3.0-or-later
"""Movies written and read back: rate, size, colour, and nothing half-written."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest

from ex4d_engine.errors import Ex4dError
from ex4d_engine.video import MovieWriter, probe, read_frames


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    path = tmp_path / "Ünï 作業 shot"
    path.mkdir()
    return path


def _noise(index: int, width: int, height: int) -> np.ndarray:
    return np.random.default_rng(index).integers(0, 256, (height, width, 3), dtype=np.uint8)


def _patches(width: int, height: int) -> np.ndarray:
    """Squares of 32 pixels, each of one colour, saturated ones and black and white among them."""
    colours = np.random.default_rng(5).integers(0, 256, (-(-height // 32), -(-width // 32), 3), dtype=np.uint8)
    colours[0, :6] = [(255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 255), (0, 0, 0), (118, 118, 118)]
    return np.repeat(np.repeat(colours, 32, axis=0), 32, axis=1)[:height, :width]


@pytest.mark.parametrize(
    "rate", [Fraction(24000, 1001), Fraction(30000, 1001), Fraction(25), Fraction(25, 2), Fraction(120)]
)
@pytest.mark.parametrize(("codec", "suffix"), [("h264", ".mp4"), ("h264", ".mkv"), ("h264", ".mov"), ("ffv1", ".mkv")])
def test_the_rate_is_kept_as_a_fraction(folder: Path, rate: Fraction, codec: str, suffix: str) -> None:
    path = folder / f"result{suffix}"
    with MovieWriter(path, rate, 32, 32, codec=codec) as movie:  # type: ignore[arg-type]
        for index in range(7):
            movie.write(_noise(index, 32, 32))
    info = probe(path)
    assert (info.fps, info.frame_count, info.notes) == (rate, 7, ())


@pytest.mark.parametrize(("width", "height"), [(64, 48), (33, 17), (64, 17), (1, 1)])
def test_ffv1_is_lossless(folder: Path, width: int, height: int) -> None:
    path = folder / "result.mkv"
    with MovieWriter(path, Fraction(24), width, height, codec="ffv1") as movie:
        for index in range(5):
            movie.write(_noise(index, width, height))
    frames = list(read_frames(path))
    assert len(frames) == 5
    for index, frame in enumerate(frames):
        assert np.array_equal(frame.image, _noise(index, width, height))


@pytest.mark.parametrize(("width", "height", "pix_fmt"), [(320, 192, "yuv420p"), (321, 193, "yuv444p")])
def test_h264_keeps_size_and_colour_and_says_which_colour(folder: Path, width: int, height: int, pix_fmt: str) -> None:
    path, image = folder / "result.mp4", _patches(width, height)
    with MovieWriter(path, Fraction(24), width, height) as movie:
        for _ in range(6):
            movie.write(image)
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        assert stream.pix_fmt == pix_fmt
        assert (stream.colorspace, stream.color_primaries, stream.color_trc, stream.color_range) == (1, 1, 1, 1)
    inside = np.zeros((height, width), bool)  # halved chroma mixes the colours of neighbouring patches
    inside[np.ix_(np.arange(height) % 32 // 8 % 3 > 0, np.arange(width) % 32 // 8 % 3 > 0)] = True
    for frame in read_frames(path):
        assert frame.image.shape == image.shape
        difference = frame.image.astype(int) - image
        assert np.abs(difference[inside]).max() <= 3
        assert np.abs(difference[inside].mean(axis=0)).max() < 0.5


def test_nothing_is_left_of_a_movie_that_failed(folder: Path) -> None:
    path = folder / "result.mp4"
    path.write_bytes(b"the earlier result")

    def fail() -> None:
        with MovieWriter(path, Fraction(24), 32, 32) as movie:
            for index in range(30):
                movie.write(_noise(index, 32, 32))
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fail()
    assert [file.name for file in folder.iterdir()] == ["result.mp4"]
    assert path.read_bytes() == b"the earlier result"


def test_no_frame_is_an_error_and_no_file(folder: Path) -> None:
    with pytest.raises(Ex4dError) as caught, MovieWriter(folder / "result.mp4", Fraction(24), 32, 32):
        pass
    assert caught.value.code == "no_frames"
    assert not list(folder.iterdir())


def test_a_folder_that_is_not_there(folder: Path) -> None:
    with pytest.raises(Ex4dError), MovieWriter(folder / "none" / "result.mp4", Fraction(24), 32, 32):
        pass


def test_mistakes_are_refused(folder: Path) -> None:
    with pytest.raises(ValueError, match=r"\.mkv"):
        MovieWriter(folder / "result.mp4", Fraction(24), 32, 32, codec="ffv1")
    with pytest.raises(ValueError, match="uint8"), MovieWriter(folder / "result.mp4", Fraction(24), 32, 32) as movie:
        movie.write(np.zeros((32, 33, 3), np.uint8))
    assert not list(folder.iterdir())
