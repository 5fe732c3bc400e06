# SPDX-License-Identifier: GPL-3.0-or-later
"""The command line `ex4d`: thin. Every command is a stage function on a shot folder."""

from __future__ import annotations

import argparse
import io
import json
import math
import os
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final

from . import __version__
from .bundled_model import DEFAULT_PRESET
from .dwmesh.walls import CLOSED, SHORT_WALLED, WALL_SHARE, preset_walls
from .errors import Ex4dError
from .files import explain_os_error
from .library_talk import quiet_libraries
from .models.commands import add_parser as add_models_parser
from .progress import Terminal
from .reference_paths import REFERENCE_CAMS
from .torch_environment import prepare_torch
from .training.commands import add_parser as add_train_parser

# as depth.sources.from_files.Meaning, which is not imported here so that --help comes at once
DEPTH_MEANINGS: Final = ("z", "disparity", "normalised_disparity", "depthcrafter")


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one command. Exit status: 0 done, 1 an error that was explained, 2 wrong usage, 130 interrupted."""
    accept_every_sign()
    options = _parser().parse_args(arguments)
    return run_explained("ex4d", lambda reporter: int(options.run(options, reporter)))


def accept_every_sign() -> None:
    """Lets paths and help be printed where a console or a pipe lacks their signs, as on Windows."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def run_explained(program: str, command: Callable[[Terminal], int]) -> int:
    """The exit status of a command; what goes wrong is one sentence on stderr, and one about what to do.

    Only a bug of ours shows where it came from.
    """
    prepare_torch()
    quiet_libraries()
    reporter = Terminal()
    try:
        status = command(reporter)
        sys.stdout.flush()
        return status
    except KeyboardInterrupt:
        reporter.close()
        print(f"{program}: Stopped. Finished frames are kept; run the command again to resume.", file=sys.stderr)
        return 130
    except Exception as error:  # the top of the program
        from .worker import explain

        reporter.close()
        if isinstance(error, BrokenPipeError) and _nobody_reads():
            return 1
        if isinstance(error, OSError) and error.filename:
            explained = explain_os_error(error, Path(os.fsdecode(error.filename)))
        else:
            explained = explain(error)
        print(f"{program}: {explained.message}", file=sys.stderr)
        if explained.hint:
            print(f"{' ' * len(program)}  {explained.hint}", file=sys.stderr)
        for note in getattr(explained, "__notes__", ()):
            print(note, file=sys.stderr)
        return 1


