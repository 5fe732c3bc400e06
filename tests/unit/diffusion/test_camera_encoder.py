# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

from pathlib import Path

import torch

from ex4d_engine.diffusion.camera_encoder import CameraEncoder


def test_size_beside_the_14b_model() -> None:
    with torch.device("meta"):
        encoder = CameraEncoder()

    assert sum(p.numel() for p in encoder.parameters()) == 23_109_632


def test_starts_without_effect() -> None:
    encoder = CameraEncoder(4, 8, 12)
    latents = torch.ones(1, 4, 3, 6, 8)

    ray_latent = encoder(latents, latents)

    assert ray_latent.shape == (1, 12, 3, 3, 4)
    assert not ray_latent.any()


def test_colour_comes_before_mask() -> None:
    torch.manual_seed(0)
    encoder = CameraEncoder(4, 8, 12)
    torch.nn.init.normal_(encoder.latent_patch_embedding.weight)
    colour, mask = torch.randn(2, 1, 4, 1, 2, 2)

    first = encoder.latent_encoder[0]
    with torch.no_grad():
        first.weight[:, 4:] = 0  # deaf to the mask

    assert torch.equal(encoder(colour, mask), encoder(colour, -mask))
    assert not torch.equal(encoder(colour, mask), encoder(-colour, mask))


def test_saved_and_loaded(tmp_path: Path) -> None:
    encoder = CameraEncoder(4, 8, 12, patch_size=(1, 1, 2))
    torch.nn.init.normal_(encoder.latent_patch_embedding.bias)
    encoder.save_pretrained(tmp_path)

    again = CameraEncoder.from_pretrained(tmp_path)

    assert tuple(again.config.patch_size) == (1, 1, 2)
    assert all(torch.equal(a, b) for a, b in zip(encoder.parameters(), again.parameters(), strict=True))
