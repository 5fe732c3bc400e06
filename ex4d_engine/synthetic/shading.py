# SPDX-License-Identifier: GPL-3.0-or-later
"""Linear light of every pixel: painted surfaces under a light with shadows, sky light, contact shade, fog, sky."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final

import torch

from .lights import light_camera
from .motion import turned, unturned
from .primitives import Kind
from .raster import NOTHING
from .scenes import Scenes
from .surfaces import Cameras, Points, Sight, cameras_at, points, see
from .textures import bank, look

SHADOW_SIZE: Final = 320
# shaded at once, in whole pictures: on a GPU some 3 GB while it lasts; on a CPU what its cache holds
PIXELS_A_CHUNK: Final = {"cuda": 1_200_000, "cpu": 20_000}
SHADOW_TAPS: Final = ((0.0, 0.0), (0.9, 0.4), (-0.4, 0.9), (-0.9, -0.4), (0.4, -0.9))
SHADE_TAPS: Final = tuple(
    (math.cos(2.4 * k) * math.sqrt((k + 0.5) / 8), math.sin(2.4 * k) * math.sqrt((k + 0.5) / 8)) for k in range(8)
)


@dataclass(frozen=True)
class ShadowMap:
    """Depth from the light: cameras of the lights, one a picture, and `depth` (I, S, S)."""

    cameras: Cameras
    depth: torch.Tensor


def shadow_map(scenes: Scenes, times: torch.Tensor, *, compiled: bool = False) -> ShadowMap:
    """What the lights see at times (B, V)."""
    batch, views = times.shape
    pose = light_camera(scenes.lights)[:, None].expand(batch, views, 4, 4)
    focal = SHADOW_SIZE / 2 / scenes.lights.cone
    K = torch.zeros(batch, views, 3, 3, device=times.device)
    K[..., 0, 0] = K[..., 1, 1] = focal[:, None]
    K[..., :2, 2] = SHADOW_SIZE / 2
    K[..., 2, 2] = 1
    cameras = cameras_at(scenes, K, pose, times)
    return ShadowMap(cameras, see(scenes, cameras, SHADOW_SIZE, SHADOW_SIZE, compiled=compiled).depth)


def shade(scenes: Scenes, cameras: Cameras, sight: Sight, shadows: ShadowMap) -> torch.Tensor:
    """Linear RGB (I, 3, H, W) of what cameras see, 1 = white in full light, may exceed 1."""
    images, height, width = sight.depth.shape
    step = max(1, PIXELS_A_CHUNK.get(scenes.device.type, PIXELS_A_CHUNK["cpu"]) // (height * width))
    patterns = bank(scenes.bank, scenes.device)
    pieces = []
    for begin in range(0, images, step):
        some = slice(begin, begin + step)
        part = Cameras(
            cameras.scene[some],
            cameras.intrinsics[some],
            cameras.pose[some],
            type(cameras.placed)(cameras.placed.rotation[some], cameras.placed.centre[some]),
        )
        pieces.append(_shade_some(scenes, part, Sight(sight.depth[some], sight.slot[some]), shadows, begin, patterns))
    return torch.cat(pieces)


def _shade_some(
    scenes: Scenes, cameras: Cameras, sight: Sight, shadows: ShadowMap, first: int, patterns: torch.Tensor
) -> torch.Tensor:
    seen = points(scenes, cameras, sight)
    scene, lights = cameras.scene[seen.image], scenes.lights
    local_normal, colour, gloss, polish, translucency = _painted(scenes, cameras, seen, scene, patterns)
    outward = turned(cameras.placed.rotation[seen.image, seen.slot], local_normal)
    outward = outward * torch.where((outward * seen.ray).sum(-1, keepdim=True) > 0, -1.0, 1.0)  # the side we see
    to_world = cameras.pose[seen.image, :3, :3]
    world_normal = turned(to_world, outward)
    world = turned(to_world, seen.position) + cameras.pose[seen.image, :3, 3]

    toward = lights.position[scene] - world
    distance = toward.norm(dim=-1, keepdim=True)
    toward = toward / distance
    at_target = (lights.position - lights.target).norm(dim=-1)[scene, None]
    strength = torch.where(lights.lamp[scene, None], (at_target / distance.clamp_min(0.3 * at_target)).square(), 1.0)
    facing = (world_normal * toward).sum(-1, keepdim=True)
    lit = _lit(shadows, seen.image + first, world + world_normal * 0.004 * seen.position[:, 2:], lights.softness[scene])
    direct = lights.colour[scene] * strength * lit[:, None]
    diffuse = facing.clamp_min(0) + translucency[:, None] * (-facing).clamp_min(0)

    upness = 0.5 - 0.5 * world_normal[:, 1:2]
    around = lights.below[scene] + (lights.above[scene] - lights.below[scene]) * upness
    shape = sight.depth.shape
    open_ = _openness(seen.position.view(*shape, 3), outward.view(*shape, 3), cameras, scenes)
    light = colour * (direct * diffuse + around * open_.reshape(-1, 1))
    light = light + colour * scenes.materials.glow[scene, scenes.shapes.material[scene, seen.slot]][:, None]
    view = -torch.nn.functional.normalize(turned(to_world, seen.ray), dim=-1)
    middle = torch.nn.functional.normalize(view + toward, dim=-1)
    highlight = (middle * world_normal).sum(-1).clamp(0, 1) ** polish * gloss
    grazing = (1 - (view * world_normal).sum(-1).clamp(0, 1)) ** 5
    mirrored = lights.horizon[scene] * (0.25 + 0.75 * upness) * (grazing * (0.1 + gloss) * open_.reshape(-1))[:, None]
    light = (
        light + direct * (facing > 0) * highlight[:, None] + torch.where(lights.lamp[scene, None], 0.2, 0.5) * mirrored
    )

    thickness = scenes.plan.fog.to(scenes.device)[scene, None] * seen.position.norm(dim=-1, keepdim=True)
    light = light + (lights.horizon[scene] * 0.8 - light) * (1 - torch.exp(-thickness))
    sky = (sight.slot == NOTHING).reshape(-1, 1)
    light = torch.where(sky, _sky(scenes, -view, scene, cameras, seen, patterns), light)
    return light.view(*shape, 3).permute(0, 3, 1, 2)


def _painted(
    scenes: Scenes, cameras: Cameras, seen: Points, scene: torch.Tensor, patterns: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """Normals with relief (P, 3) in the shapes' axes, colours (P, 3), gloss, polish and translucency (P,)."""
    stuff = scenes.materials
    number = scenes.shapes.material[scene, seen.slot]
    period, pattern, turn = stuff.period[scene, number], stuff.pattern[scene, number], stuff.turn[scene, number]
    # project along the two axes that the surface faces most
    weight, axis = (seen.local_normal.abs()).topk(2, dim=-1)
    share = weight[:, 0] ** 6 / (weight[:, 0] ** 6 + weight[:, 1] ** 6).clamp_min(1e-12)
    outward = turned(cameras.placed.rotation[seen.image, seen.slot], seen.local_normal)
    cosine = (outward * torch.nn.functional.normalize(seen.ray, dim=-1)).sum(-1).abs().clamp_min(0.03)
    pixel = seen.position[:, 2] / cameras.intrinsics[seen.image, 0, 0] / cosine**0.6
    offset = torch.frac(seen.slot * 0.61803)
    along_u, along_v = (axis + 1) % 3, (axis + 2) % 3
    c, s = torch.cos(turn), torch.sin(turn)

    def flat(which: int) -> tuple[torch.Tensor, torch.Tensor]:
        u = seen.local.gather(1, along_u[:, which : which + 1])[:, 0]
        v = seen.local.gather(1, along_v[:, which : which + 1])[:, 0]
        return u * c - v * s, u * s + v * c

    (u, v), (u2, v2) = flat(0), flat(1)
    broad = look(patterns, pattern[:, 0], u / period[:, 0] + offset, v / period[:, 0] + offset, pixel / period[:, 0])
    other = look(patterns, pattern[:, 0], u2 / period[:, 0] + offset, v2 / period[:, 0] + offset, pixel / period[:, 0])
    fine = look(patterns, pattern[:, 1], u / period[:, 1] + offset, v / period[:, 1], pixel / period[:, 1])
    value = broad + (other - broad) * (1 - share)[:, None]

    colours = stuff.colours[scene, number]
    contrast = stuff.contrast[scene, number][:, None]
    colour = colours[:, 0] + (colours[:, 1] - colours[:, 0]) * (0.5 + contrast * (value[:, :1] - 0.5))
    accent = stuff.accent[scene, number][:, None] * contrast.sqrt() * _smooth(value[:, 3:])
    colour = colour + (colours[:, 2] - colour) * accent
    colour = colour * (1 + stuff.detail[scene, number][:, None] * 1.6 * (fine[:, :1] - 0.5))
    # neighbours of one material differ: leaves, strands, books
    differ = (
        torch.stack(
            [torch.frac(seen.slot * 0.7548777), torch.frac(seen.slot * 0.5698403), torch.frac(seen.slot * 0.3819)], -1
        )
        - 0.5
    )
    differ = differ.mean(-1, keepdim=True) * 2.4 + differ * 0.5
    colour = colour * torch.exp(differ * 2 * stuff.variation[scene, number][:, None])
    across = seen.local[:, 0] / seen.half[:, 0].clamp_min(1e-6)
    rib = torch.exp(-(across / 0.07).square()) * ((seen.kind == Kind.CARD) & (stuff.translucency[scene, number] > 0))
    veins = torch.cos(across * 19) * ((seen.kind == Kind.CARD) & (stuff.translucency[scene, number] > 0))
    colour = colour * (1 + 0.3 * rib + 0.07 * veins)[:, None]

    strength = stuff.relief[scene, number] * 3
    slope = (value[:, 1:3] + 0.7 * fine[:, 1:3]) * strength[:, None]
    tangent = torch.zeros_like(seen.local)
    tangent.scatter_add_(1, along_u[:, :1], (slope[:, :1] * c[:, None] + slope[:, 1:] * s[:, None]))
    tangent.scatter_add_(1, along_v[:, :1], (slope[:, 1:] * c[:, None] - slope[:, :1] * s[:, None]))
    bumped = torch.nn.functional.normalize(seen.local_normal - tangent, dim=-1)
    return (
        bumped,
        colour.clamp(0, 1),
        stuff.gloss[scene, number],
        stuff.polish[scene, number],
        stuff.translucency[scene, number],
    )


