# SPDX-License-Identifier: GPL-3.0-or-later
"""The courtyard: what stands where, in which material. Camera at the origin looks along +y, x right, z up, metres."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import bpy
import numpy as np
from mathutils import Matrix, Vector

from . import figure
from .materials import coated, palette, sky
from .objects import add, carve
from .props import barrel, bench, crate, lamp_post, potted, roof_tiles, window
from .shapes import (
    Floats,
    Shape,
    arch_outline,
    blocks,
    ellipsoid,
    joined,
    lathe,
    leaves,
    prism,
    transform,
    tree,
)

SEED = 20
SUN_FROM = np.array([0.74, -0.42, 0.60])  # towards the sun
WALK_START = np.array([-1.05, 5.55])
WALK_HEADING = np.radians(7)  # from +x, away from the camera
FAR_WALL, SIDE_WALL = 17.0, -3.3  # y of the wall with the arch, x of the house on the left


@dataclass
class Scene:
    """What the renderer needs to pose a frame."""

    walker: dict[str, Any]
    crown: Any
    crown_rest: Floats


def ground(rng: np.random.Generator, m: dict[str, Any]) -> None:
    """Hewn flagstones in courses, earth between them, fallen leaves on top."""
    centres, sizes = [], []
    y = 2.2
    while y < 28.0:
        depth = rng.uniform(0.24, 0.38)
        x = -5.0 + rng.uniform(0, 0.4)
        while x < 9.0:
            width = rng.uniform(0.28, 0.66)
            centres.append((x + width / 2, y + depth / 2, -0.06 + rng.normal(0, 0.0035)))
            sizes.append((width - 0.016, depth - 0.016, 0.12))
            x += width
        y += depth
    turns = rng.normal(0, 0.006, (len(centres), 3))
    add("paving", blocks(centres, sizes, 0.014, turns, 0.006, SEED), m["paving"])
    earth = Shape(np.array([(-60, -20, -0.02), (60, -20, -0.02), (60, 60, -0.02), (-60, 60, -0.02)]), [(0, 1, 2, 3)])
    add("earth", earth, m["joints"])
    places = np.c_[rng.uniform(-3, 4.5, 170), rng.uniform(3.5, 16, 170), np.full(170, 0.012)]
    drift = np.c_[rng.normal(1.6, 1.0, 120), rng.normal(8.2, 1.1, 120), np.full(120, 0.014)]
    flat = rng.normal(0, 1, (290, 3)) * [1, 1, 0.12]
    add("fallen leaves", leaves(np.concatenate([places, drift]), 0.075, rng, flat, 0.05), m["dry leaf"])


def arched_wall(rng: np.random.Generator, m: dict[str, Any]) -> None:
    """The wall across the back with its stone archway and tiled coping."""
    centre, width, spring, height = 0.35, 2.3, 2.05, 4.1
    wall = add(
        "garden wall",
        prism([(-0.1, 0), (9, 0), (9, height), (-0.1, height)], 0, 0.6),
        m["cream"],
        transform((SIDE_WALL, FAR_WALL, 0)),
        False,
    )
    shift = -SIDE_WALL
    carve(wall, [prism(arch_outline(centre + shift, width, spring), -0.3, 0.9)], 0.02)
    count, radius = 15, width / 2 + 0.17
    angle = (np.arange(count) + 0.5) / count * np.pi
    centres = np.c_[centre + radius * np.cos(angle), np.full(count, FAR_WALL + 0.25), spring + radius * np.sin(angle)]
    sizes = np.tile([0.36, 0.72, radius * np.pi / count - 0.014], (count, 1))
    sizes[count // 2] += [0.12, 0.08, 0.03]
    turns = np.c_[np.zeros(count), -angle, np.zeros(count)]
    jambs, jamb_sizes = [], []
    for side in (-1, 1):
        for row, z in enumerate(np.arange(0.17, spring, 0.342)):
            wide = 0.36 if row % 2 else 0.50
            jambs.append((centre + side * (width / 2 - 0.01 + wide / 2), FAR_WALL + 0.25, z))
            jamb_sizes.append((wide, 0.70, 0.33))
    stones = joined([blocks(centres, sizes, 0.018, turns, 0.006, 3), blocks(jambs, jamb_sizes, 0.018, None, 0.006, 4)])
    add("arch stones", stones, m["stone"])
    coping = roof_tiles(9.0, 2, rng)
    add("coping", coping, m["tiles"], transform((SIDE_WALL, FAR_WALL - 0.14, height + 0.02)))
    add("cornice", blocks([(SIDE_WALL + 4.5, FAR_WALL + 0.25, height - 0.03)], [(9.2, 0.86, 0.12)], 0.02), m["stone"])
    frame = transform((5.3, FAR_WALL, 0), (0, 0, -np.pi / 2))
    right = add(
        "right wall",
        prism([(0, 0), (9, 0), (9, 2.7), (0, 2.7)], 0, 0.45),
        m["rose"],
        frame,
        False,
    )
    right.modifiers.new("edges", "BEVEL").width = 0.03
    add("right coping", roof_tiles(9.0, 1, rng), m["tiles"], frame @ transform((0, -0.1, 2.72)))
    places = climbing(rng, rng.uniform(0.4, 5.0, 16), 42, 7)
    add("right ivy", leaves(places, 0.09, rng, np.array([0, -0.6, -0.5]), 0.55, 0.9), m["ivy"], frame)
    bougainvillea(rng, m, height)


def climbing(rng: np.random.Generator, starts: Floats, steps: int, density: int) -> Floats:
    """Places (N, 3) of a climber's leaves on a wall whose face is y = 0, out towards −y; starts: x of its shoots."""
    shape = (len(starts), steps)
    wander = np.cumsum(rng.normal(0.02, 0.08, shape), 1) + starts[:, None]
    rise = np.cumsum(rng.uniform(0.03, 0.09, shape), 1)
    shoots = np.stack([wander, np.full(shape, -0.03), rise], -1).reshape(-1, 3)
    places = np.repeat(shoots, density, 0) + rng.normal(0, 1, (len(shoots) * density, 3)) * [0.13, 0.03, 0.12]
    places[:, 1] = -np.abs(places[:, 1]) - 0.02
    return places


