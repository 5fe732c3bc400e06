# SPDX-License-Identifier: GPL-3.0-or-later
"""What diffusers and transformers would say to developers is kept from users."""

from __future__ import annotations

import os
import sys
from collections.abc import MutableMapping
from importlib import import_module
from typing import Final

_LIBRARIES: Final = ("diffusers", "transformers")


def quiet_libraries(environment: MutableMapping[str, str] = os.environ) -> None:
    """Lets the libraries report errors alone, unless the user has set `DIFFUSERS_VERBOSITY` or the other's.

    Some advice comes while they are imported, so the level is set in the environment, where they look for it then;
    processes that are started inherit it. What matters of it is checked by whoever loads a model.
    """
    for name in _LIBRARIES:
        level = environment.setdefault(f"{name.upper()}_VERBOSITY", "error")
        if level == "error" and name in sys.modules:
            import_module(f"{name}.utils.logging").set_verbosity_error()


def hide_library_bars() -> None:
    """Lets the libraries draw no progress bars: the reporter shows ours."""
    for name in _LIBRARIES:
        import_module(f"{name}.utils.logging").disable_progress_bar()
