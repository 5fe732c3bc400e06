# SPDX-License-Identifier: GPL-3.0-or-later
"""Procedural Cycles materials and the sky of the demo scene."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import bpy

Colour = Sequence[float]
CLOUD_RADIANCE = 9.0  # in the sky texture's own units, about twice its blue near the horizon


class Graph:
    """Terse building of a node tree: `add` makes a node, sets its properties and its inputs (values or sockets)."""

    def __init__(self, tree: Any) -> None:
        self.tree = tree
        tree.nodes.clear()

    def add(self, kind: str, inputs: dict[str | int, Any] | None = None, **properties: Any) -> Any:
        """A new node; inputs are keyed by socket name or index."""
        node = self.tree.nodes.new("ShaderNode" + kind)
        for name, value in properties.items():
            setattr(node, name, value)
        for key, value in (inputs or {}).items():
            socket = node.inputs[key]
            if isinstance(value, bpy.types.NodeSocket):
                self.tree.links.new(value, socket)
            elif socket.type == "RGBA" and len(value) == 3:
                socket.default_value = (*value, 1.0)
            else:
                socket.default_value = value
        return node

    def mix(self, factor: Any, a: Any, b: Any, blend: str = "MIX") -> Any:
        """Colour mix of two sockets or colours."""
        # A Mix node has one set of sockets per data type under the same names; 0, 6 and 7 are the colour ones.
        node = self.add("Mix", {0: factor, 6: a, 7: b}, data_type="RGBA", blend_type=blend)
        return node.outputs[2]

    def noise(self, vector: Any, scale: float, detail: float = 5.0, roughness: float = 0.6) -> Any:
        """Noise factor in about 0.25 to 0.75."""
        node = self.add("TexNoise", {"Vector": vector, "Scale": scale, "Detail": detail, "Roughness": roughness})
        return node.outputs["Fac"]

    def step(self, value: Any, low: float, high: float, to_low: float = 0.0, to_high: float = 1.0) -> Any:
        """Smooth ramp of a factor from `low` to `high`."""
        node = self.add(
            "MapRange",
            {"Value": value, "From Min": low, "From Max": high, "To Min": to_low, "To Max": to_high},
            interpolation_type="SMOOTHSTEP",
        )
        return node.outputs["Result"]


def _new(name: str) -> tuple[Any, Graph]:
    material = bpy.data.materials.new(name)
    material.use_nodes = True
    return material, Graph(material.node_tree)


def _finish(graph: Graph, shader: Any) -> None:
    graph.add("OutputMaterial", {"Surface": shader})


def surface(
    name: str,
    dark: Colour,
    light: Colour,
    *,
    scale: float = 6.0,
    stretch: Colour = (1, 1, 1),
    roughness: float = 0.7,
    bump: float = 0.3,
    variation: float = 0.25,
    grime: float = 0.35,
    metallic: float = 0.0,
    use_grain: bool = False,
) -> Any:
    """The all-round material: two colours through noise, brightness varying per loose part, grime, bump.

    stretch scales the noise per axis (wood: small along x, with use_grain so that x follows each plank).
    """
    material, g = _new(name)
    if use_grain:
        place = g.add("Attribute", attribute_name="grain").outputs["Vector"]
    else:
        place = g.add("NewGeometry").outputs["Position"]
    world = g.add("NewGeometry")
    vector = g.add("Mapping", {"Vector": place, "Scale": stretch}).outputs["Vector"]
    coarse = g.noise(vector, scale, 6.0)
    fine = g.noise(vector, scale * 9, 3.0)
    colour = g.mix(g.step(coarse, 0.35, 0.65), dark, light)
    colour = g.mix(g.step(fine, 0.35, 0.7, 0.0, 0.35), colour, [c * 0.6 for c in dark])
    island = world.outputs["Random Per Island"]
    value = g.step(island, 0, 1, 1 - variation, 1 + variation)
    hue = g.step(g.noise(world.outputs["Position"], 0.7, 3.0), 0.3, 0.7, 0.492, 0.508)
    colour = g.add("HueSaturation", {"Color": colour, "Value": value, "Hue": hue}).outputs["Color"]
    stain = g.step(g.noise(world.outputs["Position"], 1.3, 8.0, 0.65), 0.5, 0.72, 0.0, grime)
    colour = g.mix(stain, colour, (0.05, 0.045, 0.035))
    height = g.add("Math", {0: coarse, 1: fine}, operation="MULTIPLY_ADD")
    height.inputs[2].default_value = 0.0
    normal = g.add("Bump", {"Height": height.outputs[0], "Strength": bump, "Distance": 0.02}).outputs["Normal"]
    rough = g.step(coarse, 0.3, 0.7, max(0.05, roughness - 0.12), min(1.0, roughness + 0.1))
    shader = g.add("BsdfPrincipled", {"Base Color": colour, "Roughness": rough, "Metallic": metallic, "Normal": normal})
    _finish(g, shader.outputs[0])
    return material


def plaster(name: str, paint: Colour, under: Colour) -> Any:
    """Old lime plaster: painted, rain-streaked, darker at its foot, fallen off in places to show brick."""
    material, g = _new(name)
    coords = g.add("TexCoord").outputs["Object"]
    split = g.add("SeparateXYZ", {"Vector": coords})
    streaks = g.noise(g.add("Mapping", {"Vector": coords, "Scale": (5, 5, 0.35)}).outputs[0], 1.0, 6.0)
    cloud = g.noise(coords, 0.55, 8.0, 0.62)
    fine = g.noise(coords, 22.0, 6.0)
    colour = g.mix(g.step(cloud, 0.35, 0.68), paint, under)
    colour = g.mix(g.step(streaks, 0.46, 0.72, 0.0, 0.45), colour, [c * 0.45 for c in paint])
    foot = g.add("Math", {0: split.outputs["Z"], 1: g.step(cloud, 0.3, 0.7, -0.5, 0.5)}, operation="ADD").outputs[0]
    colour = g.mix(g.step(foot, 1.3, 0.0, 0.0, 0.65), colour, (0.13, 0.10, 0.075))
    flat = g.add("CombineXYZ", {"X": split.outputs["X"], "Y": split.outputs["Z"]}).outputs[0]
    bricks = g.add(
        "TexBrick",
        {
            "Vector": flat,
            "Color1": (0.30, 0.115, 0.065),
            "Color2": (0.20, 0.085, 0.055),
            "Mortar": (0.34, 0.30, 0.25),
            "Scale": 1.0,
            "Mortar Size": 0.010,
            "Mortar Smooth": 0.3,
            "Brick Width": 0.24,
            "Row Height": 0.078,
        },
    )
    ragged = g.add("Math", {0: g.noise(coords, 0.8, 7.0, 0.55), 1: g.step(foot, 1.8, 0.2, 0.0, 0.12)}, operation="ADD")
    bare = g.step(ragged.outputs[0], 0.635, 0.645)
    brick_colour = g.mix(g.step(fine, 0.3, 0.7, 0.0, 0.5), bricks.outputs["Color"], (0.12, 0.07, 0.05))
    colour = g.mix(bare, colour, brick_colour)
    height = g.add("Math", {0: fine, 1: 0.12}, operation="MULTIPLY").outputs[0]
    height = g.add("Math", {0: g.noise(coords, 3.0, 4.0), 1: 0.5, 2: height}, operation="MULTIPLY_ADD").outputs[0]
    height = g.add("Math", {0: bare, 1: -0.5, 2: height}, operation="MULTIPLY_ADD").outputs[0]
    groove = g.add("Math", {0: bare, 1: bricks.outputs["Fac"]}, operation="MULTIPLY").outputs[0]
    height = g.add("Math", {0: groove, 1: -0.3, 2: height}, operation="MULTIPLY_ADD").outputs[0]
    normal = g.add("Bump", {"Height": height, "Strength": 0.7, "Distance": 0.03}).outputs["Normal"]
    shader = g.add("BsdfPrincipled", {"Base Color": colour, "Roughness": 0.88, "Normal": normal})
    _finish(g, shader.outputs[0])
    return material


def foliage(name: str, dark: Colour, light: Colour, translucency: float = 0.45) -> Any:
    """Thin leaves, each its own tone, letting some light through."""
    material, g = _new(name)
    geometry = g.add("NewGeometry")
    island = geometry.outputs["Random Per Island"]
    patch = g.noise(geometry.outputs["Position"], 1.6, 2.0)
    factor = g.mix(0.4, g.add("CombineColor", {0: island, 1: island, 2: island}).outputs[0], patch)
    colour = g.mix(factor, dark, light)
    glossy = g.add("BsdfPrincipled", {"Base Color": colour, "Roughness": 0.5})
    through = g.add("BsdfTranslucent", {"Color": g.mix(0.5, colour, [light[0] * 1.5, light[1] * 1.4, light[2] * 0.7])})
    shader = g.add("MixShader", {0: translucency, 1: glossy.outputs[0], 2: through.outputs[0]})
    _finish(g, shader.outputs[0])
    return material


def coated(name: str, colour: Colour, roughness: float = 0.4, weave: float = 0.0, sheen: float = 0.0) -> Any:
    """Cloth, rubber, skin or paint: one colour with faint unevenness; weave adds a fine thread bump."""
    material, g = _new(name)
    coords = g.add("TexCoord").outputs["Object"]
    uneven = g.noise(coords, 9.0, 4.0)
    tint = g.mix(g.step(uneven, 0.3, 0.7), [c * 0.82 for c in colour], [min(1.0, c * 1.12) for c in colour])
    height = g.noise(coords, 160.0 if weave else 14.0, 2.0)
    normal = g.add("Bump", {"Height": height, "Strength": weave or 0.12, "Distance": 0.004}).outputs["Normal"]
    shader = g.add(
        "BsdfPrincipled", {"Base Color": tint, "Roughness": roughness, "Normal": normal, "Sheen Weight": sheen}
    )
    _finish(g, shader.outputs[0])
    return material


def glow(name: str, colour: Colour, strength: float) -> Any:
    """A lamp's milky glass."""
    material, g = _new(name)
    shader = g.add("BsdfPrincipled", {"Base Color": colour, "Roughness": 0.25, "Emission Strength": strength})
    shader.inputs["Emission Color"].default_value = (*colour, 1.0)
    _finish(g, shader.outputs[0])
    return material


