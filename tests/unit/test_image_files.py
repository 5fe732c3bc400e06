# SPDX-License-Identifier: GPL-3.0-or-later
"""PNG and EXR files: exact round trips, every way a file can be named or broken."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import OpenEXR
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ex4d_engine.errors import Ex4dError
from ex4d_engine.image_files import (
    decode_image,
    read_exr,
    read_exr_rgb,
    read_exr_rgba,
    read_png,
    write_exr_depth,
    write_exr_layers,
    write_png,
)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    path = tmp_path / "Ünï 作業 shot"
    path.mkdir()
    return path


def _random(shape: tuple[int, ...], dtype: type) -> np.ndarray:
    return np.random.default_rng(7).integers(0, np.iinfo(dtype).max, shape, dtype=dtype, endpoint=True)


def _write_exr(path: Path, channels: dict[str, np.ndarray], **header: object) -> None:
    header = {"compression": OpenEXR.ZIP_COMPRESSION, "type": OpenEXR.scanlineimage} | header
    with OpenEXR.File(header, {name: OpenEXR.Channel(pixels) for name, pixels in channels.items()}) as file:
        file.write(str(path))


def _ramp(height: int = 5, width: int = 7) -> np.ndarray:
    return np.linspace(0.25, 60, height * width, dtype=np.float32).reshape(height, width)


@pytest.mark.parametrize("shape", [(17, 33), (17, 33, 3), (17, 33, 4), (1, 1, 3)])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
@pytest.mark.parametrize("compression", [0, 1, 9])
def test_png_round_trip(folder: Path, shape: tuple[int, ...], dtype: type, compression: int) -> None:
    image = _random(shape, dtype)
    write_png(folder / "image.png", image, compression=compression)
    again = read_png(folder / "image.png")
    assert again.dtype == dtype
    assert np.array_equal(again, image)
    assert [file.name for file in folder.iterdir()] == ["image.png"]


def test_png_holds_red_first(folder: Path) -> None:
    write_png(folder / "red.png", np.full((2, 2, 3), (255, 0, 10), np.uint8))
    stored = cv2.imdecode(np.fromfile(folder / "red.png", np.uint8), cv2.IMREAD_UNCHANGED)
    assert stored is not None
    assert stored[0, 0].tolist() == [10, 0, 255]  # OpenCV's own order is blue first


def test_png_keeps_colour_where_alpha_is_nothing(folder: Path) -> None:
    image = _random((4, 4, 4), np.uint8)
    image[..., 3] = 0
    write_png(folder / "clear.png", image)
    assert np.array_equal(read_png(folder / "clear.png"), image)


def test_png_of_a_view_that_is_not_contiguous(folder: Path) -> None:
    image = _random((8, 8, 3), np.uint8)
    write_png(folder / "view.png", image[::2, ::-1])
    assert np.array_equal(read_png(folder / "view.png"), image[::2, ::-1])


@pytest.mark.parametrize("image", [np.zeros((2, 2), np.float32), np.zeros((2, 2, 2), np.uint8), np.zeros(4, np.uint8)])
def test_png_refuses_what_it_cannot_hold(folder: Path, image: np.ndarray) -> None:
    with pytest.raises(ValueError, match="PNG"):
        write_png(folder / "image.png", image)
    assert not list(folder.iterdir())


def test_a_failed_write_leaves_the_old_file(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_png(folder / "image.png", np.zeros((2, 2), np.uint8))
    before = (folder / "image.png").read_bytes()

    def full(self: Path, data: bytes) -> int:
        with self.open("wb") as file:
            file.write(data[:10])
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    for write in (
        lambda: write_png(folder / "image.png", np.ones((2, 2), np.uint8)),
        lambda: write_exr_depth(folder / "depth.exr", _ramp()),
    ):
        with pytest.raises(Ex4dError) as caught:
            write()
        assert caught.value.code == "disk_full"
    assert (folder / "image.png").read_bytes() == before
    assert [file.name for file in folder.iterdir()] == ["image.png"]


@pytest.mark.parametrize("kept", [0.1, 0.5, 0.99])
@pytest.mark.parametrize("suffix", [".png", ".jpg", ".tif"])
def test_a_cut_off_image_is_refused(folder: Path, suffix: str, kept: float) -> None:
    _, encoded = cv2.imencode(suffix, _random((64, 64, 3), np.uint8))
    data = encoded.tobytes()
    assert decode_image(data, Path("whole")).shape == (64, 64, 3)
    with pytest.raises(Ex4dError) as caught:
        decode_image(data[: int(len(data) * kept)], folder / f"cut{suffix}")
    assert caught.value.code == "unreadable_image"


@pytest.mark.parametrize("content", [b"", b"no image at all"])
def test_what_is_no_image_is_refused(folder: Path, content: bytes) -> None:
    for name, read in (("a.png", read_png), ("a.exr", read_exr), ("b.exr", read_exr_rgb)):
        (folder / name).write_bytes(content)
        with pytest.raises(Ex4dError) as caught:
            read(folder / name)
        assert caught.value.code == "unreadable_image"


@pytest.mark.parametrize("read", [read_png, read_exr, read_exr_rgb])
def test_missing_file(folder: Path, read: object) -> None:
    with pytest.raises(Ex4dError) as caught:
        read(folder / "none.exr")  # type: ignore[operator]
    assert caught.value.code == "no_such_file"


@settings(max_examples=25, deadline=None)
@given(
    height=st.integers(1, 40), width=st.integers(1, 40), values=st.lists(st.floats(width=32), min_size=1, max_size=20)
)
def test_depth_round_trip_is_exact_to_the_bit(
    tmp_path_factory: pytest.TempPathFactory, height: int, width: int, values: list[float]
) -> None:
    depth = np.resize(np.array(values, np.float32), (height, width))
    path = tmp_path_factory.mktemp("depth") / "depth.exr"
    write_exr_depth(path, depth)
    assert np.array_equal(read_exr(path).view(np.uint32), depth.view(np.uint32))


def test_depth_is_one_channel_called_y(folder: Path) -> None:
    write_exr_depth(folder / "depth.0001.exr", _ramp())
    with OpenEXR.File(str(folder / "depth.0001.exr")) as file:
        assert list(file.channels()) == ["Y"]
    with pytest.raises(ValueError, match="float32"):
        write_exr_depth(folder / "depth.0002.exr", _ramp().astype(np.float64))


def test_the_file_that_blender_is_tested_with() -> None:
    row, column = np.mgrid[0:3, 0:4]
    golden = Path(__file__).parents[1] / "golden" / "depth.0001.exr"
    assert np.array_equal(read_exr(golden), (0.1 + 10 * row + np.sqrt(column)).astype(np.float32))
    with OpenEXR.File(str(golden)) as file:
        assert list(file.channels()) == ["Y"]
        assert file.header()["compression"] == OpenEXR.ZIP_COMPRESSION


@pytest.mark.parametrize(
    ("names", "picked"),
    [
        (["Z"], "Z"),
        (["anything"], "anything"),
        (["R", "G", "B", "Z"], "Z"),
        (["R", "G", "B", "A", "depth.Z"], "depth.Z"),
        (["R", "G", "B"], "R"),
        (["V", "A"], "V"),
        (["ViewLayer.Combined.R", "ViewLayer.Combined.G", "ViewLayer.Depth.Z"], "ViewLayer.Depth.Z"),
    ],
)
def test_which_channel_is_depth(folder: Path, names: list[str], picked: str) -> None:
    _write_exr(folder / "many.exr", {name: np.full((3, 4), names.index(name), np.float32) for name in names})
    assert (read_exr(folder / "many.exr") == names.index(picked)).all()
    for name in names:
        assert (read_exr(folder / "many.exr", name) == names.index(name)).all()


def test_a_channel_that_is_not_there(folder: Path) -> None:
    _write_exr(folder / "two.exr", {"left.X": _ramp(), "right.X": _ramp()})
    for channel in ("Z", None):
        with pytest.raises(Ex4dError) as caught:
            read_exr(folder / "two.exr", channel)
        assert caught.value.code == "unreadable_image"
        assert "left.X" in caught.value.hint


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.uint32])
def test_every_pixel_type_is_read_as_float32(folder: Path, dtype: type) -> None:
    pixels: np.ndarray = np.arange(12).reshape(3, 4).astype(dtype)
    _write_exr(folder / "type.exr", {"Z": pixels})
    assert read_exr(folder / "type.exr").dtype == np.float32
    assert np.array_equal(read_exr(folder / "type.exr"), pixels.astype(np.float32))


def test_overscan_is_cut_and_a_crop_is_filled_up(folder: Path) -> None:
    def window(left: int, top: int, right: int, bottom: int) -> tuple[np.ndarray, np.ndarray]:
        return np.array([left, top], np.int32), np.array([right, bottom], np.int32)

    pixels = _ramp(6, 8)
    _write_exr(folder / "over.exr", {"Z": pixels}, dataWindow=window(-2, -1, 5, 4), displayWindow=window(0, 0, 4, 3))
    assert np.array_equal(read_exr(folder / "over.exr"), pixels[1:5, 2:7])
    _write_exr(folder / "crop.exr", {"Z": pixels}, dataWindow=window(1, 2, 8, 7), displayWindow=window(0, 0, 9, 9))
    expected = np.zeros((10, 10), np.float32)
    expected[2:8, 1:9] = pixels
    assert np.array_equal(read_exr(folder / "crop.exr"), expected)


def test_a_cut_off_exr_is_refused(folder: Path) -> None:
    write_exr_depth(folder / "depth.exr", np.random.default_rng(1).random((64, 64), dtype=np.float32))
    data = (folder / "depth.exr").read_bytes()
    (folder / "depth.exr").write_bytes(data[: len(data) // 2])
    with pytest.raises(Ex4dError) as caught:
        read_exr(folder / "depth.exr")
    assert caught.value.code == "unreadable_image"


def test_layers(folder: Path) -> None:
    rng = np.random.default_rng(3)
    beauty = rng.random((5, 7, 4)).astype(np.float16)
    plate = rng.random((5, 7, 3), dtype=np.float32)
    matte, depth = rng.random((5, 7), dtype=np.float32), _ramp()
    path = folder / "comp.1001.exr"
    write_exr_layers(path, {"RGBA": beauty, "plate": plate, "matte": matte, "depth": depth})
    with OpenEXR.File(str(path), separate_channels=True) as file:
        pixel_types = {name: channel.pixels.dtype for name, channel in file.channels().items()}
    assert {name for name, kind in pixel_types.items() if kind == np.float16} == {"R", "G", "B", "A"}
    assert set(pixel_types) == {"R", "G", "B", "A", "plate.R", "plate.G", "plate.B", "matte.Y", "depth.Z"}
    colour, alpha = read_exr_rgba(path)
    assert np.array_equal(colour, beauty[..., :3].astype(np.float32))
    assert alpha is not None
    assert np.array_equal(alpha, beauty[..., 3].astype(np.float32))
    assert np.array_equal(read_exr(path), depth)
    assert np.array_equal(read_exr(path, "matte.Y"), matte)
    assert np.array_equal(read_exr(path, "plate.G"), plate[..., 1])


def test_layers_of_two_sizes_are_refused(folder: Path) -> None:
    with pytest.raises(ValueError, match="one size"):
        write_exr_layers(folder / "comp.exr", {"RGB": np.zeros((2, 2, 3), np.float32), "matte": _ramp()})
    with pytest.raises(ValueError, match="float32"):
        write_exr_layers(folder / "comp.exr", {"RGB": np.zeros((2, 2, 3), np.uint8)})


def test_colour_of_a_multilayer_and_of_a_grey_file(folder: Path) -> None:
    _write_exr(
        folder / "blender.exr",
        {f"ViewLayer.Combined.{c}": np.full((2, 2), i, np.float32) for i, c in enumerate("RGBA")},
    )
    colour, alpha = read_exr_rgba(folder / "blender.exr")
    assert colour[0, 0].tolist() == [0, 1, 2]
    assert alpha is not None
    assert alpha[0, 0] == 3
    write_exr_depth(folder / "grey.exr", _ramp())
    assert np.array_equal(read_exr_rgb(folder / "grey.exr"), np.repeat(_ramp()[..., None], 3, axis=-1))
    _write_exr(folder / "normal.exr", {"normal.X": _ramp(), "normal.Y": _ramp()})
    with pytest.raises(Ex4dError) as caught:
        read_exr_rgb(folder / "normal.exr")
    assert caught.value.code == "unreadable_image"
