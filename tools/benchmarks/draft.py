#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-3.0-or-later
"""How fast preset `draft` is on this machine and in how much memory, part by part.

python tools/benchmarks/draft.py                        # the bundled model
python tools/benchmarks/draft.py --random               # random weights of its shape, before there is one
python tools/benchmarks/draft.py --model DIR --frames 121 --width 1920 --height 1080
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import numpy as np
import psutil
import torch

from ex4d_engine.bundled_model import bundled_folder
from ex4d_engine.diffusion.bundled_codec import BundledCodec
from ex4d_engine.diffusion.camera_encoder import CameraEncoder
from ex4d_engine.diffusion.generation import VideoSettings, generate_video, plan_video
from ex4d_engine.diffusion.parallel import token_count
from ex4d_engine.diffusion.pipeline import Ex4dPipeline
from ex4d_engine.diffusion.preset_defaults import DEFAULTS
from ex4d_engine.diffusion.run_plan import ModelPaths, RuntimeOptions
from ex4d_engine.diffusion.runtime import open_pipeline
from ex4d_engine.errors import Ex4dError
from ex4d_engine.progress import Silent
from ex4d_engine.torch_environment import prepare_torch
from ex4d_engine.training.adapter_export import layer_sizes
from ex4d_engine.training.bundled_adapter import ADAPTER_SHAPE
from ex4d_engine.training.bundled_folder import write_bundled_folder
from ex4d_engine.training.bundled_parts import TRANSFORMER_SHAPE, constant_text, new_transformer


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    source = parser.add_mutually_exclusive_group()
    source.add_argument("--model", type=Path, default=bundled_folder(), metavar="DIR")
    source.add_argument("--random", action="store_true")
    parser.add_argument("--frames", type=int, default=49)
    parser.add_argument("--width", type=int, default=512)
    parser.add_argument("--height", type=int, default=512)
    parser.add_argument("--steps", type=int, default=DEFAULTS["draft"].steps)
    parser.add_argument("--compile", default="auto")
    options = parser.parse_args()
    prepare_torch()
    try:
        if not options.random:
            measure(options.model, options)
            return 0
        with tempfile.TemporaryDirectory() as temporary:
            write_random_folder(Path(temporary) / "model")
            measure(Path(temporary) / "model", options)
    except Ex4dError as error:
        print(f"{error.message} {error.hint}", file=sys.stderr)
        return 1
    return 0


def write_random_folder(folder: Path) -> None:
    """A folder of the bundled model's layout and size."""
    codec, rank = BundledCodec(), ADAPTER_SHAPE.rank
    transformer = new_transformer(codec, TRANSFORMER_SHAPE, seed=0)
    torch.nn.init.normal_(transformer.proj_out.weight, std=0.02)
    camera = CameraEncoder(codec.config.z_dim, ADAPTER_SHAPE.camera_channels, transformer.width)
    adapter = camera.state_dict()
    for name, (inputs, outputs) in layer_sizes(transformer).items():
        adapter[f"{name}.lora_A.default.weight"] = torch.randn(rank, inputs) / rank
        adapter[f"{name}.lora_B.default.weight"] = torch.randn(outputs, rank) / rank
    write_bundled_folder(folder, codec, transformer, adapter, constant_text(transformer))
    megabytes = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()) / 1e6
    largest = max(path.stat().st_size for path in folder.rglob("*")) / 1e6
    print(f"random weights: {megabytes:.1f} MB, the largest file {largest:.1f} MB", flush=True)


class Stopwatch:
    """Seconds, of the clock and of all cores together, spent in named calls of objects, which it wraps."""

    def __init__(self) -> None:
        self.seconds: dict[str, list[float]] = {}
        self.core_seconds: dict[str, float] = {}

    def watch(self, owner: Any, method: str, name: str) -> None:
        call: Callable[..., Any] = getattr(owner, method)

        def timed(*arguments: Any, **named: Any) -> Any:
            started, cores = time.perf_counter(), time.process_time()
            result = call(*arguments, **named)
            if torch.cuda.is_available():
                torch.cuda.synchronize()
            self.seconds.setdefault(name, []).append(time.perf_counter() - started)
            self.core_seconds[name] = self.core_seconds.get(name, 0.0) + time.process_time() - cores
            return result

        setattr(owner, method, timed)


class PeakMemory(threading.Thread):
    """Samples this process's memory; GiB."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.peak_gib = 0.0
        self.start()

    def run(self) -> None:
        process = psutil.Process()
        while True:
            self.peak_gib = max(self.peak_gib, process.memory_info().rss / 2**30)
            time.sleep(0.02)


def measure(folder: Path, options: argparse.Namespace) -> None:
    """Prints one JSON line."""
    own, watch, memory = DEFAULTS["draft"], Stopwatch(), PeakMemory()
    settings = VideoSettings(steps=options.steps, guidance_scale=own.guidance, area=own.area, erosion=own.erosion)
    plan = plan_video(options.frames, options.width, options.height, settings)
    generator = np.random.default_rng(0)
    picture = generator.integers(0, 256, (options.height, options.width, 3), dtype=np.uint8)
    mask = np.full((options.height, options.width), 255, np.uint8)
    mask[:, options.width // 2 :] = 0
    whole = np.full_like(mask, 255)
    started = time.perf_counter()
    with open_pipeline(
        ModelPaths(folder, None),
        RuntimeOptions(compile=options.compile),
        tokens=token_count(plan.windows[0].frames, plan.size.height, plan.size.width),
        steps=plan.forwards,
        guidance_scale=own.guidance,
        prompt="",
        negative_prompt="",
        reporter=Silent(),
    ) as ready:
        loaded = time.perf_counter()
        pipeline: Ex4dPipeline = ready.pipeline
        watch.watch(pipeline, "prepare_conditioning", "encode")
        watch.watch(pipeline, "conditioned_velocity", "step")
        watch.watch(pipeline.vae, "decode_next", "decode")
        frames = generate_video(
            pipeline,
            lambda index: (picture, mask if index else whole),
            options.frames,
            options.width,
            options.height,
            settings,
            ready.prompt_embeds,
            Silent(),
        )
        count = sum(1 for _ in frames)
        ended = time.perf_counter()
        record = ready.record
    steps = sorted(watch.seconds["step"])
    summary = {
        "device": record["device"],
        "frames": count,
        "worked_on_at": [plan.size.width, plan.size.height],
        "windows": len(plan.windows),
        "load_s": round(loaded - started, 1),
        "encode_s": round(sum(watch.seconds["encode"]), 2),
        "step_s": round(steps[len(steps) // 2], 2),
        "decode_s": round(sum(watch.seconds["decode"]), 2),
        "total_s": round(ended - started, 1),
        "core_s": {name: round(seconds, 1) for name, seconds in watch.core_seconds.items()},
        "estimate_gib": record["need_gib"],
        "peak_memory_gib": round(memory.peak_gib, 2),
        "peak_on_card_gib": round(torch.cuda.max_memory_reserved() / 2**30, 2) if torch.cuda.is_available() else None,
    }
    print(json.dumps(summary), flush=True)


if __name__ == "__main__":
    sys.exit(main())
