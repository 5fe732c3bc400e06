#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-3.0-or-later
"""Simulated masks against true ones on generated scenes: hole share, outline and steadiness, by angle.

    .venv/bin/python tools/benchmarks/simulated_masks.py [--scenes 160] [--picture build/simulated_masks.png]

Each scene is seen by its own camera, held still, and by one on a random path of the training's family; things move
meanwhile. Five masks of the same cameras are compared, none of them eroded:

    true       the new camera's pixels whose point the source camera does not see, by the scenes' exact depth
    simulated  the source's pixels that the path's camera does not see, as training hides them (walls of limited depth)
    closed     the same with the walls of the closed DW-Mesh
    drawn      the unseen pixels of the DW-Mesh drawn from the new camera: the holes that presets final and fast fill
    short      the same with walls of limited depth: those of draft and preview

A true hole lies in the new camera's picture and a simulated one in the source's, so they cannot be laid over each
other: what must agree is how much is missing at an angle.
Scenes differ much: the table says how far simulated / true would swing with other scenes (95 % of 2000 draws with
replacement from these).
"""

from __future__ import annotations

import argparse
import itertools
import json
import math
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import cv2
import numpy as np
import torch
from numpy.typing import NDArray

from ex4d_engine.dwmesh.edges import edge_alpha, wall_widths
from ex4d_engine.dwmesh.occlusion import seen_faces
from ex4d_engine.dwmesh.ray_grid import ray_grid
from ex4d_engine.dwmesh.repair import far_surface
from ex4d_engine.dwmesh.walls import CLOSED, WALL_SHARE
from ex4d_engine.raster import make_raster
from ex4d_engine.synthetic import Scenes, camera_path, random_scenes, render_views
from ex4d_engine.synthetic.draw import Draw
from ex4d_engine.synthetic.surfaces import cameras_at, see
from ex4d_engine.training.mask_statistics import (
    boundary_lengths,
    coherence,
    hole_shares,
    mean_by_angle,
    true_masks,
)
from ex4d_engine.training.random_paths import PathSettings, random_path, turned_deg
from ex4d_engine.training.rendering_masks import rendering_masks, usable_depth

EDGES_DEG = np.array([2.0, 10.0, 20.0, 30.0, 45.0, 60.0, 75.0, 90.1])
CLIP_FRAMES = 49  # of which some are looked at, spread evenly
BATCH = 8  # scenes at a time
KINDS = ("true", "simulated", "closed", "drawn", "short")
COLOURS = {
    "true": (0, 0, 0),
    "simulated": (40, 160, 40),
    "closed": (200, 120, 40),
    "drawn": (60, 60, 210),
    "short": (190, 60, 170),
}  # BGR
EXAMPLE_TURNS = ((20.0, 40.0), (45.0, 75.0))  # degrees: an example is shown of the first path that ends within each
RESAMPLED = 2000
Masks = dict[str, NDArray[np.uint8]]
Pictures = list[NDArray[np.uint8]]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--scenes", type=int, default=160)
    parser.add_argument("--frames", type=int, default=9, help="looked at in each clip")
    parser.add_argument("--size", type=int, nargs=2, default=(192, 144), metavar=("W", "H"))
    parser.add_argument("--wall-share", type=float, default=WALL_SHARE, help="of the simulated masks")
    parser.add_argument("--seed", type=int, default=2)
    parser.add_argument("--picture", type=Path, help="where to draw the curves and an example (PNG)")
    parser.add_argument("--json", type=Path, help="where to write the figures")
    options = parser.parse_args()
    measured, examples = measure(options)
    document = summary(measured, options)
    print(table(document))
    if options.json:
        options.json.parent.mkdir(parents=True, exist_ok=True)
        options.json.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
    if options.picture:
        options.picture.parent.mkdir(parents=True, exist_ok=True)
        encoded = cv2.imencode(".png", picture(document, examples))[1]
        options.picture.write_bytes(encoded.tobytes())
    return 0


def measure(options: argparse.Namespace) -> tuple[dict[str, NDArray[np.float64]], list[Pictures]]:
    """Figures of every frame, (N,) each, scene after scene, and the examples' pictures."""
    rows: dict[str, list[NDArray[np.float64]]] = {"angle": []}
    examples: dict[tuple[float, float], Pictures] = {}
    draw = np.random.default_rng(options.seed)
    settings = PathSettings(moves=(1, 0, 0, 0))
    width, height = options.size
    times = torch.linspace(0, CLIP_FRAMES - 1, options.frames)
    for start in range(0, options.scenes, BATCH):
        batch = min(BATCH, options.scenes - start)
        scenes = random_scenes(options.seed * 100_003 + start, batch, CLIP_FRAMES, torch.device("cpu"))
        intrinsics, placed = camera_path(scenes.plan, Draw(options.seed + start), 1, height, width)
        still = placed.expand(batch, options.frames, 4, 4)
        source = depth_of(scenes, intrinsics, still, times, height, width)
        paths = np.stack([random_path(draw, options.frames, usable_depth(clip[:1])[0], settings) for clip in source])
        moved = torch.from_numpy(placed.double().numpy() @ paths).float()
        target = depth_of(scenes, intrinsics, moved, times, height, width)
        for number in range(batch):
            K = intrinsics[number, 0].double().numpy()
            masks = all_masks(source[number], target[number], K, paths[number], options.wall_share)
            rows["angle"].append(turned_deg(paths[number])[1:])
            for kind, keep in masks.items():
                rows.setdefault(f"{kind} share", []).append(hole_shares(keep)[1:])
                rows.setdefault(f"{kind} outline", []).append(boundary_lengths(keep)[1:])
                rows.setdefault(f"{kind} steadiness", []).append(np.concatenate([[np.nan], coherence(keep[1:])]))
            for span in EXAMPLE_TURNS:
                if span not in examples and span[0] < turned_deg(paths[number])[-1] < span[1]:
                    examples[span] = example_pictures(scenes, number, intrinsics, still, moved, times, masks)
    return {name: np.concatenate(values) for name, values in rows.items()}, [examples[key] for key in sorted(examples)]