def bougainvillea(rng: np.random.Generator, m: dict[str, Any], height: float) -> None:
    """A flowering climber that has reached the top of the back wall and hangs over it."""
    frame = transform((0, FAR_WALL, 0))
    stems = climbing(rng, rng.normal(-2.75, 0.12, 7), 60, 5)
    crest = rng.normal(0, 1, (3600, 3)) * [0.62, 0.16, 0.34] + [-2.35, -0.12, height - 0.35]
    drape = rng.normal(0, 1, (1500, 3)) * [0.30, 0.12, 0.55] + [-2.75, -0.10, height - 1.2]
    crown = np.concatenate([crest, drape])
    crown[:, 1] = -np.abs(crown[:, 1])
    outward = np.array([0, -0.7, -0.2])
    add("climber leaves", leaves(np.concatenate([stems, crown]), 0.10, rng, outward, 0.6, 0.9), m["ivy"], frame)
    twigs = crown[rng.choice(len(crown), 420, replace=False)] + [0, -0.10, 0.0]
    bracts = (twigs[:, None] + rng.normal(0, 0.045, (420, 9, 3))).reshape(-1, 3)
    add("bracts", leaves(bracts, 0.075, rng, outward, 0.8, 0.75), m["bract"], frame)


def house(rng: np.random.Generator, m: dict[str, Any]) -> None:
    """The house on the left, seen along its front: windows, a door, stone corner, eaves, a lantern and ivy."""
    # In the wall's own frame x runs from far to near, and −y is into the courtyard (+x of the world).
    frame = transform((SIDE_WALL, 0, 0), (0, 0, np.pi / 2))
    height = 6.0
    wall = add(
        "house",
        prism([(0, 0), (FAR_WALL + 0.3, 0), (FAR_WALL + 0.3, height), (0, height)], 0, 3.0),
        m["ochre"],
        frame,
        False,
    )
    cutters = []
    for x, z, flowers in (
        (15.2, 3.45, True),
        (12.4, 3.45, False),
        (9.6, 3.45, True),
        (15.3, 1.0, False),
        (10.2, 1.0, True),
    ):
        place = transform((x, 0, z))
        cutter = window(m, frame @ place, 0.9, 1.45, rng, flowers)
        cutters.append(cutter.moved(place))
    door = transform((12.9, 0, 0))
    cutters.append(prism(arch_outline(0, 1.15, 1.75), -0.2, 0.3).moved(door))
    planks = [(x, 0.24, 1.15) for x in np.arange(-0.5, 0.51, 0.145)]
    add("door", blocks(planks, [(0.14, 0.06, 2.5)], 0.008), m["shutter"], frame @ door)
    angle = (np.arange(9) + 0.5) / 9 * np.pi
    surround = np.c_[0.66 * np.cos(angle), np.full(9, 0.06), 1.75 + 0.66 * np.sin(angle)]
    jambs = [(s * 0.67, 0.06, z) for s in (-1, 1) for z in np.arange(0.17, 1.7, 0.345)]
    stones = [
        blocks(surround, [(0.2, 0.24, 0.22)], 0.012, np.c_[np.zeros(9), -angle, np.zeros(9)], 0.004),
        blocks(jambs, [(0.2, 0.24, 0.335)], 0.012, None, 0.004),
        blocks([(0, -0.16, 0.07)], [(1.7, 0.5, 0.14)], 0.02, None, 0.006),
    ]
    add("door stones", joined(stones), m["stone"], frame @ door)
    carve(wall, cutters, 0.012)
    plinth = [(x, -0.02, 0.24) for x in np.arange(0.4, FAR_WALL, 0.8) if abs(x - 12.9) > 1.1]
    add("plinth", blocks(plinth, [(0.79, 0.12, 0.48)], 0.02, None, 0.008), m["stone"], frame)
    add("eaves", roof_tiles(FAR_WALL + 0.4, 3, rng), m["tiles"], frame @ transform((0, -0.55, height + 0.0)))
    rafters = [(x, -0.2, height - 0.04) for x in np.arange(0.3, FAR_WALL, 0.55)]
    add("rafters", blocks(rafters, [(0.09, 0.7, 0.11)], 0.01), m["oak"], frame)
    places = climbing(rng, rng.uniform(7.4, 9.0, 12), 60, 7)
    add("ivy", leaves(places, 0.085, rng, np.array([0, -0.6, -0.5]), 0.55, 0.9), m["ivy"], frame)


