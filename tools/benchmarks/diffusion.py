#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-3.0-or-later
"""How fast the 14B transformer runs on this graphics card, and in how little memory. Random weights; no download.

python tools/benchmarks/diffusion.py forward            # one forward: eager, compiled, float8, two at once
python tools/benchmarks/diffusion.py folder DIR         # writes a random model folder (36 GB) for `tier`
python tools/benchmarks/diffusion.py tier DIR 24        # a run in this memory tier under its memory cap
python tools/benchmarks/diffusion.py tier DIR 48 --size 1920 1080 --detail   # the same in two passes
python tools/benchmarks/diffusion.py deviation          # each precision against the reference's numbers, tiny model
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import torch
from diffusers import AutoencoderKLWan
from peft import LoraConfig
from safetensors.torch import load_file
from torch import nn
from transformers import CLIPVisionConfig, CLIPVisionModel, UMT5Config, UMT5EncoderModel

from ex4d_engine.diffusion.attention import trial
from ex4d_engine.diffusion.camera_encoder import CameraEncoder
from ex4d_engine.diffusion.checkpoints import (
    ADAPTER_NAME,
    LORA_TARGETS,
    WAN_I2V_14B,
    load_adapter,
    load_transformer,
    save_adapter,
)
from ex4d_engine.diffusion.compilation import CompiledBlocks
from ex4d_engine.diffusion.float8 import Float8, platform_lack, quantise_float8
from ex4d_engine.diffusion.generation import VideoSettings, generate_video
from ex4d_engine.diffusion.placement import fuse_adapters, place_transformer
from ex4d_engine.diffusion.runtime import ModelPaths, RuntimeOptions, open_pipeline
from ex4d_engine.diffusion.scheduler import euler_scheduler
from ex4d_engine.diffusion.transformer import Ex4dTransformer3DModel
from ex4d_engine.progress import Silent
from ex4d_engine.torch_environment import prepare_torch

LATENT = (13, 64, 64)  # 49 frames of 512 × 512
TOKENS = 13 * 32 * 32
DEVICE = torch.device("cuda", 0)
FIXTURE = Path(__file__).resolve().parents[2] / "tests" / "golden" / "wan_tiny"
TINY: dict[str, Any] = {
    "num_attention_heads": 2,
    "attention_head_dim": 32,
    "ffn_dim": 128,
    "num_layers": 2,
    "added_kv_proj_dim": 64,
}


def main() -> None:
    prepare_torch()  # in time for the graphics card, whose memory nothing has taken yet
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(required=True)
    command = commands.add_parser("forward")
    command.add_argument("--layers", type=int, default=40)
    command.add_argument("--float8-only", action="store_true", help="only the eager row, for comparison, and float8")
    command.set_defaults(run=lambda options: forward(options.layers, options.float8_only))
    command = commands.add_parser("folder")
    command.add_argument("folder", type=Path)
    command.add_argument("--tiny", action="store_true")
    command.set_defaults(run=lambda options: write_folder(options.folder, options.tiny))
    command = commands.add_parser("tier")
    command.add_argument("folder", type=Path)
    command.add_argument("tier")
    command.add_argument("--steps", type=int, default=4)
    command.add_argument("--precision", default="auto")
    command.add_argument("--compile", default="auto")
    command.add_argument("--frames", type=int, default=49)
    command.add_argument("--size", type=int, nargs=2, default=(512, 512), metavar=("WIDTH", "HEIGHT"))
    command.add_argument("--detail", action="store_true", help="with a second pass at the full size")
    command.add_argument("--no-cap", action="store_true")
    command.set_defaults(run=run_tier)
    command = commands.add_parser("deviation")
    command.add_argument("--fixture", type=Path, default=FIXTURE)
    command.set_defaults(run=lambda options: deviation(options.fixture))
    options = parser.parse_args()
    options.run(options)


@torch.no_grad()
def random_transformer(config: dict[str, Any], device: torch.device | str) -> Ex4dTransformer3DModel:
    """The transformer with random bfloat16 weights, made on the device; norms are 1, so that values stay finite."""
    with torch.device("meta"):
        transformer = Ex4dTransformer3DModel(**config).to(torch.bfloat16)
    transformer.to_empty(device=device)
    transformer.rope = Ex4dTransformer3DModel(**{**config, "num_layers": 1, "ffn_dim": 8}).rope.to(device)
    torch.manual_seed(0)
    for name, parameter in transformer.named_parameters():
        if parameter.ndim > 1 and "scale_shift_table" not in name:
            parameter.normal_(std=0.02)
        elif "norm" in name and name.endswith("weight"):
            parameter.fill_(1)
        else:
            parameter.normal_(std=0.01)
    return transformer.eval().requires_grad_(False)


def inputs(config: dict[str, Any], batch: int = 1) -> dict[str, torch.Tensor]:
    generator = torch.Generator(DEVICE).manual_seed(1)

    def noise(*shape: int) -> torch.Tensor:
        return torch.randn(shape, device=DEVICE, dtype=torch.bfloat16, generator=generator)

    width = config["num_attention_heads"] * config["attention_head_dim"]
    return {
        "hidden_states": noise(batch, 36, *LATENT),
        "timestep": torch.full((batch,), 700.0, device=DEVICE),
        "encoder_hidden_states": noise(batch, 512, config["text_dim"]),
        "encoder_hidden_states_image": noise(batch, 257, config["image_dim"]),
        "ray_latent": 0.1 * noise(1, width, LATENT[0], LATENT[1] // 2, LATENT[2] // 2),
    }


def measured(call: Callable[[], torch.Tensor], repeats: int = 5) -> tuple[float, float, float, torch.Tensor]:
    """Seconds of the first call, median seconds of the next ones, peak GiB, and the result."""
    torch.cuda.synchronize()
    started = time.perf_counter()
    call()
    torch.cuda.synchronize()
    first = time.perf_counter() - started
    call()
    torch.cuda.reset_peak_memory_stats()
    times = []
    for _ in range(repeats):
        torch.cuda.synchronize()
        started = time.perf_counter()
        result = call()
        torch.cuda.synchronize()
        times.append(time.perf_counter() - started)
    return first, sorted(times)[repeats // 2], torch.cuda.max_memory_allocated() / 2**30, result


@torch.inference_mode()
def forward(layers: int, float8_only: bool) -> None:
    config = {**WAN_I2V_14B, "num_layers": layers}
    print(f"{torch.cuda.get_device_name(DEVICE)}, torch {torch.__version__}", flush=True)
    started = time.perf_counter()
    transformer = random_transformer(config, DEVICE)
    transformer.add_adapter(
        LoraConfig(r=16, lora_alpha=16, target_modules=list(LORA_TARGETS), init_lora_weights=False), ADAPTER_NAME
    )
    transformer.to(torch.bfloat16)
    print(f"built in {time.perf_counter() - started:.0f} s", flush=True)
    one, two = inputs(config), inputs(config, 2)
    exact: torch.Tensor | None = None

    def row(name: str, given: dict[str, torch.Tensor], repeats: int = 5) -> None:
        nonlocal exact
        try:
            first, seconds, peak, result = measured(lambda: transformer(**given, return_dict=False)[0], repeats)
        except Exception as error:  # a row that does not run is told and the next one tried
            print(f"{name:44} {type(error).__name__}: {str(error)[:300]}", flush=True)
            return
        exact = result if exact is None else exact
        same = result.shape == exact.shape
        deviation = f"{((result - exact).float().norm() / exact.float().norm()).item():.2e}" if same else "-"
        print(f"{name:44} {seconds:7.3f} s  first {first:6.1f} s  {peak:5.1f} GiB  deviation {deviation}", flush=True)

    row("eager, native, LoRA attached", one)
    fuse_adapters(transformer, [ADAPTER_NAME])
    transformer.unload_lora()
    row("eager, native, fused", one)
    originals = [block.forward for block in transformer.blocks]
    times = trial((1, TOKENS, 40, 128), DEVICE, torch.bfloat16)
    print(
        "attention trial, ms: " + ", ".join(f"{name} {1000 * value:.2f}" for name, value in times.items()), flush=True
    )
    best = min(times, key=times.__getitem__)
    transformer.set_attention_backend(best)
    if not float8_only:
        row(f"eager, {best}, fused", one)
        CompiledBlocks(transformer, Steps())
        row(f"compiled, {best}", one)
        row("compiled, both branches in one batch", two, 3)
    for block, original in zip(transformer.blocks, originals, strict=True):
        block.forward = original
        quantise_float8(block, DEVICE)
    CompiledBlocks(transformer, Steps())
    torch.cuda.empty_cache()
    row(f"compiled, {best}, float8", one)


@torch.inference_mode()
def deviation(fixture: Path) -> None:
    """One prediction of the fixture's tiny model in each way that a tier keeps the 14B one, against the reference's."""
    device = DEVICE if torch.cuda.is_available() else torch.device("cpu")
    config = json.loads((fixture / "configs_diffusers.json").read_text(encoding="utf-8"))["WanTransformer3DModel"]
    given, golden = load_file(fixture / "inputs.safetensors"), load_file(fixture / "outputs.safetensors")
    text = nn.functional.pad(given["text_pos"], (0, 0, 0, 512 - len(given["text_pos"])))[None]
    lack = platform_lack(device)
    print(f"{device}, torch {torch.__version__}, float8 products: {lack or 'yes'}")
    ways: tuple[tuple[str, torch.dtype, Float8 | None, bool], ...] = (
        ("exact, float32", torch.float32, None, False),
        ("exact, bfloat16", torch.bfloat16, None, False),
        ("float8 products", torch.bfloat16, "products", False),
        ("kept in float8, bfloat16 products", torch.bfloat16, "storage", True),
    )
    for name, dtype, float8, offloaded in ways:
        if float8 == "products" and lack:
            continue
        with TemporaryDirectory() as folder:  # loaded anew, which keeps norms in float32 as in a run
            load_transformer(fixture / "dit.safetensors", config).save_pretrained(folder)
            transformer = Ex4dTransformer3DModel.from_pretrained(folder, torch_dtype=dtype)
        load_adapter(fixture / "ex4d.safetensors", transformer)
        place_transformer(
            transformer, device, float8=float8, offloaded=offloaded, adapters=[ADAPTER_NAME], reporter=Silent()
        )
        (result,) = transformer(
            torch.cat([given["noise"], golden["y"]], dim=1).to(device, dtype),
            golden["timesteps"][1].expand(1).to(device),
            text.to(device, dtype),
            golden["clip_fea"].to(device, dtype),
            return_dict=False,
            ray_latent=golden["ray_latent"].to(device),
        )
        difference = (result.float().cpu() - golden["pred_full"]).norm() / golden["pred_full"].norm()
        print(f"{name:36} {difference.item():.1e}")


def write_folder(folder: Path, tiny: bool) -> None:
    """A model folder and adapter in the published layout, transformer and VAE at full size, a tiny text encoder."""
    sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "tests"))
    from tiny_model import tokenizer

    config = {**WAN_I2V_14B, **(TINY if tiny else {})}
    device = DEVICE if torch.cuda.is_available() else torch.device("cpu")
    started = time.perf_counter()
    transformer = random_transformer(config, device)
    transformer.add_adapter(
        LoraConfig(r=16, lora_alpha=16, target_modules=list(LORA_TARGETS), init_lora_weights=False), ADAPTER_NAME
    )
    camera = CameraEncoder(16, 1024, transformer.width)
    nn.init.normal_(camera.latent_patch_embedding.weight, std=0.01)
    folder.mkdir(parents=True, exist_ok=True)
    save_adapter(folder / "ex4d.safetensors", transformer.to("cpu"), camera)
    fuse_adapters(transformer, [ADAPTER_NAME])
    transformer.unload_lora()
    transformer.save_pretrained(folder / "transformer", max_shard_size="5GB")
    words = tokenizer()
    words.save_pretrained(folder / "tokenizer")
    text = UMT5Config(
        vocab_size=len(words),
        d_model=4096,
        d_kv=8,
        d_ff=32,
        num_heads=4,
        num_layers=1,
        is_encoder_decoder=False,
        feed_forward_proj="gated-gelu",
    )
    UMT5EncoderModel(text).to(torch.bfloat16).save_pretrained(folder / "text_encoder")
    clip = CLIPVisionConfig(
        hidden_size=1280,
        intermediate_size=5120,
        num_hidden_layers=2 if tiny else 32,
        num_attention_heads=16,
        image_size=224,
        patch_size=14,
        hidden_act="gelu",
    )
    CLIPVisionModel(clip).save_pretrained(folder / "image_encoder")
    AutoencoderKLWan(**({"base_dim": 8} if tiny else {})).save_pretrained(folder / "vae")
    euler_scheduler().save_pretrained(folder / "scheduler")
    print(f"wrote {folder} in {time.perf_counter() - started:.0f} s", flush=True)


class Steps(Silent):
    """When each step was reported; a line at the start of each stage."""

    def __init__(self) -> None:
        super().__init__()
        self.started = time.perf_counter()
        self.times: list[tuple[str, int, float]] = []

    def progress(self, stage: str, done: int, total: int) -> None:
        now = time.perf_counter()
        if not self.times or self.times[-1][0] != stage:
            print(f"{now - self.started:6.1f} s  {stage}", flush=True)
        self.times.append((stage, done, now))

    def log(self, message: str) -> None:
        print(message, flush=True)


def run_tier(options: argparse.Namespace) -> None:
    on_card = torch.cuda.is_available()
    if on_card and not options.no_cap:
        total = torch.cuda.get_device_properties(DEVICE).total_memory
        torch.cuda.set_per_process_memory_fraction(min(1.0, (float(options.tier) - 0.7) * 2**30 / total))
    started = time.perf_counter()
    reporter = Steps()
    width, height = options.size
    settings = VideoSettings(
        steps=options.steps, guidance_scale=5.0, detail_area=width * height if options.detail else None
    )
    frame = torch.randint(0, 255, (height, width, 3), dtype=torch.uint8).numpy()
    mask = torch.full((height, width), 255, dtype=torch.uint8).numpy()
    runtime = RuntimeOptions(tier=options.tier, precision=options.precision, compile=options.compile)
    with open_pipeline(
        ModelPaths(options.folder, None),
        runtime,
        tokens=TOKENS,
        steps=25,
        guidance_scale=5.0,
        prompt="a camera moves",
        negative_prompt="blurred",
        reporter=reporter,
    ) as ready:
        loaded = time.perf_counter()
        if on_card:
            torch.cuda.reset_peak_memory_stats()
        frames = list(
            generate_video(
                ready.pipeline,
                lambda _: (frame, mask),
                options.frames,
                width,
                height,
                settings,
                ready.prompt_embeds,
                reporter,
            )
        )
        ended = time.perf_counter()
        record = ready.record_now()
    steps = [at for stage, _, at in reporter.times if stage == "denoise"]
    gaps = sorted(later - earlier for earlier, later in pairwise(steps[1:]))
    summary = {
        "tier": options.tier,
        "precision": record["precision"],
        "float8": record.get("float8"),
        "compiled": record["compiled"],
        "attention": record["attention"],
        "estimate_gib": record["need_gib"],
        "load_s": round(loaded - started, 1),
        "first_step_s": round(steps[1] - started, 1) if len(steps) > 1 else None,
        "step_s": round(gaps[len(gaps) // 2], 2) if gaps else None,
        "frames": len(frames),
        "total_s": round(ended - started, 1),
        "peak_allocated_gib": round(torch.cuda.max_memory_allocated() / 2**30, 1) if on_card else None,
        "peak_reserved_gib": round(torch.cuda.max_memory_reserved() / 2**30, 1) if on_card else None,
    }
    print(json.dumps(summary), flush=True)


if __name__ == "__main__":
    main()