def _smooth(value: torch.Tensor) -> torch.Tensor:
    t = ((value - 0.35) / 0.3).clamp(0, 1)
    return t * t * (3 - 2 * t)


def _lit(shadows: ShadowMap, image: torch.Tensor, world: torch.Tensor, softness: torch.Tensor) -> torch.Tensor:
    """(P,) share of the light that reaches points of the world; outside the map all of it does."""
    pose = shadows.cameras.pose
    local = unturned(pose[image, :3, :3], world - pose[image, :3, 3])
    z = local[:, 2].clamp_min(1e-3)
    K = shadows.cameras.intrinsics
    x = local[:, 0] / z * K[image, 0, 0] + SHADOW_SIZE / 2
    y = local[:, 1] / z * K[image, 1, 1] + SHADOW_SIZE / 2
    inside = (x > 1) & (x < SHADOW_SIZE - 1) & (y > 1) & (y < SHADOW_SIZE - 1) & (local[:, 2] > 0.05)
    margin = 2.2 * z / K[image, 0, 0]  # of a texel's width, against stripes on slopes
    radius = 0.7 + softness * SHADOW_SIZE
    total = torch.zeros_like(z)
    for dx, dy in SHADOW_TAPS:
        column = (x + dx * radius).long().clamp(0, SHADOW_SIZE - 1)
        row = (y + dy * radius).long().clamp(0, SHADOW_SIZE - 1)
        total += (shadows.depth[image, row, column] > z - margin * (1 + 0.3 * radius)).float()
    return torch.where(inside, total / len(SHADOW_TAPS), 1.0)


