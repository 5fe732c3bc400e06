# SPDX-License-Identifier: GPL-3.0-or-later
"""The models that presets need, and where they are published."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import Final, Literal

from ..errors import Ex4dError

Kind = Literal["folder", "adapter", "lora"]


@dataclass(frozen=True)
class Model:
    """A published model.

    Attributes:
        name: what commands and takes call it; also its folder's name.
        title: what people call it.
        repository: owner and name on the Hugging Face hub.
        files: patterns of the files needed, as of `fnmatch`; `*` crosses folders. One plain name where the model
            is a single file.
        size_bytes: of all files together, about: for people to decide by. The hub tells the exact sizes.
        licence: SPDX name, or what there is to say.
        licence_url: where its text stands.
        needs_acceptance: whether the licence restricts use, so that the user must agree first.
        presets: generation presets that need the model.
        kind: "folder" of a pipeline in diffusers' layout, EX-4D "adapter" (LoRA and camera encoder), or "lora".
        revision: commit or branch to take.
        sha256: published checksums, by file; what is not here is compared with the hub's own at download.
    """

    name: str
    title: str
    repository: str
    files: tuple[str, ...]
    size_bytes: int
    licence: str
    licence_url: str
    needs_acceptance: bool
    presets: tuple[str, ...]
    kind: Kind
    revision: str = "main"
    sha256: Mapping[str, str] = field(default_factory=dict)

    @property
    def single_file(self) -> str | None:
        """The file's name where the model is one file, else None."""
        return None if self.kind == "folder" else self.files[0]

    def selected(self, paths: Iterable[str]) -> list[str]:
        """Those of a repository's files that the model consists of, sorted."""
        return sorted(path for path in paths if any(fnmatchcase(path, pattern) for pattern in self.files))


_ENTRIES: Final = (
    Model(
        name="wan2.1-i2v-14b-480p",
        title="Wan2.1 image-to-video 14B, 480p",
        repository="Wan-AI/Wan2.1-I2V-14B-480P-Diffusers",
        files=(
            "model_index.json",
            "scheduler/*.json",
            "tokenizer/*",
            "text_encoder/*.json",
            "text_encoder/*.safetensors",
            "image_encoder/*.json",
            "image_encoder/*.safetensors",
            "image_processor/*.json",
            "vae/*.json",
            "vae/*.safetensors",
            "transformer/*.json",
            "transformer/*.safetensors",
            "ex4d.safetensors",  # published nowhere: the adapter in a folder that `ex4d models convert` made
        ),
        # published in float32: transformer 65.6, text encoder 22.7, image encoder 2.5, VAE 0.5
        size_bytes=91_350_000_000,
        licence="Apache-2.0",
        licence_url="https://huggingface.co/Wan-AI/Wan2.1-I2V-14B-480P-Diffusers",
        needs_acceptance=False,
        presets=("final", "fast"),
        kind="folder",
    ),
    Model(
        name="ex4d-lora",
        title="EX-4D adapter for Wan2.1 image-to-video 14B",
        repository="yihouxiang/EX-4D",
        files=("ex4d.ckpt",),
        size_bytes=400_000_000,  # 99.8 million parameters, at most float32
        licence="see its page",  # its authors' pages that we know of name none
        licence_url="https://huggingface.co/yihouxiang/EX-4D",
        needs_acceptance=False,
        presets=("final", "fast"),
        kind="adapter",
    ),
    Model(
        name="wan2.1-fast-lora",
        title="lightx2v's 4-step LoRA for Wan2.1 image-to-video 14B, 480p, rank 64",
        repository="lightx2v/Wan2.1-I2V-14B-480P-StepDistill-CfgDistill-Lightx2v",
        files=("loras/Wan21_I2V_14B_lightx2v_cfg_step_distill_lora_rank64.safetensors",),
        size_bytes=739_000_000,
        licence="Apache-2.0",
        licence_url="https://huggingface.co/lightx2v/Wan2.1-I2V-14B-480P-StepDistill-CfgDistill-Lightx2v",
        needs_acceptance=False,
        presets=("fast",),
        kind="lora",
    ),
)
MODELS: Final[dict[str, Model]] = {model.name: model for model in _ENTRIES}


def model_named(name: str) -> Model:
    """The registry's entry `name`.

    Raises:
        Ex4dError: `unknown_model`.
    """
    try:
        return MODELS[name]
    except KeyError:
        raise Ex4dError("unknown_model", f"There is no model {name!r}.", f"Use one of: {', '.join(MODELS)}.") from None
