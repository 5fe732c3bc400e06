# SPDX-License-Identifier: GPL-3.0-or-later
"""The third stage: what the plate never saw is filled, the plate is put back, and the result is a movie."""

from __future__ import annotations

import dataclasses
import platform
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from importlib import metadata
from typing import Any, Final

import cv2
import numpy as np
from numpy.typing import NDArray

from .. import __version__
from ..background import BackgroundWriter
from ..camera_frame import CameraFrame
from ..composite import composite, match_colour, soft_matte
from ..dwmesh.walls import CLOSED, preset_walls
from ..errors import Ex4dError
from ..files import link_or_copy, prepare_folder
from ..image_files import read_exr, read_png, write_exr_depth, write_png
from ..preview_fill import FILL_VERSION, fill_from_around, fill_from_other_frame, without_fringe
from ..progress import Reporter
from ..raster.opengl import device_name
from ..shot import Shot
from ..take import Take, new_take, save_take, with_record
from ..take_log import logged
from ..video import MovieWriter
from .diffusion_presets import DIFFUSION_PRESETS, check_preset, fill, has_finished_windows
from .generate_options import GenerateOptions
from .interrupted import interrupted_take
from .render import CONDITIONING, MeshFrames, is_of_this_shot, open_meshes, with_seconds

OTHER_FRAMES: Final = 4  # how many other moments of the clip `preview` looks into
BYTES_PER_PIXEL: Final = 9
PREVIEW_EVERY: Final = 8


def generate(
    shot: Shot,
    take: Take,
    preset: str,
    reporter: Reporter,
    *,
    seed: int = 0,
    options: GenerateOptions | None = None,
) -> Take:
    """Fills the take's holes and writes generated, composite and matte frames and `result.mp4`.

    A take that holds a finished result is never changed: the same cameras and conditioning become a new take,
    which is returned. An interrupted run of the same preset, seed and options goes on where it stopped. A run that
    ends before anything of its new take is made, as one refused for its options does, leaves no take behind.

    Raises:
        Ex4dError: `unknown_preset`, `model_missing`, `out_of_memory`, `bad_request` for options that do not go
            together, `take_incomplete` when conditioning is missing.
    """
    options = options or GenerateOptions()
    require_preset(preset, options)
    require_conditioning(take)
    settings = generation_settings(preset, seed, options)
    with ExitStack() as ending:
        if take.preset:
            begun = interrupted_take(shot, conditioning_of=take.name, generation=settings)
            take = begun or ending.enter_context(_copied(shot, take))
            reporter.log(f"The finished take is kept; this run becomes {take.name}.")
        prepare_folder(take.root, need_bytes=len(take.frames) * take.width * take.height * BYTES_PER_PIXEL)
        if take.record.get("generation", settings) != settings:
            _remove(take, ("generated", "composite", "matte"))
        started = time.monotonic()
        take = with_record(take, generation=settings, versions=versions())
        save_take(take)
        with logged(take, "generate", reporter) as reporter:
            if take.wall_share < preset_walls(preset) == CLOSED:
                reporter.log(
                    f"{take.name} was drawn with short walls, and {preset} learnt with closed ones: draw it again "
                    "with --walls closed (in Blender: Walls, Closed) if its fills disappoint."
                )
            if take.missing("generated"):
                take = PRESETS[preset].fill(shot, take, reporter, options, seed)
            _composite_frames(take, reporter)
        take = dataclasses.replace(with_seconds(take, "generate", time.monotonic() - started), preset=preset)
        save_take(take)
    return take


def generation_settings(preset: str, seed: int, options: GenerateOptions | None = None) -> dict[str, Any]:
    """What makes a take's result out of its conditioning, for its record: every default is filled in."""
    if preset not in DIFFUSION_PRESETS:
        return {"preset": preset, "seed": seed, "fill": FILL_VERSION}
    return {"preset": preset, "seed": seed, **(options or GenerateOptions()).resolved(preset).to_json()}


