# SPDX-License-Identifier: GPL-3.0-or-later
"""A model folder and an adapter file become a pipeline, complete or not at all."""

from __future__ import annotations

import json
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKLWan
from diffusers.utils import CONFIG_NAME
from safetensors import SafetensorError
from transformers import AutoTokenizer, CLIPVisionModel, UMT5EncoderModel

from ..errors import Ex4dError
from ..library_talk import hide_library_bars
from ..progress import Reporter
from .bundled_codec import BundledCodec
from .camera_encoder import CameraEncoder
from .checkpoints import load_adapter
from .folder_adapter import CAMERA_FOLDER, folder_adapter
from .pipeline import TEXT_TOKENS, Ex4dPipeline
from .scheduler import FLOW_SHIFT, euler_scheduler
from .tensor_files import read_tensors
from .transformer import Ex4dTransformer3DModel

STOCK_MODEL = "Wan-AI/Wan2.1-I2V-14B-480P-Diffusers"
"""Where the published adapter's base model lies on the Hugging Face hub."""

COMPONENTS = ("tokenizer", "text_encoder", "image_encoder", "vae", "transformer")
"""Sub-folders of a model folder: those of the stock Wan2.1 image-to-video folder in diffusers' layout."""

OPTIONAL_COMPONENTS = ("tokenizer", "text_encoder", "image_encoder")
"""Those that a folder's model_index.json may declare absent, with nulls for library and class."""

INDEX_FILE = "model_index.json"

PROMPT_FILE = "prompt.safetensors"
"""In a folder without a text encoder: the one embedding (1, L, text_dim) its model knows, under "prompt_embeds"."""

FAST_NAME = "fast"
"""The step-distillation LoRA's name on the transformer."""


def load_pipeline(
    model_folder: Path,
    adapter: Path | None,
    *,
    dtype: torch.dtype,
    device: torch.device | str,
    reporter: Reporter,
    text_encoder: bool = True,
    fast_lora: Path | None = None,
) -> Ex4dPipeline:
    """The pipeline of a diffusers folder, ready to generate on `device`.

    The folder's solver is not used, since the weights belong to flow-matching Euler. Transformer and text encoder
    are in `dtype` (norms and time embedding stay float32, as diffusers keeps them); VAE, image and camera encoder
    are small, run once and stay float32.

    Args:
        model_folder: a folder in diffusers' layout, stock Wan or saved by `Ex4dPipeline.save_pretrained`.
        adapter: an EX-4D file (LoRA and camera encoder, attached under "ex4d"), or None if the folder has its own
            camera encoder or adapter (`folder_adapter`), or none is needed.
        dtype, device: where and in which precision to compute.
        reporter: told of each component; its `check` is called between them.
        text_encoder: False leaves it and the tokenizer out: embeddings are passed instead. A folder that has none
            gives none.
        fast_lora: a step-distillation LoRA, attached beside the adapter under "fast".

    Raises:
        Ex4dError: `model_missing` naming what is not there; `model_invalid` for weights that are damaged or do not
            fit; `out_of_memory`; `cancelled`.
    """
    check_model_folder(model_folder)
    components: dict[str, Any] = dict.fromkeys(OPTIONAL_COMPONENTS)
    adapter = adapter or folder_adapter(model_folder)
    if adapter is not None and not adapter.exists():
        raise Ex4dError(
            "model_missing",
            f"There is no EX-4D adapter {adapter}.",
            "Download ex4d.ckpt from EX-4D's authors, or choose the file that holds it.",
        )
    kinds: dict[str, tuple[type[Any], torch.dtype]] = {
        "text_encoder": (UMT5EncoderModel, dtype),
        "image_encoder": (CLIPVisionModel, torch.float32),
        "vae": (autoencoder_class(model_folder), torch.float32),
        "transformer": (Ex4dTransformer3DModel, dtype),
    }
    wanted = set(folder_components(model_folder)) - (set() if text_encoder else {"tokenizer", "text_encoder"})
    precisions = {name: kind for name, kind in kinds.items() if name in wanted}
    if (model_folder / CAMERA_FOLDER).is_dir() and adapter is None:
        precisions["camera_encoder"] = (CameraEncoder, torch.float32)

    hide_library_bars()
    with _readable(model_folder / "scheduler"):
        components["scheduler"] = euler_scheduler(folder_shift(model_folder))
    if "tokenizer" in wanted:
        with _readable(model_folder / "tokenizer"):
            components["tokenizer"] = AutoTokenizer.from_pretrained(model_folder / "tokenizer", local_files_only=True)
    total = len(precisions) + 1
    for done, (name, (kind, precision)) in enumerate(precisions.items()):
        reporter.check()
        reporter.progress("load model", done, total)
        components[name] = load_component(kind, model_folder / name, precision)
    reporter.check()
    if adapter is not None:
        components["camera_encoder"] = load_adapter(adapter, components["transformer"]).float()
    reporter.progress("load model", total - 1, total)
    try:
        pipeline = Ex4dPipeline(**components).to(device)
        if has_constant_prompt(model_folder):
            pipeline.text_tokens = constant_prompt(model_folder).shape[1]
        if fast_lora is not None:
            attach_fast_lora(pipeline, fast_lora)
    except torch.OutOfMemoryError as error:
        raise Ex4dError(
            "out_of_memory", f"{model_folder.name} does not fit in {device}'s memory.", "Choose a smaller memory tier."
        ) from error
    reporter.progress("load model", total, total)
    return pipeline


