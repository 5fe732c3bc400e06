# SPDX-License-Identifier: GPL-3.0-or-later
"""Which lens is believed, and what the metadata of a clip say."""

from __future__ import annotations

import math
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from PIL import ExifTags, Image

from ex4d_engine.cameras import intrinsics_from_fov
from ex4d_engine.errors import Ex4dError
from ex4d_engine.source_cameras.lens import choose_lens, field_of_view_from_focal, user_field_of_view, zoomed
from ex4d_engine.source_cameras.lens_metadata import focal_from_metadata

SIZE = (64, 48)
APPLE = "com.apple.quicktime.camera.focal_length.35mm_equivalent"


def write_movie(path: Path, **tags: str) -> Path:
    with av.open(str(path), "w", options={"movflags": "use_metadata_tags"}) as container:
        for key, value in tags.items():
            container.metadata[key] = value
        stream = container.add_stream("mpeg4", rate=Fraction(24))
        stream.width, stream.height, stream.pix_fmt = *SIZE, "yuv420p"
        for _ in range(3):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(np.zeros((48, 64, 3), np.uint8), format="rgb24")))
        container.mux(stream.encode(None))
    return path


def write_image(path: Path, **tags: float) -> Path:
    image = Image.new("RGB", SIZE)
    exif = image.getexif()
    exif.get_ifd(ExifTags.IFD.Exif).update({getattr(ExifTags.Base, name): value for name, value in tags.items()})
    image.save(path, exif=exif)
    return path


def test_a_focal_length_on_a_sensor_is_the_angle_that_geometry_says() -> None:
    assert field_of_view_from_focal(18.0, 36.0) == pytest.approx(90.0)
    assert field_of_view_from_focal(50.0) == pytest.approx(39.6, abs=0.05)
    for focal, sensor in ((0.0, 36.0), (-3.0, 36.0), (math.nan, 36.0), (35.0, 0.0), (1e9, 1.0)):
        with pytest.raises(Ex4dError) as caught:
            field_of_view_from_focal(focal, sensor)
        assert caught.value.code == "camera_invalid"


def test_a_lens_is_given_once() -> None:
    assert user_field_of_view(None, None, None) is None
    assert user_field_of_view(40.0, None, None) == 40.0
    assert user_field_of_view(None, 18.0, None) == pytest.approx(90.0)
    for given in ((40.0, 35.0, None), (40.0, None, 36.0), (None, None, 36.0)):
        with pytest.raises(Ex4dError) as caught:
            user_field_of_view(*given)
        assert caught.value.code == "bad_request"


def test_the_order_of_trust_and_a_sentence_for_each(tmp_path: Path) -> None:
    clip = write_movie(tmp_path / "Ünï 作業.mov", **{APPLE: "26"})
    silent = write_movie(tmp_path / "no tags.mov")
    solved = np.tile(intrinsics_from_fov(*SIZE, 41), (3, 1, 1))
    estimated = intrinsics_from_fov(*SIZE, 42)

    def chosen(**changes: object) -> tuple[float, str]:
        given: dict[str, object] = {"user_fov_deg": 40.0, "solved": solved, "estimated": estimated, "source": clip}
        lens = choose_lens(SIZE, **{**given, **changes})  # type: ignore[arg-type]
        return 2 * math.degrees(math.atan(32 / lens.intrinsics[0, 0])), lens.note

    degrees, note = chosen()
    assert degrees == pytest.approx(40) and "given" in note
    degrees, note = chosen(user_fov_deg=None)
    assert degrees == pytest.approx(41) and "camera file" in note
    degrees, note = chosen(user_fov_deg=None, solved=None)
    assert degrees == pytest.approx(42) and "depth source" in note
    degrees, note = chosen(user_fov_deg=None, solved=None, estimated=None)
    # 80 pixels of diagonal for 43.27 mm
    assert degrees == pytest.approx(2 * math.degrees(math.atan(32 / (26 / math.hypot(36, 24) * 80))))
    assert APPLE in note and "26 mm" in note
    degrees, note = chosen(user_fov_deg=None, solved=None, estimated=None, source=silent)
    assert degrees == pytest.approx(50) and "not known" in note


@pytest.mark.parametrize("size", [(64, 48), (640, 480), (480, 640)])
def test_a_lens_is_the_same_at_any_resolution_and_upright(size: tuple[int, int], tmp_path: Path) -> None:
    clip = write_movie(tmp_path / "clip.mp4", **{APPLE: "35 mm"})
    lens = choose_lens(size, user_fov_deg=None, solved=None, estimated=None, source=clip)
    assert max(size) / lens.intrinsics[0, 0] == pytest.approx(64 / (35 / math.hypot(36, 24) * 80))
    assert tuple(lens.intrinsics[:2, 2]) == (size[0] / 2, size[1] / 2)


@pytest.mark.parametrize("value", ["", "twenty", "-26", "0", "1e9", "999999", "26; drop"])
def test_a_tag_that_is_no_focal_length_says_nothing(value: str, tmp_path: Path) -> None:
    assert focal_from_metadata(write_movie(tmp_path / "clip.mov", **{APPLE: value}), SIZE) is None


def test_exif_of_an_image_sequence(tmp_path: Path) -> None:
    for number in (1, 2):
        write_image(tmp_path / f"frame.{number:04d}.jpg", FocalLengthIn35mmFilm=24)
    found = focal_from_metadata(tmp_path / "frame.####.jpg", SIZE)
    assert found is not None
    assert found[0] == pytest.approx(24 / math.hypot(36, 24) * 80) and "FocalLengthIn35mmFilm" in found[1]


def test_exif_focal_length_on_its_sensor(tmp_path: Path) -> None:
    # 6000 pixels at 250 a millimetre: a sensor of 24 mm
    tags = {"FocalLength": 12.0, "FocalPlaneXResolution": 250.0, "FocalPlaneResolutionUnit": 4}
    path = write_image(tmp_path / "a.jpg", **tags, ExifImageWidth=6000, ExifImageHeight=4000)
    found = focal_from_metadata(path, SIZE)
    assert found is not None and found[0] == pytest.approx(12 / 24 * 64)
    assert focal_from_metadata(write_image(tmp_path / "b.jpg", FocalLength=12.0), SIZE) is None


def test_broken_files_say_nothing(tmp_path: Path) -> None:
    for name in ("broken.jpg", "broken.mov", "broken.png"):
        path = tmp_path / name
        path.write_bytes(b"\x89PNG\r\n\x1a\nnothing of the kind")
        assert focal_from_metadata(path, SIZE) is None


def test_a_zoom_is_a_factor_and_a_wandering_axis_is_refused(tmp_path: Path) -> None:
    first = intrinsics_from_fov(*SIZE, 50)
    lenses = np.array([zoomed(first, factor) for factor in (1.0, 1.5, 2.0)])
    lens = choose_lens(SIZE, user_fov_deg=None, solved=lenses, estimated=None, source=tmp_path)
    assert lens.zoom == pytest.approx([1.0, 1.5, 2.0]) and "zoom by 2" in lens.note
    assert np.allclose(lens.of_frame(2), lenses[2])
    lenses[1, 0, 2] += 2.0
    with pytest.raises(Ex4dError, match="shifts") as caught:
        choose_lens(SIZE, user_fov_deg=None, solved=lenses, estimated=None, source=tmp_path)
    assert caught.value.code == "camera_unsupported"
