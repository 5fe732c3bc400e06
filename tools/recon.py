#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-3.0-or-later
"""The reference's first command: a clip becomes the conditioning along one of its camera presets.

    python tools/recon.py --input_video V --cam 180 --output_dir D --save_mesh

writes color_180.mp4, mask_180.mp4, camera_180.npz (extrinsics (F,4,4): OpenGL world-to-camera, intrinsics
(3,3)) and DW-Mesh.ply. The geometry is the corrected one; `--compat reference` repeats the reference's own.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np

from ex4d_engine.cli import DEPTH_MEANINGS, accept_every_sign, run_explained
from ex4d_engine.depth import default_source
from ex4d_engine.dwmesh.export import write_ply
from ex4d_engine.dwmesh.ray_grid import closed_reference, load_ray_grid
from ex4d_engine.files import prepare_folder
from ex4d_engine.image_files import read_exr, read_png
from ex4d_engine.progress import Terminal
from ex4d_engine.reference_paths import REFERENCE_CAMS
from ex4d_engine.shot import Shot
from ex4d_engine.stages import ReconstructSettings, reconstruct, reference_move, render
from ex4d_engine.take import Take, new_take
from ex4d_engine.trajectories import save_reference_npz
from ex4d_engine.video import MovieWriter


def main() -> int:
    accept_every_sign()
    parser = argparse.ArgumentParser(description="Clip → DW-Mesh → colour and mask along a camera preset.")
    parser.add_argument("--input_video", required=True)
    parser.add_argument("--cam", choices=REFERENCE_CAMS, default="180")
    parser.add_argument("--output_dir", type=Path, default=Path("output"))
    parser.add_argument("--save_mesh", action="store_true", help="also write the first frame's mesh, DW-Mesh.ply")
    parser.add_argument("--depth", help="depth maps: folder, pattern, .npz or video (default: estimated)")
    parser.add_argument("--depth_meaning", choices=DEPTH_MEANINGS, default="z", help="what its numbers are")
    parser.add_argument("--depth_near", type=float, help="z of normalised disparity 1, or of a PNG's 0")
    parser.add_argument("--depth_far", type=float, help="z of normalised disparity 0, or of a PNG's full value")
    parser.add_argument("--compat", choices=("none", "reference"), default="none")
    parser.add_argument("--fov", type=float, help="field of view of the longer side in degrees")
    options = parser.parse_args()

    def command(reporter: Terminal) -> int:
        print("\n".join(str(path) for path in recon(options, reporter)))
        return 0

    return run_explained("recon", command)


def recon(options: argparse.Namespace, reporter: Terminal) -> list[Path]:
    """Writes the files and returns their paths. The working folder beside them goes when it is done."""
    output: Path = options.output_dir
    prepare_folder(output)
    depth = {"path": options.depth, "meaning": options.depth_meaning}
    depth |= {"near": options.depth_near, "far": options.depth_far}
    settings = ReconstructSettings(
        source=options.input_video,
        depth="file" if options.depth else default_source(),
        depth_options={name: value for name, value in depth.items() if value is not None} if options.depth else {},
        fov_deg=options.fov,
        compat=options.compat,
        cuts="ignore",  # the reference knows none
    )
    with tempfile.TemporaryDirectory(prefix=".recon-", dir=output) as folder:
        shot = reconstruct(settings, Path(folder), reporter)
        path = reference_move(shot, options.cam)
        take = new_take(shot, path.frames, path.size, first=shot.require_plate().first, fps=path.fps)
        take = render(shot, take, reporter)
        written = [write_movie(take, layer, output / f"{layer}_{options.cam}.mp4") for layer in ("color", "mask")]
        camera = output / f"camera_{options.cam}.npz"
        save_reference_npz(path, camera)
        written.append(camera)
        if options.save_mesh:
            written.append(save_mesh(shot, output / "DW-Mesh.ply"))
    return written


def write_movie(take: Take, layer: str, path: Path) -> Path:
    """A layer of the take as a movie of the plate's rate and size."""
    with MovieWriter(path, take.fps, take.width, take.height) as movie:
        for number in take.numbers:
            image = read_png(take.file(layer, number))
            movie.write(image if image.ndim == 3 else np.repeat(image[..., None], 3, axis=2))
    return path


def save_mesh(shot: Shot, path: Path) -> Path:
    """The first frame's mesh, closed also where the reference's own is not."""
    first = shot.require_plate().first
    grid = load_ray_grid(shot.rays_file)
    if shot.require_geometry().compat == "reference":
        grid = closed_reference(grid)
    albedo, seen = read_png(shot.albedo_file(first)), read_png(shot.seen_file(first))
    write_ply(path, grid, read_exr(shot.depth_file(first)), albedo, seen)
    return path


if __name__ == "__main__":
    sys.exit(main())
