# SPDX-License-Identifier: GPL-3.0-or-later
"""The networks as a user meets them: registered by the command line, asked for by name, given good and bad clips."""

from __future__ import annotations

import argparse
import dataclasses
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from ex4d_engine.cameras import check_camera
from ex4d_engine.cli import depth_option, main
from ex4d_engine.depth import DepthClip, DepthFrame, default_source, depth_source, depth_sources
from ex4d_engine.errors import Cancelled, Ex4dError
from ex4d_engine.models import store
from ex4d_engine.models.registry import MODELS
from ex4d_engine.progress import Silent
from tests.tiny_depth_models import (
    save_depth_anything,
    save_depth_pro,
    save_depthcrafter,
    save_multi_view,
    save_video_depth,
)
from tests.unit.depth.drawn_scene import draw

V2, V2_METRIC = "depth-anything-v2-small", "depth-anything-v2-small-metric-indoor"
OPTIONS: dict[str, dict[str, Any]] = {
    "depth-anything-v2": {"size": 56},
    "depth-anything-3": {"size": 84},
    "video-depth-anything": {"size": 56},
    "depth-pro": {},
    "depthcrafter": {"size": 64, "steps": 1},
}
FILES = {  # a source, the model of it that is broken, its file of weights
    "depth-anything-v2": (V2, "model.safetensors"),
    "depth-anything-3": ("depth-anything-3-base", "model.safetensors"),
    "video-depth-anything": ("video-depth-anything-small", ""),
    "depth-pro": ("depth-pro", "model.safetensors"),
    "depthcrafter": ("depthcrafter", "diffusion_pytorch_model.safetensors"),
}


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Each model's folder or file, in a place with a space and letters of two scripts."""
    root = tmp_path_factory.mktemp("Модели ü 模型")
    save_depthcrafter(root / "own", root / "shared")
    return {
        V2: save_depth_anything(root / "v2"),
        V2_METRIC: save_depth_anything(root / "v2 metric", "metric"),
        "depth-pro": save_depth_pro(root / "pro"),
        "video-depth-anything-small": save_video_depth(root / "video depth.pth"),
        "depth-anything-3-base": save_multi_view(root / "da3"),
        "depthcrafter": root / "own",
        "stable-video-diffusion": root / "shared",
    }