def depth_of(
    scenes: Scenes, intrinsics: torch.Tensor, poses: torch.Tensor, times: torch.Tensor, height: int, width: int
) -> NDArray[np.float32]:
    """(B,F,H,W) the exact depth that cameras (B,F,4,4) see; light and colour are not needed here."""
    batch, frames = poses.shape[:2]
    cameras = cameras_at(scenes, intrinsics.expand(batch, frames, 3, 3), poses, times.expand(batch, frames))
    result: NDArray[np.float32] = see(scenes, cameras, height, width).depth.view(batch, frames, height, width).numpy()
    return result


def all_masks(
    source: NDArray[np.float32],
    target: NDArray[np.float32],
    K: NDArray[np.float64],
    path: NDArray[np.float64],
    wall_share: float,
) -> Masks:
    """Keep-masks (F,H,W) of each kind."""
    return {
        "true": true_masks(target, source, K, path),
        "simulated": rendering_masks(source, K, path, wall_share=wall_share),
        "closed": rendering_masks(source, K, path, wall_share=CLOSED),
        "drawn": drawn_masks(usable_depth(source), K, path, CLOSED),
        "short": drawn_masks(usable_depth(source), K, path, wall_share),
    }


def drawn_masks(
    depth: NDArray[np.float32], K: NDArray[np.float64], path: NDArray[np.float64], wall_share: float
) -> NDArray[np.uint8]:
    """The masks of the conditioning, as the render stage draws them."""
    height, width = depth.shape[1:]
    albedo = np.zeros((height, width, 4), np.uint8)
    grid = ray_grid(width, height, K, far_surface(float(depth.max())))
    masks = []
    with make_raster("opengl", grid, nearest=float(depth.min()), wall_share=wall_share) as raster:
        for frame, pose in zip(depth, path, strict=True):
            seen = seen_faces(frame)
            albedo[..., 3] = edge_alpha(seen, width, height, None)
            raster.set_frame(frame, albedo, seen, wall_widths(frame, seen, float(K[0, 0])))
            masks.append(raster.draw(K, np.linalg.inv(pose), (width, height)).mask)
    return np.stack(masks)


def summary(measured: dict[str, NDArray[np.float64]], options: argparse.Namespace) -> dict[str, object]:
    """Means by angle of every figure."""
    columns: dict[str, list[float]] = {}
    counts = np.zeros(len(EDGES_DEG) - 1, np.int64)
    for name, values in measured.items():
        if name != "angle":
            found, means = mean_by_angle(measured["angle"], values, EDGES_DEG)
            counts = np.maximum(counts, found)
            columns[name] = [round(float(value), 4) for value in means]
    return {
        "scenes": options.scenes,
        "frames": options.frames,
        "size": list(options.size),
        "seed": options.seed,
        "wall_share": options.wall_share,
        "edges_deg": EDGES_DEG.tolist(),
        "counts": counts.tolist(),
        "means": columns,
        "simulated_to_true": swings(measured, options.frames - 1).round(4).tolist(),
    }


def swings(measured: dict[str, NDArray[np.float64]], frames: int) -> NDArray[np.float64]:
    """(A,2) between what 95 % of draws of other scenes put simulated / true − 1 at every range of angles."""
    bins = np.digitize(measured["angle"], EDGES_DEG) - 1
    within = bins[:, None] == np.arange(len(EDGES_DEG) - 1)
    shares = np.stack([measured["simulated share"], measured["true share"]])
    sums = (shares[..., None] * within).reshape(2, -1, frames, within.shape[1]).sum(axis=2)  # by kind, scene, range
    scenes = sums.shape[1]
    drawn = np.random.default_rng(0).integers(0, scenes, (RESAMPLED, scenes))
    simulated, true = (kind[drawn].sum(axis=1) for kind in sums)
    spread = np.full((within.shape[1], 2), np.nan)
    for column in range(len(spread)):
        some = true[:, column] > 0
        if some.any():
            ratios = simulated[some, column] / true[some, column]
            spread[column] = np.percentile(ratios, [2.5, 97.5]) - 1
    return spread


