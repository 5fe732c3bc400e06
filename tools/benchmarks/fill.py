#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-3.0-or-later
"""Ways to fill what the source camera never saw, against the truth of held-out generated scenes.

    .venv/bin/python tools/benchmarks/fill.py --out build/fill [--scenes 32] [--frames 49] [--device cuda]
        [--model DIR [--adapter NAME=FILE ...] [--steps 1 2 4 8]] [--minutes 60]

A source clip is seen from an orbit that begins at the source: 0 to 30, 60 and 90 degrees, and to one side and over to
the other. All rows fill the same holes, those of the DW-Mesh drawn from the new camera, and keep what it knows.
Rows without a model: black holes, nearest pixel, inpainting frame by frame (Telea, Navier-Stokes), preset preview.
Rows of a model, at 4 steps: without an adapter, from the first frame alone; with each adapter; and with the full one
(named `both`, or else the last) also on a mesh without occluded faces and on point splats, and at other step counts.

Writes fill.json, fill.md, contact sheets and plots of the lead over the angle to --out, which keeps the scenes and
what was scored: a later run with a model adds its rows, and one that was stopped goes on. A model's row is made again
where the model's or the adapter's files are others. With --minutes the run ends by the clock, and the table has the
cases that all rows have filled, in the order of scenes.
"""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from ex4d_engine.errors import Ex4dError
from ex4d_engine.evaluation.fill_folder import FillSettings
from ex4d_engine.evaluation.fill_run import compare_fills
from ex4d_engine.evaluation.fill_table import table
from ex4d_engine.progress import Silent
from ex4d_engine.torch_device import torch_device


class OnTerminal(Silent):
    """Progress on standard error, a line a step."""

    def progress(self, stage: str, done: int, total: int) -> None:
        print(f"{stage} {done} of {total}", file=sys.stderr, flush=True)


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--out", type=Path, required=True, help="folder for results, scenes and scores")
    parser.add_argument("--scenes", type=int, default=32, help="of each orbit")
    parser.add_argument("--frames", type=int, default=49)
    parser.add_argument("--size", type=int, nargs=2, default=(336, 192), metavar=("WIDTH", "HEIGHT"))
    parser.add_argument("--first", type=int, default=0, help="number of the first held-out scene")
    parser.add_argument("--device", default="auto", help="cuda, cpu or auto")
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1, help="processes; 0 for none")
    parser.add_argument("--model", type=Path, help="folder of the model")
    parser.add_argument("--adapter", action="append", type=named_file, default=[], metavar="NAME=FILE")
    parser.add_argument("--steps", type=int, nargs="+", default=[], help="further step counts for the full adapter")
    parser.add_argument("--minutes", type=float, metavar="M", help="draw and sample no longer; the next run goes on")
    options = parser.parse_args()
    try:
        document = compare_fills(
            options.out,
            FillSettings(options.scenes, options.frames, tuple(options.size), options.first),
            torch_device(options.device, with_mps=False),
            OnTerminal(),
            model=options.model,
            adapters=dict(options.adapter),
            steps=options.steps,
            workers=options.workers,
            minutes=options.minutes,
        )
    except Ex4dError as error:
        print(f"{error.message} {error.hint}", file=sys.stderr)
        return 1
    print(table(document))
    print(f"\nWritten to {options.out}")
    return 0


def named_file(text: str) -> tuple[str, Path]:
    name, _, file = text.partition("=")
    if not name or not file:
        raise argparse.ArgumentTypeError(f"{text!r} is not NAME=FILE")
    return name, Path(file)


if __name__ == "__main__":
    sys.exit(main())
