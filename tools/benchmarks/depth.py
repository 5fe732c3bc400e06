#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-3.0-or-later
"""How good depth sources are: on generated clips that were never trained on, and on a clip that a reference knows.

    .venv/bin/python tools/benchmarks/depth.py [--clips 8] [--weights FILE] [--flower DIR] [--out DIR]

Prints tables and writes them with pictures of the depth: `depth.json`, `depth_generated_##.png`, `depth_flower.png`,
`views_flower.png`. DIR of --flower holds input.mp4, camera_180.npz, render_180.mp4 and mask_180.mp4: what the
reference implementation made of a clip. A source's depth is drawn along the same camera, whose path is scaled to fit.
"""

from __future__ import annotations

import argparse
import dataclasses
import itertools
import json
import math
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import cv2
import numpy as np
import torch

from ex4d_engine.cameras import as_matrix
from ex4d_engine.depth import DepthClip, DepthFrame, DepthSource, PlatePass, depth_source
from ex4d_engine.evaluation.depth_metrics import DepthScores, depth_scores, mean_scores, warping_error
from ex4d_engine.image_files import read_exr, write_png
from ex4d_engine.progress import Reporter, Silent
from ex4d_engine.shot import Shot
from ex4d_engine.stages import ReconstructSettings, reconstruct
from ex4d_engine.stages.render import MeshFrames, open_meshes
from ex4d_engine.synthetic import random_clips
from ex4d_engine.training.depth_clips import HELD_OUT_SEED
from ex4d_engine.trajectories import Trajectory, load_trajectory
from ex4d_engine.video import read_frames

REFERENCE_FOV = math.degrees(2 * math.atan(256 / 500))  # 500 px at 512
FITTED_FRAMES = (6, 12, 18, 24, 30, 36, 42)
COLUMNS = 7
CELL = (256, 256)


class ConstantDepth:
    """A wall: what knows nothing scores."""

    name, title, licence, needs_download = "constant", "Constant", "GPL-3.0-or-later", False

    def estimate(self, plate: PlatePass, frame_count: int, size: tuple[int, int], reporter: Reporter) -> DepthClip:
        wall = DepthFrame(np.full((size[1], size[0]), 4, np.float32))
        return DepthClip(iter([wall] * frame_count), None, None, "relative", "A wall.")


@dataclass(frozen=True)
class ViewScores:
    """Drawn along the reference's camera, over all frames but the first, which the reference overwrote.

    scale: of the camera's path. mask_iou: of what is seen. psnr: over what the reference sees, ours black where unseen;
    psnr_both: over what both see. warping: flicker along optical flow, in shares of mean inverse depth.
    """

    scale: float
    mask_iou: float
    psnr: float
    psnr_both: float
    warping: float


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--clips", type=int, default=8)
    parser.add_argument("--frames", type=int, default=12)
    parser.add_argument("--size", type=int, nargs=2, default=(384, 288), metavar=("WIDTH", "HEIGHT"))
    parser.add_argument("--device", default="cpu", help="on which clips are generated")
    parser.add_argument("--weights", type=Path, help="of the bundled network, other than the shipped ones")
    parser.add_argument("--sources", nargs="+", default=["bundled", "rough-pictorial", "constant"])
    parser.add_argument("--flower", type=Path, metavar="DIR")
    parser.add_argument("--out", type=Path, default=Path(__file__).resolve().parents[2] / "build" / "benchmark_depth")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    document: dict[str, Any] = {"generated": {}, "flower": {}}
    if options.clips:
        scores, rates = generated(options)
        document["generated"] = {
            name: {**dataclasses.asdict(mean_scores(clips)), "frames_per_second": rates[name]}
            for name, clips in scores.items()
        }
        print(table(document["generated"]))
    if options.flower:
        document["flower"] = {name: dataclasses.asdict(score) for name, score in flower(options).items()}
        print(table(document["flower"]))
    (options.out / "depth.json").write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
    print(f"\nWritten to {options.out}")
    return 0


def source_named(name: str, options: argparse.Namespace) -> DepthSource:
    if name == "constant":
        return ConstantDepth()
    return depth_source(name, **source_options(name, options))