def _nobody_reads() -> bool:
    """Whether what reads our output has ended, as after `| head`; if so, what is left to say goes nowhere."""
    try:
        print(flush=True)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # or Python's own last flush would fail as well
        return True
    return False


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="ex4d", description="Give a shot another camera move.")
    parser.add_argument("--version", action="version", version=f"ex4d {__version__}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    command = commands.add_parser("reconstruct", help="clip → plate, depth and watertight mesh in a shot folder")
    command.add_argument("video", metavar="VIDEO", help="movie, image, folder or pattern (name.####.png)")
    command.add_argument("--shot", type=Path, required=True, metavar="DIR", help="the shot folder to make")
    _add_source_options(command)
    command.set_defaults(run=_reconstruct)

    command = commands.add_parser("cuts", help="the shots that a clip is edited from: each is reconstructed alone")
    command.add_argument("video", metavar="VIDEO", help="movie, folder or pattern (name.####.png)")
    command.add_argument("--start-number", type=int, metavar="N", help="number of a movie's first frame (default 1)")
    command.set_defaults(run=_cuts)

    command = commands.add_parser("render", help="shot + camera → a new take with colour and mask")
    command.add_argument("shot", type=Path, metavar="SHOT")
    _add_camera_options(command, required=True)
    command.add_argument(
        "--preset",
        choices=("preview", "draft", "final", "fast"),
        default=DEFAULT_PRESET,
        help="what it is drawn for: without --walls they are as suits it",
    )
    command.set_defaults(run=_render)

    command = commands.add_parser("generate", help="fill a take's holes and write the result")
    command.add_argument("shot", type=Path, metavar="SHOT")
    which = command.add_mutually_exclusive_group(required=True)
    which.add_argument("--take", metavar="N", help="number or name of the take")
    which.add_argument("--repeat", metavar="N", help="make a finished take once more, as its record says")
    _add_generate_options(command)
    command.set_defaults(run=_generate)

    command = commands.add_parser("camera", help="write a take's camera to a file")
    command.add_argument("shot", type=Path, metavar="SHOT")
    command.add_argument("--take", required=True, metavar="N", help="number or name of the take")
    command.add_argument("--out", type=Path, required=True, metavar="FILE", help=".json, or the reference's .npz")
    command.set_defaults(run=_camera)

    command = commands.add_parser("run", help="reconstruct, render and generate in one go")
    command.add_argument("video", metavar="VIDEO")
    command.add_argument("--out", type=Path, required=True, metavar="DIR", help="the shot folder to make")
    _add_source_options(command)
    _add_camera_options(command, required=True)
    _add_generate_options(command)
    command.set_defaults(run=_run)

    command = commands.add_parser("demo", help="the whole job through the real Blender add-on, without any download")
    command.add_argument("--out", type=Path, default=Path("demo"), metavar="DIR")
    command.add_argument("--video", type=Path, metavar="FILE", help="your own clip instead of the bundled one")
    command.add_argument("--blender", type=Path, metavar="PATH", help="a Blender, or a Python that has the bpy wheel")
    command.add_argument("--orbit", type=float, default=20.0, metavar="DEGREES")
    command.add_argument("--preset", default=DEFAULT_PRESET, metavar="NAME", help="preview, draft, final or fast")
    command.set_defaults(run=_demo)

    add_models_parser(commands)
    add_train_parser(commands)

    command = commands.add_parser("doctor", help="what works on this machine, and what to install where it does not")
    command.set_defaults(run=_doctor)

    command = commands.add_parser("worker", help="serve Blender over stdin and stdout (not for people)")
    command.set_defaults(run=_worker)
    return parser


def _add_source_options(command: argparse.ArgumentParser) -> None:
    group = command.add_argument_group("the clip")
    group.add_argument("--first", type=int, metavar="N", help="first frame, in the clip's own numbers")
    group.add_argument("--last", type=int, metavar="N", help="last frame, included")
    group.add_argument("--stride", type=int, default=1, metavar="N", help="take every Nth frame")
    group.add_argument("--start-number", type=int, metavar="N", help="number of a movie's first frame (default 1)")
    group.add_argument("--fps", metavar="RATE", help="frames a second, like 24000/1001 (default: the clip's; 24)")
    group.add_argument("--cuts", choices=("refuse", "ignore"), default="refuse", help="what to do with an edited clip")
    group.add_argument("--compat", choices=("none", "reference"), default="none", help="the reference's geometry")
    group = command.add_argument_group("the camera that filmed it")
    group.add_argument("--fov", type=float, metavar="DEGREES", help="field of view of the longer side")
    group.add_argument("--focal", type=float, metavar="MM", help="focal length instead; see --sensor")
    group.add_argument("--sensor", type=float, metavar="MM", help="sensor along the longer side (default: 36)")
    group.add_argument("--poses", metavar="FILE", help="its solved path: our .json, or a folder of COLMAP's text")
    scale = group.add_mutually_exclusive_group()
    scale.add_argument("--scale", type=float, metavar="METRES", help="of a scene unit: the shot is scaled to metres")
    scale.add_argument(
        "--measure",
        type=float,
        nargs=6,
        metavar=("FRAME", "X1", "Y1", "X2", "Y2", "METRES"),
        help="the same from two points of a frame and the distance between them",
    )
    group = command.add_argument_group("depth")
    group.add_argument("--depth", default=None, metavar="SOURCE", help="name of a depth source (see doctor)")
    group.add_argument("--depth-file", metavar="PATH", help="depth maps: folder, pattern, .npz or video")
    group.add_argument("--depth-meaning", choices=DEPTH_MEANINGS, help="what its numbers are (default: z)")
    group.add_argument("--depth-near", type=float, metavar="Z")
    group.add_argument("--depth-far", type=float, metavar="Z")
    group.add_argument(
        "--depth-option",
        type=depth_option,
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="an option of the depth source, such as variant=base, size=700 or device=cpu; may be repeated",
    )


def _add_camera_options(command: argparse.ArgumentParser, *, required: bool) -> None:
    group = command.add_argument_group("the camera")
    choice = group.add_mutually_exclusive_group(required=required)
    choice.add_argument("--camera", type=Path, metavar="FILE", help="our .json, or the reference's .npz")
    choice.add_argument("--orbit", type=float, metavar="DEGREES", help="−90 … 90 about the subject; positive: right")
    choice.add_argument("--move", choices=("dolly", "truck", "crane", "still"), help="another move; see --amount")
    choice.add_argument(
        "--keys", type=Path, metavar="FILE", help="a smooth path through keyed cameras: docs/shot_folder.md"
    )
    choice.add_argument("--reference-path", choices=REFERENCE_CAMS, help="the reference's preset, exactly")
    group.add_argument("--amount", type=float, default=0.3, help="of a move, as a share of the subject's distance")
    group.add_argument("--frames", type=int, metavar="N", help="length of the path (default: the clip's)")
    group.add_argument("--pivot", type=float, metavar="Z", help="depth of the orbit's pivot (default: the subject's)")
    group.add_argument("--freeze", type=int, metavar="FRAME", help="bullet time: hold this frame while moving")
    group.add_argument("--linear", action="store_true", help="constant speed, no slow start and end")
    group.add_argument("--size", metavar="WxH", help="output size (default: the plate's)")
    group.add_argument("--label", default="", help="a name for the take")
    group.add_argument("--raster", choices=("opengl", "nvdiffrast"), default="opengl")
    group.add_argument(
        "--walls",
        type=wall_share,
        metavar="SHARE",
        help="how deep what is in front is taken to be, as a share of its distance, or closed: all the way to what is "
        f"behind (default: {WALL_SHARE:g} for {' and '.join(sorted(SHORT_WALLED))}, closed for others)",
    )


def _add_generate_options(command: argparse.ArgumentParser) -> None:
    command.add_argument("--preset", default=DEFAULT_PRESET, metavar="NAME", help="preview, draft, final or fast")
    command.add_argument("--seed", type=_seed, default=0)
    group = command.add_argument_group("presets draft, final and fast (default: as the preset was made for)")
    group.add_argument("--steps", type=int, metavar="N", help="denoising steps")
    group.add_argument("--guidance", type=float, metavar="SCALE", help="1 is one forward a step")
    group.add_argument("--window", type=int, metavar="N", help="frames denoised at once, 4k+1, such as 49 or 81")
    group.add_argument("--overlap", type=int, metavar="N", help="frames that neighbouring windows share")
    group.add_argument("--detail", metavar="SIZE", help="a second pass: none, full, or its megapixels")
    group.add_argument("--erosion", type=_erosion, metavar="PIXELS", help="shrinks the seen region; or random")
    group.add_argument("--tier", help="gigabytes of the graphics card: auto, 48, 24, 16 or 12")
    group.add_argument("--precision", help="auto, exact or float8")
    group.add_argument("--attention", metavar="NAME", help="auto, or a backend's name in diffusers")
    group.add_argument("--compile", help="auto, on or off")
    group.add_argument("--cache", help="none or first-block")
    group.add_argument("--gpus", type=int, metavar="N", help="graphics cards that share each step")
    group.add_argument("--prompt", metavar="TEXT")
    group.add_argument("--negative-prompt", metavar="TEXT")
    group.add_argument("--model", metavar="DIR", help="a model folder instead of the installed one")
    group.add_argument("--adapter", metavar="FILE|NAME", help="an EX-4D adapter instead of the installed one")


# Imports stand inside the commands, so that --help and errors in the arguments come at once.


def _reconstruct(options: argparse.Namespace, reporter: Terminal) -> int:
    from .stages import reconstruct

    started = time.monotonic()
    shot = reconstruct(source_settings(options), options.shot, reporter)
    plate = shot.require_plate()
    _print(shot=options.shot, frames=plate.count, size=[plate.width, plate.height], seconds=_since(started))
    return 0


def _cuts(options: argparse.Namespace, reporter: Terminal) -> int:
    from .stages import find_shots

    found = find_shots(options.video, reporter, first_number=options.start_number)
    _print(clip=options.video, shots=found.shots, dissolves=found.dissolves)
    return 0


def _render(options: argparse.Namespace, reporter: Terminal) -> int:
    from .shot import load_shot
    from .stages import render, take_along

    started = time.monotonic()
    check_camera_options(options)
    shot = load_shot(options.shot)
    path = camera_path(shot, options)
    take = take_along(shot, path, options.label, wall_share=chosen_walls(options, options.preset))
    take = render(shot, take, reporter, raster=options.raster)
    _print(shot=options.shot, take=take.name, frames=len(take.frames), size=list(path.size), seconds=_since(started))
    return 0


def _camera(options: argparse.Namespace, reporter: Terminal) -> int:
    from . import trajectories
    from .shot import load_shot
    from .take import load_take

    take = load_take(load_shot(options.shot), options.take)
    path = trajectories.Trajectory(take.frames, (take.width, take.height), take.fps)
    if options.out.suffix.lower() == ".npz":
        trajectories.save_reference_npz(path, options.out)
    else:
        trajectories.save_trajectory(path, options.out)
    _print(camera=options.out, frames=len(take.frames))
    return 0


def _generate(options: argparse.Namespace, reporter: Terminal) -> int:
    from .shot import load_shot
    from .stages import generate, repeat
    from .take import load_take

    started = time.monotonic()
    chosen = generate_options(options)
    shot = load_shot(options.shot)
    if options.repeat is not None:
        take = repeat(shot, load_take(shot, options.repeat), reporter)
    else:
        take = load_take(shot, options.take)
        take = generate(shot, take, options.preset, reporter, seed=options.seed, options=chosen)
    _print(shot=options.shot, take=take.name, result=take.result_file, seconds=_since(started))
    return 0


def _run(options: argparse.Namespace, reporter: Terminal) -> int:
    from .stages import generate, generation_settings, reconstruct, render, require_preset, take_along

    started = time.monotonic()
    chosen = generate_options(options)
    require_preset(options.preset, chosen)
    check_camera_options(options)
    shot = reconstruct(source_settings(options), options.out, reporter)
    path = camera_path(shot, options)
    take = take_along(
        shot,
        path,
        options.label,
        generation_settings(options.preset, options.seed, chosen),
        wall_share=chosen_walls(options, options.preset),
    )
    take = render(shot, take, reporter, raster=options.raster)
    take = generate(shot, take, options.preset, reporter, seed=options.seed, options=chosen)
    _print(shot=options.out, take=take.name, result=take.result_file, seconds=_since(started))
    return 0


def _demo(options: argparse.Namespace, reporter: Terminal) -> int:
    from .demo import run_demo

    summary = run_demo(options.out, options.video, options.blender, options.orbit, options.preset, reporter)
    print(json.dumps(summary, ensure_ascii=False))
    return 0


def _doctor(options: argparse.Namespace, reporter: Terminal) -> int:
    from .doctor import report

    lines, healthy = report()
    print("\n".join(lines))
    return 0 if healthy else 1


def _worker(options: argparse.Namespace, reporter: Terminal) -> int:
    from .worker import serve

    return serve()


def depth_option(text: str) -> tuple[str, str | int]:
    """A depth source's option as it is typed: NAME=VALUE, a whole number where it is one."""
    name, equals, value = text.partition("=")
    if not (name and equals):
        raise argparse.ArgumentTypeError(f"{text!r} is not like variant=base")
    return name, int(value) if value.isdecimal() else value


def source_settings(options: argparse.Namespace) -> Any:
    """The `ReconstructSettings` that the clip and depth options ask for."""
    from .stages import ReconstructSettings

    said = {"meaning": options.depth_meaning, "near": options.depth_near, "far": options.depth_far}
    depth_options = {name: value for name, value in said.items() if value is not None}
    if options.depth_file:
        depth_options["path"] = options.depth_file
        if options.depth not in (None, "file"):
            raise Ex4dError("bad_request", "--depth-file goes with --depth file.", "Leave --depth out.")
    elif options.depth == "file" or depth_options:
        raise Ex4dError("bad_request", "There is no file to read depth from.", "Name it with --depth-file.")
    depth_options |= dict(options.depth_option)
    settings = ReconstructSettings(
        source=str(options.video),
        first=options.first,
        last=options.last,
        stride=options.stride,
        first_number=options.start_number,
        depth_options=depth_options,
        fov_deg=options.fov,
        fps=options.fps,
        compat=options.compat,
        focal_mm=options.focal,
        sensor_mm=options.sensor,
        poses=options.poses,
        scene_scale=options.scale,
        measured=options.measure,
        cuts=options.cuts,
    )
    depth = "file" if options.depth_file else options.depth
    return settings if depth is None else ReconstructSettings(**{**settings.__dict__, "depth": depth})


def generate_options(options: argparse.Namespace) -> Any:
    """The `GenerateOptions` that the arguments ask for; names are the same in both."""
    from .stages import GenerateOptions

    return GenerateOptions.from_json({name: getattr(options, name, None) for name in GenerateOptions.__annotations__})


def check_camera_options(options: argparse.Namespace) -> None:
    """Refuses a camera that no shot could have, before any work starts.

    Raises:
        Ex4dError: `camera_invalid`, `bad_request` or `no_such_file`.
    """
    from . import trajectories

    if options.size:
        _size(options.size)
    if options.frames is not None and options.frames < 1:
        raise Ex4dError("camera_invalid", f"A path of {options.frames} frames is impossible.", "Give 1 or more.")
    for name, value in (("--amount", options.amount), ("--pivot", options.pivot)):
        if value is not None and not math.isfinite(value):
            raise Ex4dError("camera_invalid", f"{name} {value} is no length.", "Give a number.")
    if options.pivot is not None and options.pivot <= 0:
        raise Ex4dError("camera_invalid", "The pivot is not in front of the camera.", "Give a positive --pivot.")
    if options.camera is not None:
        if not options.camera.is_file():
            raise Ex4dError("no_such_file", f"There is no camera file {options.camera}.", "Check the path.")
        return
    if options.keys is not None:
        trajectories.load_keys(options.keys)
        return
    if options.reference_path is not None:
        return
    name, amount = _move(options)
    trajectories.preset(name, amount, 1, 1.0)


def _move(options: argparse.Namespace) -> tuple[str, float]:
    return ("orbit", options.orbit) if options.orbit is not None else (options.move, options.amount)


def wall_share(text: str) -> float:
    """The value of --walls: `closed` is infinity."""
    try:
        share = CLOSED if text == "closed" else float(text)
    except ValueError:
        share = math.nan
    if not share > 0:
        raise argparse.ArgumentTypeError(f"{text!r} is neither a positive share nor closed")
    return share


def chosen_walls(options: argparse.Namespace, preset: str) -> float:
    """How deep walls are: as --walls says, or as suits the preset."""
    return preset_walls(preset) if options.walls is None else float(options.walls)


def camera_path(shot: Any, options: argparse.Namespace) -> Any:
    """The `Trajectory` that the camera options ask for, in the shot's world and at the output size."""
    from . import trajectories
    from .stages import reference_move

    plate, geometry = shot.require_plate(), shot.require_geometry()
    size = _size(options.size) if options.size else (plate.width, plate.height)
    if options.camera is not None:
        return trajectories.load_trajectory(options.camera, shot=shot).resized(size)
    count = options.frames if options.frames is not None else plate.count
    pivot = options.pivot if options.pivot is not None else geometry.subject
    if options.keys is not None:
        poses = trajectories.spline(trajectories.load_keys(options.keys), count)
        return trajectories.along(shot, poses, frozen=options.freeze, size=size)
    if options.reference_path is not None:
        return reference_move(
            shot, options.reference_path, count=count, pivot=options.pivot, frozen=options.freeze, size=size
        )
    name, amount = _move(options)
    poses = trajectories.preset(name, amount, count, pivot, smooth=not options.linear)
    return trajectories.along(shot, poses, frozen=options.freeze, size=size)


def _seed(text: str) -> int:
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"{text!r} is no whole number of 0 or more")
    return int(text)


def _erosion(text: str) -> int | str:
    return int(text) if text.isdecimal() else text


def _size(text: str) -> tuple[int, int]:
    width, _, height = text.lower().partition("x")
    if not (width.isdecimal() and height.isdecimal() and 0 < int(width) <= 16384 and 0 < int(height) <= 16384):
        raise Ex4dError("bad_request", f"{text!r} is no output size.", "Give it like 1920x1080.")
    return int(width), int(height)


def _since(started: float) -> float:
    return round(time.monotonic() - started, 2)


def _print(**entries: Any) -> None:
    print(
        json.dumps(
            {key: str(value) if isinstance(value, Path) else value for key, value in entries.items()},
            ensure_ascii=False,
        )
    )
