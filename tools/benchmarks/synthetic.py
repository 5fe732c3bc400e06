#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-3.0-or-later
"""Generated clips: how many a second, with how much memory; and contact sheets of them.

    .venv/bin/python tools/benchmarks/synthetic.py --device cuda --batch 8 --frames 8 --size 384x288
    .venv/bin/python tools/benchmarks/synthetic.py --sheet build/scenes.png --seeds 1 2 3 --batch 8 --frames 1

Needs torch; sheets need Pillow. A sheet shows each clip's first picture (with `--frames` 3 or more, its last one
and its flow as well) above its depth: near is red, far is blue, sky is black.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import torch

from ex4d_engine.synthetic import ClipBatch, random_clips, random_scenes
from ex4d_engine.synthetic.settings import NAMES

COLUMNS = 4


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--seeds", type=int, nargs="+", default=[1])
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--frames", type=int, default=8)
    parser.add_argument("--size", default="384x288", help="WIDTHxHEIGHT")
    parser.add_argument("--repeat", type=int, default=0, help="batches to time after the first; the seeds go on")
    parser.add_argument("--plain", action="store_true", help="no lens, shutter, sensor and codec")
    parser.add_argument("--compile", action="store_true", help="fuse the ray arithmetic with torch.compile")
    parser.add_argument("--sheet", type=Path, help="where to write a contact sheet (PNG)")
    options = parser.parse_args()
    device = torch.device(options.device)
    width, height = (int(side) for side in options.size.split("x"))

    def clips(seed: int) -> ClipBatch:
        return random_clips(
            seed, options.batch, options.frames, height, width, device,
            effects=not options.plain, compiled=options.compile,
        )  # fmt: skip

    shown = []
    for seed in options.seeds:
        batch = clips(seed)
        if options.sheet:
            names = [NAMES[int(k)] for k in random_scenes(seed, options.batch, options.frames, device).plan.setting]
            print(f"seed {seed}: {', '.join(names)}")
            shown += [cell(batch, index) for index in range(options.batch)]
    if options.sheet:
        write_sheet(options.sheet, shown)
    if options.repeat:
        print(json.dumps(timed(clips, options.seeds[-1], options.repeat, device) | {"batch": options.batch}))
    return 0


def timed(clips: object, seed: int, repeat: int, device: torch.device) -> dict[str, object]:
    """Seconds a batch, wall and (on a CPU) processor time, and the peak of GPU memory."""
    assert callable(clips)
    on_gpu = device.type == "cuda"
    if on_gpu:
        torch.cuda.reset_peak_memory_stats(device)
        torch.cuda.synchronize(device)
    wall, processor = time.perf_counter(), time.process_time()
    for step in range(repeat):
        clips(seed + 1 + step)
    if on_gpu:
        torch.cuda.synchronize(device)
    return {
        "device": torch.cuda.get_device_name(device) if on_gpu else "cpu",
        "seconds_a_batch": round((time.perf_counter() - wall) / repeat, 4),
        "processor_seconds_a_batch": round((time.process_time() - processor) / repeat, 4),
        "peak_gib": round(torch.cuda.max_memory_allocated(device) / 2**30, 2) if on_gpu else None,
    }


def cell(batch: ClipBatch, index: int) -> torch.Tensor:
    """(3, rows, columns) of one clip: pictures beside each other, depth and flow below."""
    images, depth = batch.images[index].cpu(), batch.depth[index].cpu()
    picture, below = images[0], inverse_depth_colours(depth[0])
    if len(images) > 2:
        flow = flow_colours(batch.flow[index, 0].cpu(), batch.flow_valid[index, 0].cpu())
        picture, below = torch.cat([picture, images[-1]], 2), torch.cat([below, flow], 2)
    return torch.cat([picture, below], 1)


def inverse_depth_colours(depth: torch.Tensor) -> torch.Tensor:
    """(H, W) metres to (3, H, W): near red, far blue, sky black."""
    inverse = torch.where(torch.isfinite(depth), 1 / depth, 0.0)
    share = (inverse / torch.quantile(inverse, 0.98).clamp_min(1e-9)).clamp(0, 1)
    ramps = torch.stack([1.5 - (4 * share - 3 + offset).abs() for offset in (0, 1, 2)]).clamp(0, 1)
    return torch.where(torch.isfinite(depth), ramps, 0.0)


def flow_colours(flow: torch.Tensor, valid: torch.Tensor) -> torch.Tensor:
    """(2, H, W) pixels to (3, H, W): grey is rest; what is hidden or outside at the next frame is black."""
    scale = flow.abs()[:, valid].amax().clamp_min(1.0) if bool(valid.any()) else 1.0
    return torch.cat([0.5 + 0.5 * flow / scale, torch.full_like(flow[:1], 0.5)]).clamp(0, 1) * valid


def write_sheet(path: Path, cells: list[torch.Tensor]) -> None:
    """Cells in rows of four, as a PNG."""
    from PIL import Image

    cells += [torch.zeros_like(cells[0])] * (-len(cells) % COLUMNS)
    rows = [torch.cat(cells[start : start + COLUMNS], 2) for start in range(0, len(cells), COLUMNS)]
    sheet = (torch.cat(rows, 1).permute(1, 2, 0) * 255).round().byte().numpy()
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(sheet).save(path)


if __name__ == "__main__":
    sys.exit(main())
