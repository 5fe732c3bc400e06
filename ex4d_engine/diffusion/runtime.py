# SPDX-License-Identifier: GPL-3.0-or-later
"""A pipeline ready to generate: models loaded and placed in this machine's memory, and given back afterwards."""

from __future__ import annotations

import gc
import json
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import psutil
import torch
from diffusers.hooks import apply_group_offloading
from diffusers.utils import logging as diffusers_logging
from transformers import AutoTokenizer, UMT5EncoderModel

from ..errors import Ex4dError
from ..places import cache_folder
from ..progress import Reporter
from .attention import NATIVE, fastest_backend
from .checkpoints import ADAPTER_NAME
from .loading import FAST_NAME, check_model_folder, load_component, load_pipeline
from .pipeline import TEXT_TOKENS, Ex4dPipeline
from .placement import compile_blocks, enable_cache, place_transformer
from .text_cache import cached_embeds
from .tiers import GIB, TIERS, Precision, Tier, chosen_tier, need_gib, next_smaller

if TYPE_CHECKING:
    from .ranks import Ranks

PROMPT: Final = (
    "The camera glides smoothly through the scene and shows it from a new angle. The same people and things, the "
    "same light, natural movement, sharp and detailed, realistic footage."
)
NEGATIVE_PROMPT: Final = (
    "blurred, distorted, flickering, oversaturated, overexposed, low quality, compression artefacts, still picture, "
    "text, watermark, deformed hands, deformed faces, extra limbs, duplicated objects, smeared background"
)

NEEDS_CARD: Final = 2_000_000_000
"""Parameters above which a transformer is refused on a CPU: a step would take hours."""
COMPILE_FROM_FORWARDS: Final = 30
"""Compiling anew took 17 s on an H100 and saves 0.19 s a forward, so it pays from 90; the code is kept for later runs,
for which loading it pays sooner. Excludes preset fast, of 4 forwards a window."""


@dataclass(frozen=True)
class RuntimeOptions:
    """How the models run. Plain values, recorded in the take.

    Attributes:
        tier: "auto" is the fastest that fits the free memory; else a name of `tiers.TIERS`.
        precision: "auto" is the tier's own; "exact" is bfloat16 (float32 on a CPU); "float8".
        attention: "auto" tries the kernels for a second; else a backend's name in diffusers.
        compile: "auto" compiles on a graphics card where there are enough forwards to pay; "on"; "off".
        cache: "none", or "first-block": forwards whose first block hardly changed are cut short.
    """

    tier: str = "auto"
    precision: str = "auto"
    attention: str = "auto"
    compile: str = "auto"
    cache: str = "none"


@dataclass(frozen=True)
class ModelPaths:
    """folder: diffusers' layout. adapter: EX-4D's, None where the folder holds it. fast_lora: step distillation."""

    folder: Path
    adapter: Path | None
    fast_lora: Path | None = None


@dataclass(frozen=True)
class Ready:
    """A pipeline with its models in place, embeddings of its prompts, and what a take records of both."""

    pipeline: Ex4dPipeline
    prompt_embeds: tuple[torch.Tensor, torch.Tensor | None]
    record: dict[str, Any]


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


def compute_device(ranks: Ranks | None = None) -> torch.device:
    """The rank's device, else the first graphics card, else the CPU."""
    if ranks is not None:
        return ranks.device
    return torch.device("cuda", 0) if torch.cuda.is_available() else torch.device("cpu")


def check_memory(paths: ModelPaths, options: RuntimeOptions, tokens: int, steps: int = 25) -> None:
    """Refuses, before any work, what cannot run here; cheap.

    Raises:
        Ex4dError: `model_missing`, `model_invalid`; `out_of_memory` with what it would need; `bad_request`.
    """
    size = transformer_size(paths.folder)
    if paths.fast_lora is not None and not paths.fast_lora.exists():
        raise Ex4dError("model_missing", f"There is no {paths.fast_lora}.", "Download it, or choose preset final.")
    _memory_plan(size, options, tokens, compute_device())


