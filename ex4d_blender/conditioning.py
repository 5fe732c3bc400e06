# SPDX-License-Identifier: GPL-3.0-or-later
"""Colour and mask of a take drawn by Blender: for a mesh that the user edited, or with the user's own objects.

Each frame is drawn in a scene of its own that exists only meanwhile. The plate's objects are copied into it and
the user's objects are linked; the user's scene, camera, visibility, materials and render settings are never
touched, so that nothing has to be put back, whatever fails. Between two frames nothing of ours is in the file:
the user may save, undo or go on working.

One render gives both pictures: unseen faces are held out as far as the take's walls reach, so alpha is the mask. Where
walls are short, the copies have cards for the pixels at the plate's edges, too (card_nodes.py).
The sample lies at the pixel's centre, alpha is therefore 0 or 255. Workbench is faster but cannot do this: it draws
one texture and nothing else, and at the source view it would leave holes along every edge in depth (see
plate_material.py).
"""

from __future__ import annotations

import dataclasses
import math
import tempfile
import time
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from pathlib import Path

import bpy
import numpy as np
from numpy.typing import NDArray

from ..ex4d_engine.camera_frame import CameraFrame
from ..ex4d_engine.errors import Ex4dError
from ..ex4d_engine.files import prepare_folder
from ..ex4d_engine.shot import Shot
from ..ex4d_engine.take import Take, save_take, with_record
from . import compat
from .camera_sampling import set_camera
from .card_nodes import card_group
from .depth_nodes import SOURCE_Z_ATTRIBUTE
from .exact_settings import apply_exact_settings, empty
from .exact_texture import sample_without_mipmaps
from .frame_images import load_frame
from .mesh_import import ImportedShot, imported_in, plate_objects
from .pixel_files import read_rgba, write_png
from .plate_material import (
    ALBEDO_NODE,
    VERTEX_REACH,
    card_material,
    conditioning_material,
    is_plate_material,
    set_vertex_reach,
)
from .scene_evaluation import active_layer, depsgraph_of, rendered_objects
from .wall_nodes import Walls

ENGINES = ("CYCLES", "EEVEE")
SCENE_NAME = "EX-4D conditioning"
LAYERS = ("color", "mask")
BYTES_PER_PIXEL = 12
# In the source view vertices are at the pixels' centres. Cycles finds where a ray meets a triangle to a hundredth
# of a pixel only (float32, and a triangle that bridges a jump in depth is seen edge-on): that much counts as the
# vertex.
SOURCE_VIEW_REACH = 0.02
SECOND_LOOK_SAMPLES = 8
# Cycles finds surfaces by rays and can start near; EEVEE has a depth buffer whose precision that costs
NEAR_SHARE = {"CYCLES": 1e-4, "EEVEE": 1e-2}
# Seen from the side, walls that have ended lie one behind the other; Cycles goes through 1024 at most, and by itself 8
MOST_REMOVED_WALLS = 1024

Steps = Generator[tuple[int, int], None, Take]


def default_engine(scene: bpy.types.Scene, include_cg: bool) -> str:
    """Cycles, which needs no graphics card; EEVEE where the user's own objects are lit for it."""
    lit_for_eevee = include_cg and scene.render.engine == compat.eevee_engine()
    return "EEVEE" if lit_for_eevee and compat.can_draw_opengl() else "CYCLES"


def render_conditioning(
    scene: bpy.types.Scene,
    imported: ImportedShot,
    shot: Shot,
    take: Take,
    *,
    include_cg: bool,
    engine: str | None = None,
    progress: Callable[[int, int], None] | None = None,
    check: Callable[[], None] | None = None,
) -> Take:
    """Draws `color` and `mask` for every frame of the take that has none yet, and marks the take as drawn.

    Args:
        include_cg: draw the user's own objects too, lit by the user's lamps and world; they count as seen.
        engine: "CYCLES" or "EEVEE"; None: `default_engine`. With `include_cg` samples and bounces are those of
            `scene`.
        progress: called with (done, total) after each frame.
        check: called before each frame; raise `Cancelled` in it to stop. Finished frames stay.

    Returns:
        The take with `conditioning="blender"`, saved.

    Raises:
        Ex4dError: `take_incomplete` when nothing shows the plate; `no_opengl`; `disk_full`.
    """
    steps = conditioning_steps(scene, imported, shot, take, include_cg=include_cg, engine=engine)
    try:
        while True:
            if check is not None:
                check()
            done, total = next(steps)
            if progress is not None:
                progress(done, total)
    except StopIteration as finished:
        result: Take = finished.value
        return result
    finally:
        steps.close()


