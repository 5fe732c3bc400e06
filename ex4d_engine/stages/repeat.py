# SPDX-License-Identifier: GPL-3.0-or-later
"""A finished take made once more from its own record."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Iterator
from typing import Any, Final

from .. import json_fields as fields
from ..errors import Ex4dError
from ..progress import Reporter
from ..shot import Shot
from ..take import Take
from ..take_log import LOG_NAME, LoggedReporter
from .generate import generate, require_preset
from .generate_options import GenerateOptions

MOST_THREADS: Final = 1024


def repeat(shot: Shot, take: Take, reporter: Reporter) -> Take:
    """A new take with the same conditioning, preset, seed and options.

    What "auto" had chosen is asked for by name. Where models, versions or the device are others now, the log says so,
    as the frames may then differ.

    Raises:
        Ex4dError: `take_incomplete` for a take without a result; `shot_invalid` for a damaged record; else as
            `generate`.
    """
    if not take.preset:
        raise Ex4dError("take_incomplete", f"{take.name} has no result to repeat.", "Generate it first.")
    try:
        generation = dict(fields.mapping(take.record.get("generation"), "generation"))
        preset, seed = fields.text(generation, "preset"), fields.integer(generation, "seed", 0, 2**63)
        options = GenerateOptions.from_json(
            {name: value for name, value in generation.items() if name not in ("preset", "seed", "fill")}
        )
        before = fields.mapping(take.record.get("diffusion", {}), "diffusion")
        runtime = fields.mapping(before.get("runtime", {}), "runtime")
        threads = fields.integer(runtime, "threads", 1, MOST_THREADS) if "threads" in runtime else None
    except (ValueError, Ex4dError) as error:
        raise Ex4dError(
            "shot_invalid", f"The record of {take.name} is damaged: {error}", "Choose another take."
        ) from error
    require_preset(preset, options)
    with _on_threads(threads):
        result = generate(shot, take, preset, reporter, seed=seed, options=_pinned(options, runtime))
    log = LoggedReporter(reporter, result.root / LOG_NAME, "repeat")
    found = differences(before, result.record.get("diffusion", {}))
    if generation.get("fill") != result.record["generation"].get("fill"):
        found.append(f"{preset} fills otherwise than then")
    for difference in found:
        log.log(f"{difference}: the frames may differ from those of {take.name}.")
    return result


@contextlib.contextmanager
def _on_threads(count: int | None) -> Iterator[None]:
    """Computes on as many of the CPU's threads as then, as they decide how sums are rounded."""
    if count is None:
        yield
        return
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _pinned(options: GenerateOptions, runtime: dict[str, Any]) -> GenerateOptions:
    """The options with what a run on this very kind of device chose by itself."""
    chosen: dict[str, Any] = {name: runtime[name] for name in ("tier", "precision", "attention") if name in runtime}
    if "compiled" in runtime:
        chosen["compile"] = "on" if runtime["compiled"] else "off"
    if options.precision in (None, "auto") and chosen.get("precision") == "float8":
        del chosen["precision"]  # the tier's own: asked for by name it would be refused where torchao is missing
    if str(runtime.get("device", "")).startswith("CPU"):
        chosen.pop("tier", None)  # of no meaning there: by name it would keep a small model to a card that is full
    return dataclasses.replace(options, **chosen)


def differences(before: dict[str, Any], now: dict[str, Any]) -> list[str]:
    """Sentences on what decides the numbers and is not as it was."""
    said = [
        f"The files of {name} are others than then"
        for name in {**before.get("models", {}), **now.get("models", {})}
        if before.get("models", {}).get(name) != now.get("models", {}).get(name)
    ]
    then, today = before.get("runtime", {}), now.get("runtime", {})
    if then.get("device") != today.get("device"):
        said.append(f"The device was {then.get('device')} and is {today.get('device')}")
    if "float8" in then and "float8" in today and then["float8"] != today["float8"]:
        said.append(f"Float8 was {then['float8']} and is {today['float8']}")
    versions, ours = then.get("versions", {}), today.get("versions", {})
    said += [
        f"{name} was {versions.get(name)} and is {ours.get(name)}"
        for name in sorted({**versions, **ours})
        if versions.get(name) != ours.get(name)
    ]
    if before.get("conditioning") != now.get("conditioning"):
        said.append("The conditioning is not the same")
    return said