def _memory_plan(
    size: TransformerSize, options: RuntimeOptions, tokens: int, device: torch.device
) -> tuple[Tier, Precision, float]:
    arguments = (size.parameters, size.layers, size.width, tokens)
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        free += torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return chosen_tier(options.tier, options.precision, free / GIB, *arguments)
    tier, precision, need = chosen_tier("48", "exact", float("inf"), *arguments)
    if size.parameters > NEEDS_CARD:
        smallest = _smallest_need(arguments)
        raise Ex4dError(
            "out_of_memory",
            f"This model has {size.parameters / 1e9:.0f} billion parameters and needs an NVIDIA graphics card with "
            f"{smallest:.0f} GiB free at least, {need:.0f} for full speed; this machine has none that PyTorch can use.",
            "Use preset draft or preview here, or run the shot folder on a machine with such a card.",
            "preset:preview",
        )
    free = psutil.virtual_memory().available / GIB
    if 2 * need > free:
        raise Ex4dError(
            "out_of_memory",
            f"This model needs about {2 * need:.1f} GiB of memory, and {free:.1f} are free.",
            "Close other programs, or use preset preview.",
            "preset:preview",
        )
    return tier, precision, need


def _smallest_need(arguments: tuple[int, int, int, int]) -> float:
    return min(need_gib(tier, tier.precision, *arguments) for tier in TIERS)


@contextmanager
def open_pipeline(
    paths: ModelPaths,
    options: RuntimeOptions,
    *,
    tokens: int,
    steps: int,
    guidance_scale: float,
    prompt: str,
    negative_prompt: str,
    reporter: Reporter,
    ranks: Ranks | None = None,
) -> Iterator[Ready]:
    """Loads and places everything a run needs; memory is given back at the end, whatever ends it.

    Args:
        paths, options: what and how.
        tokens: of a window, or of the largest tile of it; decides the tier.
        steps, guidance_scale: of the run.
        prompt, negative_prompt: texts, whose embeddings are kept on disk.
        reporter: told of the parts; its `check` is called between them.
        ranks: this process's place where several graphics cards share the work.

    Raises:
        Ex4dError: `model_missing`, `model_invalid`, `out_of_memory`, `bad_request`, `cancelled`.
    """
    diffusers_logging.set_verbosity_error()
    device = compute_device(ranks)
    size = transformer_size(paths.folder)
    if device.type == "cuda":
        torch.cuda.empty_cache()
    tier, precision, need = _memory_plan(size, options, tokens, device)
    dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
    use_compile = options.compile == "on" or (
        options.compile == "auto"
        and device.type == "cuda"
        and os.name != "nt"  # no compiler for the graphics card comes with PyTorch there
        and not tier.offloaded
        and steps * (2 if guidance_scale > 1 else 1) >= COMPILE_FROM_FORWARDS
    )
    if use_compile:
        _keep_compiled_code()
    pipeline: Ex4dPipeline | None = None
    try:
        texts = [prompt, negative_prompt] if guidance_scale > 1 else [prompt]
        embeds = cached_embeds(
            texts,
            paths.folder / "text_encoder",
            cache_folder() / "text",
            lambda missing: embed_texts(paths.folder, missing, dtype, device, reporter),
        )
        pipeline = load_pipeline(
            paths.folder,
            paths.adapter,
            dtype=dtype,
            device="cpu",
            reporter=reporter,
            text_encoder=False,
            fast_lora=paths.fast_lora,
        )
        attached = list(getattr(pipeline.transformer, "peft_config", {}))
        place_transformer(
            pipeline.transformer,
            device,
            precision=precision,
            offloaded=tier.offloaded,
            adapters=[name for name in (ADAPTER_NAME, FAST_NAME) if name in attached],
            reporter=reporter,
        )
        place_small_models(pipeline, device, tier)
        backend = _attention(pipeline, options.attention, size, tokens, dtype, device)
        if ranks is not None and ranks.world_size > 1:
            from .parallel import share_work

            share_work(pipeline, guidance_scale > 1)
        if use_compile:
            compile_blocks(pipeline.transformer)
        if options.cache == "first-block":
            enable_cache(pipeline.transformer)
        elif options.cache != "none":
            raise Ex4dError("bad_request", f"There is no cache {options.cache!r}.", "Choose none or first-block.")
        record = {
            "tier": tier.name,
            "precision": precision,
            "attention": backend,
            "compiled": use_compile,
            "cache": options.cache,
            "need_gib": round(need, 1),
            "device": device_name(device),
            "ranks": ranks.world_size if ranks is not None else 1,
            "versions": library_versions(),
        }
        reporter.log(
            f"Memory tier {tier.name} ({precision}{', blocks wait in main memory' if tier.offloaded else ''}) on "
            f"{record['device']}."
        )
        yield Ready(pipeline, (embeds[0], embeds[1] if len(embeds) > 1 else None), record)
    except torch.OutOfMemoryError as error:
        smaller = next_smaller(tier)
        raise Ex4dError(
            "out_of_memory",
            f"The graphics card's memory was not enough for memory tier {tier.name}.",
            f"Choose memory tier {smaller.name}." if smaller else "Choose a smaller window or size.",
            f"tier:{smaller.name}" if smaller else "preset:preview",
        ) from error
    finally:
        if pipeline is not None:
            pipeline.guidance_group = None
            for name in list(pipeline.components):
                setattr(pipeline, name, None)
        del pipeline
        gc.collect()
        if device.type == "cuda":
            torch.cuda.empty_cache()


