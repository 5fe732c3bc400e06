# SPDX-License-Identifier: GPL-3.0-or-later
"""A fresh camera encoder says of what is kept what the transformer's own condition would say, and nothing of holes."""

from __future__ import annotations

import torch

from ex4d_engine.diffusion.bundled_codec import BundledCodec
from ex4d_engine.training.adapter_network import AdapterNetwork, with_adapter
from ex4d_engine.training.bundled_camera import begin_as_the_base
from ex4d_engine.training.bundled_conditioning import image_condition, kept_blocks, normalised_latents, ray_latents
from ex4d_engine.training.bundled_parts import new_transformer
from ex4d_engine.training.lora_config import AdapterShape
from ex4d_engine.training.principal_components import fit_linear_codec
from tests.unit.training.bundled_material import SHAPE


def sliding_stripes() -> torch.Tensor:
    """(4, 3, 9, 64, 64) in [−1, 1]."""
    generator = torch.Generator().manual_seed(1)
    place = torch.arange(64) + torch.arange(9)[:, None, None]
    wave = torch.sin(place / (2 + 6 * torch.rand(4, 3, 1, 1, 1, generator=generator)))
    return 0.7 * wave.expand(-1, -1, -1, 64, -1) + 0.2 * torch.randn(4, 3, 1, 64, 64, generator=generator).clamp(-1, 1)


def fitted_codec() -> BundledCodec:
    torch.manual_seed(0)
    codec = BundledCodec(z_dim=6, encoder_widths=(4, 4, 4), decoder_widths=(8, 4, 4), decoder_blocks=1)
    fit_linear_codec(codec, sliding_stripes())
    return codec.eval().requires_grad_(False)


def network(codec: BundledCodec, hidden: int) -> AdapterNetwork:
    return with_adapter(new_transformer(codec, SHAPE, 0), AdapterShape(rank=4, alpha=4.0, camera_channels=hidden), 0)


def test_it_says_what_the_condition_would() -> None:
    codec, video = fitted_codec(), sliding_stripes()
    keep = torch.ones(4, 1, 9, 64, 64)
    keep[:, :, 3:, 8:, 20:45] = 0
    fresh = network(codec, 16)
    begin_as_the_base(fresh, codec)
    with torch.no_grad():
        said = fresh.camera_encoder(*ray_latents(codec, video, keep))
        target = normalised_latents(codec, video)
        known = (kept_blocks(keep) == 1).float()
        embed = fresh.transformer.patch_embedding
        noisy = torch.zeros(4, 6, *target.shape[2:])
        whole, none = (
            embed(torch.cat([noisy, image_condition(codec, video, target, which)], dim=1))
            for which in (known, torch.zeros_like(known))
        )
    wanted = whole - none
    assert (said - wanted).square().mean() < 0.01 * wanted.square().mean()


def test_a_narrow_encoder_stays_as_it_is() -> None:
    codec = fitted_codec()
    fresh = network(codec, 12)
    begin_as_the_base(fresh, codec)
    assert not fresh.camera_encoder.latent_patch_embedding.weight.any()
