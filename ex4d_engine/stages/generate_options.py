# SPDX-License-Identifier: GPL-3.0-or-later
"""What a diffusion preset can be asked for: one set of plain values, validated once, recorded in the take."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

from .. import json_fields as fields
from ..diffusion.preset_defaults import DEFAULTS
from ..errors import Ex4dError

TIERS: Final = ("auto", "48", "24", "16", "12")
PRECISIONS: Final = ("auto", "exact", "float8")
COMPILES: Final = ("auto", "on", "off")
CACHES: Final = ("none", "first-block")
MOST_STEPS, MOST_WINDOW, MOST_GPUS, MOST_EROSION = 1000, 1001, 64, 64


@dataclass(frozen=True)
class GenerateOptions:
    """How a take is generated, besides preset and seed. None is the preset's own choice.

    Attributes:
        steps: denoising steps.
        guidance: scale of classifier-free guidance; 1 is one forward a step.
        window: frames denoised at once, 4k+1.
        overlap: frames that neighbouring windows share.
        erosion: radius in pixels by which the seen region shrinks, or "random" as in the reference.
        area: pixels of the first pass's frame.
        detail: "none"; "full", a second pass at the take's size; or megapixels of the second pass, like "1.5".
        tier, precision, attention, compile, cache: see `diffusion.run_plan.RuntimeOptions`.
        gpus: graphics cards that share each step.
        prompt, negative_prompt: texts.
        model, adapter: a model folder and an EX-4D adapter (a file, or the name of one that `ex4d train lora` kept) to
            use instead of the installed ones.
    """

    steps: int | None = None
    guidance: float | None = None
    window: int | None = None
    overlap: int | None = None
    erosion: int | str | None = None
    area: int | None = None
    detail: str | None = None
    tier: str | None = None
    precision: str | None = None
    attention: str | None = None
    compile: str | None = None
    cache: str | None = None
    gpus: int | None = None
    prompt: str | None = None
    negative_prompt: str | None = None
    model: str | None = None
    adapter: str | None = None

    def to_json(self) -> dict[str, Any]:
        """Plain values by name; what is None is left out."""
        return {name: value for name, value in dataclasses.asdict(self).items() if value is not None}

    @classmethod
    def from_json(cls, data: Any) -> GenerateOptions:
        """The options that `to_json` gave, or that a program asks for.

        Raises:
            Ex4dError: `bad_request` with the option's name.
        """
        try:
            values = fields.mapping(data, "options")
            unknown = sorted(set(values) - set(_READ))
            if unknown:
                raise ValueError(f"there is no option {unknown[0]!r}")
            said = {name: value for name, value in values.items() if value is not None}
            return cls(**{name: _READ[name](said, name) for name in said})
        except ValueError as error:
            raise Ex4dError(
                "bad_request", f"The options cannot be used: {error}.", "Correct or leave it out."
            ) from error

    def resolved(self, preset: str) -> GenerateOptions:
        """The options with every default of the preset filled in; model and adapter stay as they are.

        What a preset that knows no text has no use for (`unused`) is as without it.
        """
        from ..diffusion.runtime import NEGATIVE_PROMPT, PROMPT

        own = DEFAULTS[preset]
        defaults = GenerateOptions(
            steps=own.steps,
            guidance=own.guidance,
            window=49,
            overlap=13,
            erosion=own.erosion,
            area=own.area,
            detail="none",
            tier="auto",
            precision="auto",
            attention="auto",
            compile="auto",
            cache="none",
            gpus=1,
            prompt=PROMPT if own.knows_text else "",
            negative_prompt=NEGATIVE_PROMPT if own.knows_text else "",
        )
        unused = self.unused(preset)
        return dataclasses.replace(
            defaults, **{name: value for name, value in self.to_json().items() if name not in unused}
        )

    def unused(self, preset: str) -> list[str]:
        """Names of options that are given and that the preset has no use for."""
        without_text = {} if DEFAULTS[preset].knows_text else {"guidance": 1.0, "prompt": "", "negative_prompt": ""}
        return [name for name, value in without_text.items() if getattr(self, name) not in (None, value)]

    def detail_area(self, width: int, height: int) -> int | None:
        """Pixels of the second pass's frame; None without one."""
        if self.detail in (None, "none"):
            return None
        return width * height if self.detail == "full" else round(float(str(self.detail)) * 1e6)


def _whole(least: int, most: int) -> Callable[[dict[str, Any], str], int]:
    return lambda data, name: fields.integer(data, name, least, most)


def _choice(*choices: str) -> Callable[[dict[str, Any], str], str]:
    def read(data: dict[str, Any], name: str) -> str:
        value = fields.text(data, name)
        if value not in choices:
            raise ValueError(f"{name} is {value!r}, not one of {', '.join(choices)}")
        return value

    return read


def _window(data: dict[str, Any], name: str) -> int:
    value = fields.integer(data, name, 5, MOST_WINDOW)
    if value % 4 != 1:
        raise ValueError(f"{name} is {value}, not a multiple of 4 and one more, such as 49 or 81")
    return value


def _guidance(data: dict[str, Any], name: str) -> float:
    value = fields.as_number(data[name], name)
    if not 1 <= value <= 100:
        raise ValueError(f"{name} is not a number from 1 to 100")
    return value


def _erosion(data: dict[str, Any], name: str) -> int | str:
    return "random" if data[name] == "random" else fields.integer(data, name, 0, MOST_EROSION)


def _detail(data: dict[str, Any], name: str) -> str:
    value = fields.text(data, name)
    if value in ("none", "full"):
        return value
    try:
        megapixels = float(value)
    except ValueError:
        megapixels = math.nan
    if not 0.01 <= megapixels <= 1000:
        raise ValueError(f"{name} is {value!r}, not none, full or megapixels such as 1.5")
    return value


_READ: Final[dict[str, Callable[[dict[str, Any], str], Any]]] = {
    "steps": _whole(1, MOST_STEPS),
    "guidance": _guidance,
    "window": _window,
    "overlap": _whole(1, MOST_WINDOW),
    "erosion": _erosion,
    "area": _whole(256, 10**8),
    "detail": _detail,
    "tier": _choice(*TIERS),
    "precision": _choice(*PRECISIONS),
    "attention": fields.text,
    "compile": _choice(*COMPILES),
    "cache": _choice(*CACHES),
    "gpus": _whole(1, MOST_GPUS),
    "prompt": fields.text,
    "negative_prompt": fields.text,
    "model": fields.text,
    "adapter": fields.text,
}