def place_small_models(pipeline: Ex4dPipeline, device: torch.device, tier: Tier) -> None:
    """VAE, image and camera encoder on the device; in a small tier only the layer that computes is there."""
    models = (pipeline.vae, pipeline.image_encoder, pipeline.camera_encoder)
    for model in (model for model in models if model is not None):
        if tier.small_offloaded:
            apply_group_offloading(model, onload_device=device, offload_type="leaf_level")
        else:
            model.to(device)


@torch.no_grad()
def embed_texts(
    folder: Path, texts: Sequence[str], dtype: torch.dtype, device: torch.device, reporter: Reporter
) -> list[torch.Tensor]:
    """Embeddings (1, 512, text_dim) of the texts; the encoder is loaded for them and let go again.

    On a graphics card only the layer that computes is there, so the encoder needs little of it.
    """
    reporter.check()
    reporter.progress("encode text", 0, len(texts))
    encoder = load_component(UMT5EncoderModel, folder / "text_encoder", dtype)
    if device.type == "cuda":
        apply_group_offloading(encoder, onload_device=device, offload_type="leaf_level")
    tokenizer = AutoTokenizer.from_pretrained(folder / "tokenizer", local_files_only=True)
    writer = Ex4dPipeline(tokenizer, encoder, None, None)
    embeds = []
    for done, text in enumerate(texts):
        reporter.check()
        embeds.append(
            writer.encode_prompt(
                text, do_classifier_free_guidance=False, max_sequence_length=TEXT_TOKENS, device=device
            )[0].cpu()
        )
        reporter.progress("encode text", done + 1, len(texts))
    return embeds


def _attention(
    pipeline: Ex4dPipeline, wanted: str, size: TransformerSize, tokens: int, dtype: torch.dtype, device: torch.device
) -> str:
    """Sets and returns the attention backend."""
    if wanted == "auto":
        shape = (1, tokens, size.heads, size.width // size.heads)
        wanted = fastest_backend(shape, device, dtype, cache_folder() / "attention.json")
    if wanted != NATIVE:
        try:
            pipeline.transformer.set_attention_backend(wanted)
        except (ValueError, RuntimeError, ImportError) as error:
            raise Ex4dError("bad_request", f"Attention {wanted!r} does not run here ({error}).", "Use auto.") from error
    return wanted


def _keep_compiled_code() -> None:
    """Compiled code in our cache folder, so that the next process starts with it; the user's own setting stays."""
    for variable, folder in (("TORCHINDUCTOR_CACHE_DIR", "inductor"), ("TRITON_CACHE_DIR", "triton")):
        os.environ.setdefault(variable, str(cache_folder() / folder))


def device_name(device: torch.device) -> str:
    """What people call the device."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"CPU, {torch.get_num_threads()} threads"


def library_versions() -> dict[str, str]:
    """Of everything that decides the numbers."""
    names = ("torch", "diffusers", "transformers", "peft", "accelerate", "safetensors")
    return {name: metadata.version(name) for name in names}
