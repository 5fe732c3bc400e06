# SPDX-License-Identifier: GPL-3.0-or-later
"""How large a folder's models are, read without loading them."""

from __future__ import annotations

import json
import math
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import torch
from safetensors import SafetensorError, safe_open

from ..errors import Ex4dError
from .bundled_codec import BundledCodec
from .loading import autoencoder_class, check_model_folder
from .tiers import VAE_GIB_PER_MEGAPIXEL

BUNDLED_CODEC_GIB_PER_MEGAPIXEL: Final = 5.0
"""The bundled model's codec encodes a whole window of 49 frames at once, in float32."""
_DTYPES: Final = {"F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}
"""By their names in a weight file. What else there may be is copied when it is loaded, as float32 is for a card."""


@dataclass(frozen=True)
class TransformerSize:
    """parameters, layers and width of a folder's transformer, from its configuration and files.

    vae_gib: what the VAE beside it needs for a frame of 1024² pixels, GiB.
    stored: the precision of its files.
    """

    parameters: int
    layers: int
    width: int
    heads: int
    vae_gib: float = VAE_GIB_PER_MEGAPIXEL
    stored: torch.dtype = torch.float32

    @property
    def has_wan_vae(self) -> bool:
        """Whether its decoder remembers gigabytes of the frames before."""
        return self.vae_gib == VAE_GIB_PER_MEGAPIXEL


WAN_I2V_14B_SIZE: Final = TransformerSize(16_394_878_784, 40, 5120, 40)
"""Of the published model, whose files are float32, for whoever has none of them yet."""


def transformer_size(folder: Path) -> TransformerSize:
    """Reads a model folder's transformer configuration; parameters are counted by the linear layers it implies.

    Raises:
        Ex4dError: `model_missing`, `model_invalid`.
    """
    check_model_folder(folder)
    path = folder / "transformer" / "config.json"
    is_bundled = autoencoder_class(folder) is BundledCodec
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
        heads, head = int(config["num_attention_heads"]), int(config["attention_head_dim"])
        layers, ffn = int(config["num_layers"]), int(config["ffn_dim"])
        attention = 8 if config.get("image_dim") is None else 10
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise Ex4dError(
            "model_invalid", f"{path} could not be read ({error}).", "Download this part of the model again."
        ) from error
    width = heads * head
    # self- and cross-attention, two more of the latter for the image, feed-forward, and outside the time projection
    parameters = layers * (attention * width * width + 2 * width * ffn) + 8 * width * width
    vae_gib = BUNDLED_CODEC_GIB_PER_MEGAPIXEL if is_bundled else VAE_GIB_PER_MEGAPIXEL
    return TransformerSize(parameters, layers, width, heads, vae_gib, _stored(folder / "transformer"))


def _stored(folder: Path) -> torch.dtype:
    """The precision of most values in the first weight file below `folder`; no tensor is read."""
    values: Counter[torch.dtype] = Counter()
    try:
        # checks the header and the file's length
        with safe_open(min(folder.glob("*.safetensors")), framework="pt") as file:
            for name in file.keys():  # noqa: SIM118 - it is no mapping
                tensor = file.get_slice(name)
                values[_DTYPES.get(tensor.get_dtype(), torch.float32)] += math.prod(tensor.get_shape())
    except (OSError, SafetensorError):
        return torch.float32  # as published; loading will say what is wrong with the file
    return values.most_common(1)[0][0] if values else torch.float32
