# SPDX-License-Identifier: GPL-3.0-or-later
"""The second stage: the DW-Mesh seen from a take's cameras: colour, mask and depth a frame."""

from __future__ import annotations

import dataclasses
import time
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ..background import BackgroundWriter
from ..camera_frame import CameraFrame
from ..cameras import check_camera
from ..dwmesh.ray_grid import load_ray_grid
from ..dwmesh.walls import CLOSED
from ..errors import Ex4dError
from ..files import prepare_folder
from ..image_files import read_exr, read_png, write_exr_depth, write_png
from ..progress import Reporter
from ..raster import Raster, Rendering, make_raster
from ..shot import Shot
from ..take import Take, save_take, with_record
from ..take_log import logged

CONDITIONING: Final = ("color", "mask")
BYTES_PER_PIXEL: Final = 12  # colour, mask and depth of the conditioning, rounded up


class MeshFrame(NamedTuple):
    """What a raster takes of a frame, see `Raster.set_frame`. widths: None in a shot of an earlier version."""

    depth: NDArray[np.float32]
    albedo: NDArray[np.uint8]
    seen: NDArray[np.uint8]
    widths: NDArray[np.uint16] | None


class MeshFrames:
    """The shot's frames on a raster. Keeps the last few in memory, as paths stand still or swing back."""

    def __init__(self, shot: Shot, raster: Raster, keep: int = 2) -> None:
        self._shot, self._raster, self._keep = shot, raster, keep
        self._frames: OrderedDict[int, MeshFrame] = OrderedDict()
        self._shown: int | None = None

    def draw(self, number: int, camera: CameraFrame, size: tuple[int, int]) -> Rendering:
        """Shot frame `number` seen from `camera` (whose own `source` does not matter here)."""
        if self._shown != number:
            self._raster.set_frame(*self._load(number))
            self._shown = number
        world_to_camera = np.linalg.inv(np.array(camera.camera_to_world))
        return self._raster.draw(
            np.array(camera.intrinsics), world_to_camera @ np.array(self._shot.mesh_to_world(number)), size
        )

    def _load(self, number: int) -> MeshFrame:
        if number not in self._frames:
            shot = self._shot
            files = (shot.depth_file(number), shot.albedo_file(number), shot.seen_file(number))
            for file in files:
                if not file.is_file():
                    raise Ex4dError("shot_missing", f"{file} is missing.", "Reconstruct the clip again: it resumes.")
            try:
                width_file = shot.width_file(number)
                self._frames[number] = MeshFrame(
                    read_exr(files[0]),
                    read_png(files[1]),
                    read_png(files[2]),
                    read_png(width_file) if width_file.is_file() else None,
                )
            except Ex4dError as error:  # what the readers advise is for a user's own files
                raise Ex4dError(
                    "shot_invalid",
                    f"A file of the shot's frame {number} is damaged: {error.message}",
                    "Delete that file and reconstruct the clip again: it makes what is missing.",
                ) from error
            if len(self._frames) > self._keep:
                self._frames.popitem(last=False)
        self._frames.move_to_end(number)
        return self._frames[number]


