# SPDX-License-Identifier: GPL-3.0-or-later
"""What the denoiser is trained on, computed once: while it trains, no autoencoder, CLIP or text encoder is in memory.

A window is one file, named by what its content follows from: pixels, masks, models and settings. So a cache that was
interrupted goes on where it was, and a changed setting finds nothing that is wrong for it. Latents are kept in half
precision, which is finer than what the autoencoder itself does to a picture.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Protocol

import numpy as np
import numpy.typing as npt
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file
from torch import Tensor
from transformers import CLIPVisionModel

from ..diffusion import preprocess
from ..diffusion.loading import (
    PROMPT_FILE,
    autoencoder_class,
    check_model_folder,
    constant_prompt,
    folder_components,
    folder_shift,
    has_constant_prompt,
    load_component,
)
from ..diffusion.pipeline import TEXT_TOKENS, Ex4dPipeline
from ..diffusion.runtime import PROMPT, embed_texts
from ..diffusion.scheduler import euler_scheduler
from ..errors import Ex4dError
from ..files import prepare_folder
from ..progress import Reporter
from ..tensor_saving import save_tensors
from .clip_folder import Frames, Skips
from .lora_config import LoraTraining
from .training_windows import TrainingWindow, WindowPixels, digest_of, require_windows, training_windows

FORMAT: Final = 1  # to be raised where the same inputs would give other tensors
LATENT_FOLDER, TEXT_FOLDER = "latents", "text"
_END_BYTES: Final = 2**20


class MaskSource(Protocol):
    """Draws which pixels of a window another camera would still see; the same seed gives the same mask.

    version: changes when the same arguments would give other masks.
    """

    version: str

    def __call__(
        self, frames: Frames, depth: npt.NDArray[np.float32], intrinsics: npt.NDArray[np.float64], seed: int
    ) -> npt.NDArray[np.uint8]:
        """(F, H, W) uint8, 255 where kept and 0 elsewhere, eroded already.

        Args:
            frames: (F, H, W, 3) uint8 sRGB.
            depth: (F, H, W) float32 z, inf for sky, NaN where unknown.
            intrinsics: (F, 3, 3) in pixels.
            seed: of the mask.
        """
        ...


@dataclass(frozen=True)
class Sample:
    """Files of one window's latents and of its text, which is padded to `text_tokens` rows."""

    latents: Path
    text: Path
    text_tokens: int = TEXT_TOKENS


@dataclass(frozen=True)
class CachedData:
    """A training's data, complete on the disk.

    training, validation: windows to learn from, and windows that are never learned from.
    padded: how many windows end with their last frame repeated.
    digest: tells this data from any other.
    shift: of the model's noise schedule.
    """

    training: tuple[Sample, ...]
    validation: tuple[Sample, ...]
    padded: int
    digest: str
    shift: float


@dataclass(frozen=True)
class TrainingTensors:
    """One window with one of its masks, on the CPU.

    target: (1, C, f, h, w) latents of the window, 16 channels of Wan and 48 of the small model.
    condition: (1, 4 + C, f, h, w), image_embeds: (1, 257, image_dim) or None: its first frame, see `Conditioning`.
    colour, mask: (1, C, f, h, w) what the camera encoder reads.
    text: (1, text_tokens, text_dim).
    """

    target: Tensor
    condition: Tensor
    image_embeds: Tensor | None
    colour: Tensor
    mask: Tensor
    text: Tensor


def read_sample(sample: Sample, mask: int) -> TrainingTensors:
    """The tensors of a window under its mask number `mask`, in float32.

    Raises:
        Ex4dError: `model_invalid` for a file that is damaged or gone.
    """
    try:
        kept = {name: value.float()[None] for name, value in load_file(sample.latents).items()}
        text = load_file(sample.text)["text"].float()[None]
        text = torch.nn.functional.pad(text, (0, 0, 0, sample.text_tokens - text.shape[1]))
        target, condition, colour, rendered_mask = (
            kept[name] for name in ("target", "condition", f"colour_{mask}", f"mask_{mask}")
        )
        return TrainingTensors(target, condition, kept.get("image_embeds"), colour, rendered_mask, text)
    except (SafetensorError, OSError, KeyError) as error:
        raise Ex4dError(
            "model_invalid",
            f"{sample.latents} or its text in the cache is gone or damaged ({type(error).__name__}).",
            "Delete this file and run again: it is made anew.",
        ) from error