def sky(world: Any, sun_elevation: float, sun_rotation: float, strength: float) -> None:
    """Clear-day sky with a few procedural clouds; the sun itself is a lamp, for less noise. Angles in radians."""
    world.use_nodes = True
    g = Graph(world.node_tree)
    air = g.add("TexSky", sky_type="MULTIPLE_SCATTERING", sun_disc=False)
    air.sun_elevation, air.sun_rotation = sun_elevation, sun_rotation
    ray = g.add("TexCoord").outputs["Generated"]
    split = g.add("SeparateXYZ", {"Vector": ray})
    # Dividing by the height above the horizon lays the clouds on a flat layer, so that they crowd towards the horizon.
    lift = g.add("Math", {0: split.outputs["Z"], 1: 0.12}, operation="ADD").outputs[0]
    layer = [g.add("Math", {0: split.outputs[a], 1: lift}, operation="DIVIDE").outputs[0] for a in "XY"]
    flat = g.add("CombineXYZ", {"X": layer[0], "Y": layer[1]}).outputs[0]
    cover = g.step(g.noise(flat, 0.9, 9.0, 0.6), 0.47, 0.60, 0.0, 0.95)
    fade = g.step(split.outputs["Z"], 0.02, 0.22)
    amount = g.add("Math", {0: cover, 1: fade}, operation="MULTIPLY").outputs[0]
    colour = g.mix(amount, air.outputs[0], (CLOUD_RADIANCE, CLOUD_RADIANCE, CLOUD_RADIANCE * 1.02))
    background = g.add("Background", {"Color": colour, "Strength": strength})
    g.add("OutputWorld", {"Surface": background.outputs[0]})


