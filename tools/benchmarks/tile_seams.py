# SPDX-License-Identifier: GPL-3.0-or-later
"""How far tiles, and windows over time, drift apart, by a stand-in denoiser whose drift is known. No GPU, seconds.

    python tools/benchmarks/tile_seams.py

The stand-in is the exact denoiser of Gaussian latents (deviation 1) about a mean that differs by 1 from each tile, or
window, to the next: the worst case of a model that sees only its own part. What it makes of the parts is measured
with the engine's own plans, weights and schedule.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from ex4d_engine.diffusion.generation import VideoSettings, plan_video
from ex4d_engine.diffusion.scheduler import euler_scheduler, set_sampling_steps
from ex4d_engine.diffusion.tiles import blended, plan_tiles
from ex4d_engine.diffusion.windows import at_level, overlap_shares

HEIGHT, WIDTH = 512, 896  # two tiles side by side


def main() -> None:
    """Prints two tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=25)
    steps = parser.parse_args().steps
    print("| share of the steps | noise level at the start | tiles apart | greatest jump between columns |")
    print("|---|---|---|---|")
    for strength in (1.0, 0.8, 0.6, 0.4, 0.2):
        first_step = steps - round(strength * steps)
        level, apart, jump = tiles_apart(steps, first_step)
        print(f"| {strength:.1f} | {level:.2f} | {apart:.2f} | {jump:.3f} |")
    print("\n| overlap, latent frames | greatest jump, crossfaded | cut |\n|---|---|---|")
    for overlap in (1, 2, 3, 4, 6):
        print(f"| {overlap} | {window_jump(steps, overlap, True):.2f} | {window_jump(steps, overlap, False):.2f} |")
    print("\n| size | sizes generated | tiles | forwards a window: one pass | two passes | tiles from noise |")
    print("|---|---|---|---|---|---|")
    for width, height in ((512, 512), (1280, 720), (1920, 1080), (1080, 1920), (2048, 858), (4096, 2160)):
        settings = VideoSettings(steps=steps, detail_area=width * height)
        plan, one = plan_video(49, width, height, settings), plan_video(49, width, height, VideoSettings(steps=steps))
        sizes = " → ".join(f"{size.width} × {size.height}" for size in (plan.size, plan.detail_size) if size)
        tiles = max(1, len(plan.tiles))
        print(f"| {width} × {height} | {sizes} | {tiles} | {one.forwards} | {plan.forwards} | {2 * steps * tiles} |")


def tiles_apart(steps: int, first_step: int) -> tuple[float, float, float]:
    """Noise level at the start, difference of the two tiles' middles, greatest jump between neighbouring columns."""
    tiles = plan_tiles(HEIGHT, WIDTH)
    size = (HEIGHT // 8, WIDTH // 8)
    generator = torch.Generator().manual_seed(0)
    noise = torch.randn(1, 64, 1, *size, generator=generator)
    clean = 0.5 + torch.randn(1, 64, 1, *size, generator=generator)  # one picture, between the tiles' beliefs

    def velocity(latents: torch.Tensor, sigma: float) -> torch.Tensor:
        return blended(tiles, size, lambda i: gaussian_velocity(tiles[i].of_latents(latents), sigma, float(i)))

    level, result = denoised(velocity, clean, noise, steps, first_step)
    columns = result.mean(dim=(0, 1, 2, 3))
    margin = 8
    middle = (tiles[1].left // 8, tiles[0].width // 8)  # the overlap
    apart = columns[middle[1] + margin :].mean() - columns[: middle[0] - margin].mean()
    smooth = columns.unfold(0, 3, 1).mean(dim=1)
    return level, float(apart), float(smooth.diff().abs().max())


def window_jump(steps: int, overlap: int, crossfade: bool) -> float:
    """Greatest jump between latent frames where a window that drifted by 1 follows another."""
    noise = torch.randn(1, 4096, 13, 1, 1, generator=torch.Generator().manual_seed(0))
    former = torch.zeros(1, 4096, overlap, 1, 1)
    scheduler = euler_scheduler()
    timesteps = set_sampling_steps(scheduler, steps)
    latents, shares = noise, overlap_shares(overlap) if crossfade else torch.ones(1, 1, overlap, 1, 1)
    for step, timestep in enumerate(timesteps):
        velocity = (latents - 1) / float(scheduler.sigmas[step])  # a still scene, known exactly but for the drift
        latents = scheduler.step(velocity, timestep, latents, return_dict=False)[0]
        target = at_level(former, noise[:, :, 1 : 1 + overlap], float(scheduler.sigmas[step + 1]))
        latents[:, :, 1 : 1 + overlap] = target + shares * (latents[:, :, 1 : 1 + overlap] - target)
    sequence = torch.cat([torch.zeros(1), latents[:, :, 1:].mean(dim=(0, 1, 3, 4))])
    return float(sequence.diff().abs().max())


def gaussian_velocity(latents: torch.Tensor, sigma: float, mean: float) -> torch.Tensor:
    """ε − x as the exact denoiser of x ~ N(mean, 1) predicts it from (1 − σ)·x + σ·ε."""
    error = latents - (1 - sigma) * mean
    variance = (1 - sigma) ** 2 + sigma**2
    return sigma * error / variance - (mean + (1 - sigma) * error / variance)


def denoised(
    velocity: Callable[[torch.Tensor, float], torch.Tensor],
    clean: torch.Tensor,
    noise: torch.Tensor,
    steps: int,
    first_step: int,
) -> tuple[float, torch.Tensor]:
    scheduler = euler_scheduler()
    timesteps = set_sampling_steps(scheduler, steps)
    scheduler.set_begin_index(first_step)
    level = float(scheduler.sigmas[first_step])
    latents = at_level(clean, noise, level)
    for step in range(first_step, steps):
        prediction = velocity(latents, float(scheduler.sigmas[step]))
        latents = scheduler.step(prediction, timesteps[step], latents, return_dict=False)[0]
    return level, latents


if __name__ == "__main__":
    main()
