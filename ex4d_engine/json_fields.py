# SPDX-License-Identifier: GPL-3.0-or-later
"""JSON that is not trusted: parsed strictly and read field by field. Standard library only.

Files in a shot folder and lines on the pipe may be damaged, cut, edited by hand or written by another
version. Every function here raises `ValueError` with the name of the field and nothing else, so that
whoever reads a document has one exception to turn into a sentence.
"""

from __future__ import annotations

import json
import math
import re
from fractions import Fraction
from typing import Any, Final

MOST: Final = 10**9  # no frame number, count or size is beyond it; Blender's and C's integers hold it
MOST_PIXELS: Final = 65536  # a side of an image; what OpenEXR, PNG and OpenGL handle ends before
# Fraction("1e999999999") would compute a number that fills the memory
_FRACTION: Final = re.compile(r"\d{1,20}(/\d{1,20})?", re.ASCII)


def parse_json(data: bytes) -> Any:
    """The JSON value in UTF-8 `data`; NaN, infinities and numbers beyond a float's range are refused."""
    try:
        return json.loads(data.decode("utf-8"), parse_constant=_refuse_constant, parse_float=_finite)
    except UnicodeDecodeError as error:
        raise ValueError("it is not UTF-8 text") from error
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error


def to_json(document: dict[str, Any], indent: int | None = None) -> bytes:
    """`document` as UTF-8 JSON; `parse_json` gives back the same.

    Raises:
        ValueError: for a number that is not finite.
    """
    text = json.dumps(document, indent=indent, ensure_ascii=False, allow_nan=False)
    # A file name that is no valid Unicode holds lone surrogates. UTF-8 has none, but their \udcxx form is JSON
    return text.encode("utf-8", "backslashreplace")


def mapping(value: Any, name: str) -> dict[str, Any]:
    """`value`, if it is a JSON object."""
    if not isinstance(value, dict):
        raise ValueError(f"{name} is not an object")
    return value


def items(data: dict[str, Any], name: str) -> list[Any]:
    """The list in field `name`; an absent one is empty."""
    value = data.get(name, [])
    if not isinstance(value, list):
        raise ValueError(f"{name} is not a list")
    return value


def text(data: dict[str, Any], name: str, default: str | None = None) -> str:
    """The text in field `name`; it must be there unless there is a default."""
    return as_text(data.get(name, default), name)


def as_text(value: Any, name: str) -> str:
    """`value`, if it is a text."""
    if not isinstance(value, str):
        raise ValueError(f"{name} is not a text")
    return value


def integer(data: dict[str, Any], name: str, least: int, most: int = MOST) -> int:
    """The whole number in field `name`, from `least` to `most`."""
    value = data.get(name)
    if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= most:
        raise ValueError(f"{name} is not a whole number from {least} to {most}")
    return value


def positive(data: dict[str, Any], name: str) -> float:
    """The number above zero in field `name`."""
    value = as_number(data.get(name), name)
    if value <= 0:
        raise ValueError(f"{name} is not a positive number")
    return value


def as_number(value: Any, name: str) -> float:
    """`value` as a finite float, if it is a number; true, false and texts are none."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise ValueError(f"{name} is not a number")
    try:
        number = float(value)
    except OverflowError:
        number = math.inf
    if not math.isfinite(number):
        raise ValueError(f"{name} is not a finite number")
    return number


def rate(data: dict[str, Any], name: str) -> Fraction:
    """The positive fraction in field `name`, a text such as "30000/1001" or "25"."""
    value = text(data, name)
    if not _FRACTION.fullmatch(value):
        raise ValueError(f"{name} is not a fraction such as 30000/1001")
    above, _, below = value.partition("/")
    if int(above) == 0 or int(below or 1) == 0:
        raise ValueError(f"{name} is not a positive fraction")
    return Fraction(int(above), int(below or 1))


def size(data: dict[str, Any], name: str) -> tuple[int, int]:
    """The (width, height) in pixels in field `name`."""
    value = data.get(name)
    if not isinstance(value, list) or len(value) != 2:
        raise ValueError(f"{name} is not [width, height]")
    named = {"width": value[0], "height": value[1]}
    return integer(named, "width", 1, MOST_PIXELS), integer(named, "height", 1, MOST_PIXELS)


def matrix(value: Any, side: int, name: str) -> tuple[tuple[float, ...], ...]:
    """A square matrix of finite numbers."""
    if not isinstance(value, (list, tuple)) or len(value) != side:
        raise ValueError(f"{name} is not a {side} x {side} matrix")
    for row in value:
        if not isinstance(row, (list, tuple)) or len(row) != side:
            raise ValueError(f"{name} is not a {side} x {side} matrix")
    return tuple(tuple(as_number(entry, name) for entry in row) for row in value)


def _refuse_constant(name: str) -> float:
    raise ValueError(f"{name} is not a JSON number")


def _finite(digits: str) -> float:
    number = float(digits)
    if math.isinf(number):
        raise ValueError(f"{digits[:20]} is beyond the range of numbers")
    return number
