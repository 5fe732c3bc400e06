# SPDX-License-Identifier: GPL-3.0-or-later
"""How the plate lies on the mesh: as light of its own colour, where the plate saw the surface.

Seen is what a face's texel in the `seen` image says, and every vertex, as each vertex is a pixel of the plate. The
second matters in the source view, whose pixel centres lie exactly on vertices, and which of the faces around a
vertex a renderer hits there is chance. The engine's raster does the same (ex4d_engine/raster/mesh.frag.glsl).

The artist's material shows holes where nothing was seen. The conditioning needs other behaviour: an unseen
face is no hole but hides what is behind it. `conditioning_material` makes that of the artist's material, so
that a changed albedo or a grade between albedo and emission counts there too. Where the take's walls are short,
what lies beyond them is not there at all (wall_nodes.py), and pixels at edges have cards (card_nodes.py), whose
material `card_material` makes likewise.
"""

from __future__ import annotations

import bpy

from ..ex4d_engine.shot import Shot
from .exact_texture import snap_to_texels
from .plate_images import follow_timeline, load_sequence
from .shader_nodes import scalar
from .wall_nodes import Walls, beyond_walls

ALBEDO_UV = "albedo"
SEEN_UV = "seen"
VERTEX_REACH = 5e-4  # plate pixels around a pixel's centre that count as the vertex there
SHOT_PROPERTY = "ex4d_shot"

ALBEDO_NODE = "EX-4D Albedo"
SEEN_NODE = "EX-4D Seen"
SHOWN_NODE = "EX-4D Shown"
AT_VERTEX_NODE = "EX-4D At Vertex"
REACH_NODE = "EX-4D Vertex Reach"
PLATE_NODE = "EX-4D Plate"
UNSEEN_NODE = "EX-4D Unseen Faces"
UNSEEN_GREY = 0.02


def plate_material(shot: Shot, name: str) -> bpy.types.Material:
    """The artist's material of a shot: emission of the albedo; unseen faces are holes, or grey by one value."""
    plate = shot.require_plate()
    material = bpy.data.materials.new(name)
    material.use_nodes = True
    # without this the plate's mesh would be sampled as a lamp of half a million triangles
    if hasattr(material, "cycles"):  # Cycles is an add-on: it can be switched off
        material.cycles.emission_sampling = "NONE"
    tree = material.node_tree
    tree.nodes.clear()

    albedo = _image_node(tree, ALBEDO_NODE, ALBEDO_UV, (-300, 200))
    albedo.image = load_sequence(shot.albedo_file(plate.first), f"{name} albedo", plate, is_colour=True)
    albedo.interpolation, albedo.extension = "Linear", "EXTEND"
    seen = _image_node(tree, SEEN_NODE, SEEN_UV, (-300, -100))
    seen.image = load_sequence(shot.seen_file(plate.first), f"{name} seen", plate, is_colour=False)
    seen.interpolation, seen.extension = "Closest", "EXTEND"
    for texture in (albedo, seen):
        follow_timeline(texture.image_user, plate)

    emission = _node(tree, "ShaderNodeEmission", PLATE_NODE, (100, 200))
    unseen = _node(tree, "ShaderNodeMixShader", "", (300, -150))
    unseen.label = "Unseen: 0 hole, 1 grey"
    amount = _node(tree, "ShaderNodeValue", UNSEEN_NODE, (100, -50))
    amount.label = "Unseen: 0 hole, 1 grey"
    amount.outputs[0].default_value = 0.0
    hole = _node(tree, "ShaderNodeBsdfTransparent", "", (100, -150))
    grey = _node(tree, "ShaderNodeEmission", "", (100, -250))
    grey.inputs["Color"].default_value = (UNSEEN_GREY, UNSEEN_GREY, UNSEEN_GREY, 1.0)
    surface = _node(tree, "ShaderNodeMixShader", "", (500, 100))
    output = _node(tree, "ShaderNodeOutputMaterial", "", (700, 100))

    shown = _shown(tree, seen, shot)
    tree.links.new(albedo.outputs["Color"], emission.inputs["Color"])
    tree.links.new(amount.outputs[0], unseen.inputs[0])
    tree.links.new(hole.outputs[0], unseen.inputs[1])
    tree.links.new(grey.outputs[0], unseen.inputs[2])
    tree.links.new(shown.outputs[0], surface.inputs[0])
    tree.links.new(unseen.outputs[0], surface.inputs[1])
    tree.links.new(emission.outputs[0], surface.inputs[2])
    tree.links.new(surface.outputs[0], output.inputs["Surface"])
    tree.nodes.active = albedo  # the one that solid view with texture colour shows
    return material


