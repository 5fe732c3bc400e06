# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

import math
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest

bpy = pytest.importorskip("bpy")

Addon = Callable[[str], Any]
SIZE = (96, 64)
# How alike the engine's pictures are and Blender's, overlap of the masks and dB: at borders of walls and cards
# rounding decides, and a fence has little else. Measured in 4.2 and 5.0: 0.9986 and 39.2, the fence 0.9910 and
# 32.8, an earlier version's shot and closed walls 0.9994 and 46.2.
ALIKE = {"none": (0.998, 38.0), "fence": (0.99, 32.0), "earlier": (0.998, 40.0)}


@pytest.fixture
def source_take(addon: Addon) -> Callable[..., Any]:
    """A take through the imported source camera itself, as an operator makes it."""

    def make(shot: Any, imported: Any, wall_share: float = math.inf) -> Any:
        scene = bpy.context.scene
        frames = addon("ex4d_blender.camera_sampling").camera_frames(
            scene, imported.camera_object, shot, shot.plate.numbers, SIZE
        )
        return addon("ex4d_engine.take").new_take(
            shot, frames, SIZE, first=shot.plate.first, fps=shot.plate.fps, wall_share=wall_share
        )

    return make


def orbit_take(addon: Addon, shot: Any, degrees: float, wall_share: float = math.inf) -> Any:
    trajectories = addon("ex4d_engine.trajectories")
    path = trajectories.along(shot, trajectories.orbit(4, degrees, 3.0, pitch_deg=degrees / 4))
    return addon("ex4d_engine.take").new_take(
        shot, path.frames, SIZE, first=shot.plate.first, fps=Fraction(25), wall_share=wall_share
    )


def read(addon: Addon, take: Any, layer: str, number: int) -> np.ndarray:
    return addon("ex4d_blender.pixel_files").read_rgba(take.file(layer, number))[..., :3]


def psnr(one: np.ndarray, two: np.ndarray) -> float:
    error = float(np.mean((one.astype(float) - two.astype(float)) ** 2))
    return math.inf if error == 0 else 10 * math.log10(255**2 / error)


@pytest.mark.parametrize("wall_share", [math.inf, 0.25])
@pytest.mark.parametrize(("kind", "engine"), [("none", "CYCLES"), ("poses", "CYCLES"), ("poses", "EEVEE")])
def test_source_camera_gives_the_plate_back(
    addon: Addon, new_shot: Any, source_take: Any, kind: str, engine: str, wall_share: float
) -> None:
    """Border included: the edge ring carries it."""
    shot = new_shot(kind)
    scene = bpy.context.scene
    imported = addon("ex4d_blender.mesh_import").import_shot(shot, scene)
    take = source_take(shot, imported, wall_share)
    done = addon("ex4d_blender.conditioning").render_conditioning(
        scene, imported, shot, take, include_cg=False, engine=engine
    )
    assert done.conditioning == "blender" and not done.missing("color") and not done.missing("mask")
    for number in take.numbers:
        plate = addon("ex4d_blender.pixel_files").read_rgba(shot.plate_file(number))[..., :3].astype(int)
        color, mask = (read(addon, take, layer, number) for layer in ("color", "mask"))
        assert (mask == 255).all()
        assert abs(color.astype(int) - plate).max() <= 1


@pytest.mark.parametrize(
    ("kind", "wall_share"), [("none", math.inf), ("none", 0.25), ("fence", 0.25), ("earlier", 0.25)]
)
@pytest.mark.parametrize("engine", ["CYCLES", "EEVEE"])
def test_orbit_agrees_with_the_engine(
    addon: Addon, new_shot: Any, run_engine: Any, engine: str, kind: str, wall_share: float
) -> None:
    """Through a fence a line of sight crosses dozens of walls that have ended, and nearly all pixels have cards."""
    overlap, alike = ALIKE[kind]
    shot = new_shot(kind)
    scene = bpy.context.scene
    imported = addon("ex4d_blender.mesh_import").import_shot(shot, scene)
    imported.mesh_object.material_slots[0].material.surface_render_method = "BLENDED"  # an artist's choice
    one, two = (orbit_take(addon, shot, 40.0, wall_share) for _ in range(2))
    run_engine("render", shot.root, one.name)
    addon("ex4d_blender.conditioning").render_conditioning(scene, imported, shot, two, include_cg=False, engine=engine)
    for number in one.numbers:
        masks = [read(addon, take, "mask", number)[..., 0] > 127 for take in (one, two)]
        colors = [read(addon, take, "color", number) for take in (one, two)]
        both = masks[0] & masks[1]
        assert both.sum() >= overlap * (masks[0] | masks[1]).sum()
        assert psnr(colors[0][both], colors[1][both]) >= alike
        assert not colors[1][~masks[1]].any()


