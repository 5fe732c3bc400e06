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
from .effects import blur_radius, defocus, develop, encode_display, motion_blur, tame_highlights
from .scenes import Scenes, random_scenes
from .shading import shade, shadow_map
from .surfaces import Cameras, Sight, arrives, cameras_at, flow_to, see

BLUR_SHARE = 0.028  # of the longer side: the radius at infinity of a plan's defocus of 1
# so that content, moves, lens and film are drawn independently
CAMERA_SEED, LENS_SEED, DEVELOP_SEED = 0x5EED_CA_3E, 0x5EED_1E_45, 0x5EED_DE_7E


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
    lens = _lens(scenes, now, max(height, width)) if effects else None
    light = _light(scenes, now, sight, times[:, :-1], lens, compiled)
    images = _pictures(scenes, light, sight, flow, lens) if lens else encode_display(light)

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
    lens = _lens(scenes, cameras, max(height, width)) if effects else None
    light = _light(scenes, cameras, sight, times, lens, compiled)
    images = _pictures(scenes, light, sight, None, lens) if lens else encode_display(light)
    return Views(
        images.view(batch, views, 3, height, width),
        sight.depth.view(batch, views, height, width),
        sight.slot.view(batch, views, height, width),
    )


@dataclass(frozen=True)
class _Lens:
    """What I cameras focus on. `focus` (I,) metres, `aperture` (I,) pixels, the blur's radius at infinity;
    `shutter` (I,), the share of a frame's time during which light comes in."""

    focus: torch.Tensor
    aperture: torch.Tensor
    shutter: torch.Tensor


def _lens(scenes: Scenes, cameras: Cameras, longer_side: int) -> _Lens:
    plan, device, scene = scenes.plan, scenes.device, cameras.scene
    batch = (len(plan.setting),)
    draw = Draw(scenes.seed ^ LENS_SEED)
    shutter = draw.uniform(batch, 0.05, 0.5) * draw.coin(batch, 0.8)
    off_focus = draw.log_uniform(batch, 0.92, 1.1)
    return _Lens(
        _subject_distance(plan.subject.to(device)[scene], cameras.pose) * off_focus.to(device)[scene],
        torch.where(plan.defocus > 0.02, plan.defocus, 0.0).to(device)[scene] * BLUR_SHARE * longer_side,
        shutter.to(device)[scene],
    )


def _light(
    scenes: Scenes, cameras: Cameras, sight: Sight, times: torch.Tensor, lens: _Lens | None, compiled: bool
) -> torch.Tensor:
    """Linear light (I, 3, H, W), five rays a pixel: its centre, and its corners,
    which it shares with its neighbours."""
    height, width = sight.depth.shape[-2:]
    shadows = shadow_map(scenes, times, compiled=compiled)

    def tamed(light: torch.Tensor, depth: torch.Tensor) -> torch.Tensor:
        return tame_highlights(light, blur_radius(depth, lens.focus, lens.aperture) if lens else 0.0)

    centre = tamed(shade(scenes, cameras, sight, shadows), sight.depth)
    shifted = cameras.intrinsics.clone()
    shifted[:, :2, 2] += 0.5
    corners = Cameras(cameras.scene, shifted, cameras.pose, cameras.placed)
    at_corners = see(scenes, corners, height + 1, width + 1, compiled=compiled)
    corner = tamed(shade(scenes, corners, at_corners, shadows), at_corners.depth)
    return 0.4 * centre + 0.6 * torch.nn.functional.avg_pool2d(corner, 2, stride=1)


def _pictures(
    scenes: Scenes, light: torch.Tensor, sight: Sight, flow: torch.Tensor | None, lens: _Lens
) -> torch.Tensor:
    """The light through lens, shutter, sensor and codec: (I, 3, H, W) in [0, 1]."""
    some = (lens.aperture > 0).nonzero().squeeze(1)
    if len(some):
        blurred = defocus(light[some], sight.depth[some], lens.focus[some], lens.aperture[some])
        light = light.index_copy(0, some, blurred)
    if flow is not None:
        light = motion_blur(light, flow, lens.shutter)
    seed = scenes.seed ^ DEVELOP_SEED
    generator = torch.Generator(light.device).manual_seed(seed)
    return develop(light, Draw(seed), len(scenes.plan.setting), generator)


def _subject_distance(subject: torch.Tensor, pose: torch.Tensor) -> torch.Tensor:
    """(I,) z of the subjects (I, 3) before cameras (I, 4, 4): where an autofocus would settle."""
    return ((subject - pose[:, :3, 3]) * pose[:, :3, 2]).sum(-1).clamp_min(0.1)
