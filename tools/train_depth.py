#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-3.0-or-later
"""`ex4d train depth` on a machine that has torch, numpy and safetensors, and nothing else of the engine's needs.

    python tools/train_depth.py --out DIR --minutes 20

writes DIR/checkpoint.safetensors and DIR/depth_bundled.safetensors, again and again as it goes.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from ex4d_engine.errors import Ex4dError
from ex4d_engine.training.commands import add_depth_options, train_depth_command


class Lines:
    """A reporter that prints log lines; the one for terminals draws bars with a package that may be missing."""

    def progress(self, stage: str, done: int, total: int) -> None:
        pass

    def log(self, message: str) -> None:
        print(message, file=sys.stderr, flush=True)

    def preview(self, path: Path) -> None:
        pass

    def check(self) -> None:
        pass


def main() -> int:
    parser = argparse.ArgumentParser(description="Train the bundled depth network.")
    add_depth_options(parser)
    try:
        return train_depth_command(parser.parse_args(), Lines())
    except Ex4dError as error:
        print(f"train_depth: {error}", file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main())
