# SPDX-License-Identifier: GPL-3.0-or-later
"""Settings that PyTorch reads once, from the environment, as it is imported or first takes memory."""

from __future__ import annotations

import os
import sys
from collections.abc import MutableMapping


def prepare_torch(environment: MutableMapping[str, str] = os.environ) -> None:
    """Sets what the user has not set; to be called before torch is imported.

    Threads that wait sleep: by default they spin, and with Blender rendering beside them a step of the depth network
    took up to eight times as long. The graphics card's memory is taken in segments that grow: else what denoising
    leaves in pieces is missing to the decoder, and memory tier 24 does not fit its card (docs/performance.md).
    """
    environment.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    # the first name is PyTorch's own since 2.9, the second one the older
    if sys.platform != "win32" and not {"PYTORCH_ALLOC_CONF", "PYTORCH_CUDA_ALLOC_CONF"} & environment.keys():
        environment["PYTORCH_ALLOC_CONF"] = "expandable_segments:True"
