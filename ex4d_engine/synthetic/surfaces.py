# SPDX-License-Identifier: GPL-3.0-or-later
"""The points that pixels see: where they lie on their shapes, how they move from one picture to the next."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from .motion import body_poses, composed, turned, unturned
from .primitives import Kind, normal
from .raster import NOTHING, Placed, first_hits
from .scenes import Scenes

HIDDEN_SHARE = 0.01  # a surface within 1 % of the depth in front of it counts as the one that is seen
FACING = 0.02


@dataclass(frozen=True)
class Cameras:
    """I = B·V cameras, view by view within a scene.

    Attributes:
        scene: (I,) int64.
        intrinsics: (I, 3, 3) pixels, centres at +0.5.
        pose: (I, 4, 4) camera to world, OpenCV axes.
        placed: the shapes in these cameras' axes, at these pictures' moments.
    """

    scene: torch.Tensor
    intrinsics: torch.Tensor
    pose: torch.Tensor
    placed: Placed


@dataclass(frozen=True)
class Sight:
    """What I cameras see. `depth` (I, H, W) float32, z in metres, inf for sky; `slot` (I, H, W) int64, −1 for sky."""

    depth: torch.Tensor
    slot: torch.Tensor


def cameras_at(scenes: Scenes, intrinsics: torch.Tensor, pose: torch.Tensor, times: torch.Tensor) -> Cameras:
    """Cameras (B, V, 3, 3) and (B, V, 4, 4) in the scenes at times (B, V)."""
    batch, views = times.shape
    rotation, position = body_poses(scenes.bodies, times)
    body = scenes.shapes.body[:, None].expand(batch, views, -1)
    carrier = rotation.gather(2, body[..., None, None].expand(*body.shape, 3, 3))
    centre = position.gather(2, body[..., None].expand(*body.shape, 3))
    centre = centre + turned(carrier, scenes.shapes.centre[:, None])
    rotation = composed(carrier, scenes.shapes.rotation[:, None])
    view = pose[:, :, None, :3, :3]
    centre = unturned(view, centre - pose[:, :, None, :3, 3])
    rotation = composed(view.transpose(-1, -2), rotation)
    return Cameras(
        torch.arange(batch, device=times.device).repeat_interleave(views),
        intrinsics.flatten(0, 1),
        pose.flatten(0, 1),
        Placed(rotation.flatten(0, 1), centre.flatten(0, 1)),
    )


def see(scenes: Scenes, cameras: Cameras, height: int, width: int, *, compiled: bool = False) -> Sight:
    """Depth and shape of every pixel."""
    depth, slot = first_hits(
        scenes.shapes, cameras.placed, cameras.scene, cameras.intrinsics, height, width, compiled=compiled
    )
    return Sight(depth, slot)


@dataclass(frozen=True)
class Points:
    """P = I·H·W points that pixels see; sky pixels have a point as well, far away on the first shape: ignore it.

    Attributes:
        image: (P,) int64, which camera.
        slot, kind: (P,) int64.
        ray: (P, 3) from the camera, z = 1.
        position: (P, 3) in the camera's axes.
        local, local_normal: (P, 3) in the shape's axes.
        half: (P, 3); form: (P, 8).
    """

    image: torch.Tensor
    slot: torch.Tensor
    kind: torch.Tensor
    ray: torch.Tensor
    position: torch.Tensor
    local: torch.Tensor
    local_normal: torch.Tensor
    half: torch.Tensor
    form: torch.Tensor


def points(scenes: Scenes, cameras: Cameras, sight: Sight) -> Points:
    """The points of some cameras' pixels, row by row."""
    images, height, width = sight.depth.shape
    device = sight.depth.device
    image = torch.arange(images, device=device)[:, None, None].expand(images, height, width).reshape(-1)
    slot = sight.slot.reshape(-1).clamp_min(0)
    depth = sight.depth.reshape(-1)
    depth = torch.where(torch.isfinite(depth), depth, 1.0)
    ray = rays(cameras.intrinsics, height, width).reshape(-1, 3)
    position = ray * depth[:, None]
    rotation, centre = cameras.placed.rotation[image, slot], cameras.placed.centre[image, slot]
    local = unturned(rotation, position - centre)
    scene = cameras.scene[image]
    half, form = scenes.shapes.half[scene, slot], scenes.shapes.form[scene, slot]
    kind = scenes.shapes.kinds()[slot]
    return Points(image, slot, kind, ray, position, local, normal(kind, local, half, form), half, form)


