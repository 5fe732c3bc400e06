# SPDX-License-Identifier: GPL-3.0-or-later
"""Original Wan and EX-4D weight files turned into diffusers and transformers modules.

Every tensor is accounted for: a name that is missing, left over or of another shape is an error that lists it,
because the libraries' own loaders only log such names and go on with random weights.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import torch
from accelerate import init_empty_weights
from diffusers import AutoencoderKLWan
from diffusers.loaders.single_file_utils import convert_wan_transformer_to_diffusers, convert_wan_vae_to_diffusers
from peft.utils import get_peft_model_state_dict
from torch import nn
from transformers import CLIPVisionConfig, CLIPVisionModel, UMT5Config, UMT5EncoderModel

from ..errors import Ex4dError
from ..tensor_saving import save_tensors
from .camera_encoder import CameraEncoder
from .tensor_files import Tensors, read_tensors
from .transformer import Ex4dTransformer3DModel

WAN_I2V_14B: dict[str, Any] = {
    "patch_size": (1, 2, 2),
    "num_attention_heads": 40,
    "attention_head_dim": 128,
    "in_channels": 36,
    "out_channels": 16,
    "text_dim": 4096,
    "freq_dim": 256,
    "ffn_dim": 13824,
    "num_layers": 40,
    "cross_attn_norm": True,
    "eps": 1e-6,
    "image_dim": 1280,
    "added_kv_proj_dim": 5120,
}
"""Configuration of Wan2.1-I2V-14B, which the published EX-4D adapter belongs to."""

ADAPTER_NAME = "ex4d"
LORA_TARGETS = ("to_q", "to_k", "to_v", "to_out.0", "ffn.net.0.proj", "ffn.net.2")
"""Endings of the linear layers an EX-4D adapter changes: both attentions and the feed-forward of every block."""

SHOWN = 5
"""Kinds of tensors that an error's message names; the others are in its notes, which the command line prints."""

_CAMERA_PREFIXES = ("latent_encoder.", "latent_patch_embedding.")
_CLIP_LEFT_OUT = ("log_scale", "visual.head", "textual.")  # for comparing images with text, which Wan does not do

Module = TypeVar("Module", bound=nn.Module)


# --- one file, one module -----------------------------------------------------------------------------------------


def load_transformer(path: Path, config: Mapping[str, Any]) -> Ex4dTransformer3DModel:
    """The transformer of an original Wan file (or folder of shards), in the file's precision, on the CPU."""
    tensors = convert_wan_transformer_to_diffusers(read_tensors(path))
    return _filled(lambda: Ex4dTransformer3DModel.from_config(dict(config)), tensors, path)


def load_vae(path: Path, config: Mapping[str, Any]) -> AutoencoderKLWan:
    """The video autoencoder of an original Wan VAE file."""
    tensors = convert_wan_vae_to_diffusers(read_tensors(path))
    return _filled(lambda: AutoencoderKLWan.from_config(dict(config)), tensors, path)


def load_image_encoder(path: Path, config: Mapping[str, Any]) -> CLIPVisionModel:
    """The vision half of an original OpenCLIP file; its text half and projection are left out by name."""
    tensors = clip_vision_tensors(read_tensors(path))
    return _filled(lambda: CLIPVisionModel(CLIPVisionConfig(**config)), tensors, path)


def load_text_encoder(path: Path, config: Mapping[str, Any]) -> UMT5EncoderModel:
    """The text encoder of an original Wan UMT5 file."""
    tensors = umt5_tensors(read_tensors(path))
    return _filled(lambda: UMT5EncoderModel(UMT5Config(**config)), tensors, path)


def load_adapter(path: Path, transformer: Ex4dTransformer3DModel, adapter_name: str = ADAPTER_NAME) -> CameraEncoder:
    """Attaches an EX-4D file's LoRA to `transformer` under `adapter_name` and returns the file's camera encoder.

    The LoRA's rank is the file's; its scale is 1 (alpha = rank).

    Raises:
        Ex4dError: `model_missing`; `model_invalid` if the file is unreadable or does not fit this transformer,
            which is then left as it was.
    """
    tensors = read_tensors(path)
    camera = {name: value for name, value in tensors.items() if name.startswith(_CAMERA_PREFIXES)}
    lora = convert_wan_transformer_to_diffusers({n: v for n, v in tensors.items() if n not in camera})
    lora = {name.replace(".default.weight", ".weight"): value for name, value in lora.items()}
    _check_fit(lora, _lora_shapes(transformer, lora), path)
    camera_encoder = _camera_encoder(camera, transformer, path)

    transformer.load_lora_adapter(
        {f"transformer.{name}": value for name, value in lora.items()}, prefix="transformer", adapter_name=adapter_name
    )
    attached = get_peft_model_state_dict(transformer, adapter_name=adapter_name)
    _check_fit(lora, {name: value.shape for name, value in attached.items()}, path)
    return camera_encoder