def trees(rng: np.random.Generator, m: dict[str, Any]) -> tuple[Any, Floats]:
    """The plane tree in its stone ring, and one off camera that dapples the foreground; returns the crown."""
    wood, tips = tree(np.random.default_rng(SEED + 3), 2.35, 0.85)
    place = transform((2.0, 8.6, 0.3), (0, 0, 1.0))
    add("tree", wood, m["bark"], place)
    clumps = np.repeat(tips, 32, 0) + rng.normal(0, 0.20, (len(tips) * 32, 3))
    foliage_shape = leaves(clumps, 0.125, rng, np.array([0, 0, -0.35]), 0.6)
    crown = add("crown", foliage_shape, m["leaf"], place)
    off_camera = transform((7.6, 1.9, 0.2), (0, 0, 2.2))
    add("shading tree", wood, m["bark"], off_camera)
    add("shading crown", foliage_shape, m["leaf"], off_camera)
    angle = np.arange(14) / 14 * 2 * np.pi
    kerb = np.c_[2.0 + 0.78 * np.cos(angle), 8.6 + 0.78 * np.sin(angle), np.full(14, 0.2)]
    add("kerb", blocks(kerb, [(0.26, 0.35, 0.4)], 0.025, np.c_[np.zeros((14, 2)), angle], 0.012, 5), m["stone"])
    add("tree bed", lathe([(0.72, 0.26), (0.4, 0.32), (0.01, 0.34)], 30), m["soil"], transform((2.0, 8.6, 0)))
    round_trunk, reach = rng.uniform(0, 2 * np.pi, 800), 0.68 * np.sqrt(rng.uniform(0.1, 1, 800))
    grass = np.c_[2.0 + reach * np.cos(round_trunk), 8.6 + reach * np.sin(round_trunk), np.full(800, 0.29)]
    add("grass", leaves(grass, 0.17, rng, np.array([0, 0, 1.0]), 0.28, 3.5), m["leaf"])
    return crown, foliage_shape.vertices


