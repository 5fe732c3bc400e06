# SPDX-License-Identifier: GPL-3.0-or-later
"""The life of a process that a training started. The standard library only: not all of them load torch."""

from __future__ import annotations

import multiprocessing
import multiprocessing.connection
import os
import threading
from typing import Final

_NICE: Final = 10  # how far behind the training they stand in the queue for a core


def beside_the_training() -> None:
    """The life of a process that a training started: after the training, and no longer than it."""
    if hasattr(os, "nice"):
        os.nice(_NICE)
    parent = multiprocessing.parent_process()
    assert parent is not None

    def watch() -> None:
        multiprocessing.connection.wait([parent.sentinel])
        os._exit(1)

    threading.Thread(target=watch, name="parent watch", daemon=True).start()
