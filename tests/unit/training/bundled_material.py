# SPDX-License-Identifier: GPL-3.0-or-later
"""A bundled model of a few thousand weights and a bank of small clips, to train on a CPU in seconds."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ex4d_engine.diffusion.bundled_codec import BundledCodec
from ex4d_engine.training.clip_bank import BankSettings
from ex4d_engine.training.lora_config import AdapterShape

CPU = torch.device("cpu")
SIZES = ((32, 48), (48, 32))
SHAPE: dict[str, Any] = {
    "patch_size": (1, 2, 2),
    "num_attention_heads": 2,
    "attention_head_dim": 12,
    "text_dim": 8,
    "freq_dim": 16,
    "ffn_dim": 48,
    "num_layers": 2,
    "cross_attn_norm": True,
}
ADAPTER = AdapterShape(rank=4, alpha=4.0, camera_channels=16)


class SmallClips(NamedTuple):
    """As `ex4d_engine.synthetic.ClipBatch`, without what a bank does not look at."""

    images: Tensor
    depth: Tensor
    intrinsics: Tensor


def small_clips(seed: int, batch: int, frames: int, height: int, width: int, device: torch.device | str) -> SmallClips:
    """A near card that slides over a striped wall; colour and place differ by clip, not by how many are drawn."""
    images = torch.zeros(batch, frames, 3, height, width)
    depth = torch.full((batch, frames, height, width), 10.0)
    for b in range(batch):
        rng = torch.Generator().manual_seed(seed + b)
        stripes = torch.arange(width) // 8 % 2 * 0.3 + 0.2
        images[b] = stripes * torch.rand(3, 1, 1, generator=rng)
        card = torch.rand(3, 1, 1, generator=rng)
        top, left = (int(torch.randint(0, side // 2, (1,), generator=rng)) for side in (height, width))
        for f in range(frames):
            rows, columns = slice(top, top + height // 2), slice(left + f, left + f + width // 3)
            images[b, f, :, rows, columns] = card
            depth[b, f, rows, columns] = 2.0
    focal = 0.9 * width
    K = torch.tensor([[focal, 0, width / 2], [0, focal, height / 2], [0, 0, 1]])
    return SmallClips(images.to(device), depth.to(device), K.expand(batch, frames, 3, 3).to(device))


def small_bank(**changes: Any) -> BankSettings:
    settings: dict[str, Any] = {
        "sizes": SIZES,
        "clip_frames": 7,
        "margin": 0.25,
        "first": 4,
        "most": 6,
        "group": 2,
        "refresh_every": 2,
        "draw_share": 1.0,
    }
    return BankSettings(**(settings | changes))


def small_codec(channels: int = 6) -> BundledCodec:
    """A codec of random weights whose latents are about normal."""
    torch.manual_seed(3)
    codec = BundledCodec(
        z_dim=channels,
        encoder_widths=(4, 4, 4),
        decoder_widths=(8, 4, 4),
        decoder_blocks=1,
        latents_mean=[0.0] * channels,
        latents_std=[0.3] * channels,
    )
    return codec.eval().requires_grad_(False)


def save_codec(folder: Path) -> Path:
    """A folder to start the next stages from."""
    small_codec().save_pretrained(folder / "vae")
    return folder
