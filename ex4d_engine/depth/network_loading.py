# SPDX-License-Identifier: GPL-3.0-or-later
"""A depth network's weights: where they lie, and loaded with every tensor accounted for."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import Ex4dError
from ..library_talk import hide_library_bars, quiet_libraries

if TYPE_CHECKING:
    import torch

    Tensors = Mapping[str, torch.Tensor]


def one_of(variant: str, variants: Iterable[str], source: str) -> str:
    """`variant` if it is one of `variants`.

    Raises:
        Ex4dError: `bad_request`.
    """
    known = list(variants)
    if variant not in known:
        raise Ex4dError("bad_request", f"{source} has no variant {variant!r}.", f"Use one of: {', '.join(known)}.")
    return variant


def whole_number(value: Any, what: str, least: int, most: int) -> int:
    """An option's value, if it is a whole number in its limits.

    Raises:
        Ex4dError: `bad_request`.
    """
    if not isinstance(value, int) or isinstance(value, bool) or not least <= value <= most:
        raise Ex4dError("bad_request", f"{value!r} is no {what}.", f"Give a whole number from {least} to {most}.")
    return value


def network_side(value: Any, source: str, least: int) -> int:
    """The side in pixels of what a network is to see.

    Raises:
        Ex4dError: `bad_request` where it could see nothing, or no memory would hold it.
    """
    return whole_number(value, f"size in pixels for {source}", least, 4096)


@contextmanager
def running(title: str) -> Iterator[None]:
    """Around a network's work: no gradients, and a full memory in one sentence.

    Raises:
        Ex4dError: `out_of_memory`.
    """
    import torch

    try:
        with torch.inference_mode():
            yield
    except torch.OutOfMemoryError as error:
        raise Ex4dError(
            "out_of_memory",
            f"{title} does not fit in the graphics card's memory.",
            "Give a smaller size, or device=cpu.",
        ) from error


def load_library_model(kind: type[Any], folder: Path, dtype: torch.dtype) -> Any:
    """A model of transformers or diffusers, every tensor accounted for. What the libraries would say is kept quiet.

    Raises:
        Ex4dError: `model_invalid`.
    """
    quiet_libraries()
    hide_library_bars()
    from ..diffusion.loading import load_component

    return load_component(kind, folder, dtype)


def load_all(module: torch.nn.Module, tensors: Tensors, path: Path, title: str) -> Any:
    """The module with the tensors as its own, ready to infer.

    Raises:
        Ex4dError: `model_invalid` listing what is missing, what has no place and what has another shape.
    """
    own = module.state_dict()
    wrong = {
        "missing": sorted(own.keys() - tensors.keys()),
        "unexpected": sorted(tensors.keys() - own.keys()),
        "of another shape": sorted(n for n in own.keys() & tensors.keys() if own[n].shape != tensors[n].shape),
    }
    if any(wrong.values()):
        listing = "; ".join(f"{len(names)} {what}: {', '.join(names[:5])}" for what, names in wrong.items() if names)
        raise invalid(path, title, listing)
    module.load_state_dict({name: value.float() for name, value in tensors.items()}, strict=True, assign=True)
    return module.eval().requires_grad_(False)


def shape_of(tensors: Tensors, name: str, dimensions: int, path: Path, title: str) -> tuple[int, ...]:
    """The shape of a tensor that tells how large a network is.

    Raises:
        Ex4dError: `model_invalid` without it.
    """
    if name not in tensors or tensors[name].ndim != dimensions:
        raise invalid(path, title, f"1 missing: {name}")
    return tuple(tensors[name].shape)


def invalid(path: Path, title: str, listing: str) -> Ex4dError:
    """What a file of other weights is refused with."""
    return Ex4dError(
        "model_invalid",
        f"The weights in {path} are not those of {title} ({listing}).",
        "Download the model again, or register the right file.",
    )
