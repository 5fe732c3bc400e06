# SPDX-License-Identifier: GPL-3.0-or-later
"""The `file` depth source: every container, every meaning, and what it refuses."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import OpenEXR
import pytest

from ex4d_engine.depth import depth_source
from ex4d_engine.depth.sources.from_files import resample_depth, z_from_depthcrafter, z_from_normalised_disparity
from ex4d_engine.errors import Ex4dError
from ex4d_engine.image_files import write_exr_depth, write_png
from ex4d_engine.progress import Silent

H, W, F = 6, 8, 3
STACK = np.random.default_rng(0).uniform(1, 9, (F, H, W)).astype(np.float32)


class Recorder(Silent):
    def __init__(self) -> None:
        super().__init__()
        self.lines: list[str] = []

    def log(self, message: str) -> None:
        self.lines.append(message)


def no_plate() -> Iterator[np.ndarray]:
    raise AssertionError("files need no look at the plate")


def read(path: Path, count: int = F, size: tuple[int, int] = (W, H), **options: Any) -> np.ndarray:
    clip = depth_source("file", path=path, **options).estimate(no_plate, count, size, Silent())
    return np.stack([frame.depth for frame in clip.frames])


def refused(code: str, path: Path, count: int = F, **options: Any) -> str:
    with pytest.raises(Ex4dError) as caught:
        read(path, count, **options)
    assert caught.value.code == code
    assert caught.value.hint
    return caught.value.message


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = tmp_path / "Ünï 作業 shot [v2]"
    made.mkdir()
    return made


def write_sequence(folder: Path, kind: str) -> None:
    for number, z in zip((8, 9, 10), STACK, strict=True):
        match kind:
            case "exr":
                write_exr_depth(folder / f"depth.{number}.exr", z)
            case "npy":
                np.save(folder / f"depth.{number}.npy", z)
            case "npz":
                np.savez(folder / f"depth.{number}.npz", depth=z)


@pytest.mark.parametrize("kind", ["exr", "npy", "npz"])
@pytest.mark.parametrize("name", ["", "depth.####.{}", "depth.%04d.{}", "depth.*.{}"])
def test_sequences_come_in_frame_order(folder: Path, kind: str, name: str) -> None:
    write_sequence(folder, kind)
    np.testing.assert_array_equal(read(folder / name.format(kind)), STACK)


@pytest.mark.parametrize("shape", [(F, H, W), (F, 1, H, W), (F, H, W, 1)])
@pytest.mark.parametrize("kind", ["npy", "npz", "npz compressed"])
def test_stacks(folder: Path, shape: tuple[int, ...], kind: str) -> None:
    path = folder / f"stack.{kind[:3]}"
    save = {"npy": np.save, "npz": lambda p, a: np.savez(p, anything=a)}.get(
        kind, lambda p, a: np.savez_compressed(p, anything=a)
    )
    save(path, STACK.reshape(shape))
    np.testing.assert_array_equal(read(path), STACK)


def test_npz_brings_its_cameras_scaled_to_the_plate(folder: Path) -> None:
    k = np.array([[8.0, 0, 4], [0, 8, 3], [0, 0, 1]])
    poses = np.tile(np.eye(4), (F, 1, 1))
    np.savez(folder / "d.npz", depth=STACK, intrinsics=k, camera_to_world=poses, conf=STACK)
    clip = depth_source("file", path=folder / "d.npz").estimate(no_plate, F, (2 * W, 2 * H), Silent())
    assert clip.intrinsics is not None and clip.camera_to_world is not None
    np.testing.assert_allclose(clip.intrinsics, [[16, 0, 8], [0, 16, 6], [0, 0, 1]])
    np.testing.assert_array_equal(clip.camera_to_world, poses)


def test_npz_with_unclear_arrays_asks_for_a_key(folder: Path) -> None:
    np.savez(folder / "d.npz", one=STACK, two=STACK + 1)
    assert "one, two" in refused("depth_invalid", folder / "d.npz")
    np.testing.assert_array_equal(read(folder / "d.npz", key="two"), STACK + 1)
    refused("depth_invalid", folder / "d.npz", key="three")


def test_png16_in_millimetres_zero_is_unknown(folder: Path) -> None:
    counts = np.full((H, W), 2500, np.uint16)
    counts[0, 0] = 0
    write_png(folder / "d.png", counts)
    z = read(folder / "d.png", 1)[0]
    assert np.isnan(z[0, 0])
    np.testing.assert_allclose(z[1:], 2.5)


def test_png16_normalised_disparity(folder: Path) -> None:
    write_png(folder / "d.png", np.array([[0, 65535]], np.uint16))
    z = read(folder / "d.png", 1, (2, 1), meaning="normalised_disparity", near=2.0, far=20.0)
    np.testing.assert_allclose(z, [[[20.0, 2.0]]], rtol=1e-6)


def test_png16_between_near_and_far(folder: Path) -> None:
    write_png(folder / "d.png", np.array([[0, 65535]], np.uint16))
    np.testing.assert_allclose(read(folder / "d.png", 1, (2, 1), near=2.0, far=20.0), [[[2.0, 20.0]]], rtol=1e-6)


def test_depth_video(folder: Path, grey_video: Path) -> None:
    z = read(grey_video, 4, (64, 48), meaning="normalised_disparity", near=1.0, far=10.0)
    means = z.mean((1, 2))
    assert (np.diff(means) < 0).all()  # the video brightens: it comes nearer
    np.testing.assert_allclose(1 / means, 1 / 10 + np.array([40, 90, 140, 190]) / 255 * 0.9, rtol=0.05)


@pytest.fixture
def grey_video(folder: Path) -> Path:
    import av

    path = folder / "depth.mkv"
    with av.open(path, "w") as container:
        stream = container.add_stream("ffv1", rate=24)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "gray"
        for level in (40, 90, 140, 190):
            frame = av.VideoFrame.from_ndarray(np.full((48, 64), level, np.uint8), format="gray")
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


def test_meanings() -> None:
    d = np.array([0.0, 0.25, 1.0], np.float32)
    np.testing.assert_allclose(1 / z_from_normalised_disparity(d, 2.0, 8.0), [1 / 8, 0.25 / 2 + 0.75 / 8, 1 / 2])
    assert z_from_normalised_disparity(d, 2.0, np.inf)[0] == np.inf
    np.testing.assert_allclose(z_from_depthcrafter(d), [1e4, 10000 / 975, 2.5641026])


def test_disparity_zero_is_infinite_negative_unknown(folder: Path) -> None:
    np.save(folder / "d.npy", np.array([[0.5, 0.0, -1.0]], np.float32))
    np.testing.assert_array_equal(read(folder / "d.npy", 1, (3, 1), meaning="disparity"), [[[2.0, np.inf, np.nan]]])


def test_negative_zero_and_nothing_in_z(folder: Path) -> None:
    np.save(folder / "d.npy", np.array([[3.0, 0.0, -1.0, np.nan, 1e10]], np.float32))
    np.testing.assert_array_equal(read(folder / "d.npy", 1, (5, 1)), [[[3.0, np.nan, np.nan, np.nan, np.inf]]])


@pytest.mark.parametrize("count", [1, F - 1, F + 1])
def test_another_count_is_refused_with_both_numbers(folder: Path, count: int) -> None:
    write_sequence(folder, "npy")
    message = refused("depth_mismatch", folder, count)
    assert f"{F} depth maps" in message and f"{count} frame" in message


def test_a_frame_without_depth_is_named(folder: Path) -> None:
    write_sequence(folder, "npy")
    np.save(folder / "depth.9.npy", np.full((H, W), np.nan, np.float32))
    assert "depth.9.npy" in refused("depth_invalid", folder)
    stack = STACK.copy()
    stack[1] = -1
    np.save(folder / "stack.npy", stack)
    assert "frame 1 of stack.npy" in refused("depth_invalid", folder / "stack.npy")


def test_z_called_normalised_is_refused(folder: Path) -> None:
    np.save(folder / "d.npy", STACK)
    assert "between 0 and 1" in refused(
        "depth_invalid", folder / "d.npy", meaning="normalised_disparity", near=1.0, far=2.0
    )


def test_nothing_there(folder: Path) -> None:
    refused("no_such_file", folder)
    refused("no_such_file", folder / "none.####.exr")
    refused("no_such_file", folder / "none" / "d.npz")


def test_two_kinds_in_a_folder(folder: Path) -> None:
    write_sequence(folder, "npy")
    write_sequence(folder, "exr")
    refused("depth_invalid", folder)


@pytest.mark.parametrize("name", ["d.npy", "d.npz"])
def test_damaged_arrays(folder: Path, name: str) -> None:
    whole = folder / f"whole{name[1:]}"
    (np.save if name == "d.npy" else np.savez)(whole, STACK)
    (folder / name).write_bytes(whole.read_bytes()[:200])
    assert name in refused("depth_invalid", folder / name)


def test_pickles_are_not_opened(folder: Path) -> None:
    np.save(folder / "d.npy", np.array([{"a": 1}], dtype=object), allow_pickle=True)
    refused("depth_invalid", folder / "d.npy")


@pytest.mark.parametrize(
    "options",
    [
        {"meaning": "nonsense"},
        {"meaning": "normalised_disparity"},
        {"meaning": "normalised_disparity", "near": 5.0, "far": 2.0},
    ],
)
def test_options_that_make_no_sense(options: dict[str, Any]) -> None:
    with pytest.raises(Ex4dError) as caught:
        depth_source("file", path="x", **options)
    assert caught.value.code == "depth_invalid"


def test_another_size_is_resampled_and_said(folder: Path) -> None:
    np.save(folder / "d.npy", STACK)
    recorder = Recorder()
    clip = depth_source("file", path=folder / "d.npy").estimate(no_plate, F, (2 * W, 2 * H), recorder)
    assert [frame.depth.shape for frame in clip.frames] == [(2 * H, 2 * W)] * F
    assert len(recorder.lines) == 1 and f"{W}×{H}" in recorder.lines[0]


def test_resampling_invents_no_depth_between_surfaces() -> None:
    z = np.full((8, 8), 2.0, np.float32)
    z[:, 4:] = 10.0
    assert set(np.unique(resample_depth(z, (24, 24)))) <= {2.0, 10.0}
    z[2, 2], z[5, 5] = np.nan, np.inf
    large = resample_depth(z, (24, 24))
    assert set(np.unique(large[np.isfinite(large)]).round(4)) <= {2.0, 10.0}
    assert 0 < np.isnan(large).sum() <= 9 and 0 < np.isinf(large).sum() <= 9


def test_resampling_keeps_a_ramp_smooth_and_in_place() -> None:
    def plane(n: int) -> np.ndarray:
        return np.broadcast_to(1 / (0.5 - 0.2 * (np.arange(n) + 0.5) / n), (n, n)).astype(np.float32)

    inside = (slice(8, -8), slice(8, -8))
    np.testing.assert_allclose(resample_depth(plane(32), (128, 128))[inside], plane(128)[inside], rtol=1e-4)


# ---------------------------------------------------------------------------------- renderers' layers


def write_layers(path: Path, channels: dict[str, np.ndarray]) -> None:
    header = {"compression": OpenEXR.ZIP_COMPRESSION, "type": OpenEXR.scanlineimage}
    with OpenEXR.File(header, {name: OpenEXR.Channel(values) for name, values in channels.items()}) as file:
        file.write(str(path))


def blender_layers(z: np.ndarray, view: str = "ViewLayer") -> dict[str, np.ndarray]:
    """Blender's multilayer file with passes of which several have a Z."""
    grey = np.full_like(z, 0.5)
    names = [*(f"Combined.{c}" for c in "RGBA"), *(f"{p}.{c}" for p in ("Normal", "Position") for c in "XYZ")]
    return {f"{view}.{name}": grey for name in [*names, *(f"Vector.{c}" for c in "XYZW")]} | {f"{view}.Depth.Z": z}