def drawn_mask(addon: Addon, shot: Any, imported: Any, wall_share: float) -> np.ndarray:
    """Where Cycles shows the plate in the last frame of an orbit."""
    take = orbit_take(addon, shot, 40.0, wall_share)
    addon("ex4d_blender.conditioning").render_conditioning(
        bpy.context.scene, imported, shot, take, include_cg=False, engine="CYCLES"
    )
    mask: np.ndarray = read(addon, take, "mask", take.numbers[-1])[..., 0] > 127
    return mask


def test_walls_end_where_they_did_when_their_faces_are_cut_smaller(addon: Addon, new_shot: Any) -> None:
    shot = new_shot()
    imported = addon("ex4d_blender.mesh_import").import_shot(shot, bpy.context.scene)
    closed, short = (drawn_mask(addon, shot, imported, share) for share in (math.inf, 0.25))
    assert short.sum() > 1.5 * closed.sum()
    cut = imported.mesh_object.modifiers.new("cut", "SUBSURF")
    cut.subdivision_type, cut.render_levels, cut.uv_smooth = "SIMPLE", 1, "NONE"
    again = drawn_mask(addon, shot, imported, 0.25)
    assert (short & again).sum() >= 0.995 * (short | again).sum()


@pytest.mark.parametrize("moved", [0.5, -0.5])
def test_faces_that_are_moved_keep_their_walls(addon: Addon, new_shot: Any, moved: float) -> None:
    """Without, what is pushed back by more than the walls' share would have none at all."""
    shot = new_shot()
    imported = addon("ex4d_blender.mesh_import").import_shot(shot, bpy.context.scene)
    displace = imported.mesh_object.modifiers.new("moved", "DISPLACE")
    displace.direction, displace.strength, displace.mid_level = "Z", moved, 0.0
    closed, short, none = (drawn_mask(addon, shot, imported, share) for share in (math.inf, 0.25, 1e-4))
    assert closed.sum() < short.sum() < none.sum()


def recoloured(material: Any) -> None:
    """Exchanges red and blue between a plate material's albedo and its emission."""
    tree = material.node_tree
    link = next(link for link in tree.links if link.from_node.name == "EX-4D Albedo")
    target, source = link.to_socket, link.from_socket
    parts, again = tree.nodes.new("ShaderNodeSeparateColor"), tree.nodes.new("ShaderNodeCombineColor")
    tree.links.new(source, parts.inputs[0])
    for channel in range(3):
        tree.links.new(parts.outputs[channel], again.inputs[2 - channel])
    tree.links.new(again.outputs[0], target)


@pytest.mark.parametrize("own_first", [False, True])
def test_cards_have_the_artist_s_colours(addon: Addon, new_shot: Any, source_take: Any, own_first: bool) -> None:
    """own_first: a material of the user's own has the plate's slot, and the plate's the one after it."""
    shot = new_shot()
    scene = bpy.context.scene
    imported = addon("ex4d_blender.mesh_import").import_shot(shot, scene)
    mesh = imported.mesh_object.data
    recoloured(mesh.materials[0])
    if own_first:
        mesh.materials.append(mesh.materials[0])
        mesh.materials[0] = bpy.data.materials.new("own")
        mesh.polygons.foreach_set("material_index", np.ones(len(mesh.polygons), np.int32))
    take = source_take(shot, imported, 0.25)
    addon("ex4d_blender.conditioning").render_conditioning(scene, imported, shot, take, include_cg=False)
    plate = addon("ex4d_blender.pixel_files").read_rgba(shot.plate_file(1002))[..., 2::-1].astype(int)
    assert (read(addon, take, "mask", 1002) == 255).all()
    assert abs(read(addon, take, "color", 1002).astype(int) - plate).max() <= 1


