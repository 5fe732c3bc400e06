# SPDX-License-Identifier: GPL-3.0-or-later
"""A pipeline ready to generate: models loaded and placed in this machine's memory, and given back afterwards."""

from __future__ import annotations

import gc
import os
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import torch
from diffusers import AutoencoderKLWan
from diffusers.hooks import apply_group_offloading
from diffusers.utils import logging as diffusers_logging
from transformers import AutoTokenizer, UMT5EncoderModel

from ..bundled_model import smaller_preset
from ..errors import Ex4dError
from ..places import cache_folder
from ..progress import Reporter
from .attention import CANDIDATES, fastest_backend, splitting, use_backend
from .checkpoints import ADAPTER_NAME
from .compilation import CompiledBlocks
from .loading import FAST_NAME, constant_prompt, has_constant_prompt, load_component, load_pipeline
from .pipeline import TEXT_TOKENS, Ex4dPipeline
from .placement import enable_cache, place_transformer
from .run_plan import ModelPaths, RunPlan, RuntimeOptions, plan_run
from .text_cache import cached_embeds
from .tiers import Tier, next_smaller
from .vae_bands import compute_in_bands

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


@dataclass(frozen=True)
class Models:
    """A pipeline with its models in place, what a take records of them, and what compiles them, if anything does."""

    pipeline: Ex4dPipeline
    record: dict[str, Any]
    compiled: CompiledBlocks | None = None


@dataclass(frozen=True)
class Ready:
    """A pipeline with its models in place, embeddings of its prompts, what a take records of the models as they are
    planned, and what compiles them, if anything does."""

    pipeline: Ex4dPipeline
    prompt_embeds: tuple[torch.Tensor, torch.Tensor | None]
    record: dict[str, Any]
    compiled: CompiledBlocks | None = None

    def record_now(self) -> dict[str, Any]:
        """`record` as it turned out: without compiling, where that failed."""
        has_failed = self.compiled is not None and self.compiled.has_failed
        return {**self.record, "compiled": False} if has_failed else self.record


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
    frame_bytes: int = 0,
) -> Iterator[Ready]:
    """Loads and places everything a run needs; memory is given back at the end, whatever ends it.

    Args:
        paths, options: what and how.
        tokens: of a window, or of the largest tile of it; decides the tier.
        steps, guidance_scale: of the run.
        prompt, negative_prompt: texts, whose embeddings are kept on disk.
        reporter: told of the parts; its `check` is called between them.
        ranks: this process's place where several graphics cards share the work.
        frame_bytes: main memory that the run itself takes beside its models, see `VideoPlan.host_bytes`.

    Raises:
        Ex4dError: `model_missing`, `model_invalid`, `out_of_memory`, `missing_package`, `bad_request`, `cancelled`.
    """
    is_guided = guidance_scale > 1
    plan = plan_run(paths, options, tokens, steps * (2 if is_guided else 1), ranks, frame_bytes)
    with smaller_tier_offered(plan):
        texts = [prompt, negative_prompt] if is_guided else [prompt]
        embeds = prompt_embeds(paths.folder, texts, plan.device, reporter)
        with open_models(paths, options, plan, is_guided=is_guided, reporter=reporter, ranks=ranks) as models:
            yield Ready(models.pipeline, embeds, models.record, models.compiled)


@contextmanager
def open_models(
    paths: ModelPaths,
    options: RuntimeOptions,
    plan: RunPlan,
    *,
    is_guided: bool,
    reporter: Reporter,
    ranks: Ranks | None = None,
) -> Iterator[Models]:
    """Loads and places what computes each frame; memory is given back at the end, whatever ends it.

    Args:
        paths, options, reporter, ranks: as of `open_pipeline`.
        plan: from `plan_run`.
        is_guided: whether each step has two branches, which ranks may share.

    Raises:
        Ex4dError: `model_missing`, `model_invalid`, `bad_request`, `cancelled`.
    """
    diffusers_logging.set_verbosity_error()
    for note in plan.notes:
        reporter.log(note)
    if plan.compiled:
        _keep_compiled_code()
    device, tier = plan.device, plan.tier
    pipeline: Ex4dPipeline | None = None
    try:
        pipeline = load_pipeline(
            paths.folder,
            paths.adapter,
            dtype=plan.dtype,
            device="cpu",
            reporter=reporter,
            text_encoder=False,
            fast_lora=paths.fast_lora,
        )
        attached = list(getattr(pipeline.transformer, "peft_config", {}))
        place_transformer(
            pipeline.transformer,
            device,
            float8=plan.float8,
            offloaded=tier.offloaded,
            adapters=[name for name in (ADAPTER_NAME, FAST_NAME) if name in attached],
            reporter=reporter,
        )
        place_small_models(pipeline, device, tier)
        if ranks is not None and ranks.world_size > 1:
            from .parallel import chosen_by_the_first, layout_of, share_work

            splits = layout_of(ranks.world_size, is_guided).ulysses > 1
            wanted = chosen_by_the_first(lambda: _attention(options.attention, plan, splits=splits))
            backend = _use_attention(pipeline, wanted)
            share_work(pipeline, is_guided)
        else:
            backend = _use_attention(pipeline, _attention(options.attention, plan))
        compiled = CompiledBlocks(pipeline.transformer, reporter) if plan.compiled else None
        if options.cache == "first-block":
            enable_cache(pipeline.transformer)
        elif options.cache != "none":
            raise Ex4dError("bad_request", f"There is no cache {options.cache!r}.", "Choose none or first-block.")
        record = {
            "tier": tier.name,
            "precision": plan.precision,
            **({"float8": plan.float8} if plan.float8 else {}),
            "attention": backend,
            "compiled": plan.compiled,
            "cache": options.cache,
            "need_gib": round(plan.need_gib, 1),
            "device": device_name(device),
            # on a CPU sums are split among the threads, and rounded as they are split
            **({"threads": torch.get_num_threads()} if device.type == "cpu" else {}),
            "ranks": ranks.world_size if ranks is not None else 1,
            "versions": library_versions(),
        }
        kept = f"float8 {plan.float8}" if plan.float8 else plan.precision
        waiting = ", blocks wait in main memory" if tier.offloaded else ""
        reporter.log(f"Memory tier {tier.name} ({kept}{waiting}) on {record['device']}.")
        yield Models(pipeline, record, compiled)
    except BaseException as error:
        # by its traceback it holds the variables of all it came through, tensors and models among them
        traceback.clear_frames(error.__traceback__)
        raise
    finally:
        if pipeline is not None:
            pipeline.guidance_group = None
            for name in list(pipeline.components):
                setattr(pipeline, name, None)
        del pipeline
        gc.collect()
        if device.type == "cuda":
            torch.cuda.empty_cache()
        elif device.type == "mps":
            torch.mps.empty_cache()