def test_blender_s_depth_among_its_other_passes_nothing_is_infinitely_far(folder: Path) -> None:
    for number, z in enumerate(STACK):
        z = z.copy()
        z[0] = 1e10
        write_layers(folder / f"render.{number:04d}.exr", blender_layers(z))
    found = read(folder / "render.####.exr")
    assert np.isposinf(found[:, 0]).all()
    np.testing.assert_array_equal(found[:, 1:], STACK[:, 1:])


def test_two_view_layers_ask_for_a_key(folder: Path) -> None:
    write_layers(folder / "r.exr", blender_layers(STACK[0]) | blender_layers(STACK[1], "Far"))
    assert "no channel that could be depth" in refused("unreadable_image", folder / "r.exr", 1)
    np.testing.assert_array_equal(read(folder / "r.exr", 1, key="Far.Depth.Z")[0], STACK[1])


@pytest.mark.parametrize("names", [["Z"], ["depth.Z"], ["zDepth.R", "zDepth.G", "zDepth.B"], ["Z.Y"]])
def test_other_renderers_depth_beside_the_picture(folder: Path, names: list[str]) -> None:
    grey = np.full((H, W), 0.5, np.float32)
    write_layers(folder / "r.exr", dict.fromkeys("RGBA", grey) | dict.fromkeys(names, STACK[0]))
    np.testing.assert_array_equal(read(folder / "r.exr", 1)[0], STACK[0])


def test_half_precision_s_largest_number_is_no_surface(folder: Path) -> None:
    z = STACK[0].astype(np.float16)
    z[0, 0] = 65504
    write_layers(folder / "r.exr", {"Z": z})
    found = read(folder / "r.exr", 1)[0]
    assert np.isposinf(found[0, 0]) and np.isfinite(found).sum() == H * W - 1
