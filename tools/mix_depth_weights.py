#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-3.0-or-later
"""Weights between those of a depth network and of one that was trained on from it.

    python tools/mix_depth_weights.py BEFORE AFTER --share 0.7 --out FILE

A network that learns new scenes gets worse at the old ones. Between the two lie networks that are good at both, as
long as one was trained from the other.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from safetensors import safe_open

from ex4d_engine.depth.network_weights import load_weights, save_weights
from ex4d_engine.errors import Ex4dError


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("before", type=Path, metavar="BEFORE")
    parser.add_argument("after", type=Path, metavar="AFTER")
    parser.add_argument("--share", type=float, required=True, help="of AFTER, 0 to 1")
    parser.add_argument("--out", type=Path, required=True, metavar="FILE")
    options = parser.parse_args()
    try:
        mix(options.before, options.after, options.share, options.out)
    except Ex4dError as error:
        print(f"mix_depth_weights: {error}", file=sys.stderr)
        return 1
    return 0


def mix(before: Path, after: Path, share: float, out: Path) -> None:
    """Writes (1 − share) · before + share · after.

    Raises:
        Ex4dError: as `load_weights`; `bad_request` for networks of two shapes or a share that is none.
    """
    if not 0 <= share <= 1:
        raise Ex4dError("bad_request", f"{share:g} is not a share.", "Give --share 0 to 1.")
    mixed, other = load_weights(before), load_weights(after)
    if mixed.shape != other.shape:
        raise Ex4dError("bad_request", "The two networks have different shapes.", "Mix a network with its own start.")
    theirs = other.state_dict()
    mixed.load_state_dict(
        {
            name: value.lerp(theirs[name], share) if value.is_floating_point() else value
            for name, value in mixed.state_dict().items()
        }
    )
    save_weights(mixed, out, {"mixed": [trained(before), trained(after)], "share of the second": share})


def trained(path: Path) -> object:
    """What a weight file says of how it came about."""
    with safe_open(path, framework="pt") as file:
        return json.loads((file.metadata() or {}).get("trained", "null"))


if __name__ == "__main__":
    sys.exit(main())