def build_cache(
    training: LoraTraining,
    model_folder: Path,
    cache: Path,
    masks: MaskSource,
    device: torch.device,
    skips: Skips,
    reporter: Reporter,
) -> CachedData:
    """Computes what is not in the cache yet.

    Args:
        training: what is trained.
        model_folder: whose encoders are used.
        cache: folder of the files.
        masks: draws the masks.
        device: where the encoders run.
        skips: is told of clips that were left out.
        reporter: told of each window; its `check` is called between windows and frames.

    Raises:
        Ex4dError: `no_such_file`, `no_frames`, `bad_request` where too little is left to train on; `model_missing`,
            `model_invalid`; `disk_full`; `cancelled`, after which the next call goes on.
    """
    check_model_folder(model_folder)
    prepare_folder(cache)
    found = training_windows(training, cache, skips, device, reporter)
    require_windows(found, training.run.validation_clips)
    maker = _Maker(training, model_folder, cache, masks, device)
    made: list[tuple[TrainingWindow, Path]] = []
    for done, window in enumerate(found):
        reporter.check()
        reporter.progress("cache clips", done, len(found))
        with skips.leaving_out(window.name):
            made.append((window, maker.latents(window, reporter)))
    maker.release()
    reporter.progress("cache clips", len(found), len(found))
    require_windows([window for window, _ in made], training.run.validation_clips)
    texts = _texts(training, [window for window, _ in made], model_folder, cache / TEXT_FOLDER, device, reporter)
    samples = [Sample(path, text, texts.tokens) for (_, path), text in zip(made, texts.files, strict=True)]
    first_held_out = len(samples) - training.run.validation_clips
    return CachedData(
        training=tuple(samples[:first_held_out]),
        validation=tuple(samples[first_held_out:]),
        padded=sum(window.is_padded for window, _ in made),
        digest=digest_of(*((sample.latents.name, sample.text.name) for sample in samples)),
        shift=folder_shift(model_folder),
    )


class _Maker:
    """Makes windows' files. The encoders are loaded when the first one is missing."""

    def __init__(
        self, training: LoraTraining, folder: Path, cache: Path, masks: MaskSource, device: torch.device
    ) -> None:
        self._count, self._seed = training.data.masks_per_clip, training.run.seed
        self._masks, self._device = masks, device
        self._folder, self._cache = folder, cache
        encoders = [name for name in ("vae", "image_encoder") if name in folder_components(folder)]
        self._made_by = (FORMAT, masks.version, self._count, self._seed, fingerprint(folder, *encoders))
        self._encoders: Ex4dPipeline | None = None

    def latents(self, window: TrainingWindow, reporter: Reporter) -> Path:
        """The window's file, made if it is not there or damaged."""
        key = digest_of(window.key, *self._made_by)
        path = self._cache / LATENT_FOLDER / f"{key}.safetensors"
        if not _is_readable(path):
            pixels = window.load(reporter)
            drawn = []
            for number in range(self._count):
                reporter.check()
                drawn.append(self._mask(pixels, int(digest_of(key, number)[:15], 16)))
            if self._encoders is None:
                self._encoders = load_encoders(self._folder, self._device)
            path.parent.mkdir(parents=True, exist_ok=True)
            save_tensors(path, encode_window(self._encoders, pixels.frames, drawn, reporter))
        return path

    def release(self) -> None:
        """Lets the encoders go."""
        self._encoders = None
        if self._device.type == "cuda":
            torch.cuda.empty_cache()

    def _mask(self, pixels: WindowPixels, seed: int) -> npt.NDArray[np.uint8]:
        mask = self._masks(pixels.frames, pixels.depth, pixels.intrinsics, seed).copy()
        mask[0] = 255  # a path starts at the source view, and the first frame is also the denoiser's image
        return mask


def load_encoders(folder: Path, device: torch.device) -> Ex4dPipeline:
    """A model folder's autoencoder and CLIP, if it has one, in the pipeline that uses them, without a denoiser.

    Raises:
        Ex4dError: `model_invalid`.
    """
    has_clip = "image_encoder" in folder_components(folder)
    pipeline = Ex4dPipeline(
        tokenizer=None,
        text_encoder=None,
        vae=load_component(autoencoder_class(folder), folder / "vae", torch.float32),
        scheduler=euler_scheduler(folder_shift(folder)),
        image_encoder=load_component(CLIPVisionModel, folder / "image_encoder", torch.float32) if has_clip else None,
    )
    return pipeline.to(device)