def attach_fast_lora(pipeline: Ex4dPipeline, path: Path) -> None:
    """Attaches a step-distillation LoRA beside the adapters that are there, each at scale 1.

    Raises:
        Ex4dError: `model_missing`; `model_invalid` for a file that is damaged or of another model.
    """
    tensors = read_tensors(path)
    others = list(getattr(pipeline.transformer, "peft_config", {}))
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Already found a `peft_config`")  # two adapters are what is wanted
            pipeline.load_lora_weights(tensors, adapter_name=FAST_NAME)
    except torch.OutOfMemoryError:  # a RuntimeError, but not the file's fault
        raise
    # the converters look keys up by position: of a stranger's file they may raise any of these
    except (ValueError, RuntimeError, LookupError, NotImplementedError) as error:
        raise _no_fast_lora(path, str(error)) from error
    # diffusers only logs that it found nothing to load
    if not any(f".{FAST_NAME}." in name for name, _ in pipeline.transformer.named_parameters()):
        raise _no_fast_lora(path, "none of its tensors has a place in this model")
    pipeline.transformer.set_adapters([*others, FAST_NAME], 1.0)


def _no_fast_lora(path: Path, why: str) -> Ex4dError:
    return Ex4dError(
        "model_invalid",
        f"{path.name} is no step-distillation LoRA for this model ({why.splitlines()[0] if why else 'unreadable'}).",
        "Use the one made for Wan2.1-I2V-14B, or choose preset final.",
    )


def check_model_folder(folder: Path) -> None:
    """Raises `model_missing` unless `folder` has every component, each with its files."""
    components = folder_components(folder)
    source = f"Download it with `hf download {STOCK_MODEL} --local-dir FOLDER`"
    if components != COMPONENTS:
        source = "Install this model again"
    hint = f"{source}, or choose the folder that holds {', '.join(components)}."
    if not folder.is_dir():
        raise Ex4dError("model_missing", f"There is no model folder {folder}.", hint)
    missing = [name for name in components if not any((folder / name).glob("*.json"))]
    missing += [
        f"{name}/*.safetensors"
        for name in components
        if name not in ("tokenizer", *missing) and not any((folder / name).glob("*.safetensors"))
    ]
    if "text_encoder" not in components:
        # Wan's own folder may lack the scheduler: its shift is known
        missing += ["scheduler"] if not any((folder / "scheduler").glob("*.json")) else []
        missing += [PROMPT_FILE] if not has_constant_prompt(folder) else []
    if missing:
        raise Ex4dError("model_missing", f"The model folder {folder} lacks {', '.join(missing)}.", hint)


