# SPDX-License-Identifier: GPL-3.0-or-later
"""The trained parts of the small model put together as the folder that ships: half precision, no file too large.

Hosts of source code refuse large files, so weights come in shards. The layout is diffusers', with an adapter as
`loading.load_pipeline` finds it; text encoder, tokenizer and image encoder are declared absent.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Final

import diffusers
import torch
from diffusers import ModelMixin

from ..diffusion.bundled_codec import BundledCodec
from ..diffusion.folder_adapter import ADAPTER_FILE, ADAPTER_FOLDER
from ..diffusion.loading import INDEX_FILE, OPTIONAL_COMPONENTS, PROMPT_FILE
from ..diffusion.scheduler import euler_scheduler
from ..diffusion.transformer import Ex4dTransformer3DModel
from ..errors import Ex4dError
from ..files import explain_os_error, prepare_folder, write_bytes
from ..tensor_saving import save_tensors, system_errors

SHARD_BYTES: Final = 15_000_000
BUNDLED_SHIFT: Final = 3.0
"""Of the noise levels the small model is trained and sampled with."""


def write_bundled_folder(
    folder: Path,
    codec: BundledCodec,
    transformer: Ex4dTransformer3DModel,
    adapter: Mapping[str, torch.Tensor] | None,
    prompt_embeds: torch.Tensor,
    shift: float = BUNDLED_SHIFT,
    shard_bytes: int = SHARD_BYTES,
) -> None:
    """Writes the model folder of preset `draft`; codec and transformer are in half precision afterwards, but for the
    few weights that diffusers keeps in float32.

    Args:
        folder: to write to, empty or not there.
        codec, transformer: the trained models, without adapters attached.
        adapter: tensors of an EX-4D adapter by their published names; None leaves it out.
        prompt_embeds: (1, L, text_dim), the one text embedding the transformer was trained with.
        shift: of the noise levels.
        shard_bytes: of the largest file of weights.

    Raises:
        Ex4dError: `bad_request` where something is there; `model_invalid` for a weight that is no number in half
            precision; `disk_full`, `read_only`.
    """
    if folder.exists() and any(folder.iterdir()):
        raise Ex4dError("bad_request", f"{folder} is not empty.", "Remove it first, or choose another folder.")
    prepare_folder(folder)
    try:
        with system_errors():
            for name, model in (("vae", codec), ("transformer", transformer)):
                _save_half(model, folder / name, shard_bytes)
            euler_scheduler(shift).save_pretrained(folder / "scheduler")
    except OSError as error:
        raise explain_os_error(error, folder) from error
    if adapter is not None:
        _save_adapter(folder, _half(adapter, "adapter"), shard_bytes)
    save_tensors(folder / PROMPT_FILE, {"prompt_embeds": prompt_embeds.float()})
    index = {
        "_class_name": "Ex4dPipeline",
        "_diffusers_version": diffusers.__version__,
        **{name: [None, None] for name in (*OPTIONAL_COMPONENTS, "image_processor")},
        "scheduler": ["diffusers", "FlowMatchEulerDiscreteScheduler"],
        "transformer": ["ex4d_engine.diffusion.transformer", "Ex4dTransformer3DModel"],
        "vae": ["ex4d_engine.diffusion.bundled_codec", "BundledCodec"],
    }
    # last: it is what the folder is known by
    write_bytes(folder / INDEX_FILE, (json.dumps(index, indent=2) + "\n").encode("utf-8"))


def _save_half(model: ModelMixin, folder: Path, shard_bytes: int) -> None:
    kept = set(model._keep_in_fp32_modules or ())
    small = {name: value for name, value in model.named_parameters() if not kept.intersection(name.split("."))}
    for name, value in _half(small, folder.name).items():
        small[name].data = value
    model.register_to_config(_name_or_path="")  # diffusers would write the folder that the model was read from
    model.save_pretrained(folder, max_shard_size=shard_bytes)


def _save_adapter(folder: Path, tensors: dict[str, torch.Tensor], shard_bytes: int) -> None:
    shards: list[dict[str, torch.Tensor]] = [{}]
    for name, value in tensors.items():
        if shards[-1] and sum(other.nbytes for other in shards[-1].values()) + value.nbytes > shard_bytes:
            shards.append({})
        shards[-1][name] = value
    if len(shards) == 1:
        save_tensors(folder / ADAPTER_FILE, tensors)
        return
    prepare_folder(folder / ADAPTER_FOLDER)
    for number, shard in enumerate(shards, 1):
        save_tensors(folder / ADAPTER_FOLDER / f"ex4d-{number:05d}-of-{len(shards):05d}.safetensors", shard)


def _half(tensors: Mapping[str, torch.Tensor], what: str) -> dict[str, torch.Tensor]:
    result = {name: value.detach().to(torch.float16) for name, value in tensors.items()}
    for name, value in result.items():
        if not value.isfinite().all():
            raise Ex4dError(
                "model_invalid",
                f"{name} of the {what} holds numbers that half precision does not.",
                "Train this part again, with weight decay or a lower learning rate.",
            )
    return result
