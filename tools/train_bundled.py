#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-3.0-or-later
"""Trains the bundled model from nothing on generated scenes, stage by stage: codec, transformer, adapter.

    python tools/train_bundled.py --stage vae     --out runs/vae     --minutes 8
    python tools/train_bundled.py --stage base    --out runs/base    --minutes 20 --start runs/vae
    python tools/train_bundled.py --stage adapter --out runs/adapter --minutes 15 --start runs/base/model

`runs/adapter/model` is then the folder that ships. A stage that is stopped goes on with --resume, or, where only its
model files were kept, with --start at them and another --seed, which gives it other clips. A folder with an adapter
is one whose adapter is trained further. With --clips the drawn clips are kept for the next stage; with --gpus N base
and adapter use several cards. --draw-processes draws beside the training, several clips at a time: without it a fast
card sees too few of them.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Final

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from ex4d_engine.errors import Ex4dError

# Imports stand inside the functions: the processes that draw masks read this file too, and need no torch.
if TYPE_CHECKING:
    from ex4d_engine.progress import Reporter
    from ex4d_engine.training.bundled_launch import BundledJob
    from ex4d_engine.training.clip_bank import BankSettings
    from ex4d_engine.training.depth_clips import ClipSource

HELD_OUT_CLIPS: Final = 4


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--stage", choices=("vae", "base", "adapter"), required=True)
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="for the checkpoint and the model files")
    parser.add_argument("--start", type=Path, metavar="DIR", help="where the stages before left their model files")
    parser.add_argument("--resume", action="store_true", help="go on with the run in --out")
    parser.add_argument("--minutes", type=float, metavar="M", help="the run's whole length (default: 20)")
    parser.add_argument("--steps", type=int, metavar="N", help="its length in steps instead")
    parser.add_argument("--batch", type=int, metavar="N", help="clips a step and card (default: 32 for vae, else 24)")
    parser.add_argument("--frames", type=int, nargs="+", metavar="F", help="of a step's clips, 4k + 1 (default: 9, 49)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--learning-rate", type=float, help="default: 1e-3, for adapter 5e-4")
    parser.add_argument("--device", default="auto", help="cuda, cpu or auto")
    parser.add_argument("--compile", action="store_true", help="compile the network; takes a minute or two once")
    parser.add_argument("--masks", default="both", choices=("both", "rendering", "tracking"), help="stage adapter")
    parser.add_argument("--rank", type=int, default=64, help="of the adapter's LoRA")
    parser.add_argument("--raster", default="opengl", help="for the masks: opengl, or nvdiffrast where installed")
    parser.add_argument("--workers", type=int, help="processes that draw masks (default: a core each but two)")
    parser.add_argument("--clips", type=Path, metavar="DIR", help="where drawn clips are kept (25 MB each)")
    parser.add_argument("--clip-frames", type=int, default=61, help="of a drawn clip, which has several windows")
    parser.add_argument("--first-clips", type=int, default=160, help="drawn before the first step")
    parser.add_argument("--most-clips", type=int, default=800, help="kept in the device's memory (15 MB each)")
    parser.add_argument("--refresh-every", type=int, default=2, help="steps from four fresh clips to the next four")
    parser.add_argument("--draw-share", type=float, default=0.25, help="the most of the time that drawing may take")
    parser.add_argument(
        "--draw-device",
        nargs="?",
        const="same",
        metavar="DEVICE",
        help="draw beside the training instead of between its steps; on another card, if one is named",
    )
    parser.add_argument(
        "--draw-processes", type=int, default=0, metavar="N", help="draw with so many processes a card; wants --clips"
    )
    parser.add_argument("--gpus", type=int, default=1, metavar="N", help="cards that train base or adapter together")
    parser.add_argument("--hole-weight", type=float, default=3.0, help="of what is not shown, in the loss")
    parser.add_argument("--compile-drawing", action="store_true", help="fuse the drawing's arithmetic")
    try:
        return train(parser.parse_args())
    except Ex4dError as error:
        print(f"train_bundled: {error}", file=sys.stderr)
        return 1


def train(options: argparse.Namespace) -> int:
    import functools

    from ex4d_engine.progress import Terminal
    from ex4d_engine.synthetic import random_clips
    from ex4d_engine.training.bundled_launch import train_bundled
    from ex4d_engine.training.clip_bank import BankSettings
    from ex4d_engine.training.commands import stopped_by_signals

    class Lines(Terminal):
        """Log lines and no bars: what a machine far away shows of its output is short."""

        def progress(self, stage: str, done: int, total: int) -> None:
            pass

        def log(self, message: str) -> None:
            print(message, file=sys.stderr, flush=True)

    if options.start is None and options.stage != "vae":
        raise Ex4dError("bad_request", f"Stage {options.stage} has nothing to start from.", "Give --start DIR.")
    if options.gpus < 1 or (options.gpus > 1 and options.stage == "vae"):
        raise Ex4dError("bad_request", f"Stage {options.stage} does not run on {options.gpus} cards.", "Give --gpus 1.")
    if options.minutes is None and options.steps is None:
        options.minutes = 20.0
    reporter = Lines()
    frames = tuple(options.frames or ((9,) if options.stage == "vae" else (49,)))
    bank = BankSettings(
        seed=options.seed,
        clip_frames=max(options.clip_frames, *frames),
        first=options.first_clips,
        most=options.most_clips,
        refresh_every=options.refresh_every,
        draw_share=options.draw_share,
    )
    source = functools.partial(random_clips, compiled=options.compile_drawing)
    with stopped_by_signals(reporter):
        if options.stage == "vae":
            train_vae(options, bank, source, frames, reporter)
        else:
            train_bundled(bundled_job(options, bank, source, frames), options.gpus, reporter)
    return 0


def train_vae(
    options: argparse.Namespace,
    settings: BankSettings,
    source: ClipSource,
    frames: tuple[int, ...],
    reporter: Reporter,
) -> None:
    from ex4d_engine.torch_device import torch_device
    from ex4d_engine.training.bundled_codec_training import CODEC_FOLDER, CodecTraining, train_codec
    from ex4d_engine.training.clip_bank import ClipBank, held_out_clips
    from ex4d_engine.training.clip_cache import ClipCache

    if len(frames) > 1:
        raise Ex4dError("bad_request", "The codec is trained on clips of one length.", "Give one number of --frames.")
    device = torch_device(options.device, with_mps=False)
    cache = ClipCache(options.clips, settings.drawn_as) if options.clips else None
    bank = ClipBank(settings, source, device, cache=cache, compiled=options.compile)
    training = CodecTraining(
        out=options.out,
        minutes=options.minutes,
        steps=options.steps,
        batch=options.batch or 32,
        frames=frames[0],
        device=options.device,
        seed=options.seed,
        learning_rate=options.learning_rate or 1e-3,
        compiled=options.compile,
    )
    held_out = held_out_clips(source, HELD_OUT_CLIPS, frames[0], settings.sizes[0], device, None)
    start = options.start / CODEC_FOLDER if options.start else None
    train_codec(training, bank, reporter, held_out=held_out.video, start=start, resume=options.resume)


def bundled_job(
    options: argparse.Namespace, bank: BankSettings, source: ClipSource, frames: tuple[int, ...]
) -> BundledJob:
    import dataclasses

    from ex4d_engine.torch_device import torch_device
    from ex4d_engine.training.bank_masks import BankMasks
    from ex4d_engine.training.bundled_adapter import ADAPTER_SHAPE
    from ex4d_engine.training.bundled_launch import BundledJob, mask_workers
    from ex4d_engine.training.bundled_run import BundledTraining

    training = BundledTraining(
        out=options.out,
        device=torch_device(options.device, with_mps=False),
        minutes=options.minutes,
        steps=options.steps,
        batch=options.batch or 24,
        frames=frames,
        seed=options.seed,
        learning_rate=options.learning_rate or (1e-3 if options.stage == "base" else 5e-4),
        hole_weight=options.hole_weight,
        compiled=options.compile,
    )
    return BundledJob(
        stage=options.stage,
        training=training,
        bank=bank,
        source=source,
        start=options.start,
        shape=dataclasses.replace(ADAPTER_SHAPE, rank=options.rank, alpha=float(options.rank)),
        masks=BankMasks(options.masks, max(frames), raster=options.raster),
        workers=mask_workers() if options.workers is None else options.workers,
        clips=options.clips,
        draw_device=options.draw_device,
        draw_processes=options.draw_processes,
        resume=options.resume,
    )


if __name__ == "__main__":
    sys.exit(main())
