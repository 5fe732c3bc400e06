# SPDX-License-Identifier: GPL-3.0-or-later
"""`ex4d train`: the command line of this package, thin."""

from __future__ import annotations

import argparse
import contextlib
import functools
import json
import signal
from collections.abc import Iterator
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ..progress import Reporter, Terminal

# Imports stand inside the commands, so that --help and errors in the arguments come at once.


def add_parser(commands: Any) -> None:
    """Adds `train` and its own commands to the sub-parsers of `ex4d`."""
    parser = commands.add_parser("train", help="train an adapter of your own, or the weights that are shipped")
    targets = parser.add_subparsers(required=True, metavar="WHAT")
    action = targets.add_parser("depth", help="the bundled depth network, on scenes drawn as it goes")
    add_depth_options(action)
    action.set_defaults(run=train_depth_command)
    action = targets.add_parser("lora", help="an EX-4D adapter, on a folder of clips or on drawn scenes")
    add_lora_options(action)
    action.set_defaults(run=train_lora_command)


def add_depth_options(parser: argparse.ArgumentParser) -> None:
    """The options of `ex4d train depth`."""
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="for the checkpoint and the weights")
    end = parser.add_mutually_exclusive_group()
    end.add_argument("--minutes", type=float, metavar="M", help="the run's whole length (default: 20)")
    end.add_argument("--steps", type=int, metavar="N", help="its length in steps instead")
    parser.add_argument("--resume", action="store_true", help="go on with the run in DIR")
    parser.add_argument("--pictures", action="store_true", help="single pictures instead of clips: a first stage")
    parser.add_argument("--long", action="store_true", help="clips of up to 16 frames: a last stage")
    parser.add_argument(
        "--passes", type=int, default=2, metavar="N", help="how often a clip is gone through at most, there and back"
    )
    parser.add_argument("--start", type=Path, metavar="FILE", help="weights to begin with, as of a first stage")
    parser.add_argument("--batch", type=int, default=16, metavar="N", help="clips a step")
    parser.add_argument(
        "--draw-processes", type=int, default=0, metavar="N", help="draw ahead with so many processes, in DIR/drawn"
    )
    parser.add_argument("--compile-drawing", action="store_true", help="fuse the drawing's arithmetic")
    parser.add_argument("--repeats", type=int, default=1, metavar="N", help="new clips every N steps")
    parser.add_argument("--pool", type=int, default=1, metavar="N", help="drawings kept for the steps between")
    parser.add_argument("--device", default="auto", help="cuda, cpu or auto")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--learning-rate", type=float, default=1e-3)
    parser.add_argument(
        "--standing-out", type=float, default=0.0, metavar="W", help="how much more what is nearer than its row counts"
    )
    parser.add_argument(
        "--flatness", type=float, default=0.0, metavar="W", help="how much steps in flat surfaces count against it"
    )
    parser.add_argument("--checkpoint-seconds", type=float, default=60.0, metavar="S", help="between checkpoints")


def add_lora_options(parser: argparse.ArgumentParser) -> None:
    """The options of `ex4d train lora`."""
    parser.add_argument("--config", type=Path, required=True, metavar="FILE", help=".toml, see docs/training.md")
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="for checkpoints and the adapter")
    parser.add_argument("--resume", action="store_true", help="go on with the run in DIR")
    parser.add_argument("--cache", type=Path, metavar="DIR", help="for latents, which runs may share (default: in DIR)")
    parser.add_argument("--device", choices=("auto", "cuda", "cpu"), default="auto")
    parser.add_argument("--gpus", type=int, default=1, metavar="N", help="graphics cards that share each step")
    parser.add_argument("--name", metavar="NAME", help="keep the adapter as NAME, for `ex4d generate --adapter NAME`")


def train_depth_command(options: argparse.Namespace, reporter: Reporter) -> int:
    """Runs `ex4d train depth`."""
    from ..synthetic import random_clips
    from .depth_clips import LONG_SIZES, PICTURE_SIZES, SIZES
    from .depth_losses import LossWeights
    from .depth_trainer import DepthTraining, train_depth

    minutes = 20.0 if options.minutes is None and options.steps is None else options.minutes
    settings = DepthTraining(
        out=options.out,
        minutes=minutes,
        steps=options.steps,
        batch=options.batch,
        repeats=options.repeats,
        pool=options.pool,
        start=options.start,
        passes=options.passes,
        draw_processes=options.draw_processes,
        sizes=PICTURE_SIZES if options.pictures else LONG_SIZES if options.long else SIZES,
        device=options.device,
        seed=options.seed,
        learning_rate=options.learning_rate,
        checkpoint_s=options.checkpoint_seconds,
        weights=LossWeights(standing_out=options.standing_out, flatness=options.flatness),
        held_out=32 if options.pictures else 6,
    )
    source = functools.partial(random_clips, compiled=options.compile_drawing)
    weights = train_depth(settings, reporter, source, resume=options.resume)
    print(json.dumps({"weights": str(weights)}, ensure_ascii=False))
    return 0


def train_lora_command(options: argparse.Namespace, reporter: Terminal) -> int:
    """Runs `ex4d train lora`. Ctrl-C, or the system's wish to end it, stops it after a checkpoint."""
    from ..models.own_adapters import check_name, keep_adapter
    from .lora_config import read_config
    from .lora_training import train_lora

    if options.name:
        check_name(options.name)
    training = read_config(options.config)
    with stopped_by_signals(reporter):
        adapter = train_lora(
            training,
            options.out,
            reporter,
            resume=options.resume,
            device=options.device,
            gpus=options.gpus,
            cache=options.cache,
        )
    if options.name:
        adapter = keep_adapter(options.name, adapter)
    print(json.dumps({"adapter": str(adapter), "name": options.name}, ensure_ascii=False))
    return 0


@contextlib.contextmanager
def stopped_by_signals(reporter: Terminal) -> Iterator[None]:
    """Inside the block SIGINT and SIGTERM cancel the job; a second one ends the program at once."""

    def cancel(number: int, frame: FrameType | None) -> None:
        signal.signal(number, earlier[signal.Signals(number)])
        reporter.cancelled.set()

    earlier = {number: signal.signal(number, cancel) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in earlier.items():
            signal.signal(number, handler)