def conditioning_steps(
    scene: bpy.types.Scene,
    imported: ImportedShot,
    shot: Shot,
    take: Take,
    *,
    include_cg: bool,
    engine: str | None = None,
) -> Steps:
    """`render_conditioning` a frame at a time, for a modal operator: yields (done, total), returns the take.

    The generator may be dropped at any step: finished frames stay and nothing else is left.
    """
    engine = engine or default_engine(scene, include_cg)
    if engine not in ENGINES:
        raise ValueError(f"engine is {engine!r}, not one of {ENGINES}")
    if engine == "EEVEE" and not compat.can_draw_opengl():
        raise Ex4dError("no_opengl", "EEVEE needs OpenGL, and libEGL is not installed.", "Choose Cycles instead.")
    started = time.monotonic()
    scene_name, collection_name, total = scene.name, imported.collection.name, len(take.frames)
    todo = [
        (number, frame)
        for number, frame in zip(take.numbers, take.frames, strict=True)
        if not all(take.file(layer, number).is_file() for layer in LAYERS)
    ]
    prepare_folder(take.root, need_bytes=len(todo) * take.width * take.height * BYTES_PER_PIXEL)
    for index, (number, camera) in enumerate(todo):
        # looked up at every frame: after an undo all references are dead
        color, mask = _draw(*_look_up(scene_name, collection_name), shot, take, number, camera, include_cg, engine)
        write_png(take.file("color", number), color)
        write_png(take.file("mask", number), mask)
        yield total - len(todo) + index + 1, total
    seconds = {**take.record.get("seconds", {}), "conditioning": round(time.monotonic() - started, 3)}
    take = with_record(
        dataclasses.replace(take, conditioning="blender"),
        seconds=seconds,
        blender={"version": bpy.app.version_string, "engine": engine, "include_cg": include_cg},
    )
    save_take(take)
    return take


def _look_up(scene_name: str, collection_name: str) -> tuple[bpy.types.Scene, ImportedShot]:
    scene: bpy.types.Scene | None = bpy.data.scenes.get(scene_name)
    collection: bpy.types.Collection | None = bpy.data.collections.get(collection_name)
    imported = imported_in(collection) if collection is not None else None
    if scene is None or imported is None:
        raise Ex4dError(
            "take_incomplete", f"{collection_name} is no longer in the scene.", "Import the shot; then run again."
        )
    return scene, imported


def _draw(
    scene: bpy.types.Scene,
    imported: ImportedShot,
    shot: Shot,
    take: Take,
    number: int,
    camera: CameraFrame,
    include_cg: bool,
    engine: str,
) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """(H,W,3) colour and (H,W) mask of output frame `number`."""
    size = (take.width, take.height)
    frame = _scene_frame(shot, take, number, camera)
    is_source_view = _is_source_view(shot, camera, size)
    with (
        tempfile.TemporaryDirectory(prefix=".conditioning.", dir=take.root) as folder,
        _conditioning_scene(scene, imported, shot, take, frame, include_cg, engine) as (stage, materials),
    ):
        still = Path(folder) / "still.png"
        stage.render.resolution_x, stage.render.resolution_y = size
        stage.render.filepath = str(still)
        stage.frame_set(frame)
        set_camera(stage, stage.camera, camera, size)
        _set_clipping(stage.camera, shot, camera, NEAR_SHARE[engine])
        for material in materials:
            set_vertex_reach(material, SOURCE_VIEW_REACH if is_source_view else VERTEX_REACH)
        rgba = _render_still(stage, still)
        if is_source_view and engine == "CYCLES" and not include_cg and not rgba[..., 3].all():
            # a few rays that aim at a vertex slip between the triangles around it: of several samples few do
            stage.cycles.samples = SECOND_LOOK_SAMPLES
            rgba = np.where(rgba[..., 3:] > 127, rgba, _render_still(stage, still))
    seen = rgba[..., 3] > 127
    return rgba[..., :3] * seen[..., None], np.where(seen, 255, 0).astype(np.uint8)


def _render_still(stage: bpy.types.Scene, path: Path) -> NDArray[np.uint8]:
    """(H,W,4) uint8, straight alpha."""
    # given as `scene=`, the operator would set the frame to that of the window's scene
    with bpy.context.temp_override(scene=stage, view_layer=stage.view_layers[0]):
        try:
            bpy.ops.render.render(write_still=True)
        except RuntimeError as error:  # Blender's own sentence: a full disk, a graphics card's memory, …
            raise Ex4dError(
                "internal",
                f"Blender could not render frame {stage.frame_current}: {error}",
                "Finished frames are kept; run it again to go on.",
            ) from error
    return read_rgba(path)


def _scene_frame(shot: Shot, take: Take, number: int, camera: CameraFrame) -> int:
    """The scene frame that shows what output frame `number` sees: its own, or in a frozen moment the source's."""
    if "frozen" in take.record:
        return camera.source
    # a camera file tells a frozen moment by its sources only
    numbers = shot.require_plate().numbers
    follows = min(max(number, numbers[0]), numbers[-1]) == camera.source
    return number if follows else camera.source


