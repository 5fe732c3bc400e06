# SPDX-License-Identifier: GPL-3.0-or-later
"""Shaders from this folder's files, and their uniforms."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import moderngl

_FOLDER = Path(__file__).parent


def shader(name: str, defined: tuple[str, ...] = ()) -> str:
    """A shader's source, with the words that its #ifdef ask for."""
    defines = "".join(f"#define {word}\n" for word in defined)
    return f"#version 330\n{defines}{(_FOLDER / name).read_text(encoding='ascii')}"


def set_uniform(program: moderngl.Program, name: str, value: Any) -> None:
    """Sets a uniform where there is one: a compiler drops what a shader does not use."""
    if name in program:
        program[name].value = value  # type: ignore[union-attr]