@pytest.fixture(scope="module")
def registrations(models: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which the command line has registered them all."""
    folder = tmp_path_factory.mktemp("registered ü")
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("EX4D_MODELS", str(folder))
        for name, path in models.items():
            assert main(["models", "register", name, str(path)]) == 0
    return folder


@pytest.fixture(autouse=True)
def no_models(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("EX4D_MODELS", str(tmp_path / "models ü"))
    return tmp_path / "models ü"


@pytest.fixture
def registered(models: dict[str, Path], registrations: Path, no_models: Path) -> dict[str, Path]:
    shutil.copytree(registrations, no_models)
    return models


def clip(frames: list[np.ndarray], name: str, reporter: Silent | None = None, **options: Any) -> DepthClip:
    height, width = frames[0].shape[:2]
    source = depth_source(name, **{"device": "cpu", **OPTIONS[name], **options})
    return source.estimate(lambda: iter(frames), len(frames), (width, height), reporter or Silent())


def depths(made: DepthClip) -> np.ndarray:
    return np.stack([frame.depth for frame in made.frames])


def scene(count: int = 2) -> list[np.ndarray]:
    """Frames of 128 × 80."""
    return [np.ascontiguousarray(draw(number)[0][::2, ::2]) for number in range(count)]


class Recorder(Silent):
    """Keeps what it is told."""

    def __init__(self) -> None:
        super().__init__()
        self.said: list[tuple[str, int, int]] = []
        self.lines: list[str] = []

    def progress(self, stage: str, done: int, total: int) -> None:
        self.said.append((stage, done, total))

    def log(self, message: str) -> None:
        self.lines.append(message)


@pytest.mark.parametrize("name", OPTIONS)
@pytest.mark.parametrize("shape", ["landscape", "portrait", "tiny"])
def test_depth_for_every_frame_at_the_plate_s_size(name: str, shape: str, registered: dict[str, Path]) -> None:
    frames = {
        "landscape": scene(3),
        "portrait": [np.ascontiguousarray(np.rot90(frame)) for frame in scene()],
        "tiny": [frame[:18, :22] for frame in scene()],
    }[shape]
    reporter = Recorder()
    made = clip(frames, name, reporter)
    found = list(made.frames)
    assert len(found) == len(frames)
    for frame, image in zip(found, frames, strict=True):
        assert frame.depth.shape == image.shape[:2] and frame.depth.dtype == np.float32
        assert np.isfinite(frame.depth).all() and (frame.depth > 0).all()
        if frame.confidence is not None:
            assert frame.confidence.shape == image.shape[:2]
            assert (frame.confidence >= 0).all() and (frame.confidence <= 1).all()
    assert ("estimate depth", len(frames), len(frames)) in reporter.said
    assert ("depth", len(frames), len(frames)) in reporter.said
    assert made.note.startswith("Depth") and made.note.endswith(".")
    assert made.scale == ("metric" if name == "depth-pro" else "relative")
    height, width = frames[0].shape[:2]
    assert made.lens_is_estimate == (made.intrinsics is not None)
    if made.intrinsics is not None:
        check_camera(made.intrinsics, np.eye(4))
        np.testing.assert_allclose(made.intrinsics[:2, 2], [width / 2, height / 2])
    if made.camera_to_world is not None:
        assert made.camera_to_world.shape == (len(frames), 4, 4)
        np.testing.assert_allclose(made.camera_to_world[0], np.eye(4), atol=1e-9)
        for pose in made.camera_to_world:
            check_camera(np.eye(3), pose)


@pytest.mark.parametrize("name", OPTIONS)
def test_a_clip_of_one_frame_and_black_frames_among_others(name: str, registered: dict[str, Path]) -> None:
    assert depths(clip(scene(1), name)).shape == (1, 80, 128)
    frames = [np.zeros_like(scene(1)[0]), scene(1)[0], np.zeros_like(scene(1)[0])]
    for found in (depths(clip(frames, name)), depths(clip([frames[0]] * 2, name))):
        assert np.isfinite(found).all() and (found > 0).all()


def test_black_frames_do_not_change_the_others_scale(registered: dict[str, Path]) -> None:
    black = np.zeros_like(scene(1)[0])
    alone, among = scene(2), [black, *scene(2), black, black, black]
    np.testing.assert_allclose(
        depths(clip(among, "depth-anything-v2"))[1:3], depths(clip(alone, "depth-anything-v2")), rtol=1e-5
    )


TOGETHER = ["depth-anything-3", "video-depth-anything", "depthcrafter"]


@pytest.mark.parametrize("name", TOGETHER)
def test_what_a_blank_frame_shows_is_not_seen_by_its_neighbours(name: str, registered: dict[str, Path]) -> None:
    one, two = scene(2)
    results, reporter = [], Recorder()
    for level in (0, 128, 255):
        made = clip([one, np.full_like(one, level), two, np.full_like(one, 255 - level)], name, reporter)
        results.append((depths(made), made.camera_to_world, made.intrinsics))
    for found, poses, lens in results[1:]:
        np.testing.assert_array_equal(found[[0, 2]], results[0][0][[0, 2]])
        for known, first in ((poses, results[0][1]), (lens, results[0][2])):
            assert (known is None) == (first is None)
            if known is not None and first is not None:
                np.testing.assert_array_equal(known, first)
    lines = [line for line in reporter.lines if "nothing" in line]
    assert len(lines) == 3 and "2 frames" in lines[0] and "2, 4 of the clip" in lines[0]


@pytest.mark.parametrize("name", OPTIONS)
def test_the_plate_is_streamed(name: str, registered: dict[str, Path]) -> None:
    alive: set[int] = set()
    most = passes = 0

    class Frame(np.ndarray):
        """Knows when it is gone."""

        def __del__(self) -> None:
            alive.discard(id(self))

    def plate() -> Iterator[np.ndarray]:
        nonlocal most, passes
        passes += 1
        for image in scene(6):
            frame = image.view(Frame)
            alive.add(id(frame))
            most = max(most, len(alive))
            yield frame

    source = depth_source(name, device="cpu", **OPTIONS[name])
    made = source.estimate(plate, 6, (128, 80), Silent())
    assert sum(1 for _ in made.frames) == 6
    assert passes == 2 and most <= 3


# -------------------------------------------------------------------------------- what is told of it


def test_metres_are_metres(registered: dict[str, Path]) -> None:
    made = clip(scene(), "depth-anything-v2", variant="small-metric-indoor")
    assert made.scale == "metric"
    found = depths(made)
    assert found.min() > 0 and found.max() <= 20 * (1 + 1e-5)  # the network's own largest distance


def test_the_kind_of_a_registered_network_is_checked(models: dict[str, Path]) -> None:
    store.register(V2, models[V2_METRIC])
    with pytest.raises(Ex4dError, match="their depth is metric") as caught:
        clip(scene(), "depth-anything-v2")
    assert caught.value.code == "model_invalid"


def test_depth_pro_s_metres_follow_from_its_lens(registered: dict[str, Path]) -> None:
    from transformers import DepthProForDepthEstimation

    image = scene(1)[0]
    made = clip([image], "depth-pro")
    network = DepthProForDepthEstimation.from_pretrained(registered["depth-pro"]).eval()
    small = torch.from_numpy(image).permute(2, 0, 1)[None] / 127.5 - 1
    small = torch.nn.functional.adaptive_avg_pool2d(small, 64)
    with torch.inference_mode():
        said = network(pixel_values=small)
    fov = float(said.field_of_view[0])
    assert made.intrinsics is not None
    focal = float(made.intrinsics[0, 0])
    assert focal == pytest.approx(64 / np.tan(np.radians(fov) / 2), rel=0.01)
    # canonical inverse depth: 1 / z = value · width / focal length
    expected = np.median(1 / np.clip(said.predicted_depth[0].numpy() * 128 / focal, 1e-4, 1e4))
    assert float(np.median(depths(made))) == pytest.approx(expected, rel=0.02)


def test_a_lens_that_zooms_is_said() -> None:
    from ex4d_engine.depth.sources.depth_pro import clip_fov

    reporter = Recorder()
    assert clip_fov([40.0, 41.0, 40.5, np.nan, 0.0], "Net", reporter) == 40.5
    assert not reporter.lines
    assert clip_fov([30.0, 45.0, 60.0], "Net", reporter) == 45.0
    assert "zoom" in reporter.lines[0]
    with pytest.raises(Ex4dError, match="Net found no lens"):
        clip_fov([np.nan, 0.0], "Net", reporter)


def by_brightness(video: torch.Tensor) -> torch.Tensor:
    """A field of view in degrees (N,) of frames (N, 3, h, w): 50 where there is a picture, 20 where there is none."""
    return torch.where(video.flatten(1).std(1) > 0.2, 50.0, 20.0)


@pytest.mark.parametrize("name", ["depth-pro", "depth-anything-3"])
def test_frames_of_nothing_say_nothing_of_the_lens(
    name: str, registered: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    from transformers import DepthProForDepthEstimation

    from ex4d_engine.depth.networks.multi_view_network import MultiViewNetwork

    one, many = DepthProForDepthEstimation.forward, MultiViewNetwork.forward

    def one_said(self: Any, pixel_values: torch.Tensor) -> Any:
        said = one(self, pixel_values=pixel_values)
        said.field_of_view = by_brightness(pixel_values)
        return said

    def many_said(self: Any, images: torch.Tensor) -> Any:
        fov = torch.deg2rad(by_brightness(images))
        return dataclasses.replace(many(self, images), fov=torch.stack([0.6 * fov, fov], 1))

    monkeypatch.setattr(DepthProForDepthEstimation, "forward", one_said)
    monkeypatch.setattr(MultiViewNetwork, "forward", many_said)
    nothing, reporter = np.zeros_like(scene(1)[0]), Recorder()
    made = clip([*[nothing] * 3, *scene(2)], name, reporter)
    assert made.intrinsics is not None
    assert float(made.intrinsics[0, 0]) == pytest.approx(64 / np.tan(np.radians(25)), rel=1e-4)
    if name == "depth-anything-3":
        assert float(made.intrinsics[1, 1]) == pytest.approx(40 / np.tan(np.radians(15)), rel=1e-4)
    assert not any("zoom" in line for line in reporter.lines)
    assert clip([nothing] * 2, name).intrinsics is not None


def test_a_library_s_talk_does_not_reach_the_user(registered: dict[str, Path]) -> None:
    script = (
        "import sys, torch; from pathlib import Path; from transformers import DepthAnythingForDepthEstimation as kind;"
        "from ex4d_engine.depth.network_loading import load_library_model;"
        "load_library_model(kind, Path(sys.argv[1]), torch.float32)"
    )
    command = [sys.executable, "-c", script, str(registered[V2])]
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=Path(__file__).parents[4])
    assert done.stdout == "" and "transformers]" not in done.stderr


# ------------------------------------------------------------------------------------- what is refused


@pytest.mark.parametrize("name", OPTIONS)
def test_a_model_that_is_not_here_is_refused_before_work_starts(name: str) -> None:
    with pytest.raises(Ex4dError, match="not installed") as caught:
        depth_source(name)
    assert caught.value.code == "model_missing"
    assert caught.value.action.startswith("models:") and "ex4d models download" in caught.value.hint


def break_weights(model: Path, file: str, change: Callable[[dict[str, torch.Tensor]], None], copy: Path) -> Path:
    if not file:
        tensors = torch.load(model, weights_only=True)
        change(tensors)
        torch.save(tensors, copy)
        return copy
    shutil.copytree(model, copy)
    tensors = load_file(copy / file)
    change(tensors)
    save_file(tensors, copy / file, metadata={"format": "pt"})
    return copy


def big(tensors: dict[str, torch.Tensor]) -> str:
    """A tensor in the middle that every one of the networks uses."""
    return sorted(name for name, value in tensors.items() if value.ndim == 4 and "_aux" not in name)[1]


def without_one(tensors: dict[str, torch.Tensor]) -> None:
    del tensors[big(tensors)]


def with_another(tensors: dict[str, torch.Tensor]) -> None:
    prefix = "model." if any(name.startswith("model.") for name in tensors) else ""
    tensors[f"{prefix}something.else"] = torch.zeros(3)


def misshapen(tensors: dict[str, torch.Tensor]) -> None:
    tensors[big(tensors)] = torch.zeros(2, 2, 1, 1)


@pytest.mark.parametrize("change", [without_one, with_another, misshapen])
@pytest.mark.parametrize("name", OPTIONS)
def test_every_tensor_is_accounted_for(
    name: str, change: Callable[[dict[str, torch.Tensor]], None], registered: dict[str, Path], tmp_path: Path
) -> None:
    model, file = FILES[name]
    store.register(model, break_weights(registered[model], file, change, tmp_path / "broken.pth"))
    with pytest.raises(Ex4dError) as caught:
        clip(scene(), name)
    assert caught.value.code == "model_invalid" and caught.value.hint


def unusable(tensors: dict[str, torch.Tensor]) -> None:
    for value in tensors.values():
        if value.is_floating_point():
            value.fill_(torch.nan)


@pytest.mark.parametrize("name", OPTIONS)
def test_a_network_that_says_nothing_but_nan_is_refused_in_one_sentence(
    name: str, registered: dict[str, Path], tmp_path: Path
) -> None:
    model, file = FILES[name]
    store.register(model, break_weights(registered[model], file, unusable, tmp_path / "broken.pth"))
    with pytest.raises(Ex4dError, match="frame 1 of the clip") as caught:
        clip(scene(), name)
    assert caught.value.code == "depth_invalid" and caught.value.hint


def test_a_pixel_that_is_no_number_becomes_unknown(
    registered: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    from transformers import DepthAnythingForDepthEstimation

    forward = DepthAnythingForDepthEstimation.forward

    def spoiled(self: Any, **named: Any) -> Any:
        said = forward(self, **named)
        said.predicted_depth[0, :7, :7] = torch.inf
        return said

    monkeypatch.setattr(DepthAnythingForDepthEstimation, "forward", spoiled)
    made = clip(scene(), "depth-anything-v2")
    frame: DepthFrame = next(made.frames)
    assert np.isnan(frame.depth[:7, :7]).all()
    assert np.isfinite(frame.depth[20:]).all()


def test_a_file_that_would_run_code_is_not_read(registered: dict[str, Path], tmp_path: Path) -> None:
    class Trap:
        def __reduce__(self) -> tuple[Any, ...]:
            return print, ("caught",)

    path = tmp_path / "trap.pth"
    torch.save({"weights": Trap()}, path)
    with pytest.raises(Ex4dError, match="would run code"):
        store.register("video-depth-anything-small", path)


@pytest.mark.parametrize("name", OPTIONS)
def test_it_can_be_stopped(name: str, registered: dict[str, Path]) -> None:
    reporter = Silent()
    reporter.cancelled.set()
    with pytest.raises(Cancelled):
        clip(scene(), name, reporter)


def test_options_that_cannot_be(registered: dict[str, Path]) -> None:
    for options, word in (
        ({"variant": "huge"}, "variant"),
        ({"size": 4}, "pixels"),
        ({"size": "wide"}, "pixels"),
        ({"device": "abacus"}, "device"),
    ):
        with pytest.raises(Ex4dError, match=word) as caught:
            clip(scene(), "depth-anything-v2", **options)
        assert caught.value.code == "bad_request" and caught.value.hint


def test_a_card_that_is_too_small_is_said(registered: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    from transformers import DepthAnythingForDepthEstimation

    def full(self: Any, **_: Any) -> Any:
        raise torch.OutOfMemoryError

    monkeypatch.setattr(DepthAnythingForDepthEstimation, "forward", full)
    with pytest.raises(Ex4dError, match="does not fit") as caught:
        clip(scene(), "depth-anything-v2")
    assert caught.value.code == "out_of_memory" and "size" in caught.value.hint


def test_a_damaged_scheduler_is_refused(registered: dict[str, Path], tmp_path: Path) -> None:
    shutil.copytree(registered["stable-video-diffusion"], tmp_path / "shared")
    (tmp_path / "shared" / "scheduler" / "scheduler_config.json").write_text("{", encoding="utf-8")
    store.register("stable-video-diffusion", tmp_path / "shared")
    with pytest.raises(Ex4dError, match="scheduler") as caught:
        clip(scene(), "depthcrafter")
    assert caught.value.code == "model_invalid"


@pytest.mark.parametrize("width", [32, 96])
def test_weights_that_fit_no_network_of_the_kind(width: int, registered: dict[str, Path], tmp_path: Path) -> None:
    def narrowed(tensors: dict[str, torch.Tensor]) -> None:
        tensors["pretrained.pos_embed"] = torch.zeros(1, 17, width)
        tensors["head.scratch.layer1_rn.weight"] = torch.zeros(width // 2, 32, 3, 3)

    model = "video-depth-anything-small"
    store.register(model, break_weights(registered[model], "", narrowed, tmp_path / "narrow.pth"))
    with pytest.raises(Ex4dError) as caught:
        clip(scene(), "video-depth-anything")
    assert caught.value.code == "model_invalid"


def test_options_on_the_command_line() -> None:
    assert depth_option("variant=base") == ("variant", "base")
    assert depth_option("size=700") == ("size", 700)
    with pytest.raises(argparse.ArgumentTypeError, match="variant=base"):
        depth_option("base")


# ------------------------------------------------------------------------------------------- registry


def test_the_default_is_the_best_that_needs_nothing_more(
    models: dict[str, Path], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    from ex4d_engine.depth import registry

    monkeypatch.setattr(registry, "_BUNDLED_WEIGHTS", tmp_path / "none.safetensors")
    assert default_source() == "rough-pictorial"
    monkeypatch.setattr(registry, "_BUNDLED_WEIGHTS", models[V2] / "model.safetensors")
    assert default_source() == "bundled"
    store.register(V2, models[V2])
    assert default_source() == "depth-anything-v2"


def test_sources_whose_licence_restricts_use_must_be_accepted() -> None:
    assert set(OPTIONS) <= set(depth_sources())
    assert all(depth_sources()[name].needs_download for name in OPTIONS)  # type: ignore[attr-defined]
    free = {model.name for model in MODELS.values() if model.kind == "depth" and not model.needs_acceptance}
    assert free == {
        V2,
        V2_METRIC,
        "depth-anything-v2-small-metric-outdoor",
        "depth-anything-3-small",
        "depth-anything-3-base",
        "video-depth-anything-small",
    }
    for name in free:
        assert MODELS[name].licence == "Apache-2.0"


def test_a_folder_that_is_no_depth_model_is_not_registered(models: dict[str, Path], tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}", encoding="utf-8")
    for path, code in ((tmp_path, "model_invalid"), (tmp_path / "none", "model_missing")):
        with pytest.raises(Ex4dError, match=r"model\.safetensors") as caught:
            store.register(V2, path)
        assert caught.value.code == code