def palette() -> dict[str, Any]:
    """All materials by name."""
    wood: dict[str, Any] = {"use_grain": True, "stretch": (0.35, 4, 4), "scale": 3.0}
    return {
        "paving": surface("paving", (0.25, 0.205, 0.16), (0.47, 0.40, 0.32), scale=4, roughness=0.72, bump=0.45),
        "joints": surface("joints", (0.07, 0.065, 0.035), (0.15, 0.13, 0.08), scale=9, roughness=0.95, bump=0.8),
        "stone": surface(
            "stone", (0.33, 0.28, 0.21), (0.56, 0.49, 0.38), scale=5, roughness=0.85, bump=0.6, variation=0.16
        ),
        "tiles": surface(
            "tiles", (0.30, 0.095, 0.045), (0.50, 0.20, 0.10), scale=5, bump=0.4, variation=0.35, grime=0.5
        ),
        "terracotta": surface("terracotta", (0.36, 0.125, 0.06), (0.52, 0.22, 0.12), scale=5, bump=0.25, grime=0.3),
        "oak": surface("oak", (0.13, 0.065, 0.03), (0.30, 0.165, 0.08), bump=0.5, roughness=0.6, **wood),
        "pine": surface("pine", (0.33, 0.20, 0.10), (0.52, 0.35, 0.19), bump=0.4, roughness=0.65, **wood),
        "shutter": surface(
            "shutter", (0.045, 0.15, 0.155), (0.085, 0.235, 0.225), bump=0.3, roughness=0.5, variation=0.1, **wood
        ),
        "iron": surface(
            "iron", (0.012, 0.016, 0.015), (0.03, 0.035, 0.032), scale=12, roughness=0.42, bump=0.2, metallic=0.4
        ),
        "bark": surface(
            "bark", (0.075, 0.05, 0.035), (0.24, 0.185, 0.135), scale=4, stretch=(5, 5, 1.0), bump=1.0, roughness=0.9
        ),
        "soil": surface("soil", (0.03, 0.02, 0.014), (0.07, 0.05, 0.035), scale=14, bump=1.0, roughness=0.95),
        "glass": coated("glass", (0.02, 0.03, 0.04), 0.08),
        "lamp": glow("lamp", (0.95, 0.85, 0.68), 0.25),
        "ochre": plaster("ochre plaster", (0.58, 0.33, 0.13), (0.68, 0.47, 0.25)),
        "cream": plaster("cream plaster", (0.67, 0.55, 0.40), (0.76, 0.68, 0.55)),
        "rose": plaster("rose plaster", (0.62, 0.34, 0.25), (0.70, 0.46, 0.36)),
        "leaf": foliage("leaf", (0.035, 0.085, 0.014), (0.17, 0.25, 0.045)),
        "ivy": foliage("ivy", (0.018, 0.060, 0.014), (0.085, 0.16, 0.035), 0.3),
        "olive": foliage("olive", (0.075, 0.11, 0.055), (0.21, 0.25, 0.14), 0.3),
        "cypress": foliage("cypress", (0.012, 0.034, 0.014), (0.05, 0.085, 0.03), 0.2),
        "petal": foliage("petal", (0.50, 0.02, 0.05), (0.80, 0.09, 0.13), 0.35),
        "bract": foliage("bract", (0.34, 0.012, 0.15), (0.66, 0.045, 0.30), 0.4),
        "lavender": foliage("lavender", (0.16, 0.09, 0.42), (0.36, 0.23, 0.66), 0.35),
        "dry leaf": foliage("dry leaf", (0.22, 0.09, 0.02), (0.48, 0.27, 0.07), 0.2),
    }
