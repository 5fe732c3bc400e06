#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-3.0-or-later
"""Seconds of a whole guided step of the 14B transformer on one graphics card and on several, and what differs.

    python tools/benchmarks/parallel.py --gpus 1 2 4 [--compile] [--attention _native_cudnn] [--size 49x512x512]

Each number of cards is measured twice: with the two guidance branches on separate halves of the cards, as the
engine does it, and by splitting tokens alone (Ulysses) for comparison. Weights and inputs are random and the same
on every card. A time is the slowest rank's from a common start, the median of several steps. Prints a table and, as
the last line, JSON. `--tiny` does the same with a toy model on the CPU.
"""

from __future__ import annotations

import argparse
import gc
import json
import platform
import statistics
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import diffusers
import torch
import torch.distributed as dist
from transformer_options import options_parser, parsed, transformer_config

from ex4d_engine.diffusion.compilation import CompiledBlocks
from ex4d_engine.diffusion.guidance import guided_velocity
from ex4d_engine.diffusion.parallel import Layout, layout_of, share_transformer, token_count
from ex4d_engine.diffusion.parallel_launch import run_parallel
from ex4d_engine.diffusion.ranks import ParallelJob, Ranks
from ex4d_engine.diffusion.transformer import Ex4dTransformer3DModel
from ex4d_engine.progress import Terminal

GUIDANCE_SCALE = 5.0
WARM_UP = 2


@dataclass(frozen=True)
class Settings:
    """size: (frames, height, width) in pixels. steps: timed ones, after the warm-up."""

    size: tuple[int, int, int]
    layers: int
    attention: str
    compile: bool
    steps: int
    tiny: bool

    @property
    def config(self) -> dict[str, Any]:
        return transformer_config(self.tiny, self.layers)

    @property
    def dtype(self) -> torch.dtype:
        return torch.float32 if self.tiny else torch.bfloat16


@dataclass(frozen=True)
class Measurement:
    """seconds: of each step, the slowest rank's. peak_gib: of each rank, 0 on the CPU. velocity: the last step's."""

    layout: Layout
    seconds: list[float]
    peak_gib: list[float]
    velocity: torch.Tensor


def main() -> int:
    options = _options()
    settings = Settings(
        size=options.size,
        layers=options.layers,
        attention=options.attention,
        compile=options.compile,
        steps=options.steps,
        tiny=options.tiny,
    )
    reporter = Terminal()
    measurements: list[Measurement] = []
    for ranks in sorted(set(options.gpus)):
        layouts = list(dict.fromkeys([layout_of(ranks, guided=True), layout_of(ranks, guided=False)]))
        if not measurements and ranks > 1:
            layouts.insert(0, Layout(1, 1))  # on every card by itself, to compare with
        job = ParallelJob(f"{__name__}:measure", {"settings": settings, "layouts": layouts})
        measurements += run_parallel(job, ranks, "cpu" if settings.tiny else "cuda", reporter)
    rows = [_row(measurement, measurements[0]) for measurement in measurements]
    print(_table(rows))
    print(json.dumps({**_circumstances(settings), "rows": rows}))
    return 0


def _options() -> argparse.Namespace:
    parser = options_parser(__doc__, gpus=[1, 2], steps=5)
    parser.add_argument("--attention", default="native", help="diffusers' name of an attention backend")
    parser.add_argument("--compile", action="store_true", help="compile the repeated blocks")
    return parsed(parser)


# --- on every rank ------------------------------------------------------------------------------------------------


def measure(ranks: Ranks, settings: Settings, layouts: list[Layout]) -> list[Measurement]:
    """One measurement a layout, in the order given; a layout of one rank is measured on all of them at once."""
    done = []
    for layout in layouts:
        ranks.reporter.log(f"{ranks.world_size} ranks, layout {layout.guidance} × {layout.ulysses}: making the model")
        done.append(_measured(ranks, settings, layout))
        torch.compiler.reset()  # what was compiled holds on to its model
        gc.collect()
        if ranks.device.type == "cuda":
            torch.cuda.empty_cache()
    return done


@torch.no_grad()
def _measured(ranks: Ranks, settings: Settings, layout: Layout) -> Measurement:
    transformer = random_transformer(settings.config, settings.dtype, ranks.device)
    transformer.set_attention_backend(settings.attention)
    group = share_transformer(transformer, layout) if layout.ranks > 1 else None
    if settings.compile:
        CompiledBlocks(transformer, ranks.reporter)  # as the engine compiles
    step = guided_step(transformer, settings, ranks.device, group)
    if ranks.device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
    seconds = []
    for number in range(WARM_UP + settings.steps):
        ranks.reporter.check()
        ranks.reporter.progress(f"layout {layout.guidance} × {layout.ulysses}", number, WARM_UP + settings.steps)
        _synchronise(ranks.device)
        dist.barrier()
        _synchronise(ranks.device)
        started = time.perf_counter()
        velocity = step()
        _synchronise(ranks.device)
        seconds.append(max(_of_every_rank(ranks, time.perf_counter() - started)))
    ranks.reporter.progress(f"layout {layout.guidance} × {layout.ulysses}", len(seconds), len(seconds))
    peak = torch.cuda.max_memory_allocated() / 2**30 if ranks.device.type == "cuda" else 0.0
    return Measurement(layout, seconds[WARM_UP:], _of_every_rank(ranks, peak), velocity.cpu())


