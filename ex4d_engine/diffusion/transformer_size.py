# SPDX-License-Identifier: GPL-3.0-or-later
"""How large a folder's transformer is, read without loading it."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from ..errors import Ex4dError
from .loading import check_model_folder


@dataclass(frozen=True)
class TransformerSize:
    """parameters, layers and width of a folder's transformer, from its configuration and files."""

    parameters: int
    layers: int
    width: int
    heads: int


def transformer_size(folder: Path) -> TransformerSize:
    """Reads a model folder's transformer configuration; parameters are counted by the linear layers it implies.

    Raises:
        Ex4dError: `model_missing`, `model_invalid`.
    """
    check_model_folder(folder)
    path = folder / "transformer" / "config.json"
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
        heads, head = int(config["num_attention_heads"]), int(config["attention_head_dim"])
        layers, ffn = int(config["num_layers"]), int(config["ffn_dim"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise Ex4dError(
            "model_invalid", f"{path} could not be read ({error}).", "Download this part of the model again."
        ) from error
    width = heads * head
    # self- and cross-attention, two more of the latter for the image, feed-forward, and outside the time projection
    parameters = layers * (10 * width * width + 2 * width * ffn) + 8 * width * width
    return TransformerSize(parameters, layers, width, heads)