def source_options(name: str, options: argparse.Namespace) -> dict[str, Any]:
    return {"weights": str(options.weights)} if name == "bundled" and options.weights else {}


def generated(options: argparse.Namespace) -> tuple[dict[str, list[DepthScores]], dict[str, float]]:
    """Each source's scores of each held-out clip, and its frames a second with enlarging and all."""
    width, height = options.size
    scores: dict[str, list[DepthScores]] = {name: [] for name in options.sources}
    seconds = dict.fromkeys(options.sources, 0.0)
    for index in range(options.clips):
        seed = HELD_OUT_SEED + index
        clip = random_clips(seed, 1, options.frames, height, width, torch.device(options.device))
        images = (clip.images[0].permute(0, 2, 3, 1).cpu().numpy() * 255).round().astype(np.uint8)
        true = inverse(clip.depth[0].cpu().numpy())
        flow, valid = clip.flow[0].cpu().numpy(), clip.flow_valid[0].cpu().numpy()
        rows = [list(images), pictures(true)]
        for name in options.sources:
            started = time.perf_counter()
            said = inverse(estimated(source_named(name, options), images))
            seconds[name] += time.perf_counter() - started
            scores[name].append(depth_scores(said, true, flow, valid))
            rows.append(pictures(said))
        write_sheet(options.out / f"depth_generated_{index:02}.png", rows)
    count = options.clips * options.frames
    return scores, {name: round(count / max(spent, 1e-9), 2) for name, spent in seconds.items()}


def estimated(source: DepthSource, images: np.ndarray) -> np.ndarray:
    """(F, H, W) z of images (F, H, W, 3)."""

    def plate() -> Iterator[np.ndarray]:
        return iter(images)

    clip = source.estimate(plate, len(images), (images.shape[2], images.shape[1]), Silent())
    return np.stack([frame.depth for frame in clip.frames])


def inverse(depth: np.ndarray) -> np.ndarray:
    """1 / z; 0 for sky, NaN where unknown."""
    known = np.where(depth > 0, depth, np.nan)
    return np.asarray(1 / known)


def flower(options: argparse.Namespace) -> dict[str, ViewScores]:
    """Each source's depth of the reference's clip, drawn along the reference's camera."""
    folder: Path = options.flower
    colour = [frame.image for frame in read_frames(folder / "render_180.mp4")]
    mask = [frame.image[..., 0] > 127 for frame in read_frames(folder / "mask_180.mp4")]
    plate = [frame.image for frame in read_frames(folder / "input.mp4")]
    scores, depths, views = {}, [plate], [colour]
    for name in options.sources:
        if name == "constant":
            continue
        with tempfile.TemporaryDirectory() as place:
            settings = ReconstructSettings(
                source=str(folder / "input.mp4"),
                depth=name,
                depth_options=source_options(name, options),
                fov_deg=REFERENCE_FOV,
            )
            shot = reconstruct(settings, Path(place), Silent())
            maps = inverse(np.stack([read_exr(shot.depth_file(number)) for number in shot.require_plate().numbers]))
            path = load_trajectory(folder / "camera_180.npz", shot=shot)
            score, drawn = along_reference(shot, path, colour, mask)
            flow, valid = optical_flow(plate)
            scores[name] = dataclasses.replace(score, warping=warping_error(maps, flow, valid))
            depths.append(pictures(maps))
            views.append(drawn)
    write_sheet(options.out / "depth_flower.png", depths)
    write_sheet(options.out / "views_flower.png", views)
    return scores