def render(shot: Shot, take: Take, reporter: Reporter, *, raster: str = "opengl") -> Take:
    """Draws colour, mask and depth for every frame of the take; frames that are there are kept.

    Conditioning that is whole stays as it is, whoever drew it. What an interrupted run drew of a shot that was made
    anew since is drawn again. How deep walls are is the take's to say.

    Raises:
        Ex4dError: `camera_invalid`, `no_opengl`, `shot_missing` for a file that is gone, `disk_full`.
    """
    if take.conditioning and not any(take.missing(layer) for layer in CONDITIONING):
        reporter.log(f"{take.name} has its conditioning already: it is kept.")
        return take
    geometry = shot.require_geometry()
    reference = geometry.compat == "reference"
    check_cameras(shot, take)
    started = time.monotonic()
    size = (take.width, take.height)
    if take.record.get("reconstruction", shot.settings) != shot.settings:
        for layer in (*CONDITIONING, "depth"):
            for number in take.numbers:
                take.file(layer, number).unlink(missing_ok=True)
    take = with_record(take, raster=raster, reconstruction=shot.settings)
    save_take(take)
    todo = [
        (number, frame)
        for number, frame in zip(take.numbers, take.frames, strict=True)
        if not all(take.file(layer, number).is_file() for layer in ("color", "mask", "depth"))
    ]
    prepare_folder(take.root, need_bytes=len(todo) * take.width * take.height * BYTES_PER_PIXEL)
    done = len(take.frames) - len(todo)
    with (
        logged(take, "render", reporter) as reporter,
        make_raster(
            raster,
            load_ray_grid(shot.rays_file),
            nearest=geometry.near,
            wall_share=take.wall_share,
            reference=reference,
        ) as backend,
        BackgroundWriter() as writer,
    ):
        frames = MeshFrames(shot, backend)
        for index, (number, camera) in enumerate(todo):
            reporter.check()
            reporter.progress("render", done + index, len(take.frames))
            drawn = frames.draw(camera.source, camera, size)
            if reference and number == take.first:
                drawn = _source_frame(shot, take, camera, drawn)
            writer.submit(write_exr_depth, take.file("depth", number), drawn.depth)
            writer.submit(write_png, take.file("color", number), drawn.color)
            writer.submit(write_png, take.file("mask", number), drawn.mask)
    reporter.progress("render", len(take.frames), len(take.frames))
    take = dataclasses.replace(take, conditioning="engine")
    take = with_seconds(take, "render", time.monotonic() - started)
    save_take(take)
    return take


@contextmanager
def open_meshes(shot: Shot, keep: int = 2, wall_share: float = CLOSED) -> Iterator[MeshFrames]:
    """The shot's meshes on OpenGL, for stages after this one."""
    geometry = shot.require_geometry()
    with make_raster(
        "opengl",
        load_ray_grid(shot.rays_file),
        nearest=geometry.near,
        wall_share=wall_share,
        reference=geometry.compat == "reference",
    ) as raster:
        yield MeshFrames(shot, raster, keep)


def is_of_this_shot(shot: Shot, take: Take) -> bool:
    """False where the shot was made anew after the take's conditioning: its frames then show something else."""
    numbers = shot.require_plate().numbers
    return take.record.get("reconstruction", shot.settings) == shot.settings and all(
        camera.source in numbers for camera in take.frames
    )


def check_cameras(shot: Shot, take: Take) -> None:
    """Raises `camera_invalid` for a camera that cannot be drawn, or that sees a frame that the shot has not."""
    numbers = shot.require_plate().numbers
    for number, camera in zip(take.numbers, take.frames, strict=True):
        check_camera(np.array(camera.intrinsics), np.array(camera.camera_to_world))
        if camera.source not in numbers:
            raise Ex4dError(
                "camera_invalid",
                f"Frame {number} of {take.name} sees frame {camera.source}; the shot holds {numbers[0]} to "
                f"{numbers[-1]}.",
                "Reconstruct that range, or make a new take.",
            )


def with_seconds(take: Take, stage: str, seconds: float) -> Take:
    """The take with the time of a stage in its record, added to what interrupted runs have told."""
    known: dict[str, float] = take.record.get("seconds", {})
    return with_record(take, seconds={**known, stage: round(known.get(stage, 0.0) + seconds, 3)})


def _source_frame(shot: Shot, take: Take, camera: CameraFrame, drawn: Rendering) -> Rendering:
    """The reference overwrites frame 0 with the plate, whatever the camera sees."""
    plate = read_png(shot.plate_file(camera.source))[..., :3]
    if plate.shape[:2] != (take.height, take.width):
        return drawn
    return Rendering(plate, np.full(plate.shape[:2], 255, np.uint8), drawn.depth)
