# SPDX-License-Identifier: GPL-3.0-or-later
"""Run by the engine's Python for the Blender tests, as Blender's has no OpenCV: makes and draws small shots.

make_shot.py make FOLDER WIDTH HEIGHT FRAMES FIRST none|poses|reference|fence|earlier
make_shot.py render FOLDER TAKE     the engine's conditioning of a take
make_shot.py finish FOLDER TAKE     all layers and result.mp4 of a take
"""

from __future__ import annotations

import sys
from fractions import Fraction
from pathlib import Path

import cv2
import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from ex4d_engine.cameras import as_matrix, intrinsics_from_fov, rotation_about
from ex4d_engine.dwmesh.edges import edge_alpha, wall_widths
from ex4d_engine.dwmesh.occlusion import reference_seen, seen_faces, seen_pixels
from ex4d_engine.dwmesh.ray_grid import ray_grid, reference_ray_grid, save_ray_grid
from ex4d_engine.image_files import write_exr_depth, write_png
from ex4d_engine.progress import Silent
from ex4d_engine.shot import Geometry, Plate, Shot, load_shot, save_shot
from ex4d_engine.stages import generate, render
from ex4d_engine.take import load_take

FAR = 40.0


def main(command: str, folder: str, *rest: str) -> None:
    root = Path(folder)
    if command == "make":
        width, height, frames, first = (int(value) for value in rest[:4])
        make(root, width, height, frames, first, rest[4])
    elif command == "render":
        shot = load_shot(root)
        render(shot, load_take(shot, rest[0]), Silent())
    elif command == "finish":
        shot = load_shot(root)
        generate(shot, render(shot, load_take(shot, rest[0]), Silent()), "preview", Silent())
    else:
        raise SystemExit(f"unknown command {command}")


def make(root: Path, width: int, height: int, frames: int, first: int, kind: str) -> None:
    """A textured ground and wall with a box that passes before them: a step in depth, a slant, and motion.

    In a "fence" posts stand before all that. An "earlier" version's shot has no widths, and no cards.
    """
    for name in ("plate", "depth", "mesh"):
        (root / name).mkdir(parents=True, exist_ok=True)
    intrinsics = intrinsics_from_fov(width, height, 55)
    poses = tuple(as_matrix(_pose(index)) for index in range(frames)) if kind == "poses" else ()
    shot = Shot(
        root,
        Plate("clip.mov", Fraction(24000, 1001), first, frames, width, height),
        Geometry(
            "test", "", as_matrix(intrinsics), 2.0, FAR, 2.5, compat="reference" if kind == "reference" else "none",
            poses=poses,
        ),
    )  # fmt: skip
    reference = kind == "reference"
    grid = reference_ray_grid(width, height, intrinsics) if reference else ray_grid(width, height, intrinsics, FAR)
    save_ray_grid(grid, shot.rays_file)
    texture = _texture(width, height)
    for index, number in enumerate(shot.require_plate().numbers):
        depth, box = _depth(width, height, index)
        if kind == "fence":
            depth[:, 1::6] = 1.9
        image = np.where(box[..., None], 255 - np.roll(texture, 5 * index, axis=1), texture)
        if reference:
            seen, alpha = reference_seen(grid, depth)
        else:
            seen = seen_faces(depth)
            if kind == "earlier":
                alpha = seen_pixels(seen, width, height)
            else:
                alpha = edge_alpha(seen, width, height, None)
                write_png(shot.width_file(number), wall_widths(depth, seen, intrinsics[0, 0]))
        write_png(shot.plate_file(number), image)
        write_exr_depth(shot.depth_file(number), depth)
        write_png(shot.seen_file(number), seen)
        write_png(shot.albedo_file(number), np.dstack([image, alpha]))
    save_shot(shot)


def _texture(width: int, height: int) -> np.ndarray:
    """(H,W,3) uint8: soft blobs over the whole range, with some noise so that a shift by a pixel shows."""
    random = np.random.default_rng(7)
    coarse = random.integers(0, 256, (height // 8 + 2, width // 8 + 2, 3)).astype(np.float32)
    soft = cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC)
    return np.clip(soft + random.normal(0, 8, soft.shape), 0, 255).astype(np.uint8)


def _depth(width: int, height: int, index: int) -> tuple[np.ndarray, np.ndarray]:
    """(H,W) float32 depth, and where the box is."""
    row, column = np.mgrid[0:height, 0:width]
    down = (row + 0.5) / height - 0.5
    ground = 1.6 / np.maximum(down, 1e-6)
    depth = np.minimum(ground, 9 + 2 * np.sin(column / width * 3))
    left = int(width * (0.3 + 0.02 * index))
    box = (column >= left) & (column < left + width // 4) & (abs(down) < 0.3)
    # a mast a pixel wide: every face at it is a bridge
    box |= (column == width // 5) & (down < 0.2)
    return np.where(box, 2 + 0.5 * (column - left) / width, depth).astype(np.float32), box


def _pose(index: int) -> np.ndarray:
    pose = np.eye(4)
    pose[:3, :3] = rotation_about([0.2, 1, 0.1], 0.03 * (index + 1))
    pose[:3, 3] = (0.05 * index, -0.02 * index, 0.1)
    return pose


if __name__ == "__main__":
    main(*sys.argv[1:])