@contextmanager
def smaller_tier_offered(plan: RunPlan) -> Iterator[None]:
    """Out of memory in the block, while models load or while they compute, becomes the offer of the next tier.

    Raises:
        Ex4dError: `out_of_memory` whose action is the next smaller tier, or a smaller preset.
    """
    try:
        yield
    except (torch.OutOfMemoryError, Ex4dError) as error:
        if isinstance(error, Ex4dError) and (error.code != "out_of_memory" or error.action):
            raise
        smaller, preset = next_smaller(plan.tier), smaller_preset(plan.size.parameters)
        raise Ex4dError(
            "out_of_memory",
            f"The graphics card's memory was not enough for memory tier {plan.tier.name}.",
            f"Choose memory tier {smaller.name}."
            if smaller
            else f"Choose a smaller window or size, or use preset {preset}.",
            f"tier:{smaller.name}" if smaller else f"preset:{preset}",
        ) from error


def place_small_models(pipeline: Ex4dPipeline, device: torch.device, tier: Tier) -> None:
    """VAE, image and camera encoder on the device; in a small tier only the layer that computes is there, and Wan's VAE
    computes in bands."""
    if tier.small_offloaded and isinstance(pipeline.vae, AutoencoderKLWan):
        compute_in_bands(pipeline.vae)
    models = (pipeline.vae, pipeline.image_encoder, pipeline.camera_encoder)
    for model in (model for model in models if model is not None):
        if tier.small_offloaded:
            apply_group_offloading(model, onload_device=device, offload_type="leaf_level")
        else:
            model.to(device)


def prompt_embeds(
    folder: Path,
    texts: Sequence[str],
    device: torch.device,
    reporter: Reporter,
    before_encoding: Callable[[], None] = lambda: None,
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Embeddings of the prompt and, where `texts` has one, of the negative prompt; those known come from the disk.

    A folder with a constant prompt gives that for every text.

    Args:
        folder: the model folder.
        texts: one or two.
        device: where those not known are computed.
        reporter: told of them.
        before_encoding: called before the text encoder is loaded, to make room for it.
    """

    if has_constant_prompt(folder):
        constant = constant_prompt(folder)
        return constant, constant if len(texts) > 1 else None

    def encode(missing: Sequence[str]) -> list[torch.Tensor]:
        before_encoding()
        return embed_texts(
            folder, missing, torch.bfloat16 if device.type == "cuda" else torch.float32, device, reporter
        )

    embeds = cached_embeds(texts, folder / "text_encoder", cache_folder() / "text", encode)
    return embeds[0], embeds[1] if len(embeds) > 1 else None


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


def _attention(wanted: str, plan: RunPlan, *, splits: bool = False) -> str:
    """The attention backend by name. splits: whether ranks share a video's tokens, which not every one can.

    Raises:
        Ex4dError: `bad_request` for one that was asked for and cannot.
    """
    candidates = splitting() if splits else CANDIDATES
    if wanted == "auto":
        shape = (1, plan.tokens, plan.size.heads, plan.size.width // plan.size.heads)
        return fastest_backend(shape, plan.device, plan.dtype, cache_folder() / "attention.json", candidates)
    if splits and wanted in CANDIDATES and wanted not in candidates:
        raise Ex4dError(
            "bad_request",
            f"With attention {wanted!r} so many graphics cards cannot share one shot.",
            f"Use auto, or one of: {', '.join(candidates)}.",
        )
    return wanted


def _use_attention(pipeline: Ex4dPipeline, name: str) -> str:
    """Sets and returns the attention backend."""
    try:
        use_backend(pipeline.transformer, name)
    except (ValueError, RuntimeError, ImportError) as error:
        raise Ex4dError("bad_request", f"Attention {name!r} does not run here ({error}).", "Use auto.") from error
    return name


def _keep_compiled_code() -> None:
    """Compiled code in our cache folder, so that the next process starts with it; the user's own setting stays."""
    for variable, folder in (("TORCHINDUCTOR_CACHE_DIR", "inductor"), ("TRITON_CACHE_DIR", "triton")):
        os.environ.setdefault(variable, str(cache_folder() / folder))


def device_name(device: torch.device) -> str:
    """What people call the device."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    if device.type == "mps":
        return "Apple graphics (Metal)"
    return f"CPU, {torch.get_num_threads()} threads"


def library_versions() -> dict[str, str]:
    """Of everything that decides the numbers; torchao only where it is installed."""
    names = ("torch", "diffusers", "transformers", "peft", "accelerate", "safetensors")
    versions = {name: metadata.version(name) for name in names}
    with suppress(metadata.PackageNotFoundError):
        versions["torchao"] = metadata.version("torchao")
    return versions
