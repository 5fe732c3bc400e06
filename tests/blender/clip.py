# SPDX-License-Identifier: GPL-3.0-or-later
"""The clip that the tests in Blender start from, written by the engine's Python, as Blender's has no encoder."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

FRAMES, WIDTH, HEIGHT = 6, 96, 64

MAKE_CLIP = """
import sys
from fractions import Fraction
import av, numpy as np
path, frames, width, height = sys.argv[1], *map(int, sys.argv[2:])
noise = np.random.default_rng(3).integers(0, 40, (height, width, 3), dtype=np.uint8)
with av.open(path, "w") as container:
    stream = container.add_stream("ffv1", rate=Fraction(24000, 1001))
    stream.width, stream.height, stream.pix_fmt = width, height, "bgr0"
    for index in range(frames):
        image = noise + np.linspace(40, 140, width, dtype=np.uint8)[None, :, None]
        image[20:50, 20 + 4 * index : 44 + 4 * index] = (230, 120, 40)
        container.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
    container.mux(stream.encode(None))
"""


def make_clip(path: Path, engine_python: Path) -> None:
    """Writes the clip to `path`."""
    environment = {key: value for key, value in os.environ.items() if not key.startswith("PYTHON")}
    arguments = [str(path), str(FRAMES), str(WIDTH), str(HEIGHT)]
    subprocess.run([str(engine_python), "-c", MAKE_CLIP, *arguments], env=environment, check=True, timeout=60)
