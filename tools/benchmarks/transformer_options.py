# SPDX-License-Identifier: GPL-3.0-or-later
"""What the benchmarks over several cards have in common: their command line, and the model that it chooses."""

from __future__ import annotations

import argparse
from typing import Any, Final

from ex4d_engine.diffusion.checkpoints import WAN_I2V_14B

TINY: Final[dict[str, Any]] = {
    **WAN_I2V_14B,
    "num_attention_heads": 4,
    "attention_head_dim": 12,
    "text_dim": 24,
    "freq_dim": 16,
    "ffn_dim": 32,
    "image_dim": 32,
    "added_kv_proj_dim": 48,
    "rope_max_seq_len": 64,
    "num_layers": 2,
}
SIZE: Final = (49, 512, 512)
TINY_SIZE: Final = (9, 32, 64)


def options_parser(doc: str | None, gpus: list[int], steps: int) -> argparse.ArgumentParser:
    """The shared options; to be read with `parsed`.

    Args:
        doc: the tool's docstring, whose first line describes it.
        gpus, steps: defaults.
    """
    parser = argparse.ArgumentParser(description=(doc or "").splitlines()[0])
    parser.add_argument("--gpus", type=int, nargs="+", default=gpus, help="numbers of cards to measure")
    parser.add_argument("--size", type=_size, help="FRAMESxHEIGHTxWIDTH (default: 49x512x512)")
    parser.add_argument("--layers", type=int, help="blocks of the transformer (default: 40)")
    parser.add_argument("--steps", type=int, default=steps, help="timed steps")
    parser.add_argument("--tiny", action="store_true", help="a toy model on the CPU")
    return parser


def parsed(parser: argparse.ArgumentParser) -> argparse.Namespace:
    """The options, with a size and a number of layers."""
    options = parser.parse_args()
    options.size = options.size or (TINY_SIZE if options.tiny else SIZE)
    options.layers = options.layers or transformer_config(options.tiny)["num_layers"]
    return options


def transformer_config(tiny: bool, layers: int | None = None) -> dict[str, Any]:
    """The transformer's configuration, with so many layers if told."""
    config = TINY if tiny else WAN_I2V_14B
    return dict(config) if layers is None else {**config, "num_layers": layers}


def _size(text: str) -> tuple[int, int, int]:
    frames, height, width = map(int, text.split("x"))
    return frames, height, width
