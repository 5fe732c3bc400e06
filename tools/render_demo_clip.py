# SPDX-License-Identifier: GPL-3.0-or-later
"""Render the bundled demo clip: a child in a red coat walks through a sunlit courtyard. All procedural, fixed seed.

Run with a Python that has bpy 5.0:  python tools/render_demo_clip.py --out ex4d_engine/assets/courtyard.mp4
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

os.environ.setdefault("BLENDER_USER_RESOURCES", tempfile.mkdtemp(prefix="demo_clip_"))
sys.path.insert(0, str(Path(__file__).resolve().parent))

import bpy
import numpy as np
from demo_clip import courtyard

FPS = 24


def parse(argv: list[str]) -> argparse.Namespace:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, help="the clip to write (.mp4), or with --still the picture (.png)")
    parser.add_argument("--frames", type=int, default=49)
    parser.add_argument("--size", type=int, default=512, help="width and height in pixels")
    parser.add_argument("--samples", type=int, default=8, help="Cycles samples per pixel before denoising")
    parser.add_argument("--still", type=int, metavar="N", help="render only frame N (from 0)")
    parser.add_argument("--depth-dir", type=Path, help="also write true z depth (EXR, metres) and cameras.json here")
    parser.add_argument("--depth-only", action="store_true", help="write the depth and leave the pictures")
    args = parser.parse_args(argv)
    if args.out is None and not args.depth_only:
        parser.error("--out is needed")
    if args.depth_only and args.depth_dir is None:
        parser.error("--depth-only needs --depth-dir")
    return args


def beauty_settings(scene: Any, size: int, samples: int) -> None:
    """Cycles on the CPU, denoised, one noise pattern for all frames so that what stands still does not flicker."""
    scene.render.engine = "CYCLES"
    scene.render.resolution_x = scene.render.resolution_y = size
    scene.render.resolution_percentage = 100
    scene.render.fps = FPS
    scene.render.use_persistent_data = True
    cycles = scene.cycles
    cycles.device, cycles.samples, cycles.seed = "CPU", samples, 1
    cycles.use_adaptive_sampling, cycles.adaptive_threshold = True, 0.02
    cycles.use_denoising, cycles.denoiser = True, "OPENIMAGEDENOISE"
    cycles.denoising_prefilter, cycles.denoising_quality = "FAST", "BALANCED"  # a third of the time, no loss to see
    cycles.max_bounces, cycles.diffuse_bounces, cycles.glossy_bounces = 5, 2, 2
    cycles.transmission_bounces = 3
    cycles.caustics_reflective = cycles.caustics_refractive = False
    cycles.sample_clamp_indirect = 4.0
    view = scene.view_settings
    view.view_transform = "AgX"
    view.look = "AgX - Medium High Contrast"
    view.exposure = 0.0
    scene.render.image_settings.file_format = "PNG"
    scene.render.image_settings.color_mode = "RGB"


def depth_settings(scene: Any, size: int) -> None:
    """One unfiltered, pinhole sample through each pixel's centre, depth pass in the file."""
    beauty_settings(scene, size, 1)
    scene.cycles.use_adaptive_sampling = scene.cycles.use_denoising = False
    scene.cycles.max_bounces = 0
    scene.cycles.pixel_filter_type, scene.render.filter_size = "BOX", 0.01
    scene.cycles.filter_width = 0.01
    scene.camera.data.dof.use_dof = False
    scene.view_layers[0].use_pass_z = True
    scene.render.image_settings.media_type = "MULTI_LAYER_IMAGE"
    scene.render.image_settings.file_format = "OPEN_EXR_MULTILAYER"
    scene.render.image_settings.color_depth = "32"


def render(scene: Any, built: courtyard.Scene, frames: list[int], pattern: Path) -> None:
    """Render frames to pattern % frame, posing the scene for each."""
    for done, frame in enumerate(frames):
        begun = time.monotonic()
        courtyard.pose(built, frame / FPS)
        scene.render.filepath = str(pattern) % frame
        bpy.ops.render.render(write_still=True)
        print(f"frame {frame} ({done + 1}/{len(frames)}) {time.monotonic() - begun:.1f} s", flush=True)


def write_cameras(scene: Any, folder: Path, frames: int, size: int) -> None:
    """cameras.json: K in pixels ((0, 0) the top-left corner), camera_to_world per frame with OpenCV axes."""
    focal = size / 2 / np.tan(scene.camera.data.angle / 2)
    scene.view_layers[0].update()
    pose = np.array(scene.camera.matrix_world) @ np.diag([1.0, -1, -1, 1])
    cameras = {
        "K": [[focal, 0, size / 2], [0, focal, size / 2], [0, 0, 1]],
        "camera_to_world": [pose.tolist()] * frames,
        "fps": [FPS, 1],
        "units": "metres, z depth",
    }
    (folder / "cameras.json").write_text(json.dumps(cameras, indent=1), encoding="utf-8")


def encode(pictures: list[Path], out: Path, size: int) -> None:
    """Picture files to an H.264 clip through a sequencer scene of its own, without a second grade."""
    scene: Any = bpy.data.scenes.new("edit")
    scene.view_settings.view_transform = "Standard"
    scene.render.resolution_x = scene.render.resolution_y = size
    scene.render.resolution_percentage = 100
    scene.render.fps, scene.render.fps_base = FPS, 1.0
    scene.frame_start, scene.frame_end = 1, len(pictures)
    scene.render.dither_intensity = 0.0
    editor = scene.sequence_editor_create()
    strip = editor.strips.new_image("clip", str(pictures[0]), 1, 1)
    for picture in pictures[1:]:
        strip.elements.append(picture.name)
    strip.frame_final_duration = len(pictures)
    scene.render.image_settings.media_type = "VIDEO"
    scene.render.image_settings.file_format = "FFMPEG"
    scene.render.ffmpeg.format, scene.render.ffmpeg.codec = "MPEG4", "H264"
    scene.render.ffmpeg.constant_rate_factor, scene.render.ffmpeg.ffmpeg_preset = "HIGH", "BEST"
    scene.render.ffmpeg.audio_codec = "NONE"
    scene.render.use_file_extension = False
    unfinished = out.with_name(out.stem + ".part.mp4")
    scene.render.filepath = str(unfinished.resolve())
    bpy.ops.render.render(animation=True, scene=scene.name)
    os.replace(unfinished, out)


def main(argv: list[str]) -> int:
    """Build, render, encode."""
    args = parse(argv)
    bpy.ops.wm.read_factory_settings(use_empty=True)
    scene = bpy.context.scene
    built = courtyard.build()
    frames = [args.still] if args.still is not None else list(range(args.frames))
    if not args.depth_only:
        beauty_settings(scene, args.size, args.samples)
        args.out.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory() as folder:
            pattern = Path(folder) / "frame_%04d.png"
            render(scene, built, frames, pattern)
            pictures = [Path(str(pattern) % f) for f in frames]
            if args.still is not None:
                args.out.write_bytes(pictures[0].read_bytes())
            else:
                encode(pictures, args.out, args.size)
    if args.depth_dir is not None:
        args.depth_dir.mkdir(parents=True, exist_ok=True)
        depth_settings(scene, args.size)
        render(scene, built, frames, args.depth_dir.resolve() / "depth_%04d.exr")
        write_cameras(scene, args.depth_dir, args.frames, args.size)
    return 0


if __name__ == "__main__":
    status = main(sys.argv[1:])
    sys.stdout.flush()
    os._exit(status)  # the bpy module can hang while it tears itself down