@torch.no_grad()
def encode_window(
    encoders: Ex4dPipeline, frames: Frames, masks: Sequence[npt.NDArray[np.uint8]], reporter: Reporter
) -> dict[str, Tensor]:
    """A window's file: `TrainingTensors` without batch axis and text, colour and mask once a mask, in half precision.

    Args:
        encoders: from `load_encoders`.
        frames: (F, H, W, 3) uint8.
        masks: (F, H, W) uint8 each, eroded already.
        reporter: checked between masks.
    """
    whole = np.full(frames.shape[:3], 255, np.uint8)
    window, _ = preprocess.conditioning_videos(frames, whole, preprocess.no_erosion(len(frames)))
    condition, image_embeds = encoders.encode_first_frame(window)
    tensors = {"target": encoders.encode_video(window), "condition": condition}
    if image_embeds is not None:
        tensors["image_embeds"] = image_embeds
    for number, mask in enumerate(masks):
        reporter.check()
        rendered = preprocess.conditioning_videos(frames, mask, preprocess.no_erosion(len(frames)))
        tensors[f"colour_{number}"], tensors[f"mask_{number}"] = encoders.encode_rays(*rendered)
    return {name: value[0].half() for name, value in tensors.items()}


def fingerprint(folder: Path, *parts: str) -> str:
    """Tells one model's parts from another's, wherever they lie, by the ends of their files; whole ones take long."""
    files = sorted(path for part in parts for path in (folder / part).iterdir() if path.is_file())
    return digest_of(*((path.parent.name, path.name, path.stat().st_size, _ends(path)) for path in files))


def _ends(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        digest.update(file.read(_END_BYTES))
        file.seek(max(0, path.stat().st_size - _END_BYTES))
        digest.update(file.read(_END_BYTES))
    return digest.hexdigest()


@dataclass(frozen=True)
class _Texts:
    """The file of each window's text, in order, and how many rows the transformer is given of it."""

    files: list[Path]
    tokens: int


def _texts(
    training: LoraTraining,
    windows: Sequence[TrainingWindow],
    folder: Path,
    cache: Path,
    device: torch.device,
    reporter: Reporter,
) -> _Texts:
    """The windows' texts; a model that knows one embedding only is given that, whatever they say."""
    if not has_constant_prompt(folder):
        prompts = [window.prompt or training.data.prompt or PROMPT for window in windows]
        files = _cached_texts(prompts, folder, cache, device, reporter)
        return _Texts([files[prompt] for prompt in prompts], TEXT_TOKENS)
    unused = ["data.prompt"] if training.data.prompt else []
    unused += ["captions"] if any(window.prompt for window in windows) else []
    if unused:
        reporter.log(f"{training.model.title} knows no text: it has no use for {' and '.join(unused)}.")
    embeds = constant_prompt(folder)
    file = cache / f"{digest_of(FORMAT, _ends(folder / PROMPT_FILE))}.safetensors"
    if not _is_readable(file):
        cache.mkdir(parents=True, exist_ok=True)
        save_tensors(file, {"text": embeds[0]})
    return _Texts([file] * len(windows), embeds.shape[1])


def _cached_texts(
    prompts: Sequence[str], folder: Path, cache: Path, device: torch.device, reporter: Reporter
) -> dict[str, Path]:
    """The file of each prompt's embedding; the text encoder is loaded only where one is missing."""
    encoder = fingerprint(folder, "text_encoder", "tokenizer")
    files = {prompt: cache / f"{digest_of(FORMAT, encoder, prompt)}.safetensors" for prompt in prompts}
    missing = [prompt for prompt, file in files.items() if not _is_readable(file)]
    if missing:
        cache.mkdir(parents=True, exist_ok=True)
        dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
        for prompt, embeds in zip(missing, embed_texts(folder, missing, dtype, device, reporter), strict=True):
            rows = int(embeds[0].ne(0).any(dim=-1).nonzero().max()) + 1 if embeds.any() else 1
            save_tensors(files[prompt], {"text": embeds[0, :rows]})
    return files


def _is_readable(path: Path) -> bool:
    """Whether a file of ours is there and complete: a header that names tensors up to the file's very end."""
    try:
        with safe_open(path, framework="pt"):
            return True
    except (SafetensorError, OSError):
        return False