def require_preset(name: str, options: GenerateOptions | None = None) -> None:
    """Raises `unknown_preset`, or what the preset lacks (`model_missing`, `out_of_memory`): to be asked before work."""
    if name not in PRESETS:
        raise Ex4dError("unknown_preset", f"There is no preset {name!r}.", f"Choose one of {', '.join(PRESETS)}.")
    PRESETS[name].check(options or GenerateOptions())


def require_conditioning(take: Take) -> None:
    """Raises `take_incomplete`, naming the first missing file, unless every frame has colour and mask."""
    for layer in CONDITIONING:
        missing = take.missing(layer)
        if missing:
            raise Ex4dError(
                "take_incomplete",
                f"{take.name} lacks {take.file(layer, missing[0]).name}"
                + (f" and {len(missing) - 1} more {layer} frames." if len(missing) > 1 else "."),
                "Render the take's conditioning first.",
            )


def versions() -> dict[str, str]:
    """What computed a take, for its record."""
    return {
        "ex4d": __version__,
        "python": platform.python_version(),
        "numpy": np.__version__,
        **{name: metadata.version(name) for name in ("av", "OpenEXR", "moderngl")},
        "opencv": cv2.__version__,
        "opengl": device_name(),
        "system": platform.platform(),
    }


# ------------------------------------------------------------------------------------------- presets


def _preview(shot: Shot, take: Take, reporter: Reporter, options: GenerateOptions, seed: int) -> Take:
    """Other frames' pixels of the same surface, then the surroundings. No diffusion: no options, nothing drawn."""
    reporter.log("Preset preview: holes are filled from other frames and from around. This is no diffusion.")
    if unused := options.to_json():
        reporter.log(f"Preset preview has no use for {', '.join(unused)}, which presets of a model have.")
    with _meshes(shot, take) as meshes, BackgroundWriter() as writer:
        for done, (number, camera) in enumerate(zip(take.numbers, take.frames, strict=True)):
            reporter.check()
            reporter.progress("generate", done, len(take.frames))
            file = take.file("generated", number)
            if not file.is_file():
                image = _preview_frame(shot, take, number, camera, meshes)
                if done % PREVIEW_EVERY:
                    writer.submit(write_png, file, image)
                else:  # a preview is a promise that the file is there
                    write_png(file, image)
                    reporter.preview(file)
    reporter.progress("generate", len(take.frames), len(take.frames))
    return take


@contextmanager
def _meshes(shot: Shot, take: Take) -> Iterator[MeshFrames | None]:
    """The shot's meshes on a raster; None for bare conditioning movies and for takes of a shot that is no more."""
    if shot.geometry is None or not is_of_this_shot(shot, take):
        yield None
        return
    with open_meshes(shot, keep=OTHER_FRAMES + 1, wall_share=take.wall_share) as meshes:
        yield meshes


def _preview_frame(
    shot: Shot, take: Take, number: int, camera: CameraFrame, meshes: MeshFrames | None
) -> NDArray[np.uint8]:
    color, mask = read_png(take.file("color", number)), read_png(take.file("mask", number))
    size, depth_file = (take.width, take.height), take.file("depth", number)
    if meshes is None:
        depth = read_exr(depth_file) if depth_file.is_file() else np.ones(mask.shape, np.float32)
        return fill_from_around(color, mask, depth)
    if not depth_file.is_file():  # conditioning rendered in Blender brings no depth of its own
        write_exr_depth(depth_file, meshes.draw(camera.source, camera, size).depth)
    depth = read_exr(depth_file)
    mask = without_fringe(mask, depth)
    # nearest moments first: light and clouds have changed the least
    for other in sorted(other_moments(shot), key=lambda moment: abs(moment - camera.source)):
        if other != camera.source and not mask.all():
            color, mask, depth = fill_from_other_frame(color, mask, depth, meshes.draw(other, camera, size))
    return fill_from_around(color, mask, depth)