def test_what_the_user_painted_over_has_no_cards(addon: Addon, new_shot: Any, source_take: Any) -> None:
    shot = new_shot("fence")
    scene = bpy.context.scene
    imported = addon("ex4d_blender.mesh_import").import_shot(shot, scene)
    mesh = imported.mesh_object.data
    green = bpy.data.materials.new("green")
    green.use_nodes = True
    green.node_tree.nodes.clear()
    emission = green.node_tree.nodes.new("ShaderNodeEmission")
    emission.inputs["Color"].default_value = (0.0, 1.0, 0.0, 1.0)
    output = green.node_tree.nodes.new("ShaderNodeOutputMaterial")
    green.node_tree.links.new(emission.outputs[0], output.inputs["Surface"])
    mesh.materials.append(green)
    column = np.arange(len(mesh.polygons)) // 2 % (SIZE[0] + 3)  # of cells
    mesh.polygons.foreach_set("material_index", (column < SIZE[0] // 2).astype(np.int32))
    take = source_take(shot, imported, 0.25)
    addon("ex4d_blender.conditioning").render_conditioning(scene, imported, shot, take, include_cg=False)
    assert (read(addon, take, "color", 1001)[:, : SIZE[0] // 2 - 4] == (0, 255, 0)).all()


def test_a_baked_mesh_has_no_cards(addon: Addon, new_shot: Any, tmp_path: Path) -> None:
    """It does not know its pixels any longer; its walls still end."""
    shot = new_shot()
    scene = bpy.context.scene
    module = addon("ex4d_blender.mesh_import")
    imported = module.import_shot(shot, scene)
    carded = drawn_mask(addon, shot, imported, 0.25)
    addon("ex4d_blender.mesh_cache").bake_mesh_cache(imported.mesh_object, tmp_path, scene, shot.plate.numbers)
    imported = module.find_imported(scene, shot.root)
    bare, closed = (drawn_mask(addon, shot, imported, share) for share in (0.25, math.inf))
    assert closed.sum() < bare.sum() < carded.sum()


def test_the_reference_s_mesh_keeps_its_walls(addon: Addon, new_shot: Any) -> None:
    shot = new_shot("reference")
    imported = addon("ex4d_blender.mesh_import").import_shot(shot, bpy.context.scene)
    closed, short = (drawn_mask(addon, shot, imported, share) for share in (math.inf, 0.25))
    assert np.array_equal(closed, short)


def file_state() -> dict[str, Any]:
    """Everything that a conditioning render could have changed: settings, objects, materials, what data there is."""
    scene = bpy.context.scene
    bpy.context.view_layer.update()

    def values(block: Any) -> dict[str, str]:
        names = (p.identifier for p in block.bl_rna.properties if not p.is_readonly and p.type != "COLLECTION")
        return {name: str(np.array(v) if hasattr(v := getattr(block, name), "foreach_get") else v) for name in names}

    parts = {
        "scene": scene,
        "render": scene.render,
        "image": scene.render.image_settings,
        "view": scene.view_settings,
        "display": scene.display_settings,
        "cycles": scene.cycles,
        "eevee": scene.eevee,
        "layer": scene.view_layers[0],
    }
    state: dict[str, Any] = {name: values(block) for name, block in parts.items()}
    for item in bpy.data.objects:
        slots = [(slot.link, slot.material.name if slot.material else None) for slot in item.material_slots]
        place = np.array(item.matrix_world).round(6).tolist()
        # Blender 4.2 itself counts a user too many for every copy of a scene, until the file is loaded again
        users = item.users if bpy.app.version >= (4, 3) else 0
        state[item.name] = (item.hide_render, item.hide_viewport, slots, place, users, len(item.users_scene))
    for kind in ("scenes", "objects", "meshes", "materials", "cameras", "images", "worlds", "node_groups", "actions"):
        # Blender keeps the picture of every render under this name
        state[kind] = sorted(block.name for block in getattr(bpy.data, kind) if block.name != "Render Result")
    for material in bpy.data.materials:
        state["tree " + material.name] = (len(material.node_tree.nodes), material.node_tree.nodes.active.name)
    state["frame"] = (scene.frame_current, scene.camera.name, scene.world.name)
    return state


@pytest.fixture
def busy_scene(addon: Addon, new_shot: Any) -> tuple[Any, Any]:
    """A shot imported into a scene that is set up otherwise than the conditioning wants it, with a lit cube."""
    shot = new_shot("poses")
    scene = bpy.context.scene
    scene.world = bpy.data.worlds.new("sky")
    scene.render.resolution_x, scene.render.resolution_y, scene.render.resolution_percentage = 320, 200, 50
    scene.render.film_transparent, scene.render.filepath = False, "//mine.png"
    scene.view_settings.view_transform, scene.view_settings.exposure = "AgX", 1.5
    scene.render.engine, scene.cycles.samples = "CYCLES", 4
    imported = addon("ex4d_blender.mesh_import").import_shot(shot, scene)
    camera = bpy.data.objects.new("mine", bpy.data.cameras.new("mine"))
    scene.collection.objects.link(camera)
    scene.camera = camera
    marker = scene.timeline_markers.new("cut", frame=1002)
    marker.camera = imported.camera_object
    scene.frame_set(1003)
    return shot, imported


def add_cube(name: str, size: float, place: tuple[float, float, float]) -> Any:
    corners = [(x, y, z) for x in (-1, 1) for y in (-1, 1) for z in (-1, 1)]
    faces = [(0, 1, 3, 2), (4, 6, 7, 5), (0, 4, 5, 1), (2, 3, 7, 6), (0, 2, 6, 4), (1, 5, 7, 3)]
    mesh = bpy.data.meshes.new(name)
    mesh.from_pydata([tuple(size / 2 * value for value in corner) for corner in corners], [], faces)
    item = bpy.data.objects.new(name, mesh)
    item.location = place
    bpy.context.scene.collection.objects.link(item)
    return item


@pytest.mark.parametrize("failure", ["", "cancel", "error"])
def test_the_users_file_stays_as_it_was(addon: Addon, busy_scene: Any, monkeypatch: Any, failure: str) -> None:
    shot, imported = busy_scene
    add_cube("cube", 0.3, (0.0, 2.0, 0.0))
    take = orbit_take(addon, shot, 20.0, 0.25)
    conditioning, errors = addon("ex4d_blender.conditioning"), addon("ex4d_engine.errors")
    calls = []

    def check() -> None:
        calls.append(1)
        if failure == "cancel" and len(calls) == 3:
            raise errors.Cancelled

    if failure == "error":

        def broken(*_: object) -> None:
            raise OSError("in the middle, with the temporary scene in place")

        monkeypatch.setattr(conditioning, "_set_clipping", broken)
    before = file_state()
    run = conditioning.render_conditioning
    if failure == "":
        run(bpy.context.scene, imported, shot, take, include_cg=True, check=check)
    else:
        with pytest.raises(errors.Cancelled if failure == "cancel" else OSError):
            run(bpy.context.scene, imported, shot, take, include_cg=True, check=check)
    assert file_state() == before
    finished = {"": 4, "cancel": 2, "error": 0}[failure]
    assert len(take.missing("color")) == len(take.missing("mask")) == 4 - finished
    assert not [path for path in take.root.iterdir() if path.name.startswith(".")]
    stored = addon("ex4d_engine.take").load_take(shot, take.name)
    assert stored.conditioning == ("blender" if failure == "" else "")


def test_finished_frames_are_kept(addon: Addon, new_shot: Any) -> None:
    shot = new_shot()
    imported = addon("ex4d_blender.mesh_import").import_shot(shot, bpy.context.scene)
    take = orbit_take(addon, shot, 20.0)
    steps = addon("ex4d_blender.conditioning").conditioning_steps(
        bpy.context.scene, imported, shot, take, include_cg=False, engine="CYCLES"
    )
    assert next(steps) == (1, 4)
    steps.close()
    written = take.file("color", 1001).stat().st_mtime_ns
    told = []
    addon("ex4d_blender.conditioning").render_conditioning(
        bpy.context.scene, imported, shot, take, include_cg=False, progress=lambda *step: told.append(step)
    )
    assert told == [(2, 4), (3, 4), (4, 4)]
    assert take.file("color", 1001).stat().st_mtime_ns == written


@pytest.mark.parametrize("engine", ["CYCLES", "EEVEE"])
def test_own_objects_are_seen_and_lit_by_own_lamps(addon: Addon, busy_scene: Any, engine: str) -> None:
    shot, imported = busy_scene
    scene = bpy.context.scene
    scene.render.engine = "CYCLES" if engine == "CYCLES" else addon("ex4d_blender.compat").eevee_engine()
    assert addon("ex4d_blender.conditioning").default_engine(scene, True) == engine
    scene.eevee.taa_render_samples = 4
    add_cube("cube", 0.3, tuple(imported.camera_object.matrix_world @ mathutils_vector(0.0, 0.0, -1.5)))
    add_cube("hidden", 0.5, (0.0, 1.2, 0.0)).hide_render = True
    lamp = bpy.data.objects.new("sun", bpy.data.lights.new("sun", "SUN"))
    lamp.matrix_world = imported.camera_object.matrix_world  # it shines where the camera looks
    scene.collection.objects.link(lamp)
    makes = addon("ex4d_engine.take")
    still = addon("ex4d_engine.trajectories").along(shot, addon("ex4d_engine.trajectories").still(1), frozen=1003)
    takes = {}
    for name, include in (("without", False), ("with", True)):
        takes[name] = makes.new_take(shot, still.frames, still.size, first=1001, fps=Fraction(25))
        addon("ex4d_blender.conditioning").render_conditioning(scene, imported, shot, takes[name], include_cg=include)
    lamp.data.energy = 0.0
    scene.world = None
    takes["dark"] = makes.new_take(shot, still.frames, still.size, first=1001, fps=Fraction(25))
    addon("ex4d_blender.conditioning").render_conditioning(scene, imported, shot, takes["dark"], include_cg=True)
    color = {name: read(addon, take, "color", 1001).astype(int) for name, take in takes.items()}
    mask = {name: read(addon, take, "mask", 1001)[..., 0] for name, take in takes.items()}
    # with more samples than one a depth edge may come out a few values off, as the samples lie around the centre
    changed = (abs(color["with"] - color["without"]) > 8).any(axis=-1)
    assert 0.01 < changed.mean() < 0.25  # the cube, and nothing else
    assert changed[32, 48] and not changed[:8].any()
    assert (mask["with"][changed] == 255).all()
    assert np.array_equal(mask["with"][~changed], mask["without"][~changed])
    # the closed mesh lets the sun through, and it is the sun that lights the cube
    assert color["with"][32, 48].mean() > 20
    assert color["dark"][32, 48].mean() < 2


def mathutils_vector(*values: float) -> Any:
    from mathutils import Vector

    return Vector(values)


def test_baked_mesh_gives_the_plate_back_too(addon: Addon, new_shot: Any, source_take: Any, tmp_path: Path) -> None:
    shot = new_shot("poses")
    scene = bpy.context.scene
    module = addon("ex4d_blender.mesh_import")
    imported = module.import_shot(shot, scene)
    addon("ex4d_blender.mesh_cache").bake_mesh_cache(imported.mesh_object, tmp_path, scene, shot.plate.numbers)
    imported = module.find_imported(scene, shot.root)
    take = source_take(shot, imported)
    addon("ex4d_blender.conditioning").render_conditioning(scene, imported, shot, take, include_cg=False)
    plate = addon("ex4d_blender.pixel_files").read_rgba(shot.plate_file(1004))[..., :3]
    assert (read(addon, take, "mask", 1004) == 255).all()
    assert abs(read(addon, take, "color", 1004).astype(int) - plate).max() <= 1


def test_moved_and_hidden_meshes_are_drawn_as_they_are(addon: Addon, new_shot: Any) -> None:
    shot = new_shot()
    scene = bpy.context.scene
    imported = addon("ex4d_blender.mesh_import").import_shot(shot, scene)
    conditioning = addon("ex4d_blender.conditioning")
    pictures = []
    for change in ("none", "moved"):
        if change == "moved":
            imported.mesh_object.location.z += 0.5
        take = orbit_take(addon, shot, 0.0)
        conditioning.render_conditioning(scene, imported, shot, take, include_cg=False)
        pictures.append(read(addon, take, "color", 1001))
    assert psnr(*pictures) < 25
    imported.mesh_object.hide_render = True
    with pytest.raises(addon("ex4d_engine.errors").Ex4dError) as caught:
        conditioning.render_conditioning(scene, imported, shot, orbit_take(addon, shot, 0.0), include_cg=False)
    assert caught.value.code == "take_incomplete"
