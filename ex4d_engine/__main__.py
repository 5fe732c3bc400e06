# SPDX-License-Identifier: GPL-3.0-or-later
"""Starts the engine from its folder: `python -I path/to/ex4d_engine worker`.

The add-on starts the sources bundled with it, not whatever `ex4d_engine` the engine's Python may have
installed, so that both sides of the pipe are always of one version. `-I` keeps the user's PYTHONPATH and
site packages out, and with them the folder that holds this package; it is put back here.
"""

from __future__ import annotations

import sys
from pathlib import Path

if __package__ in (None, ""):
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from ex4d_engine.cli import main

if __name__ == "__main__":
    sys.exit(main())
