# SPDX-License-Identifier: GPL-3.0-or-later
"""What a training is made from: windows of clips of the user's own, or of scenes drawn for it, with their depth."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Protocol

import numpy as np
import numpy.typing as npt
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

from ..cameras import intrinsics_from_fov
from ..depth.registry import depth_source
from ..errors import Ex4dError
from ..progress import Reporter
from ..tensor_saving import save_tensors
from .clip_folder import Frames, OnlyCancel, Skips, Window, caption, clip_name, list_clips, read_window, windows
from .depth_clips import HELD_OUT_SEED
from .lora_config import LoraTraining, TrainingData

DEPTH_FOLDER: Final = "depth"
_SCENES_A_RUN: Final = 10**7
"""Between the scenes of one run's seed and the next one's."""


@dataclass(frozen=True)
class WindowPixels:
    """A window as it is masked and encoded.

    frames: (F, H, W, 3) uint8 sRGB. depth: (F, H, W) float32 z, inf for sky, NaN where unknown.
    intrinsics: (F, 3, 3) float64 in pixels.
    """

    frames: Frames
    depth: npt.NDArray[np.float32]
    intrinsics: npt.NDArray[np.float64]


@dataclass(frozen=True)
class TrainingWindow:
    """One window.

    name: for messages. key: tells its pixels and depth from any other's. prompt: empty for the training's own.
    load: reads or draws it.
    """

    name: str
    key: str
    prompt: str
    is_padded: bool
    load: Callable[[Reporter], WindowPixels]


class SceneSource(Protocol):
    """As `ex4d_engine.synthetic.random_clips`."""

    def __call__(self, seed: int, batch: int, frames: int, height: int, width: int, device: torch.device) -> Any: ...


def training_windows(
    training: LoraTraining, cache: Path, skips: Skips, device: torch.device, reporter: Reporter
) -> list[TrainingWindow]:
    """All windows, in an order that depends on names and seeds alone.

    Raises:
        Ex4dError: `no_such_file`, `no_frames`, `cancelled`.
    """
    data = training.data
    if data.scenes:
        from ..synthetic import random_clips

        return [drawn_window(training.run.seed, index, data, random_clips, device) for index in range(data.scenes)]
    folder = Path(data.clips)
    clips = list_clips(folder, cache, skips, reporter)
    found = windows(clips, data.frames, data.windows_per_clip, data.short_clips == "repeat_last", skips)
    return [_filmed_window(window, folder, data, cache) for window in found]


def drawn_window(
    seed: int, index: int, data: TrainingData, source: SceneSource, device: torch.device
) -> TrainingWindow:
    """The window of a scene that is drawn from a seed."""
    scene = (seed * _SCENES_A_RUN + index) % HELD_OUT_SEED

    def load(reporter: Reporter) -> WindowPixels:
        reporter.check()
        clip = source(scene, 1, data.frames, data.height, data.width, device)
        images = (clip.images[0].clamp(0, 1) * 255).round().to(torch.uint8).permute(0, 2, 3, 1)
        return WindowPixels(
            images.cpu().numpy(), clip.depth[0].float().cpu().numpy(), clip.intrinsics[0].double().cpu().numpy()
        )

    return TrainingWindow(f"scene {index}", digest_of("scene", scene, *_size(data)), "", False, load)


def _filmed_window(window: Window, folder: Path, data: TrainingData, cache: Path) -> TrainingWindow:
    name = clip_name(window.clip.path, folder)
    key = digest_of("clip", window.clip.digest, window.first, *_size(data), data.depth)

    def load(reporter: Reporter) -> WindowPixels:
        frames = read_window(window, data.height, data.width, reporter)
        depth, intrinsics = _depth(frames, data.depth, cache / DEPTH_FOLDER / f"{key}.safetensors", reporter)
        return WindowPixels(frames, depth, intrinsics)

    return TrainingWindow(
        f"{name} from frame {window.first}", key, caption(window.clip.path) or "", window.is_padded, load
    )


def _depth(
    frames: Frames, source: str, file: Path, reporter: Reporter
) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float64]]:
    """Depth (F, H, W) and intrinsics (F, 3, 3) of a window; computed once and kept in `file`."""
    kept = _kept_depth(file)
    if kept is None:
        height, width = frames.shape[1:3]
        clip = depth_source(source).estimate(lambda: iter(frames), len(frames), (width, height), OnlyCancel(reporter))
        depth = np.stack([frame.depth for frame in clip.frames])
        one = clip.intrinsics if clip.intrinsics is not None else intrinsics_from_fov(width, height)
        # half precision of 1/z: three digits of disparity, sky is 0, and half the disk of the maps themselves
        kept = {
            "inverse_depth": torch.from_numpy(np.reciprocal(depth).astype(np.float16)),
            "intrinsics": torch.from_numpy(np.repeat(np.asarray(one, np.float64)[None], len(frames), axis=0)),
        }
        file.parent.mkdir(parents=True, exist_ok=True)
        save_tensors(file, kept)
    with np.errstate(divide="ignore"):  # of sky
        return np.reciprocal(kept["inverse_depth"].float().numpy()), kept["intrinsics"].numpy()


def _kept_depth(file: Path) -> dict[str, torch.Tensor] | None:
    """What an earlier run kept; None where there is nothing, or a damaged file, which is computed again."""
    try:
        kept = load_file(file) if file.is_file() else {}
    except (SafetensorError, OSError):
        return None
    return kept if kept.keys() >= {"inverse_depth", "intrinsics"} else None


def digest_of(*parts: Any) -> str:
    """A name for what is determined by `parts`, which JSON can hold."""
    return hashlib.sha256(json.dumps(parts, ensure_ascii=True).encode("ascii")).hexdigest()


def require_windows(found: list[TrainingWindow], held_out: int) -> None:
    """Raises `bad_request` unless windows are left to train on after `held_out` of them."""
    if len(found) <= held_out:
        raise Ex4dError(
            "bad_request",
            f"There are {len(found)} windows to train on, of which {held_out} are kept for validation.",
            "Give more clips, or a smaller run.validation_clips.",
        )


def _size(data: TrainingData) -> tuple[int, int, int]:
    return data.frames, data.height, data.width
