# SPDX-License-Identifier: GPL-3.0-or-later
"""A reconstructed shot in the scene: its mesh, moved by Geometry Nodes, and the camera that filmed it.

Everything goes into a collection of its own and nothing else of the scene is changed. What is made needs no
add-on to work: only Blender's nodes and the files of the shot folder.
"""

from __future__ import annotations

import hashlib
import zipfile
from dataclasses import dataclass
from pathlib import Path

import bpy
import numpy as np
from numpy.typing import NDArray

from ..ex4d_engine import cameras
from ..ex4d_engine.errors import Ex4dError
from ..ex4d_engine.shot import Shot
from .compat import blend_path
from .depth_nodes import PINNED_ATTRIBUTE, PIXEL_ATTRIBUTE, depth_group
from .edit_check import fingerprint
from .plate_images import load_sequence
from .plate_material import (
    ALBEDO_UV,
    SEEN_UV,
    SHOT_PROPERTY,
    is_plate_material,
    plate_material,
)
from .scene_evaluation import rendered_objects
from .shot_paths import imported_root

ROLE_PROPERTY = "ex4d_role"
IDENTITY_PROPERTY = "ex4d_identity"
FINGERPRINT_PROPERTY = "ex4d_fingerprint"
METRES_PROPERTY = "ex4d_in_metres"
MESH_ROLE, BAKED_ROLE, CAMERA_ROLE, COLLECTION_ROLE = "mesh", "baked", "source_camera", "shot"
SENSOR_WIDTH_MM = 36.0


@dataclass(frozen=True)
class ImportedShot:
    """What `import_shot` made. `mesh_object` is the baked one where that replaced the first."""

    collection: bpy.types.Collection
    mesh_object: bpy.types.Object
    camera_object: bpy.types.Object

    @property
    def is_in_metres(self) -> bool:
        """Whether its depth was in metres by itself, not because somebody scaled it."""
        return bool(self.collection.get(METRES_PROPERTY, False))


@dataclass(frozen=True)
class RayMesh:
    """`mesh/rays.npz`; shapes as in ex4d_engine/dwmesh/ray_grid.py."""

    rays: NDArray[np.float32]
    pixels: NDArray[np.int32]
    pinned: NDArray[np.float32]
    uv: NDArray[np.float32]
    faces: NDArray[np.int32]
    rows: int
    columns: int
    width: int
    height: int


def import_shot(shot: Shot, scene: bpy.types.Scene) -> ImportedShot:
    """Imports a reconstructed shot into a new collection of `scene`.

    Raises:
        Ex4dError: `shot_missing`, `shot_invalid` or `missing_frame`; nothing is left in the file then.
    """
    plate, geometry = shot.require_plate(), shot.require_geometry()
    grid = _load_rays(shot.rays_file)
    for file in (shot.depth_file, shot.albedo_file, shot.seen_file):
        missing = next((number for number in plate.numbers if not file(number).is_file()), None)
        if missing is not None:
            raise Ex4dError("missing_frame", f"{file(missing)} does not exist.", "Reconstruct the clip again.")

    name = shot.root.name
    mesh = _static_mesh(grid, f"EX-4D {name}")
    material = plate_material(shot, f"EX-4D {name}")
    mesh.materials.append(material)
    mesh_object = bpy.data.objects.new(f"EX-4D {name}", mesh)
    depth = load_sequence(shot.depth_file(plate.first), f"EX-4D {name} depth", plate, is_colour=False)
    modifier = mesh_object.modifiers.new("EX-4D Depth", "NODES")
    modifier.node_group = depth_group(f"EX-4D {name} depth", depth, plate)
    # The closed mesh stands around the whole scene: it must not shut out the user's lamps and sky
    mesh_object.visible_shadow = False
    for ray in ("visible_diffuse", "visible_glossy", "visible_transmission", "visible_volume_scatter"):
        setattr(mesh_object, ray, False)

    camera_data = bpy.data.cameras.new("EX-4D source")
    camera_object = bpy.data.objects.new("EX-4D source", camera_data)
    camera_data.sensor_fit, camera_data.sensor_width = "HORIZONTAL", SENSOR_WIDTH_MM
    camera_data.clip_start, camera_data.clip_end = geometry.near * 0.05, geometry.far * 4
    for number in plate.numbers if geometry.zoom else plate.numbers[:1]:
        key_lens(camera_data, shot, number, number)

    numbers = plate.numbers if geometry.poses else plate.numbers[:1]
    poses = [np.array(shot.source_pose(number)) for number in numbers]
    key_poses(camera_object, numbers, [cameras.blender_from_camera_to_world(pose) for pose in poses])
    if geometry.poses:
        key_poses(mesh_object, numbers, [cameras.WORLD_TO_BLENDER @ pose for pose in poses])
        if geometry.zoom:
            _key_zoom(mesh_object, shot)
    else:
        mesh_object.matrix_world = _blender_matrix(cameras.WORLD_TO_BLENDER)

    collection = bpy.data.collections.new(f"EX-4D {name}")
    for block, role in (
        (collection, COLLECTION_ROLE),
        (mesh_object, MESH_ROLE),
        (camera_object, CAMERA_ROLE),
        (material, MESH_ROLE),
    ):
        block[SHOT_PROPERTY] = blend_path(shot.root)
        block[IDENTITY_PROPERTY] = shot_identity(shot)
        block[ROLE_PROPERTY] = role
    mesh_object[FINGERPRINT_PROPERTY] = fingerprint(mesh_object)
    is_scaled = shot.settings.get("scene_scale") is not None or shot.settings.get("measured") is not None
    collection[METRES_PROPERTY] = geometry.is_metric and not is_scaled
    collection.objects.link(mesh_object)
    collection.objects.link(camera_object)
    scene.collection.children.link(collection)
    return ImportedShot(collection, mesh_object, camera_object)


