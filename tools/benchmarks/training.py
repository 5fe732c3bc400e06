#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-3.0-or-later
"""Seconds a step and peak memory of training an adapter for the 14B transformer, on one graphics card and on several.

    python tools/benchmarks/training.py --gpus 1 2 4 [--layers 40] [--size 49x512x512] [--rank 16] [--batch 4]

Weights and latents are random; everything else is what `ex4d train lora` does in a step. Every number of cards trains
the same batch, so the times are comparable. Prints a table and, as the last line, JSON with the estimate that the
trainer checks a machine by. `--tiny` does the same with a toy model on the CPU.
"""

from __future__ import annotations

import argparse
import gc
import json
import platform
import statistics
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import torch
from diffusion import random_transformer
from transformer_options import options_parser, parsed, transformer_config

from ex4d_engine.diffusion.parallel_launch import run_parallel
from ex4d_engine.diffusion.ranks import ParallelJob, Ranks
from ex4d_engine.diffusion.transformer_size import TransformerSize
from ex4d_engine.progress import Silent, Terminal
from ex4d_engine.tensor_saving import save_tensors
from ex4d_engine.training.adapter_network import with_adapter
from ex4d_engine.training.latent_cache import CachedData, Sample
from ex4d_engine.training.lora_batches import BatchSource
from ex4d_engine.training.lora_config import AdapterShape, LoraTraining, Optimiser, TrainingData, Upkeep
from ex4d_engine.training.lora_memory import training_need_gib
from ex4d_engine.training.lora_step import new_run, placed, train_step

WARM_UP = 1
GIB = 2**30


@dataclass(frozen=True)
class Settings:
    """training: what is trained. layers: of the transformer. steps: timed ones, after the warm-up."""

    training: LoraTraining
    layers: int
    steps: int
    tiny: bool

    @property
    def config(self) -> dict[str, Any]:
        return transformer_config(self.tiny, self.layers)


@dataclass(frozen=True)
class Measurement:
    """seconds: of each timed step. peak_gib, reserved_gib: of the first rank, 0 on the CPU. losses: of every step."""

    ranks: int
    seconds: list[float]
    peak_gib: float
    reserved_gib: float
    losses: list[float]


def main() -> int:
    options = _options()
    frames, height, width = options.size
    training = LoraTraining(
        data=TrainingData(scenes=1, frames=frames, height=height, width=width, masks_per_clip=1),
        adapter=AdapterShape(rank=options.rank, alpha=options.rank, camera_channels=32 if options.tiny else 1024),
        optimiser=Optimiser(
            batch=options.batch,
            micro_batch=options.micro_batch,
            gradient_checkpointing=not options.no_checkpointing,
            warm_up_steps=0,
        ),
        run=Upkeep(validation_clips=0),
    )
    settings = Settings(training, options.layers, options.steps, options.tiny)
    rows = []
    with tempfile.TemporaryDirectory(prefix="ex4d-training-") as folder:
        data = random_data(settings, Path(folder))
        for ranks in sorted(set(options.gpus)):
            print(f"{ranks} × {device_name(settings.tiny)} …", file=sys.stderr, flush=True)
            rows.append(row(settings, measured(settings, data, ranks)))
    print(f"{'cards':>5} {'s a step':>9} {'s a clip':>9} {'peak GiB':>9} {'reserved':>9} {'estimate':>9}  loss")
    for entry in rows:
        print(
            f"{entry['cards']:5} {entry['seconds']:9.2f} {entry['seconds_a_clip']:9.2f} {entry['peak_gib']:9.1f} "
            f"{entry['reserved_gib']:9.1f} {entry['estimate_gib']:9.1f}  {entry['losses'][-1]:.4f}"
        )
    circumstances = {
        "device": device_name(settings.tiny),
        "torch": torch.__version__,
        "size": options.size,
        "layers": options.layers,
        "batch": options.batch,
        "micro_batch": options.micro_batch,
        "rank": options.rank,
        "checkpointing": not options.no_checkpointing,
    }
    print(json.dumps({**circumstances, "rows": rows}))
    return 0


def _options() -> argparse.Namespace:
    parser = options_parser(__doc__, gpus=[1], steps=3)
    parser.add_argument("--rank", type=int, default=16, help="of the LoRA")
    parser.add_argument("--batch", type=int, default=4, help="clips a step, over all cards")
    parser.add_argument("--micro-batch", type=int, default=1, help="clips that a card holds at once")
    parser.add_argument("--no-checkpointing", action="store_true")
    return parsed(parser)