def other_moments(shot: Shot) -> list[int]:
    """Shot frame numbers spread over the clip, ends included."""
    numbers = shot.require_plate().numbers
    picked = np.linspace(numbers[0], numbers[-1], min(OTHER_FRAMES, len(numbers)))
    return sorted({round(float(number)) for number in picked})


@dataclass(frozen=True)
class Preset:
    """check: raises an Ex4dError where something the preset needs is not there.

    fill: writes the `generated` frames that the take lacks; the take it returns may have more in its record.
    """

    check: Callable[[GenerateOptions], None]
    fill: Callable[[Shot, Take, Reporter, GenerateOptions, int], Take]


def _needs_nothing(_: GenerateOptions) -> None:
    """`preview` works wherever the engine does."""


def _by_diffusion(name: str) -> Preset:
    return Preset(check=partial(check_preset, name), fill=partial(fill, name))


PRESETS: Final[dict[str, Preset]] = {
    "preview": Preset(check=_needs_nothing, fill=_preview),
    **{name: _by_diffusion(name) for name in DIFFUSION_PRESETS},
}


# ----------------------------------------------------------------------------------------- composite


def _composite_frames(take: Take, reporter: Reporter) -> None:
    with (
        MovieWriter(take.result_file, take.fps, take.width, take.height) as movie,
        BackgroundWriter() as writer,
    ):
        for done, number in enumerate(take.numbers):
            reporter.check()
            reporter.progress("composite", done, len(take.frames))
            shown = done % PREVIEW_EVERY == 0
            matte_file, composite_file = take.file("matte", number), take.file("composite", number)
            if matte_file.is_file() and composite_file.is_file():  # an interrupted run's, whose movie is gone
                result = read_png(composite_file)
            else:
                matte, result = _composite_frame(take, number)
                writer.submit(write_png, matte_file, matte)
                if shown:  # a preview is a promise that the file is there
                    write_png(composite_file, result)
                else:
                    writer.submit(write_png, composite_file, result)
            movie.write(result)
            if shown:
                reporter.preview(composite_file)
    reporter.progress("composite", len(take.frames), len(take.frames))


def _composite_frame(take: Take, number: int) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Matte and result of one frame."""
    plate, mask = read_png(take.file("color", number)), read_png(take.file("mask", number))
    generated = match_colour(read_png(take.file("generated", number)), plate, mask)
    depth_file = take.file("depth", number)
    if depth_file.is_file():  # mixed colours along a silhouette would come back as a halo
        mask = without_fringe(mask, read_exr(depth_file))
    matte = soft_matte(mask)
    return matte, composite(generated, plate, matte)


# --------------------------------------------------------------------------------------------- takes


@contextmanager
def _copied(shot: Shot, take: Take) -> Iterator[Take]:
    """A new take with the same cameras and conditioning; files are linked where the file system can.

    If the block ends with nothing made, the new take goes again: what it holds, the take it comes from has too. Frames
    and finished windows that an interrupted run has made stay for the next one.
    """
    fresh = new_take(
        shot,
        take.frames,
        (take.width, take.height),
        first=take.first,
        fps=take.fps,
        label=take.label,
        wall_share=take.wall_share,
    )
    try:
        for layer in (*CONDITIONING, "depth"):
            for number in take.numbers:
                source = take.file(layer, number)
                if source.is_file():
                    link_or_copy(source, fresh.file(layer, number))
        kept: dict[str, Any] = {name: take.record[name] for name in ("raster", "reconstruction") if name in take.record}
        record = {**fresh.record, **kept, "conditioning_of": take.name}
        fresh = dataclasses.replace(fresh, conditioning=take.conditioning, record=record)
        save_take(fresh)
        yield fresh
    except BaseException:
        if len(fresh.missing("generated")) == len(fresh.frames) and not has_finished_windows(fresh):
            shutil.rmtree(fresh.root, ignore_errors=True)  # what stopped the run is what to tell
        raise


def _remove(take: Take, layers: tuple[str, ...]) -> None:
    for layer in layers:
        for number in take.numbers:
            take.file(layer, number).unlink(missing_ok=True)
