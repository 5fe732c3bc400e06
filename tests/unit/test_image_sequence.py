# SPDX-License-Identifier: GPL-3.0-or-later
"""Image sequences, found every way an artist may name them, and read like movies."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import OpenEXR
import pytest

from ex4d_engine.errors import Cancelled, Ex4dError
from ex4d_engine.image_files import write_exr_layers, write_png
from ex4d_engine.progress import Silent
from ex4d_engine.video import probe, read_frames


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    path = tmp_path / "Ünï 作業 shot"
    path.mkdir()
    return path


def _grey(number: int) -> np.ndarray:
    return np.full((17, 33, 3), number % 250, np.uint8)


def _sequence(folder: Path, numbers: range, name: str = "plate.{:04d}.png") -> Path:
    for number in numbers:
        path = folder / name.format(number)
        _, encoded = cv2.imencode(path.suffix, _grey(number))
        path.write_bytes(encoded.tobytes())
    return folder


@pytest.mark.parametrize("way", ["plate.####.png", "plate.%04d.png", "plate.1003.png", "."])
def test_found_by_pattern_by_any_file_and_by_folder(folder: Path, way: str) -> None:
    _sequence(folder, range(1001, 1007))
    (folder / "notes.txt").write_text("not an image", encoding="utf-8")
    (folder / ".plate.1003.png.tmp.png").write_bytes(b"half written")
    info = probe(folder / way)
    assert (info.kind, info.width, info.height, info.first_number, info.frame_count) == ("sequence", 33, 17, 1001, 6)
    assert info.path == folder / "plate.####.png"
    assert probe(info.path) == info
    assert any("24" in note for note in info.notes)
    frames = list(read_frames(folder / way))
    assert [frame.number for frame in frames] == list(range(1001, 1007))
    assert all(np.array_equal(frame.image, _grey(frame.number)) for frame in frames)


def test_range_and_stride(folder: Path) -> None:
    _sequence(folder, range(1001, 1021))
    frames = list(read_frames(folder, first=1003, last=1012, stride=4))
    assert [frame.number for frame in frames] == [1003, 1007, 1011]
    assert all(np.array_equal(frame.image, _grey(frame.number)) for frame in frames)
    with pytest.raises(Ex4dError) as caught:
        read_frames(folder, first=1021)
    assert caught.value.code == "no_frames"


@pytest.mark.parametrize(
    "name", ["shot_v02.{:d}.png", "{:d}.png", "shot_v02_{:05d}.jpg", "a1_b{:02d}.tif", "50% {:d}.bmp"]
)
def test_names(folder: Path, name: str) -> None:
    _sequence(folder, range(8, 13), name)
    _sequence(folder, range(1, 3), "other_{:02d}.webp")
    info = probe(folder / name.format(9))
    assert (info.first_number, info.frame_count) == (8, 5)
    assert probe(info.path).frame_count == 5
    assert [frame.number for frame in read_frames(folder / name.format(12))] == [8, 9, 10, 11, 12]


def test_numbers_that_outgrow_their_padding(folder: Path) -> None:
    _sequence(folder, range(98, 103), "f{:02d}.png")
    assert probe(folder / "f##.png").frame_count == 5
    assert probe(folder / "f101.png").frame_count == 5


def test_a_version_is_no_frame_number(folder: Path) -> None:
    _sequence(folder, range(1, 4), "shot_v{:02d}.png")
    info = probe(folder / "shot_v02.png")
    assert (info.kind, info.frame_count, info.first_number) == ("image", 1, 1)
    assert np.array_equal(next(read_frames(folder / "shot_v02.png")).image, _grey(2))


def test_a_single_image(folder: Path) -> None:
    write_png(folder / "IMG_4032.png", _grey(9))
    info = probe(folder / "IMG_4032.png", first_number=1001)
    assert (info.kind, info.frame_count, info.first_number) == ("image", 1, 1001)
    assert info.path == folder / "IMG_4032.png"
    assert [frame.number for frame in read_frames(folder / "IMG_4032.png", first_number=1001)] == [1001]


def test_a_gap_names_the_first_missing_frame(folder: Path) -> None:
    _sequence(folder, range(1001, 1011))
    (folder / "plate.1004.png").unlink()
    (folder / "plate.1007.png").unlink()
    for way in (folder, folder / "plate.####.png", folder / "plate.1009.png"):
        with pytest.raises(Ex4dError) as caught:
            probe(way)
        assert caught.value.code == "missing_frame"
        assert "1004" in caught.value.message


def test_what_is_not_there(folder: Path) -> None:
    for name in ("plate.####.png", "plate.1001.png", "none/plate.####.png"):
        with pytest.raises(Ex4dError) as caught:
            probe(folder / name)
        assert caught.value.code == "no_such_file"
    with pytest.raises(Ex4dError) as caught:
        probe(folder)
    assert caught.value.code == "no_frames"


def test_a_folder_of_two_sequences_asks_which(folder: Path) -> None:
    _sequence(folder, range(1, 4))
    _sequence(folder, range(1, 4), "matte.{:04d}.png")
    with pytest.raises(Ex4dError) as caught:
        probe(folder)
    assert caught.value.code == "bad_request"
    assert "matte." in caught.value.message
    assert probe(folder / "matte.0002.png").frame_count == 3


def test_a_frame_of_another_size_or_a_broken_one_is_named(folder: Path) -> None:
    _sequence(folder, range(1, 5))
    write_png(folder / "plate.0003.png", np.zeros((5, 5, 3), np.uint8))
    reader = read_frames(folder)
    assert [next(reader).number, next(reader).number] == [1, 2]
    with pytest.raises(Ex4dError) as caught:
        next(reader)
    assert caught.value.code == "unreadable_image"
    assert "plate.0003.png" in caught.value.message
    (folder / "plate.0003.png").write_bytes(b"broken")
    with pytest.raises(Ex4dError):
        list(read_frames(folder))


def test_sixteen_bits_and_alpha(folder: Path) -> None:
    values = np.array([0, 128, 129, 257, 32896, 65535], np.uint16)
    image = np.stack([np.broadcast_to(values, (2, 6))] * 4, axis=-1)
    for number in (1, 2):
        write_png(folder / f"deep.{number:04d}.png", image)
    info = probe(folder)
    assert (info.bit_depth, info.has_alpha) == (16, True)
    frame = next(read_frames(folder))
    assert frame.alpha is not None
    assert frame.image[0, :, 0].tolist() == frame.alpha[0].tolist() == [0, 0, 1, 1, 128, 255]


def test_grey_images_become_three_channels(folder: Path) -> None:
    for number in (1, 2):
        write_png(folder / f"grey.{number:04d}.png", np.full((2, 3), 77, np.uint8))
    frame = next(read_frames(folder))
    assert frame.image.shape == (2, 3, 3)
    assert (frame.image == 77).all()
    assert frame.alpha is None


def test_exr_is_linear_light_with_premultiplied_alpha(folder: Path) -> None:
    alpha = np.array([[1, 0.5, 0]], np.float32)
    straight = np.array([[[0.18, 1, 7], [0.18, 0.5, 0], [0.18, 0, 0]]], np.float32)
    premultiplied = np.concatenate([straight * alpha[..., None], alpha[..., None]], axis=-1).astype(np.float32)
    for number in (1001, 1002):
        write_exr_layers(folder / f"beauty.{number}.exr", {"RGBA": premultiplied})
    info = probe(folder / "beauty.1001.exr")
    assert (info.first_number, info.frame_count, info.bit_depth, info.has_alpha) == (1001, 2, 32, True)
    frame = next(read_frames(folder))
    assert frame.number == 1001
    assert frame.image[0].tolist() == [[118, 255, 255], [118, 188, 0], [0, 0, 0]]
    assert frame.alpha is not None
    assert frame.alpha[0].tolist() == [255, 128, 0]


def test_exr_of_half_floats_without_alpha(folder: Path) -> None:
    light = np.full((4, 4), 0.5, np.float16)
    with OpenEXR.File(
        {"compression": OpenEXR.PIZ_COMPRESSION, "type": OpenEXR.scanlineimage}, dict.fromkeys("RGB", light)
    ) as file:
        file.write(str(folder / "half.0001.exr"))
    frame = next(read_frames(folder / "half.####.exr"))
    assert (frame.image == 188).all()
    assert frame.alpha is None


def test_cancel_stops_between_frames(folder: Path) -> None:
    _sequence(folder, range(1, 5))
    reporter = Silent()
    reader = read_frames(folder, reporter=reporter)
    next(reader)
    reporter.cancelled.set()
    with pytest.raises(Cancelled):
        next(reader)