def find_imported(scene: bpy.types.Scene, root: Path) -> ImportedShot | None:
    """The import of the shot in folder `root`, the newest where there are several; None if there is none.

    A collection whose mesh or camera was deleted is none.
    """
    wanted = root.resolve()
    for collection in reversed(scene.collection.children_recursive):
        imported = imported_in(collection)
        if imported is not None and imported_root(collection) == wanted:
            return imported
    return None


def imported_in(collection: bpy.types.Collection) -> ImportedShot | None:
    """The import that a collection holds; None where it is not one, or its mesh or camera was deleted."""
    if collection.get(ROLE_PROPERTY) != COLLECTION_ROLE:
        return None
    by_role = {item.get(ROLE_PROPERTY): item for item in collection.all_objects}
    mesh_object = by_role.get(MESH_ROLE)
    baked = by_role.get(BAKED_ROLE)
    if baked is not None and (mesh_object is None or not baked.hide_render):
        mesh_object = baked
    if mesh_object is None or CAMERA_ROLE not in by_role:
        return None
    return ImportedShot(collection, mesh_object, by_role[CAMERA_ROLE])


def plate_objects(imported: ImportedShot, scene: bpy.types.Scene) -> list[bpy.types.Object]:
    """Every object that shows the plate in a render: the mesh, its baked copy, pieces that were cut off it."""
    material_names = {
        slot.material.name
        for item in imported.collection.all_objects
        for slot in item.material_slots
        if is_plate_material(slot.material)
    }
    return [
        item
        for item in rendered_objects(scene)
        if item.type == "MESH"
        and any(slot.material is not None and slot.material.name in material_names for slot in item.material_slots)
    ]


def is_edited(imported: ImportedShot, scene: bpy.types.Scene) -> bool:
    """Whether the mesh is anything else than what was imported: then only Blender can draw its conditioning.

    Looked at: mesh data, modifiers and their nodes, material, shape keys, constraints, parents, the object's
    place and its keys; and that this object and no other shows the plate.
    """
    item = imported.mesh_object
    if plate_objects(imported, scene) != [item] or item.get(ROLE_PROPERTY) != MESH_ROLE:
        return True
    return item.get(FINGERPRINT_PROPERTY) != fingerprint(item)


def shot_identity(shot: Shot) -> str:
    """A short text that changes when the shot was reconstructed from other frames or at another size."""
    plate, geometry = shot.require_plate(), shot.require_geometry()
    text = f"{plate.path} {plate.numbers} {plate.width}x{plate.height} {geometry.depth_source} {geometry.far}"
    return hashlib.sha256(text.encode("utf-8")).hexdigest()[:16]


def key_poses(item: bpy.types.Object, numbers: range, matrices: list[NDArray[np.float64]]) -> None:
    """Keys place and rotation of an object at each frame; `matrices`: (4,4) in Blender's world, no scale."""
    item.rotation_mode = "QUATERNION"
    previous = None
    for number, matrix in zip(numbers, matrices, strict=True):
        place, rotation, _ = _blender_matrix(matrix).decompose()
        if previous is not None:
            rotation.make_compatible(previous)  # q and −q are one rotation, but not between two keys
        previous = rotation
        item.location, item.rotation_quaternion = place, rotation
        item.keyframe_insert("location", frame=number)
        item.keyframe_insert("rotation_quaternion", frame=number)


def key_lens(data: bpy.types.Camera, shot: Shot, number: int, frame: int) -> None:
    """Gives a camera the source's lens of shot frame `number`, and keys it at scene frame `frame`."""
    plate = shot.require_plate()
    data.sensor_fit, data.sensor_width = "HORIZONTAL", SENSOR_WIDTH_MM
    data.lens, data.shift_x, data.shift_y = cameras.blender_lens_from_intrinsics(
        np.array(shot.source_intrinsics(number)), plate.width, plate.height, SENSOR_WIDTH_MM
    )
    for path in ("lens", "shift_x", "shift_y"):
        data.keyframe_insert(path, frame=frame)


