# SPDX-License-Identifier: GPL-3.0-or-later
"""One video's denoising shared out among ranks: the two guidance branches first, then each branch's tokens.

Every rank holds the whole model and runs the same deterministic loop on the same latents. A branch costs nothing
to split off, as it needs one exchange a step, so guidance comes first. Within a branch diffusers' context
parallelism (Ulysses) splits the tokens: every rank has its share of them, and in self-attention its share of the
heads instead. The ray latent is added at the patch embedding, before the tokens are split.

Processes are started in `parallel_launch`.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import torch
import torch.distributed as dist
from diffusers import ContextParallelConfig
from diffusers.hooks import FirstBlockCacheConfig, HookRegistry
from diffusers.hooks.context_parallel import ContextParallelSplitHook
from torch.distributed.device_mesh import init_device_mesh

from ..errors import Ex4dError
from .transformer import Ex4dTransformer3DModel

if TYPE_CHECKING:
    from .pipeline import Ex4dPipeline

MESH: Final = ("guidance", "ring", "ulysses")
"""Dimensions of the ranks' mesh. diffusers wants a ring dimension, which has one rank here."""


@dataclass(frozen=True)
class Layout:
    """guidance: 2 where each half of the ranks predicts one branch, else 1. ulysses: ranks that share its tokens."""

    guidance: int
    ulysses: int

    @property
    def ranks(self) -> int:
        return self.guidance * self.ulysses

    def fits(self, heads: int, tokens: Collection[int] = ()) -> bool:
        """Whether attention heads and token counts divide among the ranks that share a branch."""
        return not any(count % self.ulysses for count in (heads, *tokens))


