# SPDX-License-Identifier: GPL-3.0-or-later
"""Clips and views of generated scenes, with exact depth, cameras and flow."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import ParamSpec, TypeVar

import torch

from .cameras import camera_path
from .draw import Draw
from .effects import defocus, develop, encode_display, motion_blur
from .scenes import Scenes, random_scenes
from .shading import shade, shadow_map
from .surfaces import Cameras, Sight, arrives, cameras_at, flow_to, see

BLUR_SHARE = 0.028  # of the longer side: the radius at infinity of a plan's defocus of 1
CAMERA_SEED, LENS_SEED = 0x5EED_CA_3E, 0x5EED_1E_45  # so that content, moves and lens are drawn independently


@dataclass(frozen=True)
class ClipBatch:
    """B clips of F frames.

    Attributes:
        images: (B, F, 3, H, W) float32 in [0, 1], display-referred sRGB.
        depth: (B, F, H, W) float32, z along the optical axis in metres, inf for sky: that of the sharp surface at
            the middle of the exposure, through the pixel's centre.
        intrinsics: (B, F, 3, 3) float32 pixels, centres at +0.5.
        camera_to_world: (B, F, 4, 4) float32, OpenCV axes.
        flow: (B, F−1, 2, H, W) float32 pixels, where the surface seen at f is at f + 1. Finite everywhere.
        flow_valid: (B, F−1, H, W) bool, that surface is in the picture and not hidden at f + 1.
    """

    images: torch.Tensor
    depth: torch.Tensor
    intrinsics: torch.Tensor
    camera_to_world: torch.Tensor
    flow: torch.Tensor
    flow_valid: torch.Tensor


@dataclass(frozen=True)
class Views:
    """V pictures of each of B scenes.

    Attributes:
        images: (B, V, 3, H, W) float32 in [0, 1], display-referred sRGB.
        depth: (B, V, H, W) float32, z in metres, inf for sky.
        shape_index: (B, V, H, W) int64, the number of the shape seen, −1 for sky: the same surface in two views
            has the same number.
    """

    images: torch.Tensor
    depth: torch.Tensor
    shape_index: torch.Tensor


P = ParamSpec("P")
T = TypeVar("T")


def _plainly(draw: Callable[P, T]) -> Callable[P, T]:
    """Without gradients and in full precision, also inside a trainer's autocast.

    Not in inference mode: its tensors could not be a network's input while that learns.
    """

    @functools.wraps(draw)
    def run(*args: P.args, **kwargs: P.kwargs) -> T:
        with torch.no_grad(), torch.autocast("cuda", enabled=False), torch.autocast("cpu", enabled=False):
            return draw(*args, **kwargs)

    return run


@_plainly
def random_clips(
    seed: int,
    batch: int,
    frames: int,
    height: int,
    width: int,
    device: torch.device,
    *,
    effects: bool = True,
    compiled: bool = False,
) -> ClipBatch:
    """Draws clips of random scenes. The same arguments give the same tensors on the same device.

    Args:
        seed: any int64; scenes and cameras depend on seed, batch and frames alone, not on the device.
        batch, frames: B, F.
        height, width: pixels.
        effects: whether lens, shutter, sensor and codec leave their marks; otherwise sharp, clean pictures.
        compiled: whether ray arithmetic is fused by torch.compile; takes a minute once, then pays on a GPU. Depths
            may differ in the last bits.
    """
    scenes = random_scenes(seed, batch, frames, device)
    # one frame more than asked for: the last one's motion blur needs to know where things go
    intrinsics, pose = camera_path(scenes.plan, Draw(seed ^ CAMERA_SEED), frames + 1, height, width)
    intrinsics, pose = intrinsics.to(device), pose.to(device)
    times = torch.arange(frames + 1, dtype=torch.float32, device=device).expand(batch, -1)
    now = cameras_at(scenes, intrinsics[:, :-1], pose[:, :-1], times[:, :-1])
    then = cameras_at(scenes, intrinsics[:, 1:], pose[:, 1:], times[:, 1:])
    sight = see(scenes, now, height, width, compiled=compiled)
    flow, arrival, facing = flow_to(scenes, now, sight, then)
    light = _light(scenes, now, sight, times[:, :-1], compiled)
    images = _pictures(scenes, light, sight, flow, now) if effects else encode_display(light)

    def clips(values: torch.Tensor) -> torch.Tensor:
        return values.view(batch, frames, *values.shape[1:])

    flow, arrival, facing = clips(flow)[:, :-1], clips(arrival)[:, :-1], clips(facing)[:, :-1]
    depth, slot = clips(sight.depth), clips(sight.slot)
    valid = torch.zeros_like(facing)
    if frames > 1:
        later = Sight(depth[:, 1:].flatten(0, 1), slot[:, 1:].flatten(0, 1))
        valid = arrives(
            flow.flatten(0, 1), arrival.flatten(0, 1), facing.flatten(0, 1), slot[:, :-1].flatten(0, 1), later
        )
        valid = valid.view(facing.shape)
    return ClipBatch(clips(images), depth, intrinsics[:, :-1], pose[:, :-1], flow, valid)


@_plainly
def render_views(
    scenes: Scenes,
    intrinsics: torch.Tensor,
    camera_to_world: torch.Tensor,
    frame_times: torch.Tensor,
    height: int,
    width: int,
    *,
    effects: bool,
    compiled: bool = False,
) -> Views:
    """Pictures of scenes by any cameras at any moments, several views of one moment included.

    Args:
        scenes: B scenes.
        intrinsics: (B, V, 3, 3) pixels, centres at +0.5.
        camera_to_world: (B, V, 4, 4), OpenCV axes.
        frame_times: (B, V) frames since the scenes' start, fractions allowed.
        effects: lens, sensor and codec (no motion blur: views have no next frame).
        compiled: as for `random_clips`.
    """
    batch, views = frame_times.shape
    device = scenes.device
    intrinsics, pose = intrinsics.to(device, torch.float32), camera_to_world.to(device, torch.float32)
    times = frame_times.to(device, torch.float32)
    cameras = cameras_at(scenes, intrinsics, pose, times)
    sight = see(scenes, cameras, height, width, compiled=compiled)
    light = _light(scenes, cameras, sight, times, compiled)
    images = _pictures(scenes, light, sight, None, cameras) if effects else encode_display(light)
    return Views(
        images.view(batch, views, 3, height, width),
        sight.depth.view(batch, views, height, width),
        sight.slot.view(batch, views, height, width),
    )


def _light(scenes: Scenes, cameras: Cameras, sight: Sight, times: torch.Tensor, compiled: bool) -> torch.Tensor:
    """Linear light (I, 3, H, W), five rays a pixel: its centre, and its corners,
    which it shares with its neighbours."""
    height, width = sight.depth.shape[-2:]
    shadows = shadow_map(scenes, times, compiled=compiled)
    centre = shade(scenes, cameras, sight, shadows)
    shifted = cameras.intrinsics.clone()
    shifted[:, :2, 2] += 0.5
    corners = Cameras(cameras.scene, shifted, cameras.pose, cameras.placed)
    at_corners = see(scenes, corners, height + 1, width + 1, compiled=compiled)
    corner = shade(scenes, corners, at_corners, shadows)
    # a point of light much brighter than white must not make a whole pixel white
    mean = torch.nn.functional.avg_pool2d(corner.clamp_max(4.0), 2, stride=1)
    return 0.4 * centre.clamp_max(4.0) + 0.6 * mean


def _pictures(
    scenes: Scenes, light: torch.Tensor, sight: Sight, flow: torch.Tensor | None, cameras: Cameras
) -> torch.Tensor:
    """The light through lens, shutter, sensor and codec: (I, 3, H, W) in [0, 1]."""
    plan, device = scenes.plan, light.device
    height, width = light.shape[-2:]
    batch = len(plan.setting)
    draw = Draw(scenes.seed ^ LENS_SEED)
    shutter = draw.uniform((batch,), 0.05, 0.5) * draw.coin((batch,), 0.8)
    off_focus = draw.log_uniform((batch,), 0.92, 1.1)
    out_of_focus = plan.defocus > 0.02
    if bool(out_of_focus.any()):
        some = out_of_focus.to(device)[cameras.scene].nonzero().squeeze(1)
        scene = cameras.scene[some]
        distance = _subject_distance(plan.subject.to(device)[scene], cameras.pose[some]) * off_focus.to(device)[scene]
        radius = plan.defocus.to(device)[scene] * BLUR_SHARE * max(height, width)
        light = light.index_copy(0, some, defocus(light[some], sight.depth[some], distance, radius))
    if flow is not None:
        light = motion_blur(light, flow, shutter.to(device)[cameras.scene])
    generator = torch.Generator(device).manual_seed(scenes.seed ^ LENS_SEED)
    return develop(light, draw, batch, generator)


def _subject_distance(subject: torch.Tensor, pose: torch.Tensor) -> torch.Tensor:
    """(I,) z of the subjects (I, 3) before cameras (I, 4, 4): where an autofocus would settle."""
    return ((subject - pose[:, :3, 3]) * pose[:, :3, 2]).sum(-1).clamp_min(0.1)
