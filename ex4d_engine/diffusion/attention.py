# SPDX-License-Identifier: GPL-3.0-or-later
"""Which attention kernel is the fastest on this device: tried for a second, remembered on disk.

No table can know it: on two H100s of the same kind, PyTorch's default was once 2 % faster than cuDNN's kernel and
once 4 % slower (docs/performance.md).
"""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Callable, Mapping
from importlib import metadata
from pathlib import Path
from typing import Final

import torch
from diffusers import ModelMixin
from diffusers.models.attention_dispatch import AttentionBackendName, _AttentionBackendRegistry, dispatch_attention_fn

from ..errors import Ex4dError
from ..files import atomic_path

NATIVE: Final = "native"
CANDIDATES: Final = (NATIVE, "_native_cudnn", "_native_flash", "_flash_3", "flash", "_native_efficient")
"""Exact kernels that diffusers can call without fetching code from a hub. The first always works."""

TRIAL_SECONDS: Final = 1.0
WORST_DEVIATION: Final = 2e-2  # relative; bfloat16 kernels differ among themselves by some 4e-3

Shape = tuple[int, int, int, int]


def splitting(candidates: tuple[str, ...] = CANDIDATES) -> tuple[str, ...]:
    """Those with which ranks can share a video's tokens."""
    return tuple(
        name
        for name in candidates
        if _AttentionBackendRegistry._is_context_parallel_available(AttentionBackendName(name))
    )


def use_backend(transformer: ModelMixin, name: str) -> None:
    """Makes one transformer use a backend, and nothing else: diffusers would change the whole process's default too.

    Raises:
        ValueError, RuntimeError, ImportError: it does not run here.
    """
    default, _ = _AttentionBackendRegistry.get_active_backend()
    try:
        transformer.set_attention_backend(name)
    finally:
        _AttentionBackendRegistry.set_active_backend(default)


def fastest_backend(
    shape: Shape,
    device: torch.device,
    dtype: torch.dtype,
    cache_file: Path,
    candidates: tuple[str, ...] = CANDIDATES,
) -> str:
    """The name of the fastest backend for self-attention, to be given to `transformer.set_attention_backend`.

    Args:
        shape: (batch, tokens, heads, head size) of queries, keys and values.
        device, dtype: where and in which precision; on a CPU there is nothing to choose.
        cache_file: JSON file of earlier trials; one that is unreadable is made anew, one that cannot be written is
            done without.
        candidates: to choose from.
    """
    if device.type != "cuda":
        return NATIVE
    key = trial_key(shape, device, dtype)
    known = read_trials(cache_file)
    if known.get(key) not in candidates:
        timed = trial(shape, device, dtype, candidates)
        known = {**known, key: min(timed, key=timed.__getitem__)}
        with contextlib.suppress(OSError, Ex4dError):
            cache_file.parent.mkdir(parents=True, exist_ok=True)
            with atomic_path(cache_file) as temporary:
                temporary.write_text(json.dumps(known, indent=1), encoding="utf-8")
    return known[key]


def trial(
    shape: Shape,
    device: torch.device,
    dtype: torch.dtype,
    candidates: tuple[str, ...] = CANDIDATES,
    seconds: float = TRIAL_SECONDS,
) -> dict[str, float]:
    """Seconds a call of each candidate that runs here and agrees with the first; always holds the first."""
    generator = torch.Generator(device).manual_seed(0)
    query, key, value = (torch.randn(shape, device=device, dtype=dtype, generator=generator) for _ in range(3))
    expected: torch.Tensor | None = None
    times: dict[str, float] = {}
    for name in candidates:
        call = _call(name, query, key, value)
        try:
            result = call().float()
        except (RuntimeError, ValueError, ImportError, TypeError, KeyError):
            if expected is None:
                raise
            continue  # not built for this device, shape or precision
        if expected is None:
            expected = result
        elif not (result - expected).norm() <= WORST_DEVIATION * expected.norm():
            continue
        times[name] = _seconds_a_call(call, device, seconds / len(candidates))
    return times


def trial_key(shape: Shape, device: torch.device, dtype: torch.dtype) -> str:
    """What a trial's outcome depends on. Tokens count in octaves: kernels change rank slowly with length."""
    batch, tokens, heads, size = shape
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else device.type
    versions = f"torch {torch.__version__}, diffusers {metadata.version('diffusers')}"
    return f"{name}, {versions}, {dtype}, {batch} x 2^{tokens.bit_length()} x {heads} x {size}"


def read_trials(path: Path) -> dict[str, str]:
    """Earlier outcomes whose backend this program still knows; none where the file is missing or damaged."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    entries: Mapping[object, object] = content if isinstance(content, dict) else {}
    return {str(key): str(name) for key, name in entries.items() if name in CANDIDATES}


def _call(name: str, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor) -> Callable[[], torch.Tensor]:
    def call() -> torch.Tensor:
        if AttentionBackendName(name) not in _AttentionBackendRegistry.list_backends():
            raise ImportError(name)
        return dispatch_attention_fn(query, key, value, backend=AttentionBackendName(name))

    return call


def _seconds_a_call(call: Callable[[], torch.Tensor], device: torch.device, budget: float) -> float:
    """The median over as many calls as the budget allows, three at least."""
    times: list[float] = []
    while len(times) < 3 or sum(times) < budget:
        _synchronise(device)
        started = time.perf_counter()
        call()
        _synchronise(device)
        times.append(time.perf_counter() - started)
    return sorted(times)[len(times) // 2]


def _synchronise(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