def save_adapter(
    path: Path, transformer: Ex4dTransformer3DModel, camera_encoder: CameraEncoder, adapter_name: str = ADAPTER_NAME
) -> None:
    """Writes LoRA and camera encoder as one safetensors file, with the names of the published checkpoint.

    The format has no place for alpha, so the LoRA must have been trained with alpha = rank.
    """
    tensors = {
        original_lora_name(name): value
        for name, value in get_peft_model_state_dict(transformer, adapter_name=adapter_name).items()
    }
    tensors |= camera_encoder.state_dict()
    save_tensors(path, tensors)


# --- names --------------------------------------------------------------------------------------------------------


def clip_vision_tensors(tensors: Tensors) -> Tensors:
    """OpenCLIP's `visual.*` in the names of transformers' CLIPVisionModel; the joint q·k·v is cut in three."""
    converted: Tensors = {}
    for name, value in tensors.items():
        if name.startswith(_CLIP_LEFT_OUT):
            continue
        name = _renamed(name, _CLIP_NAMES)
        if ".to_qkv." in name:
            for letter, part in zip("qkv", value.chunk(3), strict=True):
                converted[name.replace("to_qkv", f"{letter}_proj")] = part.contiguous()
        elif name == "embeddings.class_embedding":
            converted[name] = value.flatten()
        elif name == "embeddings.position_embedding.weight":
            converted[name] = value[0]
        else:
            converted[name] = value
    return converted


def umt5_tensors(tensors: Tensors) -> Tensors:
    """Wan's UMT5 encoder in the names of transformers' UMT5EncoderModel, where the token table has two names."""
    # The dot in front lets `.norm.` mean the last norm only, not the end of a longer word.
    converted = {_renamed(f".{name}", _UMT5_NAMES)[1:]: value for name, value in tensors.items()}
    if "shared.weight" in converted:
        converted["encoder.embed_tokens.weight"] = converted["shared.weight"]
    return converted


def original_lora_name(name: str) -> str:
    """The published checkpoint's name of a LoRA tensor, from the one in diffusers."""
    return _renamed(name, _ORIGINAL_LORA_NAMES)


_CLIP_NAMES = {
    "visual.transformer.": "encoder.layers.",
    "visual.cls_embedding": "embeddings.class_embedding",
    "visual.pos_embedding": "embeddings.position_embedding.weight",
    "visual.patch_embedding.": "embeddings.patch_embedding.",
    "visual.pre_norm.": "pre_layrnorm.",  # transformers' spelling
    "visual.post_norm.": "post_layernorm.",
    ".attn.proj.": ".self_attn.out_proj.",
    ".attn.": ".self_attn.",
    ".norm1.": ".layer_norm1.",
    ".norm2.": ".layer_norm2.",
    ".mlp.0.": ".mlp.fc1.",
    ".mlp.2.": ".mlp.fc2.",
}
_UMT5_NAMES = {
    ".token_embedding.": ".shared.",
    ".norm.": ".encoder.final_layer_norm.",
    ".blocks.": ".encoder.block.",
    ".attn.": ".layer.0.SelfAttention.",
    ".pos_embedding.embedding.": ".layer.0.SelfAttention.relative_attention_bias.",
    ".norm1.": ".layer.0.layer_norm.",
    ".norm2.": ".layer.1.layer_norm.",
    ".ffn.gate.0.": ".layer.1.DenseReluDense.wi_0.",
    ".ffn.fc1.": ".layer.1.DenseReluDense.wi_1.",
    ".ffn.fc2.": ".layer.1.DenseReluDense.wo.",
}
_ORIGINAL_LORA_NAMES = {
    ".attn1.": ".self_attn.",
    ".attn2.": ".cross_attn.",
    ".to_q.": ".q.",
    ".to_k.": ".k.",
    ".to_v.": ".v.",
    ".to_out.0.": ".o.",
    ".ffn.net.0.proj.": ".ffn.0.",
    ".ffn.net.2.": ".ffn.2.",
    ".lora_A.": ".lora_A.default.",
    ".lora_B.": ".lora_B.default.",
}


