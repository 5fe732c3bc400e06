# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

import math
from collections.abc import Callable
from fractions import Fraction
from typing import Any

import numpy as np
import pytest

bpy = pytest.importorskip("bpy")

Addon = Callable[[str], Any]
SIZE = (96, 64)


@pytest.fixture
def source_take(addon: Addon) -> Callable[..., Any]:
    """A take through the imported source camera itself, as an operator makes it."""

    def make(shot: Any, imported: Any) -> Any:
        scene = bpy.context.scene
        frames = addon("ex4d_blender.camera_sampling").camera_frames(
            scene, imported.camera_object, shot, shot.plate.numbers, SIZE
        )
        return addon("ex4d_engine.shot").new_take(shot, frames, SIZE, first=shot.plate.first, fps=shot.plate.fps)

    return make


def orbit_take(addon: Addon, shot: Any, degrees: float) -> Any:
    trajectories = addon("ex4d_engine.trajectories")
    path = trajectories.along(shot, trajectories.orbit(4, degrees, 3.0, pitch_deg=degrees / 4))
    return addon("ex4d_engine.shot").new_take(shot, path.frames, SIZE, first=shot.plate.first, fps=Fraction(25))


def read(addon: Addon, take: Any, layer: str, number: int) -> np.ndarray:
    return addon("ex4d_blender.pixel_files").read_rgba(take.file(layer, number))[..., :3]


def psnr(one: np.ndarray, two: np.ndarray) -> float:
    error = float(np.mean((one.astype(float) - two.astype(float)) ** 2))
    return math.inf if error == 0 else 10 * math.log10(255**2 / error)


@pytest.mark.parametrize("engine", ["CYCLES", "EEVEE"])
@pytest.mark.parametrize("kind", ["none", "poses"])
def test_source_camera_gives_the_plate_back(
    addon: Addon, new_shot: Any, source_take: Any, kind: str, engine: str
) -> None:
    shot = new_shot(kind)
    scene = bpy.context.scene
    imported = addon("ex4d_blender.mesh_import").import_shot(shot, scene)
    take = source_take(shot, imported)
    done = addon("ex4d_blender.conditioning").render_conditioning(
        scene, imported, shot, take, include_cg=False, engine=engine
    )
    assert done.conditioning == "blender" and not done.missing("color") and not done.missing("mask")
    for number in take.numbers:
        plate = addon("ex4d_blender.pixel_files").read_rgba(shot.plate_file(number))[..., :3].astype(int)
        color, mask = (read(addon, take, layer, number) for layer in ("color", "mask"))
        assert (mask[1:-1, 1:-1] == 255).all()
        assert abs(color.astype(int) - plate)[1:-1, 1:-1].max() <= 1


@pytest.mark.parametrize("engine", ["CYCLES", "EEVEE"])
def test_orbit_agrees_with_the_engine(addon: Addon, new_shot: Any, run_engine: Any, engine: str) -> None:
    shot = new_shot()
    scene = bpy.context.scene
    imported = addon("ex4d_blender.mesh_import").import_shot(shot, scene)
    one, two = orbit_take(addon, shot, 40.0), orbit_take(addon, shot, 40.0)
    run_engine("render", shot.root, one.name)
    addon("ex4d_blender.conditioning").render_conditioning(
        scene, imported, shot, two, include_cg=False, engine=engine
    )
    for number in one.numbers:
        masks = [read(addon, take, "mask", number)[..., 0] > 127 for take in (one, two)]
        colors = [read(addon, take, "color", number) for take in (one, two)]
        both = masks[0] & masks[1]
        overlap = both.sum() / (masks[0] | masks[1]).sum()
        print(engine, number, overlap, psnr(colors[0][both], colors[1][both]))
        assert overlap >= 0.995
        assert psnr(colors[0][both], colors[1][both]) >= 40
        assert not colors[1][~masks[1]].any()
