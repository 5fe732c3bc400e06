#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-3.0-or-later
"""The bundled depth network's step by torch, ONNX Runtime and OpenVINO on the CPU: frames a second and deviation.

    python tools/benchmarks/depth_runtimes.py [--frames 24] [--rounds 5] [--threads 2] [--size 384x224 ...]

Torch and OpenVINO run as in the engine. To measure ONNX Runtime, run this with a Python that has `onnx` and
`onnxruntime` besides the engine's packages; what is missing is left out. Each runtime carries its own memory from frame
to frame over the same moving noise. They take turns, so that other work on the machine slows all of them; the
processor's time, of all threads together, hardly depends on it. What OpenVINO's network costs before the first frame,
converted and then kept, is printed, too.
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import platform
import statistics
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Sequence
from importlib import metadata
from pathlib import Path
from typing import Final

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # as ex4d_engine/torch_environment.py, before torch is imported

import numpy as np
import numpy.typing as npt
import psutil
import torch
from torch import Tensor, nn

from ex4d_engine.depth.bundled import WEIGHTS
from ex4d_engine.depth.network import DepthNetwork, Memory, folded
from ex4d_engine.depth.network_weights import load_weights
from ex4d_engine.depth.openvino_step import INPUTS, LEAST_FRAMES, OUTPUTS, Step, TensorStep, openvino_step
from ex4d_engine.progress import Terminal

Array = npt.NDArray[np.float32]
Run = Callable[[Sequence[Array]], list[Array]]
"""A clip's frames, (1, 3, H, W) in 0…1 each → inverse depth (H, W) of each."""

SIZES: Final = ("384x224", "384x384")


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--frames", type=int, default=24)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--size", nargs="+", default=SIZES, help="WIDTHxHEIGHT, multiples of 32")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    print(f"{platform.processor() or platform.machine()}, {options.threads} threads; {', '.join(versions())}")
    print("| size | runtime | frames/s (rounds) | against torch | processor ms a frame | deviation, of the mean |")
    print("|---|---|---|---|---|---|")
    network = folded(load_weights(WEIGHTS))
    for size in options.size:
        width, height = map(int, size.split("x"))
        frames = clip(options.frames, width, height)
        with tempfile.TemporaryDirectory() as folder:
            runs = runtimes(network, frames[0], Path(folder), options.threads)
            report(size, runs, frames, options.rounds)
    print("Load at the end:", psutil.getloadavg())
    return 0


def versions() -> list[str]:
    named = ("torch", "onnxruntime", "openvino")
    return [f"{name} {metadata.version(name)}" for name in named if importlib.util.find_spec(name)]


def clip(count: int, width: int, height: int) -> list[Array]:
    """Soft noise that moves two pixels a frame: every part of the network has something to do."""
    rng = np.random.default_rng(4)
    coarse = torch.from_numpy(rng.random((1, 3, height // 16, width // 16 + 8), np.float32))
    wide = nn.functional.interpolate(coarse, size=(height, width + 2 * count), mode="bicubic").clamp(0, 1).numpy()
    wide = np.clip(wide + rng.normal(0, 0.05, wide.shape), 0, 1).astype(np.float32)
    return [np.ascontiguousarray(wide[..., 2 * place : 2 * place + width]) for place in range(count)]


def report(size: str, runs: dict[str, Run], frames: Sequence[Array], rounds: int) -> None:
    """A line of the table for each runtime; `torch` is the first of them, and the measure."""
    maps = {name: run(frames) for name, run in runs.items()}  # warms up, too
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    processor: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(rounds):
        for name, run in runs.items():
            start, busy = time.perf_counter(), time.process_time()
            run(frames)
            seconds[name].append((time.perf_counter() - start) / len(frames))
            processor[name].append((time.process_time() - busy) / len(frames))
    exact = np.stack(maps["torch"])
    for name, times in seconds.items():
        rates = " ".join(f"{1 / value:.1f}" for value in sorted(times, reverse=True))
        gain = statistics.median(seconds["torch"]) / statistics.median(times)
        off = np.abs(np.stack(maps[name]) - exact).max() / exact.mean()
        rate, cost = 1 / statistics.median(times), 1000 * statistics.median(processor[name])
        print(f"| {size} | {name} | {rate:.1f} ({rates}) | {gain:.2f} | {cost:.0f} | {off:.1e} |", flush=True)


def runtimes(network: DepthNetwork, image: Array, folder: Path, threads: int) -> dict[str, Run]:
    """Those that are installed; what they need on disk is written into `folder`."""
    runs = {"torch": by_step(network.step)}
    if importlib.util.find_spec("onnx") and importlib.util.find_spec("onnxruntime"):
        first = network.encode(torch.from_numpy(image))
        memory = Memory(first.near_key, first.far_key, network.blank(first))
        export(network, (torch.from_numpy(image), *memory), folder / "step.onnx")
        start = [value.contiguous().numpy() for value in memory]
        runs["ONNX Runtime"] = by_onnxruntime(folder / "step.onnx", start, threads)
    os.environ["EX4D_CACHE"] = str(folder)
    size = (image.shape[3], image.shape[2])
    for what in ("converted", "kept"):
        begun = time.perf_counter()
        step = openvino_step(network, WEIGHTS, size, LEAST_FRAMES, Terminal())
        if step is not None:
            print(f"OpenVINO, {what}: ready after {time.perf_counter() - begun:.1f} s", file=sys.stderr)
            runs["OpenVINO"] = by_step(step)
    return runs


def export(network: DepthNetwork, example: tuple[Tensor, ...], path: Path) -> None:
    """The step as an ONNX file of the example's size."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of tracing: the sizes are meant to be fixed
        torch.onnx.export(
            TensorStep(network).eval(),
            tuple(value.contiguous() for value in example),
            str(path),
            input_names=list(INPUTS),
            output_names=list(OUTPUTS),
            opset_version=18,
            dynamo=False,
        )


def by_step(step: Step) -> Run:
    """As the source `bundled` runs it."""

    @torch.inference_mode()
    def run(frames: Sequence[Array]) -> list[Array]:
        memory: Memory | None = None
        answers = []
        for frame in frames:
            image = torch.from_numpy(frame).contiguous(memory_format=torch.channels_last)
            maps, memory = step(image, memory)
            answers.append(np.asarray(maps.inverse_depth[0].numpy()))
        return answers

    return run


def by_onnxruntime(path: Path, start: Sequence[Array], threads: int) -> Run:
    """start: what the first frame inherits besides its own keys, in the order of `INPUTS`."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")  # as the engine has it with torch
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])

    def run(frames: Sequence[Array]) -> list[Array]:
        memory, answers = list(start), []
        for frame in frames:
            made = session.run(list(OUTPUTS), dict(zip(INPUTS, [frame, *memory], strict=True)))
            memory = made[3:]
            answers.append(made[0][0])
        return answers

    return run


if __name__ == "__main__":
    sys.exit(main())