def is_plate_material(material: bpy.types.Material | None) -> bool:
    """Whether a material is one of ours, its parts still there."""
    return (
        material is not None
        and material.get(SHOT_PROPERTY) is not None
        and material.node_tree is not None
        and all(
            name in material.node_tree.nodes
            for name in (ALBEDO_NODE, AT_VERTEX_NODE, REACH_NODE, SHOWN_NODE, PLATE_NODE)
        )
        and material.node_tree.nodes[ALBEDO_NODE].inputs["Vector"].is_linked
    )


def conditioning_material(material: bpy.types.Material, walls: Walls | None) -> bpy.types.Material:
    """A copy of a plate material for the conditioning: seen faces shine, unseen ones are held out.

    A held-out face gives black and alpha 0 and still hides what is behind it, so that one render holds colour
    and mask. At a vertex the colour is the pixel's own.

    Args:
        walls: how far unseen faces are drawn; None: all the way.
    """
    copy = material.copy()
    copy.surface_render_method = "DITHERED"  # EEVEE: the other one blends faces in the mesh's order, not by depth
    tree = copy.node_tree
    snap_to_texels(copy, ALBEDO_NODE, tree.nodes[AT_VERTEX_NODE].outputs[0])
    held_out = _node(tree, "ShaderNodeHoldout", "", (300, -400))
    surface = _node(tree, "ShaderNodeMixShader", "", (500, -300))
    output = _node(tree, "ShaderNodeOutputMaterial", "", (700, -300))
    shown, unseen = tree.nodes[SHOWN_NODE].outputs[0], held_out
    if walls is not None:
        seen = tree.nodes[SEEN_NODE].outputs["Color"]
        unseen = _node(tree, "ShaderNodeMixShader", "", (300, -600))
        gone = _node(tree, "ShaderNodeBsdfTransparent", "", (100, -700))
        # past a wall's end the back of what was seen is in view: it hides what is behind, and is unknown itself
        behind = _node(tree, "ShaderNodeNewGeometry", "", (-100, -800)).outputs["Backfacing"]
        front = scalar(tree, "MULTIPLY", seen, scalar(tree, "SUBTRACT", 1.0, behind))
        shown = scalar(tree, "MAXIMUM", front, tree.nodes[AT_VERTEX_NODE].outputs[0])
        ended = scalar(tree, "MULTIPLY", beyond_walls(tree, SEEN_UV, walls), scalar(tree, "SUBTRACT", 1.0, seen))
        tree.links.new(ended, unseen.inputs[0])
        tree.links.new(held_out.outputs[0], unseen.inputs[1])
        tree.links.new(gone.outputs[0], unseen.inputs[2])
    tree.links.new(shown, surface.inputs[0])
    tree.links.new(unseen.outputs[0], surface.inputs[1])
    tree.links.new(tree.nodes[PLATE_NODE].outputs[0], surface.inputs[2])
    _put_out(tree, surface, output)
    return copy


def card_material(material: bpy.types.Material) -> bpy.types.Material:
    """A copy of a plate material for the conditioning's cards: one colour, and from behind held out."""
    copy = material.copy()
    copy.surface_render_method = "DITHERED"  # as in `conditioning_material`
    tree = copy.node_tree
    tree.nodes[ALBEDO_NODE].interpolation = "Closest"
    held_out = _node(tree, "ShaderNodeHoldout", "", (300, -400))
    surface = _node(tree, "ShaderNodeMixShader", "", (500, -300))
    behind = _node(tree, "ShaderNodeNewGeometry", "", (100, -400)).outputs["Backfacing"]
    tree.links.new(behind, surface.inputs[0])
    tree.links.new(tree.nodes[PLATE_NODE].outputs[0], surface.inputs[1])
    tree.links.new(held_out.outputs[0], surface.inputs[2])
    _put_out(tree, surface, _node(tree, "ShaderNodeOutputMaterial", "", (700, -300)))
    return copy