def beyond(rng: np.random.Generator, m: dict[str, Any]) -> None:
    """Behind the arch: the street's far house, a bell tower, cypresses and a hedge against the sky."""
    far = add(
        "far house",
        prism([(-4.2, 0), (4.2, 0), (4.2, 6.0), (-4.2, 6.0)], 0, 3),
        m["rose"],
        transform((2.9, 25.2, 0)),
        False,
    )
    cutters = []
    for x, z in ((-3.0, 0.9), (-2.0, 3.6), (0.2, 3.6), (2.4, 3.6), (-0.6, 0.9)):
        place = transform((x, 0, z))
        cutters.append(window(m, transform((2.9, 25.2, 0)) @ place, 0.8, 1.4, rng, False).moved(place))
    carve(far, cutters, 0.012)
    add("far roof boards", blocks([(2.9, 25.8, 6.27)], [(8.8, 2.3, 0.06)], 0.01, [(0.31, 0, 0)]), m["oak"])
    add("far roof", roof_tiles(8.8, 6, rng), m["tiles"], transform((-1.5, 24.8, 6.0)))
    tower = transform((-1.75, 24.6, 0))
    body = add("tower", prism([(-0.95, 0), (0.95, 0), (0.95, 7.3), (-0.95, 7.3)], 0, 1.9), m["cream"], tower, False)
    carve(body, [prism(arch_outline(0, 0.75, 0.85), -0.3, 2.2).moved(transform((0, 0, 5.85)))], 0.02)
    bands = [(0, 0.95, 5.5), (0, 0.95, 7.3)]
    add("bands", blocks(bands, [(2.1, 2.1, 0.16), (2.25, 2.25, 0.22)], 0.03), m["stone"], tower)
    add(
        "spire",
        lathe([(1.5, 7.4), (1.45, 7.46), (0.02, 8.55)], 4),
        m["tiles"],
        tower @ transform((0, 0.95, 0)) @ transform(turn=(0, 0, np.pi / 4)),
        False,
    )
    add(
        "bell",
        lathe([(0.27, 6.2), (0.2, 6.32), (0.16, 6.55), (0.08, 6.66), (0.01, 6.68)], 24),
        m["iron"],
        tower @ transform((0, 0.95, 0)),
    )
    for x, y, height, girth in ((3.15, 21.5, 7.6, 0.62), (4.3, 23.0, 6.6, 0.6), (-3.0, 21.5, 6.9, 0.55)):
        count = 5200
        up = rng.uniform(0, 1, count)
        radius = girth * np.sin(np.pi * np.clip(up * 0.93 + 0.07, 0, 1) ** 0.62) * np.sqrt(rng.uniform(0.3, 1, count))
        turn = rng.uniform(0, 2 * np.pi, count)
        places = np.c_[x + radius * np.cos(turn), y + radius * np.sin(turn), 0.3 + up * (height - 0.3)]
        add("cypress", leaves(places, 0.24, rng, np.array([0, 0, 1.0]), 0.35, 2.0), m["cypress"])
    hedge = np.c_[rng.uniform(-3, 3.5, 5000), rng.normal(23.6, 0.25, 5000), rng.uniform(0, 1.15, 5000)]
    add("hedge", leaves(hedge, 0.12, rng, np.array([0, -0.5, 0.6]), 0.7), m["ivy"])


def light_and_camera(scene: Any) -> None:
    """Sun, sky, and a tripod at eye height with a 40° lens."""
    towards = SUN_FROM / np.linalg.norm(SUN_FROM)
    lamp: Any = bpy.data.lights.new("sun", "SUN")
    lamp.energy, lamp.angle, lamp.color = 7.5, np.radians(0.9), (1.0, 0.86, 0.67)
    sun = bpy.data.objects.new("sun", lamp)
    sun.rotation_mode = "QUATERNION"
    sun.rotation_quaternion = Vector(towards.tolist()).to_track_quat("Z", "Y")
    scene.collection.objects.link(sun)
    scene.world = bpy.data.worlds.new("sky")
    sky(scene.world, float(np.arcsin(towards[2])), float(np.arctan2(towards[0], towards[1])), 0.1)
    data: Any = bpy.data.cameras.new("camera")
    data.sensor_fit, data.angle = "HORIZONTAL", np.radians(40)
    data.dof.use_dof, data.dof.focus_distance, data.dof.aperture_fstop = True, 6.0, 8.0
    camera = bpy.data.objects.new("camera", data)
    camera.location, camera.rotation_euler = (0, 0, 1.58), (np.radians(90 - 0.6), 0, 0)
    scene.collection.objects.link(camera)
    scene.camera = camera