def _openness(position: torch.Tensor, outward: torch.Tensor, cameras: Cameras, scenes: Scenes) -> torch.Tensor:
    """(I, H, W) how much of the surroundings a point sees, from the depth of its neighbours in the picture."""
    images, height, width = position.shape[:3]
    reach = 0.1 * scenes.plan.subject[:, 2].to(position.device)[cameras.scene].clamp(0.3, 12)[:, None, None]
    pixels = (cameras.intrinsics[:, 0, 0, None, None] * reach / position[..., 2]).clamp(1.5, 0.12 * width)
    image = torch.arange(images, device=position.device)[:, None, None]
    row = torch.arange(height, device=position.device)[:, None]
    column = torch.arange(width, device=position.device)
    blocked = torch.zeros(images, height, width, device=position.device)
    for dx, dy in SHADE_TAPS:
        x = (column + (dx * pixels).round().long()).clamp(0, width - 1)
        y = (row + (dy * pixels).round().long()).clamp(0, height - 1)
        away = position[image, y, x] - position
        square = away.square().sum(-1)
        rise = (away * outward).sum(-1) / square.sqrt().clamp_min(1e-6)
        blocked += (rise - 0.12).clamp_min(0) / (1 + square / reach.square())
    return (1 - 1.8 * blocked / len(SHADE_TAPS)).clamp(0.08, 1)


def _sky(
    scenes: Scenes, direction: torch.Tensor, scene: torch.Tensor, cameras: Cameras, seen: Points, patterns: torch.Tensor
) -> torch.Tensor:
    """Linear RGB (P, 3) of the sky in directions (P, 3) of the world."""
    lights = scenes.lights
    up = -direction[:, 1]
    base = lights.horizon[scene] + (lights.zenith[scene] - lights.horizon[scene]) * up.clamp(0, 1)[:, None].sqrt()
    height = up.clamp_min(0.03)
    scale = lights.cloud_scale[scene]
    u, v = direction[:, 0] / height * scale, direction[:, 2] / height * scale
    footprint = scale / height.square() / cameras.intrinsics[seen.image, 0, 0]
    drawn = look(patterns, lights.cloud[scene], u, v, footprint)
    fine = look(patterns, lights.cloud[scene], u * 3.7 + 0.3, v * 3.7, footprint * 3.7)
    puff = 0.7 * drawn[:, 0] + 0.3 * fine[:, 0]
    cover = ((puff - 1 + lights.cloud_cover[scene]) * 3).clamp(0, 1) * ((up - 0.02) * 12).clamp(0, 1)
    shaded = (
        lights.cloud_colour[scene] * (1 - 0.45 * ((puff - 0.5) * (1 + lights.cloud_cover[scene])).clamp(0, 1))[:, None]
    )
    sky = base + (shaded - base) * cover[:, None]
    sun = torch.nn.functional.normalize(lights.position - lights.target, dim=-1)[scene]
    near_sun = (direction * sun).sum(-1, keepdim=True).clamp_min(0)
    return sky + lights.colour[scene] * (0.25 * near_sun**16 + 1.5 * near_sun**900) * (1 - 0.6 * cover[:, None])
