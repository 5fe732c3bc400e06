# SPDX-License-Identifier: GPL-3.0-or-later
"""The linear codec of given clips, from which the bundled one is trained: principal components, decoded lapped."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

import torch
from torch import Tensor
from torch.nn import functional

from ..diffusion.bundled_codec import BLOCK, BLOCK_VALUES, BundledCodec, block_groups

_CLIPS_AT_ONCE: Final = 8
_LEAST_DEVIATION: Final = 1e-3  # of pixel values in [−1, 1]: what varies less is rounding
_NEIGHBOURS: Final = 9
_PRIOR_BLOCKS: Final = 100.0  # so many blocks' worth of belief that neighbours say nothing, for when clips are few


@torch.no_grad()
def fit_linear_codec(codec: BundledCodec, clips: Tensor) -> None:
    """Makes the codec's linear part the best one for given clips.

    Its projection is that on the principal components of 4×8×8 blocks, each scaled to deviation 1. What these leave
    out of a block is then predicted, by least squares, from the latents of the block and its eight neighbours, which
    takes most of the edge from between two blocks. The codec's networks are left alone; while they are fresh, the
    codec is linear.

    Args:
        codec: whose projection and expansion are set.
        clips: (N, 3, 1+4n, H, W) in [−1, 1].
    """
    down, up, mean = _principal_components(clips, codec.config.z_dim)
    assert codec.project.bias is not None and codec.expand.bias is not None
    codec.project.weight.copy_(down[:, :, None, None])
    codec.project.bias.copy_(-down @ mean)
    codec.expand.weight.copy_(_lapped(codec, clips, up, mean))
    codec.expand.bias.copy_(mean)


def _principal_components(clips: Tensor, count: int) -> tuple[Tensor, Tensor, Tensor]:
    """To latents (count, V), back (V, count) and the blocks' mean (V,), double precision on the CPU."""
    total, square, blocks = torch.zeros(BLOCK_VALUES).double(), torch.zeros(BLOCK_VALUES, BLOCK_VALUES).double(), 0
    for image in _block_images(clips):
        values = image.transpose(0, 1).flatten(1)
        total += values.sum(1).cpu()
        square += (values @ values.T).cpu()
        blocks += values.shape[1]
    mean = total / blocks
    variances, directions = torch.linalg.eigh(square / blocks - mean.outer(mean))
    largest = torch.arange(BLOCK_VALUES - 1, BLOCK_VALUES - 1 - count, -1)
    deviations = variances[largest].clamp_min(0).sqrt().clamp_min(_LEAST_DEVIATION)
    return directions[:, largest].T / deviations[:, None], directions[:, largest] * deviations, mean


def _lapped(codec: BundledCodec, clips: Tensor, up: Tensor, mean: Tensor) -> Tensor:
    """The kernel (V, count, 3, 3) that gives blocks from latents and their neighbours."""
    count = up.shape[1]
    gram = _PRIOR_BLOCKS * torch.eye(_NEIGHBOURS * count).double()
    cross = torch.zeros(_NEIGHBOURS * count, BLOCK_VALUES).double()
    back, offset = up.to(clips), mean.to(clips)
    for image in _block_images(clips):
        latents = codec.project(image)
        left_out = image - torch.einsum("vc,nchw->nvhw", back, latents) - offset[:, None, None]
        around = functional.unfold(latents, 3, padding=1).transpose(0, 1).flatten(1)
        gram += (around @ around.T).cpu()
        cross += (around @ left_out.flatten(2).transpose(0, 1).flatten(1).T).cpu()
    kernel = torch.linalg.solve(gram, cross).T.unflatten(1, (count, 3, 3)).contiguous()
    kernel[:, :, 1, 1] += up
    return kernel


def _block_images(clips: Tensor) -> Iterator[Tensor]:
    """(M, V, H/8, W/8) float32: the clips' groups, a few at once, with blocks as pixels."""
    for some in clips.split(_CLIPS_AT_ONCE):
        yield functional.pixel_unshuffle(block_groups(some), BLOCK).float()