def device_name(tiny: bool) -> str:
    return platform.processor() or "CPU" if tiny else torch.cuda.get_device_name(0)


def random_data(settings: Settings, folder: Path) -> CachedData:
    """A cache of two windows of noise."""
    data, config = settings.training.data, settings.config
    shape = ((data.frames - 1) // 4 + 1, data.height // 8, data.width // 8)
    generator = torch.Generator().manual_seed(0)

    def noise(*size: int) -> torch.Tensor:
        return torch.randn(size, generator=generator).half()

    save_tensors(folder / "text.safetensors", {"text": noise(60, config["text_dim"])})
    for number in range(2):
        tensors = {name: noise(16, *shape) for name in ("target", "colour_0", "mask_0")}
        tensors |= {"condition": noise(20, *shape), "image_embeds": noise(257, config["image_dim"])}
        save_tensors(folder / f"{number}.safetensors", tensors)
    samples = tuple(Sample(folder / f"{number}.safetensors", folder / "text.safetensors") for number in range(2))
    return CachedData(training=samples, validation=(), padded=0, digest="noise", shift=5.0)


def measured(settings: Settings, data: CachedData, ranks: int) -> Measurement:
    arguments = {"settings": settings, "data": data}
    if ranks == 1:
        return measure(Ranks(0, 1, torch.device("cpu" if settings.tiny else "cuda"), Silent()), **arguments)
    if not settings.tiny:
        gc.collect()
        torch.cuda.empty_cache()  # this process shares the first card with the first rank
    job = ParallelJob(f"{__name__}:measure", arguments)
    measurement: Measurement = run_parallel(job, ranks, "cpu" if settings.tiny else "cuda", Terminal())
    return measurement


def row(settings: Settings, measurement: Measurement) -> dict[str, Any]:
    seconds = statistics.median(measurement.seconds)
    need = training_need_gib(
        settings.training, transformer_numbers(settings), measurement.ranks, 4 if settings.tiny else 2
    )
    return {
        "cards": measurement.ranks,
        "seconds": round(seconds, 3),
        "seconds_a_clip": round(seconds / settings.training.optimiser.batch, 3),
        "peak_gib": round(measurement.peak_gib, 2),
        "reserved_gib": round(measurement.reserved_gib, 2),
        "estimate_gib": round(need, 2),
        "losses": [round(loss, 5) for loss in measurement.losses],
    }


def transformer_numbers(settings: Settings) -> TransformerSize:
    """As `transformer_size` reads them from a folder."""
    config = settings.config
    width = config["num_attention_heads"] * config["attention_head_dim"]
    parameters = settings.layers * (10 * width * width + 2 * width * config["ffn_dim"]) + 8 * width * width
    return TransformerSize(parameters, settings.layers, width, config["num_attention_heads"])


# --- on every rank ------------------------------------------------------------------------------------------------


def measure(ranks: Ranks, settings: Settings, data: CachedData) -> Measurement:
    training, device = settings.training, ranks.device
    on_card = device.type == "cuda"
    base = random_transformer(settings.config, device)
    if not on_card:
        base = base.float()
    network = placed(with_adapter(base, training.adapter, 0), training.optimiser, ranks.world_size, device)
    del base
    run = new_run(network, training.optimiser, device)
    source = BatchSource(training, data)
    count = source.count(ranks.world_size)
    end = WARM_UP + settings.steps
    seconds, losses = [], []
    batches = source.ahead(0, end, ranks.rank, ranks.world_size)
    for step in range(end):
        if step == WARM_UP and on_card:
            torch.cuda.reset_peak_memory_stats()
        started = time.perf_counter()
        loss, _ = train_step(network, run, batches, count, training.optimiser, device, ranks.reporter)
        if on_card:
            torch.cuda.synchronize()
        run.step += 1
        losses.append(loss)
        if step >= WARM_UP:
            seconds.append(time.perf_counter() - started)
    peak = torch.cuda.max_memory_allocated() / GIB if on_card else 0.0
    reserved = torch.cuda.max_memory_reserved() / GIB if on_card else 0.0
    return Measurement(ranks.world_size, seconds, peak, reserved, losses)


if __name__ == "__main__":
    sys.exit(main())
