# SPDX-License-Identifier: GPL-3.0-or-later
"""Builds the Blender extension's zip: manifest, add-on and the bundled engine. Standard library only.

    python3 tools/build_extension.py [OUTPUT.zip]

The same sources give the same bytes. Blender's own `extension validate` is run on it by the tests.
"""

from __future__ import annotations

import sys
import tomllib
import zipfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
FILES = ("blender_manifest.toml", "__init__.py", "LICENSE", "requirements/engine.txt")
FOLDERS = ("ex4d_blender", "ex4d_engine")
LEFT_OUT = ("__pycache__", "courtyard.mp4")  # the demo's clip is of no use inside Blender
WEIGHTS = ".safetensors"  # no smaller when compressed, and much slower
EPOCH = (1980, 1, 1, 0, 0, 0)


def build_extension(output: Path) -> Path:
    """Writes the zip to `output` and returns it."""
    members = [ROOT / name for name in FILES]
    for folder in FOLDERS:
        members += [
            path
            for path in sorted((ROOT / folder).rglob("*"))
            if path.is_file()
            and not any(part in LEFT_OUT or part.startswith(".") for part in path.relative_to(ROOT).parts)
        ]
    output.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(output, "w", zipfile.ZIP_DEFLATED, compresslevel=6) as archive:
        for path in members:
            entry = zipfile.ZipInfo(path.relative_to(ROOT).as_posix(), EPOCH)
            entry.compress_type = zipfile.ZIP_STORED if path.suffix == WEIGHTS else zipfile.ZIP_DEFLATED
            entry.external_attr = 0o644 << 16
            archive.writestr(entry, path.read_bytes())
    return output


def default_output() -> Path:
    """`dist/ex4d-<version>.zip` in the checkout."""
    manifest = tomllib.loads((ROOT / "blender_manifest.toml").read_text(encoding="utf-8"))
    return ROOT / "dist" / f"{manifest['id']}-{manifest['version']}.zip"


if __name__ == "__main__":
    print(build_extension(Path(sys.argv[1]).resolve() if len(sys.argv) > 1 else default_output()))