def random_transformer(
    config: Mapping[str, Any], dtype: torch.dtype, device: torch.device, seed: int = 0
) -> Ex4dTransformer3DModel:
    """A transformer of random weights made on `device`, whose activations stay finite.

    In `dtype`, but for the parts that diffusers keeps in float32 when it loads a folder.
    """
    with torch.device("meta"):
        transformer = Ex4dTransformer3DModel(**config)
    for name, parameter in transformer.named_parameters():
        if not set(transformer._keep_in_fp32_modules) & set(name.split(".")):
            parameter.data = parameter.data.to(dtype)
    transformer.to_empty(device=device)
    generator = torch.Generator(device).manual_seed(seed)
    for name, parameter in transformer.named_parameters():
        if "norm" in name and name.endswith(".weight"):
            parameter.data.fill_(1)
        else:
            parameter.data.normal_(std=0.02, generator=generator)
    # its tables are no parameters, so they are computed once more
    transformer.rope = type(transformer.rope)(
        config["attention_head_dim"], config["patch_size"], config.get("rope_max_seq_len", 1024)
    ).to(device)
    return transformer.eval().requires_grad_(False)


def guided_step(
    transformer: Ex4dTransformer3DModel, settings: Settings, device: torch.device, group: dist.ProcessGroup | None
) -> Callable[[], torch.Tensor]:
    """A function that predicts the guided velocity for inputs that are the same on every rank."""
    config = settings.config
    frames, height, width = settings.size
    latent_size = ((frames - 1) // 4 + 1, height // 8, width // 8)
    generator = torch.Generator().manual_seed(1)

    def noise(*shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=generator).to(device, settings.dtype)

    model_input, image = noise(1, config["in_channels"], *latent_size), noise(1, 257, config["image_dim"])
    texts = noise(1, 512, config["text_dim"]), noise(1, 512, config["text_dim"])
    ray_latent = noise(1, transformer.width, latent_size[0], latent_size[1] // 2, latent_size[2] // 2)
    timestep = torch.tensor([900.0], device=device)

    def predict(_: str, embeds: torch.Tensor) -> torch.Tensor:
        (prediction,) = transformer(model_input, timestep, embeds, image, return_dict=False, ray_latent=ray_latent)
        return prediction.float()

    return lambda: guided_velocity(predict, texts, GUIDANCE_SCALE, group)


def _synchronise(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _of_every_rank(ranks: Ranks, value: float) -> list[float]:
    own = torch.tensor([value], dtype=torch.float64, device=ranks.device)
    gathered = [torch.empty_like(own) for _ in range(ranks.world_size)]
    dist.all_gather(gathered, own)
    return [float(entry) for entry in gathered]


# --- figures ------------------------------------------------------------------------------------------------------


def _row(measurement: Measurement, baseline: Measurement) -> dict[str, Any]:
    difference = measurement.velocity - baseline.velocity
    seconds = statistics.median(measurement.seconds)
    return {
        "ranks": measurement.layout.ranks,
        "layout": asdict(measurement.layout),
        "seconds": round(seconds, 4),
        "fastest": round(min(measurement.seconds), 4),
        "slowest": round(max(measurement.seconds), 4),
        "speed_up": round(statistics.median(baseline.seconds) / seconds, 3),
        "peak_gib": [round(peak, 2) for peak in measurement.peak_gib],
        "max_deviation": float(difference.abs().max()),
        "relative_deviation": float(difference.norm() / baseline.velocity.norm()),
        "finite": bool(measurement.velocity.isfinite().all()),
    }


def _table(rows: list[dict[str, Any]]) -> str:
    lines = ["ranks  guidance × ulysses  s a step  (fastest…slowest)  speed-up  peak GiB  max |Δ|   relative"]
    for row in rows:
        layout = f"{row['layout']['guidance']:>8} × {row['layout']['ulysses']:<7}"
        spread = f"({row['fastest']:.4f}…{row['slowest']:.4f})"
        lines.append(
            f"{row['ranks']:>5}  {layout}  {row['seconds']:>8.4f}  {spread:<19}  {row['speed_up']:>7.3f}×  "
            f"{max(row['peak_gib']):>7.2f}  {row['max_deviation']:<8.2e}  {row['relative_deviation']:.2e}"
            + ("" if row["finite"] else "  NOT FINITE")
        )
    return "\n".join(lines)


def _circumstances(settings: Settings) -> dict[str, Any]:
    return {
        "date": datetime.now(UTC).date().isoformat(),
        "device": "CPU" if settings.tiny else torch.cuda.get_device_name(0),
        "versions": {
            "python": platform.python_version(),
            "torch": torch.__version__,
            "diffusers": diffusers.__version__,
            "cuda": torch.version.cuda,
        },
        "settings": asdict(settings),
        "dtype": str(settings.dtype).removeprefix("torch."),
        "tokens": token_count(*settings.size),
    }


if __name__ == "__main__":
    sys.exit(main())
