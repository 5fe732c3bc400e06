#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-3.0-or-later
"""What Wan's VAE takes of this graphics card, with whole frames and in bands. Random weights; no download.

python tools/benchmarks/vae_memory.py
python tools/benchmarks/vae_memory.py --size 784 336
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import torch
from diffusers import AutoencoderKLWan

from ex4d_engine.diffusion.vae_bands import compute_in_bands, decode_in_bands
from ex4d_engine.torch_environment import prepare_torch

GIB = 2**30
LATENTS = 13  # of 49 frames
DEVICE = torch.device("cuda", 0)


def whole(vae: AutoencoderKLWan, latents: torch.Tensor) -> None:
    """Whole frames one after the other, as `StreamingDecoder` has them."""
    memory: list[Any] = [None] * vae._cached_conv_counts["decoder"]
    for index in range(latents.shape[2]):
        latent = vae.post_quant_conv(latents[:, :, index : index + 1])
        vae.decoder(latent, feat_cache=memory, feat_idx=[0], first_chunk=index == 0).cpu()


def told(name: str, work: Callable[[], object]) -> None:
    """Prints the peak of `work` beside what was there before: the weights and its input."""
    work()  # cuDNN chooses its ways
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    before, reserved_before = torch.cuda.memory_allocated(), torch.cuda.memory_reserved()
    started = time.perf_counter()
    work()
    torch.cuda.synchronize()
    seconds = time.perf_counter() - started
    allocated = (torch.cuda.max_memory_allocated() - before) / GIB
    reserved = (torch.cuda.max_memory_reserved() - reserved_before) / GIB
    print(f"{name:24} {allocated:5.2f} GiB allocated, {reserved:5.2f} reserved, {seconds:.2f} s", flush=True)


@torch.no_grad()
def main() -> None:
    """Encoder and decoder, whole and in bands."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", type=int, nargs=2, default=(512, 512), metavar=("WIDTH", "HEIGHT"))
    width, height = parser.parse_args().size
    if not torch.cuda.is_available():
        sys.exit("There is no graphics card that PyTorch can use.")
    vae = AutoencoderKLWan().eval().to(DEVICE)
    video = torch.rand(1, 3, 4 * LATENTS - 3, height, width, device=DEVICE) * 2 - 1
    latents = torch.randn(1, 16, LATENTS, height // 8, width // 8, device=DEVICE)
    told("encoder, whole frames", lambda: vae._encode(video))
    told("decoder, whole frames", lambda: whole(vae, latents))
    compute_in_bands(vae)
    told("encoder, in bands", lambda: vae._encode(video))
    told("decoder, in bands", lambda: decode_in_bands(vae, latents, [], True))


if __name__ == "__main__":
    prepare_torch()
    main()
