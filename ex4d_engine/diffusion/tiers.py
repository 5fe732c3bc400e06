# SPDX-License-Identifier: GPL-3.0-or-later
"""Memory tiers: how the model is kept so that it fits a graphics card, and what that needs.

A tier is named after the smallest card it is meant for. The numbers of `need_gib` are fitted to peaks measured with
each tier's memory capped (docs/performance.md); for other sizes of frames it is an estimate.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal

from ..bundled_model import smaller_preset
from ..errors import Ex4dError

Precision = Literal["exact", "float8"]
GIB: Final = 2**30


@dataclass(frozen=True)
class Tier:
    """A way to keep the model.

    Attributes:
        name: gigabytes of the card it is meant for.
        precision: of the transformer's linear layers unless asked otherwise: "exact" is bfloat16.
        offloaded: blocks wait in the CPU's memory and come to the card one ahead of their turn.
        small_offloaded: VAE, image and camera encoder come to the card layer by layer, as they compute, and Wan's
            VAE takes large frames in bands, see `vae_bands`.
    """

    name: str
    precision: Precision
    offloaded: bool
    small_offloaded: bool


TIERS: Final = (
    Tier("48", "exact", offloaded=False, small_offloaded=False),
    Tier("24", "float8", offloaded=False, small_offloaded=True),
    Tier("16", "exact", offloaded=True, small_offloaded=True),
    Tier("12", "float8", offloaded=True, small_offloaded=True),
)
"""From the fastest to the smallest."""

BYTES_PER_TOKEN: Final = 230_000
"""Activations of a forward of the 14B model, per token; scaled with the width for others."""
WIDTH: Final = 5120
OTHER_MODELS_GIB: Final = 3.6
"""VAE, image encoder and camera encoder in float32 beside a resident transformer."""
OTHER_MODELS_OF: Final = 14e9
"""Parameters of the transformer that these belong to; a smaller one has smaller ones."""
WORKSPACE_GIB: Final = 1.5
"""CUDA's context, cuDNN's workspace, fragments."""
VAE_GIB_PER_MEGAPIXEL: Final = 21.5
"""Wan's VAE: its activations and its memory of earlier frames while it decodes, float32, one latent frame at a time."""
BANDED_VAE_GIB_PER_MEGAPIXEL: Final = 12.2
"""The same in bands, as a tier whose small models are offloaded has it: 2.4 GiB at 512² are reckoned, where 4.75 are
for whole frames and 5.4 were measured."""
FLOAT8_BYTES: Final = 1.05
"""A parameter's, with the scales of each row and the layers that stay as they are."""


def tier_named(name: str) -> Tier:
    """Raises `bad_request` where there is no such tier."""
    for tier in TIERS:
        if tier.name == name:
            return tier
    raise Ex4dError(
        "bad_request", f"There is no memory tier {name!r}.", f"Choose auto, {', '.join(t.name for t in TIERS)}."
    )


def need_gib(
    tier: Tier,
    precision: Precision,
    weights: int,
    layers: int,
    width: int,
    tokens: int,
    vae_gib: float = VAE_GIB_PER_MEGAPIXEL,
) -> float:
    """What a run takes of the card, GiB.

    Args:
        tier, precision: how the transformer is kept.
        weights: its parameters.
        layers: its blocks.
        width: its channels.
        tokens: of one window, or of one tile of it.
        vae_gib: what the VAE needs for a whole frame of 1024² pixels, GiB.
    """
    weight_bytes = weights * bytes_a_weight(precision)
    if tier.offloaded:
        weight_bytes = 3 * weight_bytes / max(layers, 1)  # the block at work, the next, and what is no block
    activations = tokens * BYTES_PER_TOKEN * width / WIDTH
    pixels = tokens * 256 / 13  # of a frame: 16 × 16 to a token, 13 latent frames in the trained window
    if tier.small_offloaded:
        vae_gib = min(vae_gib, BANDED_VAE_GIB_PER_MEGAPIXEL)
    vae = vae_gib * pixels / 2**20
    others = OTHER_MODELS_GIB * min(1.0, weights / OTHER_MODELS_OF) if not tier.small_offloaded else 0.0
    return weight_bytes / GIB + others + max(activations / GIB, vae) + WORKSPACE_GIB


def bytes_a_weight(precision: Precision) -> float:
    """What a parameter takes where it is kept."""
    return 2 if precision == "exact" else FLOAT8_BYTES


def chosen_tier(
    name: str,
    precision: str,
    free_gib: float,
    weights: int,
    layers: int,
    width: int,
    tokens: int,
    vae_gib: float = VAE_GIB_PER_MEGAPIXEL,
) -> tuple[Tier, Precision, float]:
    """The tier asked for, or under "auto" the fastest that fits, with its precision and its need in GiB.

    The numbers from `weights` on are those of `need_gib`.

    Raises:
        Ex4dError: `out_of_memory` where it does not fit, whose action is the next smaller tier, or a smaller preset;
            `bad_request` for a tier or precision that does not exist.
    """
    if precision not in ("auto", "exact", "float8"):
        raise Ex4dError("bad_request", f"There is no precision {precision!r}.", "Choose auto, exact or float8.")
    candidates = TIERS if name == "auto" else (tier_named(name),)
    smallest = float("inf")
    for tier in candidates:
        own: Precision = tier.precision if precision == "auto" else precision  # type: ignore[assignment]
        need = need_gib(tier, own, weights, layers, width, tokens, vae_gib)
        smallest = min(smallest, need)
        if need <= free_gib:
            return tier, own, need
    next_tier, preset = next_smaller(candidates[-1]), smaller_preset(weights)
    raise Ex4dError(
        "out_of_memory",
        f"This needs {smallest:.1f} GiB of the graphics card, and {free_gib:.1f} are free.",
        f"Choose memory tier {next_tier.name}, or close what else uses the card."
        if next_tier
        else f"Choose a smaller window or size, close what else uses the card, or use preset {preset}.",
        f"tier:{next_tier.name}" if next_tier else f"preset:{preset}",
    )


def next_smaller(tier: Tier) -> Tier | None:
    """The tier that needs less than this one; None for the smallest."""
    position = TIERS.index(tier)
    return TIERS[position + 1] if position + 1 < len(TIERS) else None