def rays(intrinsics: torch.Tensor, height: int, width: int) -> torch.Tensor:
    """(I, H, W, 3): rays through pixel centres in the camera's axes, z = 1."""
    x = torch.arange(width, device=intrinsics.device) + 0.5
    y = torch.arange(height, device=intrinsics.device) + 0.5
    u = (x - intrinsics[:, 0, 2, None]) / intrinsics[:, 0, 0, None]
    v = (y - intrinsics[:, 1, 2, None]) / intrinsics[:, 1, 1, None]
    shape = (len(intrinsics), height, width)
    return torch.stack(
        [u[:, None, :].expand(shape), v[:, :, None].expand(shape), torch.ones(shape, device=x.device)], -1
    )


def flow_to(
    scenes: Scenes, now: Cameras, sight: Sight, then: Cameras
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Where the surfaces that cameras see now are in their next pictures.

    Returns:
        flow (I, 2, H, W) pixels, the depth there (I, H, W) in metres (inf for sky), and whether the surface faces
        that camera (I, H, W) bool. Behind that camera the depth is ≤ 0 and the flow meaningless but finite.
    """
    images, height, width = sight.depth.shape
    seen = points(scenes, now, sight)
    rotation, centre = then.placed.rotation[seen.image, seen.slot], then.placed.centre[seen.image, seen.slot]
    position = turned(rotation, seen.local) + centre
    facing = _faces(seen, turned(rotation, seen.local_normal), position)
    turn = composed(then.pose[:, :3, :3].transpose(-1, -2), now.pose[:, :3, :3])
    away = turned(turn[seen.image], seen.ray)
    sky = (sight.slot == NOTHING).reshape(-1)
    position = torch.where(sky[:, None], away, position)
    z = position[:, 2]
    K = then.intrinsics[seen.image]
    safe = torch.where(z > 1e-3, z, 1e-3)
    target = torch.stack(
        [position[:, 0] / safe * K[:, 0, 0] + K[:, 0, 2], position[:, 1] / safe * K[:, 1, 1] + K[:, 1, 2]], -1
    )
    start = torch.stack(
        [seen.ray[:, 0] * now.intrinsics[seen.image, 0, 0] + now.intrinsics[seen.image, 0, 2],
         seen.ray[:, 1] * now.intrinsics[seen.image, 1, 1] + now.intrinsics[seen.image, 1, 2]], -1
    )  # fmt: skip
    flow = (target - start).view(images, height, width, 2).permute(0, 3, 1, 2)
    z = torch.where(sky & (z > 0), torch.inf, z)
    return flow, z.view(images, height, width), (facing | sky).view(images, height, width)


def arrives(
    flow: torch.Tensor, depth: torch.Tensor, facing: torch.Tensor, slot: torch.Tensor, then: Sight
) -> torch.Tensor:
    """Whether the surfaces are seen in the next pictures: inside, not turned away, nothing before them.

    A surface counts as seen when one of the four pixels around its new place shows the same shape, or a depth
    within 1 % of its own: on a border a pixel's share belongs to each side.

    Args:
        flow, depth, facing: as from `flow_to`.
        slot: (I, H, W), the shapes seen now.
        then: the next pictures.
    """
    images, height, width = depth.shape
    x = flow[:, 0] + torch.arange(width, device=flow.device) + 0.5
    y = flow[:, 1] + torch.arange(height, device=flow.device)[:, None] + 0.5
    inside = (x > 0) & (x < width) & (y > 0) & (y < height) & (depth > 0)
    left, top = torch.floor(x.clamp(-4, width + 4) - 0.5).long(), torch.floor(y.clamp(-4, height + 4) - 0.5).long()
    image = torch.arange(images, device=flow.device)[:, None, None]
    seen = torch.zeros_like(inside)
    for dx, dy in ((0, 0), (1, 0), (0, 1), (1, 1)):
        column, row = (left + dx).clamp(0, width - 1), (top + dy).clamp(0, height - 1)
        there = then.depth[image, row, column]
        same = then.slot[image, row, column] == slot
        close = (there - depth).abs() < HIDDEN_SHARE * depth
        seen |= same | close
    return inside & facing & seen


def _faces(seen: Points, normals: torch.Tensor, position: torch.Tensor) -> torch.Tensor:
    """Whether the side seen now is turned to the next camera; cards have two sides, rooms are seen from inside."""
    toward = -(normals * position).sum(-1) / position.norm(dim=-1).clamp_min(1e-9)
    return (seen.kind <= Kind.SCREEN) | (seen.kind == Kind.BOX) | (toward > -FACING)