def layout_of(ranks: int, guided: bool) -> Layout:
    """How `ranks` share a step. An odd number under guidance predicts one branch after the other, all ranks in each."""
    guidance = 2 if guided and ranks % 2 == 0 else 1
    return Layout(guidance, ranks // guidance)


def chosen_by_the_first(choose: Callable[[], str]) -> str:
    """What rank 0 chooses, on all ranks: by trials of their own they could choose differently, and wait for ever."""
    chosen: list[str | None] = [choose() if dist.get_rank() == 0 else None]
    dist.broadcast_object_list(chosen, src=0)
    assert chosen[0] is not None
    return chosen[0]


def usable_ranks(available: int, heads: int, tokens: Collection[int], guided: bool) -> int:
    """The largest number of ranks, `available` at most, that can share the work; the others would stay idle.

    With Wan's 40 heads and 13312 tokens (49 frames, 512×512): 2, 4, 8 or 16 under guidance, and 1, 2, 4 or 8 without
    it. So 3 graphics cards are used as 2.

    Args:
        available: ranks there could be, 1 or more.
        heads: attention heads of the transformer.
        tokens: of every video size that will be denoised, from `token_count`.
        guided: whether there are two branches.
    """
    return max(ranks for ranks in range(1, available + 1) if layout_of(ranks, guided).fits(heads, tokens))


def token_count(num_frames: int, height: int, width: int, frame_step: int = 4, size_multiple: int = 16) -> int:
    """Tokens of a video, after the padding to 4k+1 frames and to multiples of 16 pixels (Wan's numbers)."""
    latent_frames = math.ceil((num_frames - 1) / frame_step) + 1
    return latent_frames * math.ceil(height / size_multiple) * math.ceil(width / size_multiple)


def share_work(pipeline: Ex4dPipeline, guided: bool) -> Layout:
    """Makes `pipeline` do this rank's share, once, on every rank alike, after the process group was made.

    It stays right for both kinds of run: without guidance, ranks laid out for it predict the one branch twice.
    Load, fuse and quantise before; set the attention backend before, as not every one can split tokens; compile the
    repeated blocks after. FirstBlockCache does not go with shared tokens: each rank would decide for itself.

    Raises:
        Ex4dError: `bad_request` if the heads do not divide; later, from the transformer, if a video's tokens do not.
        ValueError: the attention backend or the cache cannot split tokens.
    """
    layout = layout_of(dist.get_world_size(), guided)
    pipeline.guidance_group = share_transformer(pipeline.transformer, layout)
    return layout


def share_transformer(transformer: Ex4dTransformer3DModel, layout: Layout) -> dist.ProcessGroup | None:
    """Splits the tokens as `layout` says and returns this rank's guidance group; see `share_work`."""
    heads = transformer.config.num_attention_heads
    if not layout.fits(heads):
        raise _does_not_divide(f"The model's {heads} attention heads", layout, "")
    mesh = init_device_mesh(transformer.device.type, (layout.guidance, 1, layout.ulysses), mesh_dim_names=MESH)
    if layout.ulysses > 1:
        if isinstance(getattr(transformer, "_cache_config", None), FirstBlockCacheConfig):
            raise ValueError("FirstBlockCache decides on each rank by that rank's own tokens; turn it off")
        # The plan's entry for the model itself splits timesteps per token, which Wan 2.1 does not have.
        plan = {name: split for name, split in transformer._cp_plan.items() if name}
        with _at_least_one_accelerator():
            transformer.enable_parallelism(
                config=ContextParallelConfig(ulysses_degree=layout.ulysses, mesh=mesh), cp_plan=plan
            )
        _name_split_inputs(transformer)
        transformer.register_forward_pre_hook(_token_check(layout))
    return mesh.get_group("guidance") if layout.guidance > 1 else None


def refuse_shared_cache(cache: str, layout: Layout) -> None:
    """Raises `bad_request` for a cache by which each of the ranks that share a branch would decide for itself.

    One that goes on would wait for the others' tokens for ever.
    """
    if cache != "none" and layout.ulysses > 1:
        raise Ex4dError(
            "bad_request",
            f"The cache {cache} does not go with {layout.ranks} graphics cards: {layout.ulysses} of them share the "
            "tokens of each forward.",
            f"Set the cache to none, or use {layout.guidance} of the cards.",
        )


def _name_split_inputs(transformer: Ex4dTransformer3DModel) -> None:
    """Tells diffusers' hooks where the inputs to split stand among a module's arguments.

    They would look it up at the first call, which a block compiled as one graph cannot do.
    """
    for module in transformer.modules():
        registry: HookRegistry | None = getattr(module, "_diffusers_hook", None)
        for hook in registry.hooks.values() if registry else ():
            if isinstance(hook, ContextParallelSplitHook):
                names = list(inspect.signature(type(module).forward).parameters)[1:]
                hook.module_forward_metadata.cached_parameter_indices = {name: at for at, name in enumerate(names)}


def _token_check(layout: Layout) -> Callable[[Ex4dTransformer3DModel, tuple[torch.Tensor, ...]], None]:
    """A hook that refuses latents whose tokens do not divide, for which diffusers has an assertion only."""

    def check(transformer: Ex4dTransformer3DModel, arguments: tuple[torch.Tensor, ...]) -> None:
        size = tuple(arguments[0].shape[2:])
        tokens = math.prod(length // patch for length, patch in zip(size, transformer.config.patch_size, strict=True))
        if not layout.fits(layout.ulysses, (tokens,)):
            pixels = 8 * transformer.config.patch_size[1] * layout.ulysses
            raise _does_not_divide(
                f"The {tokens} tokens of {'×'.join(map(str, size))} latents",
                layout,
                f", or a height or width that is a multiple of {pixels} pixels",
            )

    return check


def _does_not_divide(what: str, layout: Layout, or_else: str) -> Ex4dError:
    return Ex4dError(
        "bad_request",
        f"{what} do not divide among {layout.ulysses} ranks.",
        f"Use fewer graphics cards than {layout.ranks}{or_else}.",
    )


@contextmanager
def _at_least_one_accelerator() -> Iterator[None]:
    """On a machine without any, diffusers divides by their number to name a device that it then does not use."""
    count: Any = torch.accelerator.device_count
    torch.accelerator.device_count = lambda: max(1, count())
    try:
        yield
    finally:
        torch.accelerator.device_count = count
