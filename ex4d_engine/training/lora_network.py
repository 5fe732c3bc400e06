# SPDX-License-Identifier: GPL-3.0-or-later
"""The network that a training starts from: a model folder's transformer, with a fresh adapter or one to go on from."""

from __future__ import annotations

from pathlib import Path

import torch

from ..diffusion.bundled_codec import BundledCodec
from ..diffusion.folder_adapter import folder_adapter
from ..diffusion.loading import autoencoder_class, load_component
from ..diffusion.transformer import Ex4dTransformer3DModel
from ..errors import Ex4dError
from .adapter_network import AdapterNetwork, with_adapter
from .bundled_camera import begin_as_the_base
from .lora_config import OWN_ADAPTER, BaseModel, LoraTraining


def load_network(training: LoraTraining, model_folder: Path, dtype: torch.dtype) -> AdapterNetwork:
    """The network of a model folder on the CPU, base in `dtype`, adapters in float32 and drawn from the run's seed.

    A fresh adapter changes nothing at first; that of the small model says from the start what is kept.

    Raises:
        Ex4dError: `model_missing`, `model_invalid`; `bad_request` if the adapter to start from has another rank.
    """
    transformer = load_component(Ex4dTransformer3DModel, model_folder / "transformer", dtype)
    start = start_adapter(training.model, model_folder)
    network = with_adapter(transformer, training.adapter, training.run.seed, start)
    if start is None and autoencoder_class(model_folder) is BundledCodec:
        begin_as_the_base(network, load_component(BundledCodec, model_folder / "vae", torch.float32))
    return network


def start_adapter(model: BaseModel, model_folder: Path) -> Path | None:
    """The adapter that training goes on from; None for a fresh one.

    Raises:
        Ex4dError: `model_missing` if it is to be the model folder's own and there is none.
    """
    if model.start_from != OWN_ADAPTER:
        return Path(model.start_from) if model.start_from else None
    own = folder_adapter(model_folder)
    if own is None:
        raise Ex4dError(
            "model_missing",
            f"The model folder {model_folder} has no adapter of its own to start from.",
            "Leave model.start_from out for a fresh one, or name a file.",
        )
    return own