def folder_components(folder: Path) -> tuple[str, ...]:
    """Those of `COMPONENTS` that a model folder has to have; all of them where it has no model_index.json.

    Raises:
        Ex4dError: `model_invalid` for an index that cannot be read.
    """
    path = folder / INDEX_FILE
    if not path.is_file():
        return COMPONENTS
    with _readable(path):
        index = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(index, dict):
            raise ValueError("it holds no object")
    absent = {name for name in OPTIONAL_COMPONENTS if name in index and index[name] in (None, [None, None])}
    return tuple(name for name in COMPONENTS if name not in absent)


def has_constant_prompt(folder: Path) -> bool:
    """Whether the folder's model knows no text but one embedding."""
    return (folder / PROMPT_FILE).is_file()


def constant_prompt(folder: Path) -> torch.Tensor:
    """The embedding (1, L, text_dim) float32 that stands for every prompt.

    Raises:
        Ex4dError: `model_missing`, `model_invalid`.
    """
    path = folder / PROMPT_FILE
    embeds = read_tensors(path).get("prompt_embeds")
    if embeds is None or embeds.ndim != 3 or not 1 <= embeds.shape[1] <= TEXT_TOKENS:
        raise Ex4dError(
            "model_invalid", f"{path} holds no text embedding.", "Download or install this part of the model again."
        )
    return embeds[:1].float()


def autoencoder_class(folder: Path) -> type[Any]:
    """The class of a model folder's autoencoder, as its configuration names it.

    Raises:
        Ex4dError: `model_invalid` for one that cannot be read or is of another kind.
    """
    path = folder / "vae" / CONFIG_NAME
    with _readable(path):
        config = json.loads(path.read_text(encoding="utf-8"))
        name = config.get("_class_name") if isinstance(config, dict) else None
    for kind in (AutoencoderKLWan, BundledCodec):
        if name == kind.__name__:
            return kind
    raise Ex4dError(
        "model_invalid",
        f"{folder / 'vae'} holds an autoencoder of another kind ({name}).",
        "Choose a model folder of Wan2.1, or install the bundled model again.",
    )


def folder_shift(folder: Path) -> float:
    """The noise shift of a folder's flow-matching Euler scheduler; the published 5.0 where it has another solver."""
    path = folder / "scheduler" / "scheduler_config.json"
    if not path.is_file():
        return FLOW_SHIFT
    config = json.loads(path.read_text(encoding="utf-8"))
    is_euler = config.get("_class_name") == "FlowMatchEulerDiscreteScheduler"
    return float(config.get("shift", FLOW_SHIFT)) if is_euler else FLOW_SHIFT


@contextmanager
def _readable(folder: Path) -> Iterator[None]:
    """Turns what the libraries raise for damaged files into `model_invalid`, with the part's folder."""
    try:
        yield
    except (OSError, ValueError, RuntimeError, SafetensorError) as error:
        raise Ex4dError(
            "model_invalid", f"{folder} could not be read ({error}).", "Download this part of the model again."
        ) from error


def load_component(kind: type[Any], folder: Path, dtype: torch.dtype) -> Any:
    """One model of a folder with every tensor accounted for: the libraries only log what they could not find.

    Files are mapped, not read: weights that lie in a file as they are wanted take no memory of their own until they
    are moved, others one copy. So besides the model there are only mapped pages, which the system may take back.
    """
    precision = "dtype" if kind.__module__.startswith("transformers.") else "torch_dtype"
    with _readable(folder):
        model, info = kind.from_pretrained(
            folder, local_files_only=True, use_safetensors=True, output_loading_info=True, **{precision: dtype}
        )
    wrong = {what: sorted(map(str, names)) for what, names in info.items() if names}
    if wrong:
        listing = "; ".join(f"{len(names)} {what}: {', '.join(names[:5])}" for what, names in wrong.items())
        raise Ex4dError(
            "model_invalid",
            f"The weights in {folder} do not fit ({listing}).",
            "Download this part of the model again.",
        )
    if dtype != torch.float32:
        # What is kept in float32 stays as it lies in a float32 file, and each of these few small weights would hold
        # a whole mapped file of gigabytes; cast weights are copies already.
        for weight in (*model.parameters(), *model.buffers()):
            if weight.dtype == torch.float32:
                weight.data = weight.data.clone()
    return model.eval()