def set_vertex_reach(material: bpy.types.Material, reach: float) -> None:
    """How near to a pixel's centre in the plate, in pixels, a point counts as the vertex there, and so as seen."""
    material.node_tree.nodes[REACH_NODE].outputs[0].default_value = reach


def _put_out(tree: bpy.types.NodeTree, surface: bpy.types.Node, output: bpy.types.Node) -> None:
    """Makes `surface` what the material shows, at `output`."""
    tree.links.new(surface.outputs[0], output.inputs["Surface"])
    for other in tree.nodes:
        if other.bl_idname == "ShaderNodeOutputMaterial":
            other.is_active_output = other == output


def _shown(tree: bpy.types.NodeTree, seen: bpy.types.Node, shot: Shot) -> bpy.types.Node:
    """1 on seen faces and at vertices, else 0.

    A point is at a vertex when the source camera sees it at a pixel's centre: its position in the mesh's own
    space, which is the source camera's, through K.
    """
    geometry = shot.require_geometry()
    centre = 0.0 if geometry.compat == "reference" else 0.5
    point = _node(tree, "ShaderNodeTexCoord", "", (-1500, -400))
    parts = _node(tree, "ShaderNodeSeparateXYZ", "", (-1300, -600))
    tree.links.new(point.outputs["Object"], parts.inputs[0])
    reach = _node(tree, "ShaderNodeValue", REACH_NODE, (-700, -700))
    reach.outputs[0].default_value = VERTEX_REACH

    def math(
        operation: str, first: bpy.types.NodeSocket, second: bpy.types.NodeSocket | float, place: tuple[int, int]
    ) -> bpy.types.Node:
        made = _node(tree, "ShaderNodeMath", "", place)
        made.operation = operation
        tree.links.new(first, made.inputs[0])
        if isinstance(second, float):
            made.inputs[1].default_value = second
        else:
            tree.links.new(second, made.inputs[1])
        return made

    # behind the far surface is only the fan that closes the mesh: no pixel of the plate is there
    at_vertex = math("LESS_THAN", parts.outputs["Z"], geometry.far * 0.999, (-500, -900))
    for axis in (0, 1):
        row = -400 - 200 * axis
        image = _node(tree, "ShaderNodeVectorMath", "", (-1100, row))
        image.operation = "DOT_PRODUCT"
        tree.links.new(point.outputs["Object"], image.inputs[0])
        image.inputs[1].default_value = geometry.intrinsics[axis]
        pixels = math("DIVIDE", image.outputs["Value"], parts.outputs["Z"], (-900, row))
        from_centre = math("WRAP", pixels.outputs[0], centre + 0.5, (-700, row))
        from_centre.inputs[2].default_value = centre - 0.5
        distance = math("SUBTRACT", from_centre.outputs[0], centre, (-500, row))
        distance = math("ABSOLUTE", distance.outputs[0], 0.0, (-300, row))
        near = math("LESS_THAN", distance.outputs[0], reach.outputs[0], (-100, row))
        at_vertex = math("MULTIPLY", at_vertex.outputs[0], near.outputs[0], (100, row))
    at_vertex.name = at_vertex.label = AT_VERTEX_NODE
    shown = math("MAXIMUM", at_vertex.outputs[0], seen.outputs["Color"], (300, -400))
    shown.name = shown.label = SHOWN_NODE
    return shown


def _image_node(tree: bpy.types.NodeTree, name: str, uv_map: str, location: tuple[int, int]) -> bpy.types.Node:
    coordinates = _node(tree, "ShaderNodeUVMap", "", (location[0] - 250, location[1]))
    coordinates.uv_map = uv_map
    texture = _node(tree, "ShaderNodeTexImage", name, location)
    tree.links.new(coordinates.outputs["UV"], texture.inputs["Vector"])
    return texture


def _node(tree: bpy.types.NodeTree, kind: str, name: str, location: tuple[int, int]) -> bpy.types.Node:
    made = tree.nodes.new(kind)
    made.location = location
    if name:
        made.name = made.label = name
    return made
