#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-3.0-or-later
"""Frames per second and peak memory of decoding, mesh building and drawing, at three sizes.

    .venv/bin/python tools/benchmarks/reconstruct.py [--frames 24] [--json FILE] [--raster opengl|nvdiffrast]

Prints a table and writes JSON. Each size runs in a process of its own, so that peaks do not add up. The clip
is moving noise with soft shapes, made here; the depth has steps and slopes, so that occlusion has work to do.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import platform
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from fractions import Fraction
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import cv2
import numpy as np
import psutil

from ex4d_engine import __version__
from ex4d_engine.cameras import intrinsics_from_fov
from ex4d_engine.dwmesh.edges import edge_alpha, wall_widths
from ex4d_engine.dwmesh.occlusion import seen_faces
from ex4d_engine.dwmesh.ray_grid import ray_grid
from ex4d_engine.raster import make_raster
from ex4d_engine.raster.opengl import device_name
from ex4d_engine.trajectories import orbit
from ex4d_engine.video import MovieWriter, read_frames

SIZES = ((512, 512), (1024, 576), (1920, 1080))
STAGES = ("decode", "mesh", "raster")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--frames", type=int, default=24)
    parser.add_argument(
        "--json", type=Path, help="where to write the figures (default: build/benchmark_reconstruct.json)"
    )
    parser.add_argument("--raster", choices=("opengl", "nvdiffrast"), default="opengl")
    options = parser.parse_args()
    rows = []
    context = multiprocessing.get_context("spawn")
    for size in SIZES:
        with context.Pool(1) as pool:
            rows.append(pool.apply(measure, (size, options.frames, options.raster)))
    document = {
        "date": datetime.now(UTC).date().isoformat(),
        "versions": {"ex4d": __version__, "python": platform.python_version(), "opencv": cv2.__version__},
        "machine": {
            "cpu": platform.processor() or platform.machine(),
            "cores": psutil.cpu_count(),
            "opengl": device_name(),
        },
        "frames": options.frames,
        "raster": options.raster,
        "rows": rows,
    }
    print(table(document))
    path: Path = options.json or Path(__file__).resolve().parents[2] / "build" / "benchmark_reconstruct.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
    print(f"\nWritten to {path}")
    return 0


def measure(size: tuple[int, int], count: int, raster: str) -> dict[str, Any]:
    """One size's figures: frames a second of each stage, and the process's peak memory in MiB."""
    width, height = size
    with tempfile.TemporaryDirectory() as folder:
        clip = Path(folder) / "clip.mp4"
        with MovieWriter(clip, Fraction(24), width, height) as movie:
            for image in pictures(size, count):
                movie.write(image)
        figures: dict[str, Any] = {"size": list(size)}
        figures["decode"] = rate(count, lambda: sum(1 for _ in read_frames(clip)))
        image = next(read_frames(clip)).image
    depth = scene_depth(size)
    seen = seen_faces(depth)
    lens = intrinsics_from_fov(width, height)

    def mesh_all() -> None:
        for _ in range(count):
            flags = seen_faces(depth)
            edge_alpha(flags, width, height, None)
            wall_widths(depth, flags, float(lens[0, 0]))

    figures["mesh"] = rate(count, mesh_all)
    albedo = np.dstack([image, edge_alpha(seen, width, height, None)])
    poses = orbit(count, 30, 4.0)
    with make_raster(raster, ray_grid(width, height, lens, 50.0), nearest=2.0) as backend:
        backend.set_frame(depth, albedo, seen)
        backend.draw(lens, np.eye(4), size)  # shaders are compiled at the first draw

        def draw_all() -> None:
            for pose in poses:
                backend.set_frame(depth, albedo, seen)  # as a clip does: a new frame each time, upload counted
                backend.draw(lens, np.linalg.inv(pose), size)

        figures["raster"] = rate(count, draw_all)
    figures["peak_mib"] = round(peak_memory_mib())
    return figures


def pictures(size: tuple[int, int], count: int) -> Iterator[np.ndarray]:
    """Frames (H,W,3) uint8 of drifting texture."""
    width, height = size
    noise = np.random.default_rng(0).integers(0, 256, (height // 4 + 1, width // 4 + 1, 3), dtype=np.uint8)
    texture = cv2.resize(noise, (width, height), interpolation=cv2.INTER_CUBIC)
    for index in range(count):
        yield np.roll(texture, 2 * index, axis=1)


def scene_depth(size: tuple[int, int]) -> np.ndarray:
    """(H,W) float32: a wall, a receding ground and two boxes in front."""
    width, height = size
    depth = np.full((height, width), 20, np.float32)
    depth[height // 2 :] = np.linspace(20, 3, height - height // 2, dtype=np.float32)[:, None]
    depth[height // 4 : 3 * height // 4, width // 4 : width // 3] = 4
    depth[height // 3 : height // 2, width // 2 : 3 * width // 4] = 9
    return depth


def rate(count: int, work: Callable[[], object]) -> float:
    """Frames a second of `work`, which handles `count` of them."""
    started = time.perf_counter()
    work()
    return round(count / (time.perf_counter() - started), 1)


def peak_memory_mib() -> float:
    """The process's peak resident memory."""
    if sys.platform == "win32":
        return float(psutil.Process().memory_info().peak_wset) / 2**20
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return float(peak) / (2**20 if sys.platform == "darwin" else 2**10)


def table(document: dict[str, Any]) -> str:
    """The figures as Markdown."""
    lines = [
        "| size | " + " | ".join(f"{stage}, frames/s" for stage in STAGES) + " | peak, MiB |",
        "|---|---|---|---|---|",
    ]
    for row in document["rows"]:
        size = " × ".join(str(value) for value in row["size"])
        lines.append(f"| {size} | " + " | ".join(str(row[stage]) for stage in STAGES) + f" | {row['peak_mib']} |")
    machine = document["machine"]
    lines.append(
        f"\n{document['date']}, {machine['cores']} cores ({machine['cpu']}), {machine['opengl']}, {document['raster']}"
    )
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
