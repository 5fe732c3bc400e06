# SPDX-License-Identifier: GPL-3.0-or-later
"""Where a fresh camera encoder of the bundled model begins: at what its transformer can read already.

The bundled transformer has learned, while it was trained alone, to read latents of what is known beside its noisy
input. The camera encoder is shown nearly the same, the latents of a picture with black holes and of the holes. A
linear map leads from one to the other, and the encoder's layers can pass it on exactly, as silu(x) − silu(−x) = x.
So a fresh adapter need not find out first what it is shown, which takes longer than all that comes after.
"""

from __future__ import annotations

from typing import Final

import torch
from torch import Tensor, nn

from ..diffusion.bundled_codec import GROUP, BundledCodec
from .adapter_network import AdapterNetwork
from .bundled_conditioning import kept_blocks, normalised_latents, ray_latents

_RIDGE: Final = 1e-3
_SIDE: Final = 128  # of the pictures that the map is fitted to
_FITTED: Final = 24


def begin_as_the_base(network: AdapterNetwork, codec: BundledCodec) -> None:
    """Lets the camera encoder say what the transformer's own condition would say of the kept blocks.

    Nothing is changed where the encoder is too narrow for it.

    Args:
        network: with a fresh camera encoder; its transformer is trained.
        codec: that of the latents, on the same device.
    """
    channels = codec.config.z_dim
    camera = network.camera_encoder
    said = 1 + channels
    if camera.config.hidden_channels < 2 * said:
        return
    enter, _, middle, _, leave = camera.latent_encoder
    weight, bias = _known_of_rays(codec, next(camera.parameters()).device)
    with torch.no_grad():
        _pass_on(enter, weight, bias)
        _pass_on(middle, _difference(said), torch.zeros(said, device=bias.device))
        leave.weight[:said] = 0
        leave.weight[:said, : 2 * said, 0, 0, 0] = _difference(said).to(bias.device)
        leave.bias[:said] = 0
        patch = network.transformer.patch_embedding.weight
        known = patch[:, channels : channels + GROUP].sum(1, keepdim=True)
        own = torch.cat([known, patch[:, channels + GROUP :]], dim=1)
        camera.latent_patch_embedding.weight[:, :said] = own.to(camera.latent_patch_embedding.weight.dtype)


def _pass_on(layer: nn.Conv3d, weight: Tensor, bias: Tensor) -> None:
    """Makes a layer's first outputs a linear map and its negative, of which SiLU keeps the difference."""
    count, inputs = weight.shape
    layer.weight[: 2 * count] = 0
    layer.weight[: 2 * count, :inputs, 0, 0, 0] = torch.cat([weight, -weight]).to(layer.weight.device)
    assert layer.bias is not None
    layer.bias[: 2 * count] = torch.cat([bias, -bias])


def _difference(count: int) -> Tensor:
    """(count, 2·count): first half minus second."""
    one = torch.eye(count)
    return torch.cat([one, -one], dim=1)


@torch.no_grad()
def _known_of_rays(codec: BundledCodec, device: torch.device) -> tuple[Tensor, Tensor]:
    """The map (1 + C, 2C), (1 + C,) from latents of colour and mask to what is known, and its latents less grey's.

    Fitted to pictures of random patches, of which whole frames' blocks are hidden.
    """
    generator = torch.Generator().manual_seed(0)
    coarse = torch.rand(_FITTED, 3, 5, _SIDE // 16, _SIDE // 16, generator=generator) * 2 - 1
    fine = torch.randn(_FITTED, 3, 1, _SIDE, _SIDE, generator=generator) * 0.15
    video = (coarse.repeat_interleave(16, 3).repeat_interleave(16, 4) + fine).clamp(-1, 1).to(device)
    keep = (torch.rand(_FITTED, 1, 5, 4, 4, generator=generator) < 0.5).float()
    keep[:, :, 2:] = keep[:, :, 1:2]
    keep = keep.repeat_interleave(_SIDE // 4, 3).repeat_interleave(_SIDE // 4, 4).to(device)
    known = kept_blocks(keep)
    grey = normalised_latents(codec, torch.zeros(1, 3, 1, _SIDE, _SIDE, device=device))
    latents = (normalised_latents(codec, video) - grey) * known
    rays = torch.cat([*ray_latents(codec, video, keep), torch.ones_like(known)], dim=1)
    given, wanted = (part.transpose(0, 1).flatten(1).double() for part in (rays, torch.cat([known, latents], dim=1)))
    square = given @ given.T
    square += _RIDGE * square.diagonal().mean() * torch.eye(len(square), dtype=square.dtype, device=device)
    solution = torch.linalg.solve(square, given @ wanted.T).T.float()
    return solution[:, :-1].contiguous(), solution[:, -1].contiguous()
