#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-3.0-or-later
"""How deep walls should be: what of the source a new camera is shown, of what it truly sees, and how much is wrong.

    .venv/bin/python tools/benchmarks/walls.py [--scenes 24] [--picture build/walls.png]

Held-out generated scenes with exact depth are seen along an orbit of 60 degrees. Of each conditioning two shares are
given by angle:

    kept   of the pixels whose surface the source camera sees too: how many are shown
    wrong  of the pixels that are shown: how many differ from the truth by more than 40 of 255 in a channel

`warp` is the mesh without the faces that the source did not see, `splats` a point a pixel. With the ± of a mean over
scenes.
"""

from __future__ import annotations

import argparse
import itertools
import math
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import cv2
import numpy as np
import torch
from numpy.typing import NDArray

from ex4d_engine.dwmesh.walls import WALL_SHARE
from ex4d_engine.evaluation.fill_cases import FillCase, Swing, fill_cases
from ex4d_engine.evaluation.fill_conditioning import FillConditioning, conditioning, walled_conditioning
from ex4d_engine.evaluation.fill_pictures import contact_sheet
from ex4d_engine.evaluation.fill_table import mean_and_error

EDGES_DEG: Final = (1.0, 15.0, 30.0, 45.0, 60.1)
ORBIT: Final = Swing("0-60", (0, 60), (1 / 3, 2 / 3, 1))
DIFFERS: Final = 40  # of 255, in a channel
SHOWN_AT_DEG: Final = 25.0
SHARES: Final = (math.inf, WALL_SHARE)


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--scenes", type=int, default=24)
    parser.add_argument("--frames", type=int, default=13)
    parser.add_argument("--size", type=int, nargs=2, default=(256, 256), metavar=("WIDTH", "HEIGHT"))
    parser.add_argument("--first", type=int, default=0, help="number of the first held-out scene")
    parser.add_argument("--picture", type=Path, help="a PNG with examples")
    parser.add_argument("--examples", type=int, nargs="+", default=[0, 1, 2], help="which scenes it shows")
    options = parser.parse_args()
    figures: dict[str, list[NDArray[np.float64]]] = {}
    pictures, labels = [], []
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    cases = fill_cases(options.scenes, options.frames, tuple(options.size), device, first=options.first, swings=[ORBIT])
    for number, case in enumerate(cases):
        shown = {name: draw(case) for name, draw in conditionings()}
        for name, known in shown.items():
            figures.setdefault(name, []).append(shares(case, known))
        if options.picture and number in options.examples:
            at = int(np.abs(case.angles_deg - SHOWN_AT_DEG).argmin())
            views = [known.color[at] for name, known in shown.items()]
            pictures.append([case.source[at], case.truth[at], *views])
            labels.append(f"scene {number}\n{case.angles_deg[at]:.0f} degrees")
        print(f"scene {number + 1} of {options.scenes}", file=sys.stderr, flush=True)
    print(table(figures))
    if options.picture:
        sheet = contact_sheet(pictures, ["source", "truth", *figures], labels)
        cv2.imencode(".png", sheet[..., ::-1])[1].tofile(options.picture)
    return 0


def conditionings() -> Iterator[tuple[str, Callable[[FillCase], FillConditioning]]]:
    """What is compared, by name."""
    for share in SHARES:
        name = "short walls" if math.isfinite(share) else "closed walls"
        yield name, lambda case, share=share: walled_conditioning(case, share)
    for kind in ("warp", "splats"):
        yield kind, lambda case, kind=kind: conditioning(case, kind)


def shares(case: FillCase, known: FillConditioning) -> NDArray[np.float64]:
    """(bins, 2) kept and wrong by angle; NaN where no frame is, or nothing to be kept."""
    seen = known.mask > 0
    wrong = np.abs(known.color.astype(np.int16) - case.truth).max(axis=-1) > DIFFERS
    rows = []
    for low, high in itertools.pairwise(EDGES_DEG):
        frames = (case.angles_deg >= low) & (case.angles_deg < high)
        there, shown = case.visible[frames], seen[frames]
        counts = there.sum(), shown.sum()
        rows.append(
            (
                (there & shown).sum() / counts[0] if counts[0] else math.nan,
                (wrong[frames] & shown).sum() / counts[1] if counts[1] else math.nan,
            )
        )
    return np.array(rows)


def table(figures: dict[str, list[NDArray[np.float64]]]) -> str:
    """A line a conditioning, a column an angle."""
    spans = [f"{low:.0f}–{high:.0f}°" for low, high in itertools.pairwise(EDGES_DEG)]
    lines = ["| conditioning | " + " | ".join(f"{span}: kept, wrong" for span in spans) + " |"]
    lines.append("|---" * (len(spans) + 1) + "|")
    for name, scenes in figures.items():
        cells = []
        for place in range(len(spans)):
            kept, wrong = (mean_and_error([float(scene[place, part]) for scene in scenes]) for part in (0, 1))
            cells.append(f"{kept[0]:.2f} ± {kept[1]:.2f}, {wrong[0]:.3f} ± {wrong[1]:.3f}")
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
