# SPDX-License-Identifier: GPL-3.0-or-later
"""Makes the repository importable as a package, as Blender does with the extension's folder."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[1]
SHARED = REPOSITORY.parent / "shared"


def _import_extension() -> None:
    """`ex4d_extension.ex4d_blender.…` then works where the add-on's relative imports need a parent package."""
    if "ex4d_extension" in sys.modules:
        return
    spec = importlib.util.spec_from_file_location(
        "ex4d_extension", REPOSITORY / "__init__.py", submodule_search_locations=[str(REPOSITORY)]
    )
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["ex4d_extension"] = module
    spec.loader.exec_module(module)


_import_extension()