def along_reference(
    shot: Shot, path: Trajectory, colour: list[np.ndarray], mask: list[np.ndarray]
) -> tuple[ViewScores, list[np.ndarray]]:
    """Scores at the path's best scale, and the views there."""
    with open_meshes(shot, keep=len(FITTED_FRAMES)) as meshes:

        def quality(scale: float) -> float:
            return float(
                np.mean([psnr(*seen(meshes, path, n, scale, colour, mask)[:2], mask[n]) for n in FITTED_FRAMES])
            )

        best = max(np.geomspace(0.2, 20, 17), key=quality)
        for width in (1.15, 1.05, 1.02):
            best = max((best / width, best, best * width), key=quality)
        ious, errors, joint, views = [], [], [], []
        for index in range(len(path.frames)):
            drawn, wanted, ours = seen(meshes, path, index, best, colour, mask)
            views.append(drawn)
            if index:
                both = ours & mask[index]
                ious.append(both.sum() / (ours | mask[index]).sum())
                errors.append(psnr(drawn, wanted, mask[index]))
                joint.append(psnr(drawn, wanted, both))
    means = [round(float(np.mean(values)), 4) for values in (ious, errors, joint)]
    return ViewScores(round(float(best), 3), *means, warping=math.nan), views


def seen(
    meshes: MeshFrames,
    path: Trajectory,
    index: int,
    scale: float,
    colour: list[np.ndarray],
    mask: list[np.ndarray],
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Our view of a frame with the path scaled, the reference's, and what ours sees."""
    camera = path.frames[index]
    pose = np.array(camera.camera_to_world)
    pose[:3, 3] *= scale
    camera = dataclasses.replace(camera, camera_to_world=as_matrix(pose))
    drawn = meshes.draw(camera.source, camera, path.size)
    return drawn.color, np.where(mask[index][..., None], colour[index], 0).astype(np.uint8), drawn.mask > 127


def psnr(one: np.ndarray, other: np.ndarray, where: np.ndarray) -> float:
    difference = one[where].astype(np.float64) - other[where]
    return 10 * math.log10(255**2 / max(float((difference**2).mean()), 1e-9)) if where.any() else math.nan


def optical_flow(plate: list[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """Flow (F−1, 2, H, W) between frames, and where going there and back ends within a pixel."""
    engine = cv2.DISOpticalFlow.create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM)
    grey = [cv2.cvtColor(image, cv2.COLOR_RGB2GRAY) for image in plate]
    flows, valid = [], []
    y, x = np.mgrid[: grey[0].shape[0], : grey[0].shape[1]].astype(np.float32)
    for now, then in itertools.pairwise(grey):
        there, back = engine.calc(now, then, None), engine.calc(then, now, None)
        returned = cv2.remap(back, x + there[..., 0], y + there[..., 1], cv2.INTER_LINEAR)
        flows.append(there.transpose(2, 0, 1))
        valid.append(np.linalg.norm(there + returned, axis=2) < 1)
    return np.stack(flows), np.stack(valid)


def pictures(inverse_depth: np.ndarray) -> list[np.ndarray]:
    """Inverse depth (F, H, W) in colours, near warm, far blue, black at infinity: one scale for the clip."""
    low, high = np.nanpercentile(inverse_depth, (1, 99))
    shade = np.nan_to_num(np.clip((inverse_depth - low) / max(high - low, 1e-9), 0, 1) * 255).astype(np.uint8)
    coloured = [cv2.applyColorMap(frame, cv2.COLORMAP_TURBO)[..., ::-1] for frame in shade]
    return [np.where((level == 0)[..., None], 0, image) for level, image in zip(inverse_depth, coloured, strict=True)]


def write_sheet(path: Path, rows: list[list[np.ndarray]]) -> None:
    """Rows of frames spread over a clip."""
    picked = np.linspace(0, len(rows[0]) - 1, COLUMNS).round().astype(int)
    height = round(CELL[0] * rows[0][0].shape[0] / rows[0][0].shape[1])
    cells = [
        np.hstack(
            [cv2.resize(row[n].astype(np.uint8), (CELL[0], height), interpolation=cv2.INTER_AREA) for n in picked]
        )
        for row in rows
    ]
    write_png(path, np.vstack(cells))


def table(rows: dict[str, dict[str, float]]) -> str:
    """Markdown, one source a line."""
    names = list(next(iter(rows.values())))
    lines = [f"| source | {' | '.join(name.replace('_', ' ') for name in names)} |", "|---" * (len(names) + 1) + "|"]
    lines += [f"| {source} | {' | '.join(f'{row[name]:.3f}' for name in names)} |" for source, row in rows.items()]
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