def table(document: dict) -> str:
    """Markdown: a line a range of angles, and each kind's departure from the truth."""
    means, edges = document["means"], document["edges_deg"]
    lines = [
        "{scenes} scenes, {size[0]} x {size[1]}, walls of {wall_share:g}\n".format(**document),
        "| angle | frames | " + " | ".join(f"{kind} share" for kind in KINDS) + " | simulated / true | closed / drawn "
        "| outline true, simulated | steadiness true, simulated |",
        "|---|---|" + "---|" * (len(KINDS) + 4),
    ]
    for index, count in enumerate(document["counts"]):

        def at(name: str, index: int = index) -> float:
            return float(means[name][index])

        cells = [f"{edges[index]:.0f}–{edges[index + 1]:.0f}°", str(count)]
        cells += [f"{at(f'{kind} share'):.3f}" for kind in KINDS]
        low, high = document["simulated_to_true"][index]
        cells += [f"{at('simulated share') / at('true share') - 1:+.1%} ({low:+.0%} to {high:+.0%})"]
        cells += [f"{at('closed share') / at('drawn share') - 1:+.1%}"]
        cells += [
            f"{at(f'true {figure}'):.2f}, {at(f'simulated {figure}'):.2f}" for figure in ("outline", "steadiness")
        ]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def example_pictures(
    scenes: Scenes,
    number: int,
    intrinsics: torch.Tensor,
    still: torch.Tensor,
    moved: torch.Tensor,
    times: torch.Tensor,
    masks: Masks,
) -> Pictures:
    """(H,W,3) BGR of the last frame: the source, its simulated holes in grey, the new view, and its true holes."""
    height, width = masks["true"].shape[1:]
    both = torch.stack([still[:, -1], moved[:, -1]], 1)
    when = times[-1].expand(len(both), 2)
    views = render_views(scenes, intrinsics.expand(-1, 2, 3, 3), both, when, height, width, effects=False)
    source, target = (
        np.ascontiguousarray((image.permute(1, 2, 0).numpy()[..., ::-1] * 255).astype(np.uint8))
        for image in views.images[number]
    )
    pictures = [source]
    for image, kind in ((source, "simulated"), (source, "closed"), (target, "true"), (target, "drawn")):
        shown = image.copy()
        shown[masks[kind][-1] == 0] = (128, 128, 128)
        pictures.append(shown)
    return pictures


def picture(document: dict, examples: list[Pictures]) -> NDArray[np.uint8]:
    """(H,W,3) BGR: hole share by angle for every kind, and the examples under it."""
    width, height, margin = 960, 480, 60
    canvas = np.full((height, width, 3), 255, np.uint8)
    edges = np.array(document["edges_deg"])
    middles = (edges[1:] + edges[:-1]) / 2

    def place(angle: float, share: float) -> tuple[int, int]:
        return (
            round(margin + angle / 90 * (width - 2 * margin)),
            round(height - margin - share * (height - 2 * margin)),
        )

    def write(text: str, where: tuple[int, int], colour: tuple[int, int, int] = (60, 60, 60)) -> None:
        cv2.putText(canvas, text, where, cv2.FONT_HERSHEY_SIMPLEX, 0.5, colour, 1, cv2.LINE_AA)

    for share in (0.0, 0.25, 0.5, 0.75, 1.0):
        cv2.line(canvas, place(0, share), place(90, share), (220, 220, 220), 1)
        write(f"{share:.2f}", (12, place(0, share)[1] + 5))
    for angle in range(0, 91, 15):
        write(str(angle), (place(angle, 0)[0] - 8, height - margin + 22))
    write("share of the picture that is missing, by the angle between source and path in degrees", (margin, 30))
    for row, kind in enumerate(KINDS):
        shares = document["means"][f"{kind} share"]
        points = [place(angle, share) for angle, share in zip(middles, shares, strict=True) if math.isfinite(share)]
        for start, end in itertools.pairwise(points):
            cv2.line(canvas, start, end, COLOURS[kind], 2, cv2.LINE_AA)
        for point in points:
            cv2.circle(canvas, point, 4, COLOURS[kind], -1, cv2.LINE_AA)
        write(kind, (width - margin - 100, height - margin - 90 + 20 * row), COLOURS[kind])
    if not examples:
        return canvas
    shown = width // len(examples[0])
    tall = round(shown * examples[0][0].shape[0] / examples[0][0].shape[1])
    rows = [
        np.concatenate([cv2.resize(image, (shown, tall)) for image in pictures], axis=1, dtype=np.uint8)
        for pictures in examples
    ]
    strip = np.concatenate(rows)
    names = ("source", "simulated holes", "closed", "new view: true holes", "drawn holes")
    labels = np.full((28, width, 3), 255, np.uint8)
    for index, name in enumerate(names):
        cv2.putText(labels, name, (index * shown + 4, 19), cv2.FONT_HERSHEY_SIMPLEX, 0.45, (60, 60, 60), 1, cv2.LINE_AA)
    strip = np.pad(strip, ((0, 0), (0, width - strip.shape[1]), (0, 0)), constant_values=255)
    return np.concatenate([canvas, labels, strip])


if __name__ == "__main__":
    sys.exit(main())
