# SPDX-License-Identifier: GPL-3.0-or-later
"""Rows of a diffusion model that fills what the source camera never saw: without an adapter, and with each of some."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from diffusers.utils.torch_utils import randn_tensor
from numpy.typing import NDArray

from ..composite import match_colour
from ..diffusion import preprocess
from ..diffusion.folder_adapter import folder_adapter
from ..diffusion.generation import VideoSettings, erosion_kernels
from ..diffusion.loading import check_model_folder, constant_prompt, load_pipeline
from ..diffusion.pipeline import Ex4dPipeline
from ..diffusion.preset_defaults import DEFAULTS
from ..errors import Ex4dError
from ..models.lock import sha256
from ..progress import Silent
from .fill_cases import FillCase
from .fill_conditioning import FillConditioning
from .fill_folder import row_folder
from .fill_rows import CLASSICAL, restored

MAIN_STEPS: Final = 4
BASE: Final = "base model"
FULL: Final = "both"
"""The adapter that is meant to win: trained with rendering and tracking masks."""
_VERSION: Final = 1  # to be raised where the same files would give other fills


@dataclass(frozen=True)
class ModelRow:
    """A row of the table.

    Attributes:
        name: of the row.
        adapter: file or folder of its LoRA and camera encoder; None leaves the transformer without conditioning: it
            goes on from the first frame, as image-to-video models do.
        conditioning: one of `fill_conditioning.KINDS`.
        steps: of denoising.
    """

    name: str
    adapter: Path | None
    conditioning: str = "mesh"
    steps: int = MAIN_STEPS


def model_rows(folder: Path, adapters: Mapping[str, Path], steps: Sequence[int] = ()) -> list[ModelRow]:
    """The rows of a model: the base, each adapter, and of the full one also other conditioning and other step counts.

    Args:
        folder: of the model; the adapter in it is `FULL` where none is named.
        adapters: files by name; the full one is `FULL`, or else the last.
        steps: further numbers of steps for the full one.

    Raises:
        Ex4dError: `model_missing` naming an adapter that is not there; `bad_request` for a name that would be
            another row's, and for no steps.
    """
    own = folder_adapter(folder)
    named = dict(adapters) or ({} if own is None else {FULL: own})
    if any(count < 1 for count in steps):
        raise Ex4dError("bad_request", f"A model fills nothing in {min(steps)} steps.", "Give 1 or more.")
    rows = [ModelRow(BASE, None)]
    rows += [ModelRow(name, path) for name, path in named.items()]
    if named:
        full = full_row(named)
        rows += [ModelRow(f"{full}, on {kind}", named[full], kind) for kind in ("closed", "warp", "splats")]
        others = sorted(set(steps) - {MAIN_STEPS})
        rows += [ModelRow(f"{full}, {_steps(count)}", named[full], steps=count) for count in others]
    rows_of = Counter(row_folder(row) for row in (*CLASSICAL, *(row.name for row in rows)))
    for name in named:
        if "," in name or not row_folder(name) or rows_of[row_folder(name)] > 1:
            raise Ex4dError(
                "bad_request",
                f"An adapter cannot have the name {name!r} here.",
                "Name it with Latin letters or digits, without commas, unlike every other row.",
            )
    for path in named.values():
        if not path.exists():
            raise Ex4dError("model_missing", f"There is no EX-4D adapter {path}.", "Correct the path.")
    return rows


def full_row(adapters: Mapping[str, Path]) -> str:
    """Which of the adapters is the full one."""
    return FULL if FULL in adapters else list(adapters)[-1]


def made_with(folder: Path, rows: Sequence[ModelRow]) -> dict[str, dict[str, Any]]:
    """By the row's name, all that its fills follow from: where it is the same, they need not be made again.

    Weights count by what is in their files, wherever these lie; the adapter in the model's folder is no part of the
    model. Devices do not count, as all take the same noise.

    Raises:
        Ex4dError: `model_missing` for a folder that is none of a model; for a file that cannot be read.
    """
    check_model_folder(folder)
    model = _digest(folder, without=folder_adapter(folder))
    adapters = {path: None if path is None else _digest(path) for path in {row.adapter for row in rows}}
    return {
        row.name: {
            "version": _VERSION,
            "model": model,
            "adapter": adapters[row.adapter],
            "conditioning": row.conditioning,
            "steps": row.steps,
            "erosion": _erosion(),
        }
        for row in rows
    }


class FillModel:
    """A model folder with one adapter, or none.

    Args:
        folder: whose model knows one prompt only, as the bundled one does.
        adapter: as in `ModelRow`.
        device: to compute on, in float32.

    Raises:
        Ex4dError: `model_missing`, `model_invalid`, `out_of_memory`.
    """

    def __init__(self, folder: Path, adapter: Path | None, device: torch.device) -> None:
        self._prompt = constant_prompt(folder)
        self._pipeline = load_pipeline(
            folder, adapter, dtype=torch.float32, device=device, reporter=Silent(), text_encoder=False
        )
        self._is_base = adapter is None
        if self._is_base and getattr(self._pipeline.transformer, "peft_config", None):
            self._pipeline.transformer.disable_adapters()  # the folder's own

    def fill(self, case: FillCase, known: FillConditioning, steps: int) -> NDArray[np.uint8]:
        """(F,H,W,3): generated, its colours matched to the known pixels as in a composite, and these restored.

        The noise is drawn from the case's seed on the CPU: the same on every device, for every adapter.
        """
        kernels = erosion_kernels(VideoSettings(erosion=_erosion()), len(known.color))
        video, mask = preprocess.conditioning_videos(known.color, known.mask, kernels)
        generator = torch.Generator().manual_seed(case.seed)
        if self._is_base:
            generated = _from_first_frame(self._pipeline, video, self._prompt, steps, generator)
        else:
            generated = self._pipeline(
                video,
                mask,
                prompt_embeds=self._prompt,
                num_inference_steps=steps,
                guidance_scale=1.0,
                generator=generator,
            ).frames[0]
        matched = [
            match_colour(frame, color, seen)
            for frame, color, seen in zip(generated, known.color, known.mask, strict=True)
        ]
        return restored(np.stack(matched), known)


@torch.no_grad()
def _from_first_frame(
    pipeline: Ex4dPipeline, video: torch.Tensor, prompt: torch.Tensor, steps: int, generator: torch.Generator
) -> NDArray[np.uint8]:
    """(F,H,W,3) of the model without its camera encoder: only the first frame is known to it."""
    pipeline._guidance_scale = 1.0
    padded = preprocess.padded_video(video, pipeline.vae_scale_factor_temporal, pipeline.size_multiple)
    with pipeline.released():
        prompts = pipeline.prepare_prompt_embeds(None, "", prompt, None)
        condition, image_embeds = pipeline.encode_first_frame(padded)
        shape = (1, pipeline.vae.config.z_dim, *condition.shape[2:])
        noise = randn_tensor(shape, generator=generator, device=condition.device, dtype=torch.float32)

        def velocity(noisy: torch.Tensor, timestep: torch.Tensor) -> torch.Tensor:
            return pipeline.predict_velocity(noisy, condition, timestep, prompts, image_embeds, None)

        decoded = pipeline.decode_latents(pipeline.denoise(noise, velocity, steps))
    return preprocess.uint8_frames(decoded[:, :, : video.shape[2], : video.shape[3], : video.shape[4]])


def _digest(path: Path, without: Path | None = None) -> str:
    """SHA-256 over the names and contents of a file, or of those in a folder that a run reads, but for what is left
    out."""
    files = [path] if path.is_file() else sorted(file for file in path.rglob("*") if file.is_file())
    digest = hashlib.sha256()
    for file in files:
        if (file == path or file.suffix in (".json", ".safetensors")) and (
            without is None or not file.is_relative_to(without)
        ):
            digest.update(f"{file.relative_to(path).as_posix()} {sha256(file, lambda _: None)}\n".encode())
    return digest.hexdigest()


def _erosion() -> int:
    """Radius in pixels, as preset `draft` has it: its model is the one that is compared."""
    return DEFAULTS["draft"].erosion


def _steps(count: int) -> str:
    return "1 step" if count == 1 else f"{count} steps"
