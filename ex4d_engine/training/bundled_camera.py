# SPDX-License-Identifier: GPL-3.0-or-later
"""Where a fresh camera encoder of the bundled model begins: at what its transformer can read already.

The bundled transformer has learned, while it was trained alone, to read latents of what is known beside its noisy
input, and which blocks those are. The camera encoder is shown nearly the same: the latents of a picture with black
holes, and of the holes. Its three layers can be made to tell the one from the other:

    1. how much of a block is hidden, h, is a weighted sum of the mask's latents; silu(M·h − m) is nearly 0 where
       nothing is, and large elsewhere. Colour c, less grey's, goes on as silu(c) and silu(−c).
    2. silu(c − g) and silu(−c − g), with that large g, are nearly 0 where something is hidden.
    3. silu(c) − silu(−c) = c.

So a fresh adapter need not find out first what it is shown, which takes longer than all that comes after.
"""

from __future__ import annotations

import copy
from typing import Final

import torch
from torch import Tensor, nn

from ..diffusion.bundled_codec import GROUP, BundledCodec
from .adapter_network import AdapterNetwork
from .bundled_conditioning import kept_blocks, normalised_latents, ray_latents

_STEEPNESS: Final = 100.0  # M
_MARGIN: Final = 5.0  # m: a block of which a twentieth is hidden is half believed
_SIDE: Final = 128  # of the masks that h is fitted to
_FRAMES: Final = 9
_FITTED: Final = 32


def begin_as_the_base(network: AdapterNetwork, codec: BundledCodec) -> None:
    """Lets the camera encoder say what the transformer's own condition would say of the blocks that are kept.

    Nothing is changed where the encoder is too narrow for it.

    Args:
        network: with a fresh camera encoder, on the CPU; its transformer is trained.
        codec: that of the latents.
    """
    channels = codec.config.z_dim
    camera = network.camera_encoder
    said = channels + 1  # the latents, and that they are known
    if camera.config.hidden_channels < 2 * said:
        return
    # on the CPU: in full precision, and the same on every card
    weight, bias, grey = _hidden_of_masks(copy.deepcopy(codec).cpu())
    enter, _, middle, _, leave = camera.latent_encoder
    one = torch.eye(channels)
    with torch.no_grad():
        colour = torch.cat([one, -one])
        _set(enter, 0, torch.cat([colour, torch.zeros_like(colour)], dim=1), torch.cat([-grey, grey]))
        hidden = torch.cat([torch.zeros(channels), _STEEPNESS * weight])[None]
        _set(enter, 2 * channels, hidden, _STEEPNESS * bias - _MARGIN)
        for number, sign in enumerate((1.0, -1.0)):
            gated = torch.zeros(said, 2 * channels + 1)
            gated[:channels, :channels], gated[:channels, channels : 2 * channels] = sign * one, -sign * one
            gated[:, -1] = -1
            known = torch.zeros(said)
            known[-1] = sign
            _set(middle, number * said, gated, known)
        both = torch.eye(said)
        _set(leave, 0, torch.cat([both, -both], dim=1), torch.zeros(said))
        patch = network.transformer.patch_embedding.weight
        mask = patch[:, channels : channels + GROUP].sum(1, keepdim=True)
        camera.latent_patch_embedding.weight[:, :said] = torch.cat([patch[:, channels + GROUP :], mask], dim=1)


def _set(layer: nn.Module, first: int, weight: Tensor, bias: Tensor) -> None:
    """Makes outputs of a point-wise convolution, from the `first` on, this map (N, M) of its first M inputs."""
    assert isinstance(layer, nn.Conv3d) and layer.bias is not None
    outputs = slice(first, first + len(weight))
    layer.weight[outputs] = 0
    layer.weight[outputs, : weight.shape[1], 0, 0, 0] = weight
    layer.bias[outputs] = bias


@torch.no_grad()
def _hidden_of_masks(codec: BundledCodec) -> tuple[Tensor, Tensor, Tensor]:
    """Weights (C,) and bias (1,) by which a mask's latents say what share of a block is hidden; the latents (C,) of
    grey.

    Fitted by least squares to boxes that move.
    """
    generator = torch.Generator().manual_seed(0)
    moments, along = torch.linspace(0, 1, _FRAMES), torch.arange(float(_SIDE))
    hidden = torch.ones(_FITTED, _FRAMES, _SIDE, _SIDE, dtype=torch.bool)
    for axis in (2, 3):
        place, move, size = torch.rand(3, _FITTED, 1, generator=generator)
        first = (place - 0.3 + 0.5 * (move - 0.5) * moments) * _SIDE
        inside = (along >= first[..., None]) & (along < (first + (0.2 + 0.6 * size) * _SIDE)[..., None])
        hidden &= inside.unsqueeze(5 - axis)
    keep = 1 - hidden[:, None].float()
    _, mask = ray_latents(codec, torch.zeros(1, 3, 1, 1, 1).expand(_FITTED, -1, _FRAMES, _SIDE, _SIDE), keep)
    given = torch.cat([mask, torch.ones_like(mask[:, :1])], dim=1).transpose(0, 1).flatten(1)
    wanted = 1 - kept_blocks(keep).flatten()
    solution = torch.linalg.lstsq(given.T.double(), wanted[:, None].double(), driver="gelsd").solution[:, 0].float()
    grey = normalised_latents(codec, torch.zeros(1, 3, 1, _SIDE, _SIDE)).mean(dim=(0, 2, 3, 4))
    return solution[:-1], solution[-1:], grey