def _renamed(name: str, names: Mapping[str, str]) -> str:
    for old, new in names.items():
        name = name.replace(old, new)
    return name


# --- fit ----------------------------------------------------------------------------------------------------------


def _filled(build: Callable[[], Module], tensors: Tensors, path: Path) -> Module:
    """The module `build` makes, with `tensors` as its parameters; nothing is initialised or copied in between."""
    with init_empty_weights(include_buffers=False):
        module = build()
    _check_fit(tensors, {name: value.shape for name, value in module.state_dict().items()}, path)
    module.load_state_dict(tensors, strict=True, assign=True)
    return module.eval()


def _lora_shapes(transformer: nn.Module, lora: Tensors) -> dict[str, torch.Size]:
    """Names and shapes a LoRA for `transformer` must have, at the rank `lora` was made with."""
    ranks = {value.shape[0] for name, value in lora.items() if name.endswith(".lora_A.weight")}
    rank = max(ranks, default=0)
    shapes = {}
    for name, module in transformer.named_modules():
        name = name.removesuffix(".base_layer")  # where another adapter is attached already
        if isinstance(module, nn.Linear) and name.startswith("blocks.") and name.endswith(LORA_TARGETS):
            shapes[f"{name}.lora_A.weight"] = torch.Size((rank, module.in_features))
            shapes[f"{name}.lora_B.weight"] = torch.Size((module.out_features, rank))
    return shapes


def _camera_encoder(camera: Tensors, transformer: Ex4dTransformer3DModel, path: Path) -> CameraEncoder:
    """The camera encoder, its width read from the tensors and everything else given by the transformer."""
    hidden = camera["latent_encoder.0.weight"].shape[0] if "latent_encoder.0.weight" in camera else 0
    config = transformer.config
    return _filled(
        lambda: CameraEncoder(config.out_channels, max(hidden, 1), transformer.width, tuple(config.patch_size)),
        camera,
        path,
    )


def _check_fit(tensors: Tensors, shapes: Mapping[str, torch.Size], path: Path) -> None:
    """Raises `model_invalid`, listing all that differs, unless `tensors` has exactly `shapes`' names and shapes."""
    missing = sorted(shapes.keys() - tensors.keys())
    unexpected = sorted(tensors.keys() - shapes.keys())
    misshapen = [
        f"{name} {tuple(tensors[name].shape)} instead of {tuple(shapes[name])}"
        for name in sorted(shapes.keys() & tensors.keys())
        if tensors[name].shape != shapes[name]
    ]
    differing = {"missing": missing, "unexpected": unexpected, "of another shape": misshapen}
    kinds = {what: _alike_once(names) for what, names in differing.items() if names}
    if not kinds:
        return
    shown = "; ".join(
        f"{len(differing[what])} {what}: {', '.join(names[:SHOWN])}{', …' if len(names) > SHOWN else ''}"
        for what, names in kinds.items()
    )
    error = Ex4dError(
        "model_invalid",
        f"The tensors of {path.name} do not fit the model ({shown}).",
        "Use the file made for this model, or another model.",
    )
    for what, names in kinds.items():
        if len(names) > SHOWN:  # too many for a message, but whoever has a strange file wants to know
            error.add_note(f"All {len(differing[what])} {what}:\n  " + "\n  ".join(names))
    raise error


def _alike_once(names: Sequence[str]) -> list[str]:
    """Every name, those that differ in the number of their block alone as one: "blocks.N.norm2.bias (40 times)"."""
    kinds: dict[str, list[str]] = {}
    for name in names:
        kinds.setdefault(re.sub(r"(blocks?|layers)\.\d+\.", r"\1.N.", name, count=1), []).append(name)
    return [alike[0] if len(alike) == 1 else f"{kind} ({len(alike)} times)" for kind, alike in kinds.items()]
