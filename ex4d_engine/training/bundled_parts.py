# SPDX-License-Identifier: GPL-3.0-or-later
"""The parts of the bundled model between its training stages: read where one stage left them, written for the next."""

from __future__ import annotations

import copy
import hashlib
import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import torch
from torch import Tensor, nn

from ..diffusion.bundled_codec import BundledCodec
from ..diffusion.loading import load_component
from ..diffusion.transformer import Ex4dTransformer3DModel
from ..errors import Ex4dError
from .bundled_folder import write_bundled_folder
from .folder_swap import new_folder

MODEL_FOLDER: Final = "model"
_COMPILED_SHAPES: Final = 32
_CHECKSUM_DIGITS: Final = 16
_COPIED: Final = 0.7
"""Scale of a fresh transformer's output layer: with the norm before it, 0.85 of the noisy input comes out."""
TRANSFORMER_SHAPE: Final[dict[str, Any]] = {
    "patch_size": (1, 2, 2),
    "num_attention_heads": 6,
    "attention_head_dim": 64,
    "text_dim": 64,
    "freq_dim": 256,
    "ffn_dim": 1536,
    "num_layers": 10,
    "qk_norm": "rms_norm_across_heads",
    "cross_attn_norm": True,
    "image_dim": None,
    "added_kv_proj_dim": None,
}
"""Of the bundled transformer, 25 million parameters; its channels follow from the codec's."""


def load_codec(start: Path, device: torch.device) -> BundledCodec:
    """The trained codec of a folder that holds `vae/`, frozen.

    Raises:
        Ex4dError: `model_missing`, `model_invalid`.
    """
    if not (start / "vae").is_dir():
        raise Ex4dError("model_missing", f"{start} has no codec (vae).", "Train --stage vae first, and --start there.")
    codec: BundledCodec = load_component(BundledCodec, start / "vae", torch.float32)
    return codec.to(device, memory_format=torch.channels_last).requires_grad_(False)


def has_transformer(start: Path) -> bool:
    """Whether a stage left a transformer in a folder."""
    return (start / "transformer").is_dir()


def load_transformer(start: Path, dtype: torch.dtype = torch.float32) -> Ex4dTransformer3DModel:
    """The trained transformer of a folder that holds `transformer/`, on the CPU.

    Raises:
        Ex4dError: `model_missing`, `model_invalid`.
    """
    if not has_transformer(start):
        raise Ex4dError(
            "model_missing", f"{start} has no transformer.", "Train --stage base first, and --start at its model."
        )
    transformer: Ex4dTransformer3DModel = load_component(Ex4dTransformer3DModel, start / "transformer", dtype)
    return transformer


def new_transformer(codec: BundledCodec, shape: Mapping[str, Any], seed: int) -> Ex4dTransformer3DModel:
    """A transformer of random weights for the codec's latents.

    It begins as a copier: what it is asked for is mostly the noise that it is given, all of it and through every
    block, and learning that by steps takes longer than what is then learned of pictures.
    """
    channels = codec.config.z_dim
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        transformer = Ex4dTransformer3DModel(**shape, in_channels=2 * channels + 4, out_channels=channels)
        patch = transformer.config.patch_size
        entering = torch.empty(transformer.width, channels * math.prod(patch))
        torch.nn.init.orthogonal_(entering)
    entering = entering.unflatten(1, (channels, *patch))
    with torch.no_grad():
        transformer.patch_embedding.weight[:, :channels] = entering
        # an output's rows come in the order of the patch's places first, then channels
        leaving = entering.permute(2, 3, 4, 1, 0).flatten(0, 3)
        transformer.proj_out.weight.copy_(_COPIED * leaving)
        transformer.proj_out.bias.zero_()
    return transformer


def compile_blocks(transformer: Ex4dTransformer3DModel) -> None:
    """Compiles the transformer's block in place, once for each number of tokens, of which sizes and lengths make few.

    One block instead of the whole transformer: they are all alike, and so it takes a tenth of the time.
    """
    torch._dynamo.config.recompile_limit = _COMPILED_SHAPES
    transformer.compile_repeated_blocks(dynamic=False)


def constant_text(transformer: Ex4dTransformer3DModel, batch: int = 1) -> Tensor:
    """The one prompt embedding the model knows, (B, 1, text_dim) zeros on the transformer's device."""
    return torch.zeros(batch, 1, transformer.config.text_dim, device=transformer.device)


def save_model_folder(
    out: Path,
    codec: BundledCodec,
    transformer: Ex4dTransformer3DModel,
    adapter: Mapping[str, Tensor] | None = None,
) -> Path:
    """Writes `out`/model as it ships, in half precision, in place of the one before. Returns the folder.

    Args:
        out: of the run.
        codec, transformer: without an adapter attached; they stay as they are.
        adapter: see `write_bundled_folder`.

    Raises:
        Ex4dError: as `write_bundled_folder`; the folder before is then still there.
    """
    folder = out / MODEL_FOLDER
    text = constant_text(transformer).cpu()
    codec, transformer = copy.deepcopy(codec).cpu(), copy.deepcopy(transformer).cpu()
    with new_folder(folder) as fresh:
        write_bundled_folder(fresh, codec, transformer, adapter, text)
    return folder


def weights_checksum(model: nn.Module) -> str:
    """Tells a model's weights from others, wherever and in whatever precision that holds them they lie."""
    digest = hashlib.sha256()
    for name, value in model.state_dict().items():
        digest.update(name.encode("utf-8"))
        digest.update(value.detach().float().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()[:_CHECKSUM_DIGITS]


def codec_checksum(codec: BundledCodec) -> str:
    """Tells a codec's latents from another's: its weights, and the statistics that latents are normalised by."""
    config = codec.config
    parts = [weights_checksum(codec), [*config.latents_mean], [*config.latents_std]]
    return hashlib.sha256(json.dumps(parts).encode("ascii")).hexdigest()[:_CHECKSUM_DIGITS]