def build() -> Scene:
    """Make the whole scene in an empty file; the same every time."""
    rng = np.random.default_rng(SEED)
    scene = bpy.context.scene
    m = palette()
    ground(rng, m)
    house(rng, m)
    arched_wall(rng, m)
    beyond(rng, m)
    crown, crown_rest = trees(rng, m)
    bench(m, transform((1.75, 7.15, 0), (0, 0, 0.12)))
    barrel(m, transform((-2.72, 9.9, 0)))
    barrel(m, transform((-2.62, 10.75, 0), (0, 0, 0.7)))
    crate(m, transform((-2.15, 9.35, 0.0), (0, 0, 0.3)), 0.62, 0.42, 0.36)
    crate(m, transform((-2.2, 9.38, 0.365), (0, 0, 0.05)), 0.58, 0.42, 0.32)
    lamp_post(m, transform((-1.35, 12.6, 0)))
    add(
        "foreground step",
        blocks([(-0.86, 3.55, 0.14), (-0.86, 3.55, 0.36)], [(0.72, 0.72, 0.28), (0.56, 0.56, 0.16)], 0.03, None, 0.008),
        m["stone"],
    )
    potted(m, rng, (-0.86, 3.55, 0.44), 0.78, "lavender")
    potted(m, rng, (-1.35, 16.4, 0), 1.25, "olive")
    potted(m, rng, (2.05, 16.4, 0), 1.25, "olive")
    potted(m, rng, (-2.8, 12.0, 0), 0.9, "shrub")
    potted(m, rng, (-2.75, 14.1, 0), 1.0, "shrub")
    potted(m, rng, (3.3, 10.3, 0), 1.0, "shrub")
    potted(m, rng, (3.9, 11.2, 0), 1.2, "olive")
    fruit = np.c_[rng.uniform(-0.24, 0.24, (40, 1)), rng.uniform(-0.15, 0.15, (40, 1)), rng.uniform(0.6, 0.68, (40, 1))]
    oranges = joined([ellipsoid((0.045, 0.045, 0.042), segments=16).moved(transform(p)) for p in fruit])
    add("oranges", oranges, coated("orange", (0.80, 0.28, 0.03), 0.4), transform((-2.2, 9.38, 0), (0, 0, 0.05)))
    light_and_camera(scene)
    cloth = {
        "coat": coated("coat", (0.40, 0.014, 0.016), 0.55, 0.25, 0.15),
        "sleeves": coated("sleeves", (0.40, 0.014, 0.016), 0.55, 0.25, 0.15),
        "hands": coated("skin", (0.62, 0.36, 0.25), 0.5),
        "trousers": coated("denim", (0.035, 0.055, 0.11), 0.85, 0.4),
        "boots": coated("rubber", (0.055, 0.09, 0.05), 0.32),
        "face": coated("face", (0.62, 0.36, 0.25), 0.5),
        "hair": coated("hair", (0.06, 0.03, 0.016), 0.5, 0.5),
        "scarf": coated("scarf", (0.60, 0.48, 0.30), 0.9, 0.6, 0.4),
        "bag": coated("leather", (0.24, 0.12, 0.05), 0.45, 0.15),
        "buttons": coated("button", (0.62, 0.50, 0.33), 0.35),
        "straps": coated("strap", (0.11, 0.05, 0.022), 0.5),
    }
    walker = {part: add(part, shape, cloth[part]) for part, shape in figure.pose(0.0).items()}
    shell = walker["coat"].modifiers.new("cloth", "SOLIDIFY")
    shell.thickness, shell.offset = 0.008, -1
    return Scene(walker, crown, crown_rest)


def pose(built: Scene, seconds: float) -> None:
    """Set the figure and the wind in the leaves to a time."""
    heading = np.array([np.cos(WALK_HEADING), np.sin(WALK_HEADING)])
    at = WALK_START + heading * figure.SPEED * seconds
    place = Matrix(transform((*at, 0.0), (0, 0, WALK_HEADING)).tolist())
    for part, shape in figure.pose(seconds).items():
        item = built.walker[part]
        item.matrix_world = place
        item.data.vertices.foreach_set("co", shape.vertices.astype(np.float32).ravel())
        item.data.update()
    rest = built.crown_rest
    gust = 2 * np.pi * 0.55 * seconds + rest[:, 0] * 1.7 + rest[:, 2] * 0.9
    leaf = np.repeat(np.arange(len(rest) // 5) * 2.399, 5)  # golden angle: neighbours flutter out of step
    sway = np.stack([np.sin(gust) * 0.014, np.cos(gust * 0.9) * 0.010, np.sin(2.1 * gust + leaf) * 0.006], -1)
    built.crown.data.vertices.foreach_set("co", (rest + sway).astype(np.float32).ravel())
    built.crown.data.update()