def _key_zoom(item: bpy.types.Object, shot: Shot) -> None:
    """The mesh's rays are the first frame's: a longer lens squeezes them across, see `Shot.mesh_to_world`."""
    geometry = shot.require_geometry()
    for number, factor in zip(shot.require_plate().numbers, geometry.zoom, strict=True):
        item.scale = (1 / factor, 1 / factor, 1)
        item.keyframe_insert("scale", frame=number)


def mesh_matrix(shot: Shot, number: int) -> NDArray[np.float64]:
    """`matrix_world` (4,4) of the mesh of shot frame `number`: its points are in the source camera's axes."""
    result: NDArray[np.float64] = cameras.WORLD_TO_BLENDER @ np.array(shot.mesh_to_world(number))
    return result


def _blender_matrix(matrix: NDArray[np.float64]):  # type: ignore[no-untyped-def]  # mathutils has no stubs here
    from mathutils import Matrix

    return Matrix(matrix.tolist())


def _static_mesh(grid: RayMesh, name: str) -> bpy.types.Mesh:
    """The mesh at rest: every vertex on its ray at depth 1, with what the nodes and the material look up."""
    mesh = bpy.data.meshes.new(name)
    corners = grid.faces.ravel()
    mesh.vertices.add(len(grid.rays))
    mesh.vertices.foreach_set("co", grid.rays.ravel())
    mesh.loops.add(len(corners))
    mesh.loops.foreach_set("vertex_index", corners)
    mesh.polygons.add(len(grid.faces))
    mesh.polygons.foreach_set("loop_start", np.arange(0, len(corners), 3, dtype=np.int32))
    mesh.update(calc_edges=True)

    mesh.attributes.new(PINNED_ATTRIBUTE, "FLOAT", "POINT")
    mesh.attributes.new(PIXEL_ATTRIBUTE, "FLOAT_VECTOR", "POINT")
    mesh.uv_layers.new(name=ALBEDO_UV, do_init=False)
    mesh.uv_layers.new(name=SEEN_UV, do_init=False)
    # Fetched by name only now: making a layer invalidates every reference to an earlier one
    mesh.attributes[PINNED_ATTRIBUTE].data.foreach_set("value", grid.pinned)
    mesh.attributes[PIXEL_ATTRIBUTE].data.foreach_set("vector", _texel_centres(grid).ravel())
    albedo = grid.uv[corners]
    albedo[:, 1] = 1 - albedo[:, 1]
    mesh.uv_layers[ALBEDO_UV].uv.foreach_set("vector", albedo.ravel())
    mesh.uv_layers[SEEN_UV].uv.foreach_set("vector", _seen_coordinates(grid).ravel())
    mesh.uv_layers.active = mesh.uv_layers[ALBEDO_UV]
    mesh.uv_layers[ALBEDO_UV].active_render = True
    return mesh


def _texel_centres(grid: RayMesh) -> NDArray[np.float32]:
    """(V,3) float32: where each vertex finds its depth in the image, from the bottom left."""
    x = (grid.pixels[:, 1] + 0.5) / grid.width
    y = 1 - (grid.pixels[:, 0] + 0.5) / grid.height
    return np.stack([x, y, np.zeros_like(x)], axis=-1).astype(np.float32)


def _seen_coordinates(grid: RayMesh) -> NDArray[np.float32]:
    """(3N,2) float32: the centre of each face's texel in the `seen` image, once for each corner.

    Closing faces have no texel: they take the first, which belongs to the skirt and is never seen.
    """
    texels_down, texels_across = grid.rows - 1, 2 * (grid.columns - 1)
    face = np.arange(len(grid.faces))
    face[texels_down * texels_across :] = 0
    row, column = np.divmod(face, texels_across)
    centres = np.stack([(column + 0.5) / texels_across, 1 - (row + 0.5) / texels_down], axis=-1)
    return np.repeat(centres.astype(np.float32), 3, axis=0)


def _load_rays(path: Path) -> RayMesh:
    try:
        with np.load(path, allow_pickle=False) as data:
            rows, columns = (int(value) for value in data["grid"])
            width, height = (int(value) for value in data["plate_size"])
            return RayMesh(
                data["rays"].astype(np.float32),
                data["pixels"].astype(np.int32),
                data["pinned"].astype(np.float32),
                data["uv"].astype(np.float32),
                data["faces"].astype(np.int32),
                rows,
                columns,
                width,
                height,
            )
    except FileNotFoundError as error:
        raise Ex4dError("shot_missing", f"{path} does not exist.", "Reconstruct the clip again.") from error
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
        raise Ex4dError("shot_invalid", f"{path} is damaged: {error}.", "Reconstruct the clip again.") from error
