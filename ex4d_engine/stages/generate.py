# SPDX-License-Identifier: GPL-3.0-or-later
"""The third stage: what the plate never saw is filled, the plate is put back, and the result is a movie."""

from __future__ import annotations

import dataclasses
import os
import platform
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final

import cv2
import numpy as np
from numpy.typing import NDArray

from .. import __version__
from ..background import BackgroundWriter
from ..composite import composite, match_colour, soft_matte
from ..dwmesh.ray_grid import load_ray_grid
from ..errors import Ex4dError
from ..files import prepare_folder
from ..image_files import read_exr, read_png, write_png
from ..preview_fill import fill_from_around, fill_from_other_frame, without_fringe
from ..progress import Reporter
from ..raster import make_raster
from ..shot import CameraFrame, Shot, Take, new_take, save_take, with_record
from ..video import MovieWriter
from .render import MeshFrames

OTHER_FRAMES: Final = 4  # how many other moments of the clip `preview` looks into
BYTES_PER_PIXEL: Final = 9
PREVIEW_EVERY: Final = 8
CONDITIONING: Final = ("color", "mask")


def generate(shot: Shot, take: Take, preset: str, reporter: Reporter, *, seed: int = 0) -> Take:
    """Fills the take's holes and writes generated, composite and matte frames and `result.mp4`.

    A take that holds a finished result is never changed: the same cameras and conditioning become a new take,
    which is returned. An interrupted run of the same preset and seed goes on where it stopped.

    Raises:
        Ex4dError: `unknown_preset`, `model_missing`, `take_incomplete` when conditioning is missing.
    """
    if preset not in PRESETS:
        raise Ex4dError("unknown_preset", f"There is no preset {preset!r}.", f"Choose one of {', '.join(PRESETS)}.")
    fill = PRESETS[preset]
    require_conditioning(take)
    settings = {"preset": preset, "seed": seed}
    if take.is_finished:
        take = _copied(shot, take)
        reporter.log(f"The finished take is kept; this run becomes {take.name}.")
    prepare_folder(take.root, need_bytes=len(take.frames) * take.width * take.height * BYTES_PER_PIXEL)
    if take.record.get("generation", settings) != settings:
        _remove(take, ("generated", "composite", "matte"))
    started = time.monotonic()
    take = with_record(take, generation=settings, versions=versions())
    save_take(take)
    if take.missing("generated"):
        fill(shot, take, reporter, seed)
    _composite_frames(take, reporter)
    seconds = {**take.record.get("seconds", {}), "generate": round(time.monotonic() - started, 3)}
    take = dataclasses.replace(with_record(take, seconds=seconds), preset=preset)
    save_take(take)
    return take


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
        "opencv": cv2.__version__,
    }


# ------------------------------------------------------------------------------------------- presets


def _preview(shot: Shot, take: Take, reporter: Reporter, seed: int) -> None:
    """Other frames' pixels of the same surface, then the surroundings. No diffusion; `seed` has nothing to draw."""
    reporter.log("Preset preview: holes are filled from other frames and from around. This is no diffusion.")
    with _meshes(shot) as meshes, BackgroundWriter() as writer:
        for done, (number, camera) in enumerate(zip(take.numbers, take.frames, strict=True)):
            reporter.check()
            reporter.progress("generate", done, len(take.frames))
            if not take.file("generated", number).is_file():
                writer.submit(
                    write_png, take.file("generated", number), _preview_frame(shot, take, number, camera, meshes)
                )
    reporter.progress("generate", len(take.frames), len(take.frames))


@contextmanager
def _meshes(shot: Shot) -> Iterator[MeshFrames | None]:
    """The shot's meshes on a raster; None for bare conditioning movies, which have no mesh."""
    if shot.geometry is None:
        yield None
        return
    with make_raster(
        "opengl",
        load_ray_grid(shot.rays_file),
        nearest=shot.geometry.near,
        reference=shot.geometry.compat == "reference",
    ) as raster:
        yield MeshFrames(shot, raster, keep=OTHER_FRAMES + 1)


def _preview_frame(
    shot: Shot, take: Take, number: int, camera: CameraFrame, meshes: MeshFrames | None
) -> NDArray[np.uint8]:
    color, mask = read_png(take.file("color", number)), read_png(take.file("mask", number))
    if meshes is None:
        return fill_from_around(color, mask, np.ones(mask.shape, np.float32))
    size = (take.width, take.height)
    depth_file = take.file("depth", number)
    # conditioning rendered in Blender brings no depth of its own
    depth = read_exr(depth_file) if depth_file.is_file() else meshes.draw(camera.source, camera, size).depth
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


def _needs_weights(name: str, what: str, need: str) -> Callable[[Shot, Take, Reporter, int], None]:
    def refuse(shot: Shot, take: Take, reporter: Reporter, seed: int) -> None:
        raise Ex4dError(
            "model_missing",
            f"Preset {name} needs {what}, which is not installed: {need}.",
            "Use preset preview until then.",
            action="preset:preview",
        )

    return refuse


PRESETS: Final[dict[str, Callable[[Shot, Take, Reporter, int], None]]] = {
    "preview": _preview,
    "draft": _needs_weights("draft", "the bundled small model", "this version ships without it"),
    "final": _needs_weights(
        "final",
        "Wan2.1-I2V-14B-480P and the EX-4D adapter",
        "about 68 GB of weights (Wan-AI/Wan2.1-I2V-14B-480P-Diffusers) and ex4d.ckpt",
    ),
    "fast": _needs_weights(
        "fast",
        "Wan2.1-I2V-14B-480P, the EX-4D adapter and a step-distillation adapter",
        "about 69 GB of weights",
    ),
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
            plate, mask = read_png(take.file("color", number)), read_png(take.file("mask", number))
            generated = match_colour(read_png(take.file("generated", number)), plate, mask)
            matte = soft_matte(mask)
            result = composite(generated, plate, matte)
            movie.write(result)
            writer.submit(write_png, take.file("matte", number), matte)
            if done % PREVIEW_EVERY:
                writer.submit(write_png, take.file("composite", number), result)
            else:  # a preview is a promise that the file is there
                write_png(take.file("composite", number), result)
                reporter.preview(take.file("composite", number))
    reporter.progress("composite", len(take.frames), len(take.frames))


# --------------------------------------------------------------------------------------------- takes


def _copied(shot: Shot, take: Take) -> Take:
    """A new take with the same cameras and conditioning; files are linked where the file system can."""
    fresh = new_take(shot, take.frames, (take.width, take.height), first=take.first, fps=take.fps, label=take.label)
    for layer in (*CONDITIONING, "depth"):
        for number in take.numbers:
            source = take.file(layer, number)
            if source.is_file():
                _link_or_copy(str(source), str(fresh.file(layer, number)))
    fresh = dataclasses.replace(fresh, conditioning=take.conditioning, record={"conditioning_of": take.name})
    save_take(fresh)
    return fresh


def _link_or_copy(source: str, target: str) -> None:
    try:
        os.link(source, target)
    except OSError:  # another drive, or a file system without hard links
        shutil.copyfile(source, target)


def _remove(take: Take, layers: tuple[str, ...]) -> None:
    for layer in layers:
        for number in take.numbers:
            take.file(layer, number).unlink(missing_ok=True)
