# SPDX-License-Identifier: GPL-3.0-or-later
"""Text embeddings kept on disk: the prompts hardly ever change, and the text encoder is 5.7 B parameters to load."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save

from ..errors import Ex4dError
from ..files import write_bytes

_NAME = "embeds"

EmbedTexts = Callable[[Sequence[str]], list[torch.Tensor]]


def cached_embeds(
    texts: Sequence[str], encoder_folder: Path, cache_folder: Path, embed: EmbedTexts
) -> list[torch.Tensor]:
    """The texts' embeddings, each (1, L ≤ 512, text_dim) on the CPU; only those not known are computed.

    Args:
        texts: prompts.
        encoder_folder: the text encoder's, whose files' names, sizes and times tell one encoder from another.
        cache_folder: where the embeddings are kept; a file that is damaged is made anew, and a folder
            that cannot be written is done without.
        embed: computes embeddings, all missing ones in one call, as it loads the encoder for them.
    """
    encoder = _fingerprint(encoder_folder)
    files = [cache_folder / f"{_digest(encoder, text)}.safetensors" for text in texts]
    known = [_read(file) for file in files]
    missing = [index for index, embeds in enumerate(known) if embeds is None]
    if missing:
        with suppress(OSError):
            cache_folder.mkdir(parents=True, exist_ok=True)
        for index, embeds in zip(missing, embed([texts[index] for index in missing]), strict=True):
            known[index] = kept = embeds.detach().cpu().contiguous()
            with suppress(Ex4dError):  # read-only, or full: encoded anew the next time
                write_bytes(files[index], save({_NAME: kept}))
    return [embeds for embeds in known if embeds is not None]


def _fingerprint(folder: Path) -> str:
    """Told without reading gigabytes: what the file system says of the encoder's files."""
    files = [(path.name, path.stat().st_size, path.stat().st_mtime_ns) for path in sorted(folder.iterdir())]
    return json.dumps([str(folder.resolve()), files])


def _digest(encoder: str, text: str) -> str:
    return hashlib.sha256(json.dumps([encoder, text]).encode("utf-8")).hexdigest()


def _read(path: Path) -> torch.Tensor | None:
    try:
        return load_file(path).get(_NAME) if path.is_file() else None
    except (SafetensorError, OSError):
        return None