def _is_source_view(shot: Shot, camera: CameraFrame, size: tuple[int, int]) -> bool:
    """Whether the pixel grid is the plate's own: same place, direction, lens and size."""
    plate, geometry = shot.require_plate(), shot.require_geometry()
    lens = shot.source_intrinsics(camera.source)
    moved = np.linalg.inv(np.array(shot.source_pose(camera.source))) @ np.array(camera.camera_to_world)
    moved[:3, 3] /= geometry.near
    return (
        size == (plate.width, plate.height)
        and np.allclose(moved, np.eye(4), atol=1e-5)
        and np.allclose(camera.intrinsics, lens, atol=1e-2)
    )


def _set_clipping(item: bpy.types.Object, shot: Shot, camera: CameraFrame, near_share: float) -> None:
    geometry = shot.require_geometry()
    source = np.array(shot.source_pose(camera.source))
    travelled = float(np.linalg.norm(np.array(camera.camera_to_world)[:3, 3] - source[:3, 3]))
    item.data.clip_start = geometry.near * near_share
    item.data.clip_end = 4 * geometry.far + travelled


@contextmanager
def _conditioning_scene(
    scene: bpy.types.Scene, imported: ImportedShot, shot: Shot, take: Take, frame: int, include_cg: bool, engine: str
) -> Iterator[tuple[bpy.types.Scene, list[bpy.types.Material]]]:
    """A scene with copies of the plate's objects, a camera and, if asked, the user's; and the plate's materials.

    Args:
        frame: of the scene, which is to be drawn.
    """
    plate, plates = shot.require_plate(), plate_objects(imported, scene)
    if not plates:
        raise Ex4dError(
            "take_incomplete",
            f"No object that renders shows the plate of {shot.root.name}.",
            "Enable the imported mesh in renders, or import the shot again.",
        )
    plate_names = {item.name_full for item in plates}
    own = [
        item
        for item in (rendered_objects(scene) if include_cg else ())
        if item.name_full not in plate_names and item.type != "CAMERA"
    ]
    stage = scene.copy()
    made: list[bpy.types.ID] = []
    try:
        stage.name = SCENE_NAME
        empty(stage, active_layer(scene).name)
        apply_exact_settings(stage, engine, include_cg)
        camera = bpy.data.objects.new(SCENE_NAME, bpy.data.cameras.new(SCENE_NAME))
        made += [camera, camera.data]
        stage.collection.objects.link(camera)
        stage.camera = camera
        number = min(max(frame, plate.numbers[0]), plate.numbers[-1])
        walls = _walls(scene, plates, shot, take, number, made)
        edges = None
        if walls is not None:
            edges = load_frame(shot.albedo_file(number), f"{SCENE_NAME} edges")
            made.append(edges)
            if engine == "CYCLES":
                stage.cycles.transparent_max_bounces = MOST_REMOVED_WALLS
        materials: dict[str, bpy.types.Material] = {}
        for item in plates:
            copy = item.copy()
            made.append(copy)
            stage.collection.objects.link(copy)
            cards: dict[int, bpy.types.Material] = {}
            for index, slot in enumerate(copy.material_slots):
                original = slot.material
                if not is_plate_material(original):
                    continue  # what the user painted over the plate is drawn as it is, and counts as seen
                if original.name_full not in materials:
                    material = materials[original.name_full] = conditioning_material(original, walls)
                    made.append(material)
                    if engine == "EEVEE":
                        sample_without_mipmaps(material, ALBEDO_NODE, (plate.width, plate.height))
                if edges is not None:
                    cards[index] = card_material(original)
                    made.append(cards[index])
                slot.link = "OBJECT"  # a slot of the copy, not of the mesh data that it shares with the original
                slot.material = materials[original.name_full]
            if edges is not None and cards:
                modifier = copy.modifiers.new(f"{SCENE_NAME} cards", "NODES")
                modifier.node_group = card_group(f"{SCENE_NAME} cards", edges, shot, cards)
                made.append(modifier.node_group)
        for item in own:
            stage.collection.objects.link(item)
        yield stage, list(materials.values())
    finally:
        bpy.data.scenes.remove(stage)
        bpy.data.batch_remove(made)


def _walls(
    scene: bpy.types.Scene,
    plates: list[bpy.types.Object],
    shot: Shot,
    take: Take,
    number: int,
    made: list[bpy.types.ID],
) -> Walls | None:
    """How far the take draws unseen faces of shot frame `number`, with images added to `made`; None for all the way."""
    if not math.isfinite(take.wall_share):
        return None
    depsgraph = depsgraph_of(scene)
    kept_z = all(SOURCE_Z_ATTRIBUTE in item.evaluated_get(depsgraph).data.attributes for item in plates)
    depth, widths = load_frame(shot.depth_file(number), f"{SCENE_NAME} depth"), None
    made.append(depth)
    if shot.width_file(number).is_file():  # not in a shot of an earlier version
        widths = load_frame(shot.width_file(number), f"{SCENE_NAME} widths")
        made.append(widths)
    return Walls(take.wall_share, depth, widths, shot.require_geometry().intrinsics[0][0], shot.require_plate(), kept_z)
