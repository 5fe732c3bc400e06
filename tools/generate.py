#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-3.0-or-later
"""The reference's second command: colour and mask movies become the filled movie.

    python tools/generate.py --color_video C --mask_video M --output_video O

The result has the movies' own size, rate and length: nothing is squashed, cut or left out.
"""

from __future__ import annotations

import argparse
import shutil
import sys
import tempfile
from dataclasses import replace
from itertools import zip_longest
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np

from ex4d_engine.bundled_model import DEFAULT_PRESET
from ex4d_engine.camera_frame import IDENTITY, CameraFrame
from ex4d_engine.cameras import as_matrix, intrinsics_from_fov
from ex4d_engine.cli import accept_every_sign, run_explained
from ex4d_engine.errors import Ex4dError
from ex4d_engine.files import atomic_path, prepare_folder
from ex4d_engine.image_files import write_png
from ex4d_engine.progress import Terminal
from ex4d_engine.shot import Plate, Shot, save_shot
from ex4d_engine.stages import PRESETS, GenerateOptions, generate, require_preset
from ex4d_engine.take import Take, new_take, save_take
from ex4d_engine.video import probe, read_frames

SEEN_FROM = 128  # of 255: movies are lossy, masks are not grey


def main() -> int:
    accept_every_sign()
    parser = argparse.ArgumentParser(description="Colour and mask movies → the filled movie.")
    parser.add_argument("--color_video", required=True)
    parser.add_argument("--mask_video", required=True)
    parser.add_argument("--output_video", type=Path, required=True)
    parser.add_argument("--preset", choices=tuple(PRESETS), default=DEFAULT_PRESET)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--steps", type=int, help="denoising steps of presets draft, final and fast")
    options = parser.parse_args()

    def command(reporter: Terminal) -> int:
        fill(options, reporter)
        print(options.output_video)
        return 0

    return run_explained("generate", command)


def fill(options: argparse.Namespace, reporter: Terminal) -> None:
    """Writes the output movie. The working folder beside it goes when it is done."""
    output: Path = options.output_video.resolve()
    if output.suffix.lower() != ".mp4":
        raise Ex4dError("bad_request", f"{output.name} is no .mp4 file.", "Give --output_video a name ending in .mp4.")
    chosen = GenerateOptions.from_json({"steps": options.steps})
    require_preset(options.preset, chosen)
    probe(options.color_video)  # what cannot be read is refused before anything is written
    probe(options.mask_video)
    prepare_folder(output.parent)
    with tempfile.TemporaryDirectory(prefix=".generate-", dir=output.parent) as folder:
        shot, take = conditioning_take(options.color_video, options.mask_video, Path(folder), reporter)
        take = generate(shot, take, options.preset, reporter, seed=options.seed, options=chosen)
        with atomic_path(output) as temporary:
            shutil.copyfile(take.result_file, temporary)


def conditioning_take(color: str, mask: str, root: Path, reporter: Terminal) -> tuple[Shot, Take]:
    """A take that holds the two movies' frames as its conditioning; its cameras are not known.

    Frames are counted as they are read: of a movie that is cut off, those that can be read are taken.
    """
    info, mask_info = probe(color), probe(mask)
    if (info.width, info.height) != (mask_info.width, mask_info.height):
        raise Ex4dError(
            "depth_mismatch",
            f"The colour movie is {info.width} x {info.height}, the mask {mask_info.width} x {mask_info.height}.",
            "Give a mask of the same size.",
        )
    expected = info.frame_count or 1
    plate = Plate(color, info.fps, info.first_number, expected, info.width, info.height)
    shot = Shot(root, plate)
    lens = as_matrix(intrinsics_from_fov(info.width, info.height))
    frames = tuple(CameraFrame(number, lens, IDENTITY) for number in plate.numbers)
    take = new_take(shot, frames, (info.width, info.height), first=plate.first, fps=plate.fps)
    count = 0
    for picture, seen in zip_longest(read_frames(color, reporter=reporter), read_frames(mask, reporter=reporter)):
        if picture is None or seen is None:
            raise Ex4dError(
                "depth_mismatch",
                f"The {'colour movie' if picture is None else 'mask'} ends after {count} frames, the other goes on.",
                "Give a mask of the same length.",
            )
        known = np.where(seen.image[..., 1] >= SEEN_FROM, 255, 0).astype(np.uint8)
        write_png(take.file("mask", take.first + count), known)
        colours = np.where(known[..., None] > 0, picture.image, 0).astype(np.uint8)
        write_png(take.file("color", take.first + count), colours)
        count += 1
        reporter.progress("decode", count, max(expected, count))
    reporter.progress("decode", count, count)
    if count == 0:
        raise Ex4dError("no_frames", f"{color} holds no readable frame.", "Export the movie again.")
    shot = replace(shot, plate=replace(plate, count=count))
    frames = tuple(CameraFrame(number, lens, IDENTITY) for number in shot.require_plate().numbers)
    take = replace(take, frames=frames)
    save_shot(shot)
    save_take(take)
    return shot, take


if __name__ == "__main__":
    sys.exit(main())
