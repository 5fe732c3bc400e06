# SPDX-License-Identifier: GPL-3.0-or-later
"""Classifier-free guidance: one prediction for the prompt, one for the negative prompt, and a step beyond."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import torch
import torch.distributed as dist

BRANCHES: Final = ("cond", "uncond")
"""Names of the two predictions of a guided step, as diffusers' caches tell them apart."""

PredictBranch = Callable[[str, torch.Tensor], torch.Tensor]


def guided_velocity(
    predict: PredictBranch,
    prompt_embeds: tuple[torch.Tensor, torch.Tensor | None],
    guidance_scale: float,
    group: dist.ProcessGroup | None = None,
) -> torch.Tensor:
    """neg + guidance_scale·(pos − neg), or the prompt's prediction alone without a negative one.

    Args:
        predict: a branch's name and text embeddings to its prediction (B, C, F, H, W) float32.
        prompt_embeds: positive and, under guidance, negative.
        guidance_scale: 1 is the prompt's prediction, more goes further away from the negative prompt's.
        group: two ranks, of which each predicts the branch of its own number and gets the other's; all ranks of
            the group return the same bits. None predicts both branches here.
    """
    positive, negative = prompt_embeds
    if negative is None:
        return predict(BRANCHES[0], positive)
    if group is None:
        velocities = [predict(name, embeds) for name, embeds in zip(BRANCHES, (positive, negative), strict=True)]
    else:
        own = dist.get_rank(group)
        velocity = predict(BRANCHES[own], (positive, negative)[own]).contiguous()
        velocities = [torch.empty_like(velocity) for _ in BRANCHES]
        dist.all_gather(velocities, velocity, group=group)
    return velocities[1] + guidance_scale * (velocities[0] - velocities[1])
